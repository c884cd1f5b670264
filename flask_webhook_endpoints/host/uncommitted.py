"""Published events that nobody commits or rolls back: in debug and tests, the library warns of them."""

import sys
from functools import cache
from typing import Any, cast

from flask import Flask, current_app, g
from sqlalchemy import event
from sqlalchemy.orm import Session

from flask_webhook_endpoints import logs

_KEY = "webhook_endpoints.published"

_log = logs.logger("flask_webhook_endpoints.publish")


def note(session: Session) -> None:
    """Note, in debug and tests, where the host's code calls the function that calls this one."""
    app: Flask = cast(Any, current_app)._get_current_object()
    if not (app.debug or app.testing):
        return
    _follow_ends()
    # Registered here, so that in production no request calls it in vain.
    if warn not in app.teardown_appcontext_funcs:
        app.teardown_appcontext_funcs.append(warn)
    caller = sys._getframe(2)
    places: list[str] = session.info.setdefault(_KEY, [])
    places.append(f"{caller.f_code.co_filename}:{caller.f_lineno} in {caller.f_code.co_name}")
    noted = g.setdefault(_KEY, [])
    if not any(each is places for each in noted):
        noted.append(places)


def warn(error: BaseException | None = None) -> None:
    """Warn of events that the ending context published and did not commit, unless an exception ends it."""
    for places in g.pop(_KEY, ()):
        if places and error is None:
            _log.warning("webhooks.not_committed", extra={"webhooks.where": places[0], "webhooks.count": len(places)})
        places.clear()


@cache
def _follow_ends() -> None:
    event.listen(Session, "after_commit", _ended)
    # A host that rolls back has not forgotten to commit. A session that is only closed sends no `after_rollback`.
    event.listen(Session, "after_rollback", _ended)


def _ended(session: Session) -> None:
    # A savepoint that is released or rolled back decides nothing yet.
    if not session.in_nested_transaction():
        session.info.get(_KEY, []).clear()
