"""The settings: `WEBHOOK_ENDPOINTS_*` keys of `app.config`, read once into one frozen value."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_webhook_endpoints import egress, encryption
from flask_webhook_endpoints.errors import InvalidSetting

PREFIX = "WEBHOOK_ENDPOINTS_"
MAX_NUMBER = 2**31 - 1
"""The most that an integer column holds on every database."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a host may set, each field as the key `WEBHOOK_ENDPOINTS_` + its name in capitals."""

    encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    """Fernet keys that encrypt secrets and headers, newest first; none: one is derived from `SECRET_KEY`."""

    max_endpoints_per_tenant: int = 1000
    """Endpoints that one tenant may have; a POST beyond it is answered 409."""

    max_timeout_seconds: int = 30
    """Seconds that an endpoint's `timeout_seconds` may be at most; Standard Webhooks advises 15 to 30."""

    require_https: bool = False
    """Whether `http:` URLs are refused."""

    allowed_networks: tuple[str, ...] = ()
    """CIDR networks that may be reached although they are not public, as `("10.1.0.0/16",)`."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Read the `WEBHOOK_ENDPOINTS_*` keys; raise `InvalidSetting` at the first wrong or unknown one."""
        names = [setting.name for setting in dataclasses.fields(cls)]
        given = {}
        for key, value in config.items():
            if not key.upper().startswith(PREFIX):
                continue
            name = key[len(PREFIX) :].lower()
            if name not in names or key != key.upper():
                raise InvalidSetting(key, _no_such_setting(name, names))
            given[name] = _checked(key, value)
        return cls(**given)

    @property
    def default_timeout_seconds(self) -> int:
        """Seconds that an endpoint gets when it names none: 10, or the ceiling if that is lower."""
        return min(10, self.max_timeout_seconds)


def _no_such_setting(typed: str, names: list[str]) -> str:
    near = difflib.get_close_matches(typed, names, n=1)
    known = ", ".join(PREFIX + name.upper() for name in near or names)
    return f"no such setting. Did you mean {known}?" if near else f"no such setting. There are: {known}."


def _checked(key: str, value: Any) -> Any:
    match key.removeprefix(PREFIX):
        case "ENCRYPTION_KEYS":
            return _strings(key, value, check=encryption.check_key)
        case "ALLOWED_NETWORKS":
            return _strings(key, value, check=egress.check_network)
        case "REQUIRE_HTTPS":
            if not isinstance(value, bool):
                raise InvalidSetting(key, "must be True or False.")
        case _:
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
                raise InvalidSetting(key, f"must be a whole number from 1 to {MAX_NUMBER}.")
    return value


def _strings(key: str, value: Any, *, check: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InvalidSetting(key, "must be a list or tuple of strings.")
    for position, item in enumerate(value, start=1):
        try:
            check(item)
        except ValueError as error:
            # Not chained: the cause may hold the key itself.
            raise InvalidSetting(key, f"item {position} {error}") from None
    return tuple(value)
