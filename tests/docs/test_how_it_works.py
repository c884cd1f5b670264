"""The page about the code: its transitions are those of the code."""

import re

from flask_webhook_endpoints.core.transitions import Transition
from tests.support import docs

PAGE = (docs.ROOT / "docs" / "how-it-works.md").read_text()


def test_its_table_of_transitions_is_the_codes():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)

    documented = [(name, re.findall(r"`(\w+)`", before), after, why) for name, before, after, why in rows]
    assert documented == [
        (each.name, [status.name for status in each.sources], each.target.name, each.value[0]) for each in Transition
    ]


def test_its_diagram_of_transitions_is_the_codes():
    arrows = re.findall(r"^ +(\S+) --> (\w+): (\w+)$", PAGE, re.MULTILINE)

    assert sorted(arrows) == sorted(
        (source, each.target.name, each.name)
        for each in Transition
        for source in ([status.name for status in each.sources] or ["[*]"])
    )
