"""The news of endpoints' health, as a worker tells them: in the log, and by the host's signals."""

from collections.abc import Sequence

from flask_webhook_endpoints import logs, signals
from flask_webhook_endpoints.core.attempts import Settled
from flask_webhook_endpoints.core.incidents import News, Notice
from flask_webhook_endpoints.identifiers import format_id, format_time

_log = logs.logger("flask_webhook_endpoints.recorder")  # the name that hosts have configured


def tell(notices: Sequence[Notice]) -> None:
    """Log news, and send the host's signals."""
    for notice in notices:
        log(notice)
    signals.send_settled(Settled((), (), notices))


def log(notice: Notice) -> None:
    """Log the news of an endpoint."""
    since = format_time(notice.failing_since)
    extra = {"webhooks.endpoint_id": format_id(notice.endpoint_id), "webhooks.failing_since": since}
    match notice.news:
        case News.FAILING:
            _log.warning("webhooks.endpoint_failing", extra={**extra, "webhooks.error": notice.error})
        case News.RECOVERED:
            _log.info("webhooks.endpoint_recovered", extra=extra)
        case News.PAUSE_PENDING:
            pauses_at = {"webhooks.pauses_at": format_time(notice.pauses_at)}
            _log.warning("webhooks.endpoint_pause_pending", extra={**extra, **pauses_at})
