"""A host's project, in which pytest runs as a process of its own, with our plugin by its entry point."""

import os
import subprocess
import sys
from pathlib import Path

import flask_webhook_endpoints

# Slow to load, and of no use here.
OTHERS = [f"-pno:{plugin}" for plugin in ("schemathesis", "hypothesispytest", "anyio", "cacheprovider")]


def run_pytest(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    library = Path(flask_webhook_endpoints.__file__).parents[1]
    # The entry point is found where it is installed.
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(library)]))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, **settings}
    command = [sys.executable, "-m", "pytest", "-W", "error", *OTHERS, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
