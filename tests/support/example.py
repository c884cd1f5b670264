"""The example app in a folder of its own, and the processes that run there."""

import os
import shutil
from pathlib import Path

import example_app
import flask_webhook_endpoints


def copy_to(folder: Path) -> Path:
    """Copy the example, so that its instance folder is a fresh one."""
    source = Path(example_app.__file__).parent
    shutil.copytree(source, folder / "example_app", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def environment(**variables: str) -> dict[str, str]:
    # The folder comes first where a program runs with -m; the library is the one that these tests import.
    library = Path(flask_webhook_endpoints.__file__).parents[1]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1", **variables}


def processes_with(variable: str) -> list[str]:
    """Return the ids of the processes with this variable, NAME=value, in their environment."""
    return [entry.parent.name for entry in Path("/proc").glob("[0-9]*/environ") if variable.encode() in _content(entry)]


def arguments(process: str) -> list[str]:
    return _content(Path(f"/proc/{process}/cmdline")).decode().split("\0")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # It ended meanwhile, or is somebody else's.
        return b""
