"""The pages about the code: the names that they give exist, and the transitions are those of the code."""

import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

import flask_webhook_endpoints
from flask_webhook_endpoints.core.transitions import Transition
from tests.support import docs

PACKAGE = Path(flask_webhook_endpoints.__file__).parent
PAGE = (docs.ROOT / "docs" / "how-it-works.md").read_text()
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
DOCUMENTS = [docs.ROOT / "CONTRIBUTING.md", docs.ROOT / "docs" / "how-it-works.md", docs.ROOT / "docs" / "glossary.md"]
MODULES = [path.stem for path in PACKAGE.glob("*.py")]
NAMES = re.compile(rf"`((?:(?:{'|'.join(WINGS)})/\w+|(?:{'|'.join(MODULES)})(?=\.[A-Za-z]))(?:\.\w+)*)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_name_of_the_code_exists(document):
    named = set(NAMES.findall(document.read_text()))

    assert named
    for name in named:
        module, _, attribute = name.partition(".")
        if attribute == "py":
            assert (PACKAGE / name).is_file(), name
            continue
        found = import_module(f"flask_webhook_endpoints.{module.replace('/', '.')}")
        assert not attribute or attrgetter(attribute)(found), name


def test_its_table_of_transitions_is_the_codes():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)

    documented = [(name, re.findall(r"`(\w+)`", before), after, why) for name, before, after, why in rows]
    assert documented == [
        (each.name, [status.name for status in each.sources], each.target.name, each.why) for each in Transition
    ]


def test_its_diagram_of_transitions_is_the_codes():
    arrows = re.findall(r"^ +(\S+) --> (\w+): (\w+)$", PAGE, re.MULTILINE)

    assert sorted(arrows) == sorted(
        (source, each.target.name, each.name)
        for each in Transition
        for source in ([status.name for status in each.sources] or ["[*]"])
    )
