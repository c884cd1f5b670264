"""The program `python -m example_app.demo`: start everything, walk through the steps, stop everything."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from example_app import demo_accounts, processes
from example_app.demo import walk
from example_app.demo.conversation import BOLD, GREEN, RED, Conversation, WrongStep, say
from example_app.demo.processes import ExampleApp
from example_app.demo.receiver import listening


def main() -> int:
    """Serve the example app, walk through the steps, stop it; return the exit status."""
    processes.end_by_signals()
    try:
        with TemporaryDirectory(prefix="webhooks-demo-") as folder:
            say("Webhook endpoints of a Flask app, in its own database and behind its own login.", BOLD)
            say("> a customer asks, < the app answers, * the worker delivers to the customer's receiver")
            return _main(ExampleApp(Path(folder)))
    except KeyboardInterrupt:
        say("\nInterrupted; server and worker are stopped.", stream=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has ended, such as `head`. Without this, Python fails again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(app: ExampleApp) -> int:
    try:
        with listening() as receiver, app.running() as port:
            say(f"The example app is up at http://127.0.0.1:{port}, its worker beside it.")
            conversation = Conversation(port, receiver)
            walk.manage(conversation)
            walk.deliver(conversation)
    except WrongStep as wrong:
        say(f"FAILED: {wrong}", RED, sys.stderr)
        for name in ("server", "worker"):
            say(f"The {name}'s log:\n{app.log(name)}", stream=sys.stderr)
        return 1
    steps = conversation.steps
    say(f"\nAll {steps} steps went as they must. Server and worker are stopped.", GREEN)
    say(f"To see it in a browser: `make run`, then log in at {demo_accounts.how_to_see(port=5000)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
