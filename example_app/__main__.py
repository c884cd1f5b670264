"""The program `python -m example_app`: serve the example app and deliver its webhooks, until Ctrl-C."""

import argparse
import os
import subprocess
import sys
import time

from example_app import demo_accounts, processes


def main() -> int:
    """Run server and worker; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m example_app", description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    port = parser.parse_args().port
    processes.end_by_signals()
    try:
        with (
            processes.running(processes.server(port), os.environ) as server,
            processes.running(processes.worker(), os.environ) as worker,
        ):
            _say(f"Log in at {demo_accounts.how_to_see(port)}. Ctrl-C stops server and worker.")
            return _status_of_first_to_end(server, worker)
    except KeyboardInterrupt:
        _say("\nServer and worker are stopped.")
        return 0


def _status_of_first_to_end(*running: subprocess.Popen[bytes]) -> int:
    while True:
        for process in running:
            if process.poll() is not None:
                # One is no use without the other, so that neither may end unnoticed.
                return process.returncode or 1
        time.sleep(0.1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - it talks to a person


if __name__ == "__main__":
    sys.exit(main())
