"""CONTRIBUTING has what a newcomer looks up there: every target of make, every module that tests share."""

import re
from pathlib import Path

import pytest

import flask_webhook_endpoints
from tests.support import docs

PAGE = (docs.ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (docs.ROOT / "Makefile").read_text()


def test_it_and_make_help_have_every_target():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    targets = sorted({*phony.split()} - {"help", "clean"})

    assert sorted(re.findall(r"^\| `make (\S+)` \|", PAGE, re.MULTILINE)) == targets
    assert sorted(re.findall(r'echo "make (\S+) ', MAKEFILE)) == targets


def test_it_has_every_module_that_tests_share():
    table = PAGE.partition("| Module | Has |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE)))
    modules = {path.stem for path in (docs.ROOT / "tests" / "support").glob("*.py")}

    assert sorted(named) == sorted(modules - {"__init__"})


@pytest.mark.parametrize("wing", ["core", "worker", "portal"])
def test_its_map_of_a_wing_has_every_module(wing):
    part = PAGE.partition(f"### `{wing}/` at a glance\n")[2].partition("\n#")[0]
    modules = {path.stem for path in (Path(flask_webhook_endpoints.__file__).parent / wing).glob("*.py")}

    named = set(re.findall(r"`(\w+)`", part))
    assert modules - {"__init__"} <= named
    assert named - modules <= {"status"}


def test_make_knows_the_databases_that_tests_run_on():
    (databases,) = re.findall(r"^DATABASES \?= (.*)$", MAKEFILE, re.MULTILINE)
    (known,) = re.findall(r"^DATABASES = \((.*)\)$", (docs.ROOT / "tests" / "conftest.py").read_text(), re.MULTILINE)

    assert databases.split() == re.findall(r'"(.+?)"', known)
