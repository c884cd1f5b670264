"""Error trackers send the local variables of every frame: none of ours holds what only the tenant may know."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flask_webhook_endpoints.security.encryption import Secret
from tests.support import tracked
from tests.support.tracked import MARK, Scenes

SCENES = [name for name in vars(Scenes) if not name.startswith("_")]


# One process for all of them: to start it takes ten times as long as a scene.
@pytest.mark.slow
def test_what_sentry_sends_holds_no_header_value_no_secret_and_no_query(database):
    if database == "sqlite://":
        pytest.skip("another process has another database")
    played = subprocess.run(
        [sys.executable, "-m", tracked.__name__, database, *SCENES],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert played.returncode == 0, played.stderr
    events_of = json.loads(played.stdout)

    assert list(events_of) == SCENES
    for scene, events in events_of.items():
        assert events, scene
        frames = [frame for event in events for frame in frames_of(event)]
        ours = [frame for frame in frames if frame["module"].startswith("flask_webhook_endpoints")]
        # That they have variables at all is what the test is about.
        assert any(frame.get("vars") for frame in ours), (scene, events)
        for event in events:
            # What the SDK itself reads of requests: docs/operations.md says how to leave it out.
            event.pop("request", None)
            event.pop("breadcrumbs", None)
            assert MARK not in json.dumps(event, ensure_ascii=False), f"{scene}: {excerpt(event)}"


def frames_of(event: Any) -> list[Any]:
    values = [*event.get("exception", {}).get("values", []), *event.get("threads", {}).get("values", [])]
    return [frame for value in values for frame in (value.get("stacktrace") or {}).get("frames", [])]


def excerpt(event: Any) -> str:
    """Say where it is."""
    places = []
    for frame in frames_of(event):
        places += [
            f"{frame['module']}.{frame['function']}: {name} = {value}"
            for name, value in (frame.get("vars") or {}).items()
            if MARK in json.dumps(value)
        ]
    rest = {key: value for key, value in event.items() if key not in ("exception", "threads")}
    said = [value.get("value") for value in event.get("exception", {}).get("values", [])]
    return "\n".join(
        [*places, *[str(each) for each in said if MARK in str(each)], *([str(rest)] if MARK in str(rest) else [])]
    )


def test_a_secret_is_not_walked():
    assert MARK not in repr(Secret(MARK))
