"""Receivers in six languages that verify deliveries, to copy. They are those of docs/receivers.md, which tests run."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "receivers"


class Snippet(NamedTuple):
    """A receiver in one language."""

    language: str
    """Such as `JavaScript`."""
    name: str
    """The name of its file below `receivers/`, which HTML ids have, too."""
    file: str
    """The file to save it in."""
    commands: Sequence[str]
    """The commands of a shell that install and run it."""
    code: str


@cache
def receivers() -> Sequence[Snippet]:
    """Return the receivers in the order in which a page shows them."""
    return [
        Snippet(language, name, file, commands, (_FOLDER / f"{name}.txt").read_text())
        for language, name, file, *commands in _RECEIVERS
    ]


_RECEIVERS = (
    ("Python", "python", "receiver.py", "pip install flask standardwebhooks", "flask --app receiver run --port 8000"),
    ("JavaScript", "javascript", "receiver.mjs", "npm install express standardwebhooks", "node receiver.mjs"),
    ("Go", "go", "receiver.go", "go run receiver.go"),
    ("PHP", "php", "webhooks.php", "php -S localhost:8000 webhooks.php"),
    ("Ruby", "ruby", "config.ru", "gem install rack rackup webrick", "rackup --port 8000 config.ru"),
    ("Java", "java", "Receiver.java", "java Receiver.java"),
)
