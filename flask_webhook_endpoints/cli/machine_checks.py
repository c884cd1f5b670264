"""Checks of this machine: its limit of open files, and its clock."""

import resource
from collections.abc import Callable, Iterator
from datetime import datetime

from flask_webhook_endpoints.cli.findings import Finding, fail, ok, warn
from flask_webhook_endpoints.core.leases import LEASE_MARGIN_SECONDS
from flask_webhook_endpoints.database import clocks
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import DEFAULT_CONCURRENCY
from flask_webhook_endpoints.worker import descriptors

SKEW_SECONDS = 5
"""Seconds; when two clocks differ by more, retries come at the wrong time."""


def check_descriptors() -> Iterator[Finding]:
    """Compare the hard limit of open files, which the worker raises its own to, with what a worker needs."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors.needed(DEFAULT_CONCURRENCY)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        yield ok("files", f"a worker that is started here may open {needed} files")
        return
    yield warn(
        "files",
        f"a worker that is started here may open {limit} files, so it has fewer than {DEFAULT_CONCURRENCY} attempts"
        " in flight",
        "Raise the hard limit: `ulimit -Hn`, or `LimitNOFILE=` in a systemd unit.",
    )


def check_clock(scope: Scope, now: Callable[[], datetime]) -> Iterator[Finding]:
    """Compare this machine's clock with the database server's."""
    before = now()
    theirs = clocks.server_time(scope)
    if theirs is None:
        return
    ours = before + (now() - before) / 2
    skew = abs((ours - theirs).total_seconds())
    message = f"{skew:.1f} seconds from the database's"
    advice = "Synchronize the clocks of all machines (NTP): times of attempts and the ends of leases come from them."
    if skew > LEASE_MARGIN_SECONDS:
        yield fail("clock", f"{message}; workers may claim each other's deliveries and send them twice", advice)
    else:
        yield warn("clock", message, advice) if skew > SKEW_SECONDS else ok("clock", message)
