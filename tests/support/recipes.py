"""Recipes of the documentation, as applications on a test's database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from flask import Flask

from tests.support import docs

Run = Callable[[str], tuple[ModuleType, Flask]]


@contextmanager
def running(document: str, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Give a function that runs a recipe of a document, by its name."""
    monkeypatch.setenv("FLASK_SECRET_KEY", "a secret of the reader's own, long enough")
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", database)
    monkeypatch.setenv("FLASK_TESTING", "true")
    made = []

    def run(name: str) -> tuple[ModuleType, Flask]:
        example = docs.example(document, name)
        app = getattr(example, "app", None) or example.create_app()
        with app.app_context():
            example.db.create_all()
            made.extend(example.db.engines.values())
        return example, app

    yield run
    for engine in made:
        engine.dispose()
