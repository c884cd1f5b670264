"""The settings: the `WEBHOOK_ENDPOINTS_*` keys of `app.config` as one frozen value, and a worker's defaults."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import UnionType
from typing import Any, Literal

from flask_webhook_endpoints.errors import InvalidSetting
from flask_webhook_endpoints.security import egress, encryption, ports

PREFIX = "WEBHOOK_ENDPOINTS_"
MAX_NUMBER = 2**31 - 1
"""The largest number that an integer column holds on every database."""
MAX_DAYS = 36_500
"""A century in days. A longer time would lead to times before the first year of Python's calendar."""
MAX_SECONDS = MAX_DAYS * 86_400
"""A century in seconds. A longer time would lead beyond the calendar's last year, and no attempt could be recorded."""

MAX_POLL_SECONDS = 60
"""Seconds below which `POLL_SECONDS` stays. By its looks an idle worker shows that it works, and finds retries."""

# Flask's `from_prefixed_env` reads JSON, and leaves any other value as text.
_JSON_HINT = ' From the environment, write JSON: true, null, 10, or ["127.0.0.0/8"].'

DEFAULT_CONCURRENCY = 1000
"""Attempts that a worker has in flight at once. A hundred endpoints that hang fill it, each at its cap."""

DEFAULT_BATCH = 500
"""Deliveries that a worker claims at once: fewer cost more each, more hold their locks for longer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one application: the key of a field is `WEBHOOK_ENDPOINTS_` and its name in capitals."""

    encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    """Fernet keys that encrypt secrets and headers, newest first. Without any, one is derived from `SECRET_KEY`."""

    max_endpoints_per_tenant: int = 100
    """Endpoints that one tenant may have. A POST beyond them is answered 409."""

    max_timeout_seconds: int = 30
    """Seconds that an endpoint's `timeout_seconds` may be at most. Standard Webhooks advises 15 to 30."""

    require_https: bool = False
    """True refuses `http:` URLs, in requests and at each attempt."""

    allowed_networks: tuple[str, ...] = ()
    """CIDR networks that deliveries may reach although they are not public, such as `("10.1.0.0/16",)`."""

    blocked_networks: tuple[str, ...] = ()
    """CIDR networks that deliveries never reach although they are public. `ALLOWED_NETWORKS` wins over them."""

    allowed_ports: tuple[str | int, ...] = ports.DEFAULT_PORTS
    """Ports that deliveries may use. Ranges leave out ports that browsers block; a port named alone is allowed."""

    proxy: str | None = field(default=None, repr=False)
    """URL of an egress proxy that allows CONNECT, as `http://proxy.internal:3128`. It resolves names and decides."""

    max_body_bytes: int = 262_144
    """Bytes that the body of a published event may have."""

    check_events: Literal["raise", "log", "off"] = "raise"
    """Reaction of `publish` to an event that breaks its declaration: `raise`, `log` (and publish it), or `off`."""

    retry_schedule: tuple[float, ...] = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    """Seconds before each attempt, the first included. After the last attempt the delivery has failed."""

    retry_jitter: float = 0.2
    """Fraction by which each wait of the schedule varies at random, up or down."""

    max_redeliveries_per_minute: int | None = 60
    """Redeliveries that one tenant may ask for in a minute. More are answered 429; None allows any number."""

    max_in_flight_per_endpoint: int = 10
    """Deliveries that one endpoint may have in flight, so that a slow one does not delay the others."""

    pause_after_failures: int = 10
    """Deliveries in a row that must have used up their attempts before a worker pauses their endpoint."""

    pause_after_days: int = 5
    """Days for which every attempt must have failed, too, before a worker pauses an endpoint."""

    poll_seconds: float = 0.05
    """Seconds between two looks of an idle worker, below 60. After a minute without work they grow to 0.09."""

    retention_days: int = 30
    """Days that finished deliveries are kept, with their attempts and events."""

    hold_max_days: int = 30
    """Days that a paused endpoint holds a delivery before it expires."""

    layout: str | None = None
    """Template of the host that the portal's pages extend, such as `layout.html`. Without it they stand alone."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Read the `WEBHOOK_ENDPOINTS_*` keys; raise `InvalidSetting` at the first key that is wrong or unknown."""
        names = [setting.name for setting in dataclasses.fields(cls)]
        given = {}
        for key, value in config.items():
            if not key.upper().startswith(PREFIX):
                continue
            name = key[len(PREFIX) :].lower()
            if name not in names or key != key.upper():
                raise InvalidSetting(key, _no_such_setting(name, names))
            try:
                given[name] = _CHECKS.get(name, _whole)(value)
            except ValueError as error:
                # Not chained: the cause may hold an encryption key.
                raise InvalidSetting(key, f"{error}{_JSON_HINT if isinstance(value, str) else ''}") from None
        return cls(**given)

    @property
    def default_timeout_seconds(self) -> int:
        """Seconds that an endpoint gets where the request names none: 10, or the ceiling if that is lower."""
        return min(10, self.max_timeout_seconds)


def encryption_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the Fernet keys that an app's settings give, newest first; raise `InvalidSetting` if there are none."""
    settings = Settings.from_config(config)
    # Keys derived from SECRET_KEY still read what was stored before ENCRYPTION_KEYS was set.
    keys = [*settings.encryption_keys, *(encryption.derive_key(key) for key in _secret_keys(config) if key)]
    if not keys:
        raise InvalidSetting(
            f"{PREFIX}ENCRYPTION_KEYS", "is needed to store secrets: set it, or SECRET_KEY, before register_blueprint."
        )
    return keys


def _secret_keys(config: Mapping[str, Any]) -> list[str | bytes | None]:
    # Flask reads environment variables as JSON if they are JSON, so that a key of digits arrives as a number.
    key, fallbacks = config.get("SECRET_KEY"), config.get("SECRET_KEY_FALLBACKS") or []
    if not isinstance(key, str | bytes | None):
        raise InvalidSetting("SECRET_KEY", 'must be text or bytes. From the environment, quote it: "…", as JSON does.')
    if not isinstance(fallbacks, list | tuple) or not all(isinstance(each, str | bytes | None) for each in fallbacks):
        rule = 'must be a list of text or bytes. From the environment, write JSON, each key quoted: ["…", "…"].'
        raise InvalidSetting("SECRET_KEY_FALLBACKS", rule)
    return [key, *fallbacks]


def _no_such_setting(typed: str, names: list[str]) -> str:
    near = difflib.get_close_matches(typed, names, n=1)
    known = ", ".join(PREFIX + name.upper() for name in near or names)
    return f"no such setting. Did you mean {known}?" if near else f"no such setting. There are: {known}."


def _whole(value: Any, *, most: int = MAX_NUMBER, of: str = "") -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"must be a whole number{of} from 1 to {most}, not {value!r}.")
    return value


def _whole_or_none(value: Any) -> Any:
    if value is None:
        return None
    try:
        return _whole(value)
    except ValueError as error:
        raise ValueError(str(error).replace("must be", "must be None or", 1)) from None


_days = partial(_whole, most=MAX_DAYS, of=" of days")


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, not {value!r}.")
    return value


def _template(value: Any) -> Any:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"must be None or the name of a template such as layout.html, not {value!r}.")
    return value


def _check_events(value: Any) -> Any:
    if value not in ("raise", "log", "off"):
        raise ValueError(f"must be 'raise', 'log' or 'off', not {value!r}.")
    return value


def _number(*, least: float, below: float) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < below:
            raise ValueError(f"must be a number of at least {least} and below {below}, not {value!r}.")
        return value

    return check


def _proxy(value: Any) -> Any:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"https?://[^\s/?#]+/?", value)):
        raise ValueError("must be None or a URL such as http://proxy.internal:3128.")
    return value


def _several(
    kind: type | UnionType, what: str, check: Callable[[Any], Any], *, are_secret: bool = False
) -> Callable[[Any], Any]:
    def check_all(value: Any) -> Any:
        if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
            raise ValueError(f"must be a list or tuple of {what}{'' if are_secret else f', not {value!r}'}.")
        for position, item in enumerate(value, start=1):
            try:
                check(item)
            except ValueError as error:
                raise ValueError(f"item {position} {error}") from None
        return tuple(value)

    return check_all


def _schedule(value: Any) -> Any:
    seconds = _several(int | float, "seconds", _number(least=0, below=MAX_SECONDS))(value)
    if not seconds:
        raise ValueError("must have the seconds before one attempt at least.")
    return seconds


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "encryption_keys": _several(str, "strings", encryption.check_key, are_secret=True),
    "allowed_networks": _several(str, "strings", egress.check_network),
    "blocked_networks": _several(str, "strings", egress.check_network),
    "allowed_ports": _several(str | int, "ports", ports.check_port),
    "require_https": _flag,
    "proxy": _proxy,
    "max_redeliveries_per_minute": _whole_or_none,
    "check_events": _check_events,
    "retry_schedule": _schedule,
    "retry_jitter": _number(least=0, below=1),
    "poll_seconds": _number(least=0.01, below=MAX_POLL_SECONDS),
    "pause_after_days": _days,
    "retention_days": _days,
    "hold_max_days": _days,
    "layout": _template,
}
"""Each check returns the value as it is kept, or raises `ValueError` with the rule. Other settings are counts."""
