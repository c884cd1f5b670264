"""What the documentation shows runs."""

import re
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support import docs

pytestmark = pytest.mark.usefixtures("logging_untouched", "invalid_webhook_events")

EXAMPLES = [example for document in docs.DOCUMENTS for example in docs.examples(document)]


@pytest.fixture(autouse=True)
def _at_a_readers_desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # One example may import another's file.
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    monkeypatch.setenv("FLASK_SECRET_KEY", "a secret of the reader's own, long enough")
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", "sqlite://")
    connections = []

    def keep(connection, record):
        connections.append(connection)

    sa.event.listen(sa.Pool, "connect", keep)
    yield
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
    sa.event.remove(sa.Pool, "connect", keep)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_every_example_runs(example):
    example.run()


@pytest.mark.parametrize("document", docs.DOCUMENTS, ids=lambda document: document.name)
def test_no_python_block_is_left_out(document):
    assert len(docs.examples(document)) == docs.fences(document)


@pytest.mark.parametrize("document", docs.TEXTS, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text())

    for path, heading in links:
        page = document.parent / path if path else document
        assert page.exists(), path
        assert not heading or heading in docs.headings(page), f"{path}#{heading}"
