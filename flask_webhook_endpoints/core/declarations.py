"""Declared events: the types of events that a host publishes, each with its schema and an example."""

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import orjson

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import breaches, event_schemas
from flask_webhook_endpoints.core.event_schemas import Declared, EventSchema
from flask_webhook_endpoints.errors import InvalidDeclaration, InvalidEvent
from flask_webhook_endpoints.identifiers import MAX_EVENT_TYPE_LENGTH, is_event_type, patterns_of

_log = logs.logger("flask_webhook_endpoints.events")

RESERVED = "webhook"
"""The first word of the events that this library publishes itself."""

_RESERVED_RULE = f"{RESERVED}.* is reserved for the library's own events."

RESERVED_PATTERNS = frozenset({"webhook.*", "webhook.ping"})
"""Event types that an endpoint may choose besides the declared ones."""

MAX_REFUSALS = 3
"""The number of unknown event types that one answer names."""

Mode = Literal["raise", "log", "off"]
"""The values of `CHECK_EVENTS`."""

Check = Callable[[str, str], None]
"""Checks the type of an event and its data, encoded as JSON; raises `InvalidEvent`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEvent:
    """A type of events that the host publishes."""

    name: str
    """Such as `invoice.paid`."""
    description: str | None
    deprecated: bool
    """True: it is still published, but new endpoints had better choose another."""
    schema: Mapping[str, Any] | None
    """The JSON Schema of its `data`. References are to places in it, `#/$defs/…`."""
    example: Any
    """The `data` of an example; None: there is none."""


class Declarations:
    """The declared events of one host, for all of its applications."""

    def __init__(self) -> None:
        self._events: dict[str, DeclaredEvent] = {}
        self._schemas: dict[str, EventSchema] = {}
        self._patterns: set[str] = set()
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._events)

    def __iter__(self) -> Iterator[DeclaredEvent]:
        """Yield the events by name."""
        return (self._events[name] for name in sorted(self._events))

    def get(self, name: str) -> DeclaredEvent | None:
        """Return the event of this name; None if it is not declared."""
        return self._events.get(name)

    def patterns(self) -> list[str]:
        """Return all names and prefixes that an endpoint may choose."""
        return sorted(self._patterns | RESERVED_PATTERNS)

    def declare(
        self,
        name: str,
        *,
        description: str | None = None,
        schema: Declared | None = None,
        example: Any = None,
        deprecated: bool = False,
    ) -> DeclaredEvent:
        """Declare an event; raise `InvalidDeclaration`."""
        self._check_name(name)
        if not isinstance(description, str | None):
            raise InvalidDeclaration(name, f"its description must be text or None, not {type(description).__name__}.")
        if not isinstance(deprecated, bool):
            raise InvalidDeclaration(name, "deprecated must be True or False.")
        compiled = None if schema is None else _compiled(name, schema)
        event = DeclaredEvent(
            name=name,
            description=_plain(name, "description", description),
            deprecated=deprecated,
            schema=_plain(name, "schema", compiled and compiled.shown),
            example=_plain(name, "example", example),
        )
        if compiled is not None:
            if example is not None and (breach := compiled.breach(event.example)):
                raise InvalidDeclaration(name, f"its example breaks its schema. {breach}")
            self._schemas[name] = compiled
        self._events[name] = event
        self._patterns.update(patterns_of(name))
        return event

    def close(self) -> None:
        """Refuse later declarations: requests and documents have used those before."""
        self._closed = True

    def checker(self, mode: Mode) -> Check | None:
        """Return what checks events before they are published; None if nothing is checked."""
        if not self._events or (mode == "off" and not breaches.watchers):
            return None
        return partial(self._check_published, mode)

    def check(self, event_type: str, encoded: str) -> None:
        """Raise `InvalidEvent` for a type that is not declared, and for data that breaks its schema."""
        if _is_reserved(event_type):
            raise InvalidEvent(f"Not an event of yours: {event_type}. {_RESERVED_RULE}")
        if event_type not in self._events:
            raise InvalidEvent(f"{self.refusal(event_type)} Declare it with webhooks.event_type({event_type!r}).")
        if (fault := self.fault(event_type, encoded)) is not None:
            raise InvalidEvent(f"The data of {event_type} breaks its schema. {fault}")

    def fault(self, event_type: str, encoded: str) -> str | None:
        """Return what is wrong with the data of an event, without its values; None if nothing is."""
        schema = self._schemas.get(event_type)
        if schema is None:
            return None
        try:
            return schema.breach(json.loads(encoded))
        except (RecursionError, ValueError):
            return "data: Is too deeply nested to be checked."

    def refusals(self, patterns: Iterable[str]) -> list[str]:
        """Return why an endpoint can't choose some of these, the first of them; none where no event is declared."""
        unknown = (pattern for pattern in patterns if self._events and not self._is_known(pattern))
        # To look for the nearest name takes a while.
        return [self.refusal(pattern) for pattern in islice(unknown, MAX_REFUSALS)]

    def refusal(self, pattern: str) -> str:
        """Return that no declared event has this name or prefix, and which is the nearest one."""
        near = _nearest(pattern, self._patterns if pattern.endswith(".*") else self._events)
        return f"No such event type: {pattern}." + (f" Did you mean {near}?" if near else "")

    def _is_known(self, pattern: str) -> bool:
        return pattern in self._patterns or pattern in RESERVED_PATTERNS

    def _check_name(self, name: str) -> None:
        if not is_event_type(name):
            rule = f"is not an event type. Write one like invoice.paid, of at most {MAX_EVENT_TYPE_LENGTH} characters;"
            raise InvalidDeclaration(repr(name), f"{rule} prefixes such as invoice.* are for endpoints.")
        if _is_reserved(name):
            raise InvalidDeclaration(name, _RESERVED_RULE)
        if name in self._events:
            raise InvalidDeclaration(name, "is declared twice.")
        if self._closed:
            raise InvalidDeclaration(name, "is declared too late: declare events at import, before an app is used.")

    def _check_published(self, mode: Mode, event_type: str, encoded: str) -> None:
        try:
            self.check(event_type, encoded)
        except InvalidEvent as error:
            breaches.tell(error)
            if mode == "raise":
                raise
            if mode == "log":
                breach = {"webhooks.event_type": event_type, "webhooks.error": str(error)}
                _log.warning("webhooks.event_invalid", extra=breach)


def _compiled(name: str, schema: Declared) -> EventSchema:
    try:
        return event_schemas.of(schema)
    except ModuleNotFoundError as error:
        if error.name != "jsonschema_rs":
            raise
        rule = "a JSON Schema needs jsonschema-rs: pip install 'flask-webhook-endpoints[events]'"
        raise InvalidDeclaration(name, f"{rule}, or give a marshmallow schema.") from None
    except Exception as error:  # marshmallow, apispec and the host's own fields raise what they like
        raise InvalidDeclaration(name, f"its schema: {str(error).rstrip('.')}.") from error


def _plain(name: str, what: str, value: Any) -> Any:
    """Return a copy of what answers show, as it is sent; raise `InvalidDeclaration` if it is not JSON."""
    try:
        plain = json.loads(json.dumps(value, allow_nan=False))
        # The encoder of answers refuses lone surrogates, and numbers of more than 64 bits.
        orjson.dumps(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidDeclaration(name, f"its {what} must be plain JSON, as it is sent: {error}.") from None
    return plain


def _is_reserved(event_type: str) -> bool:
    return event_type.partition(".")[0] == RESERVED


def _nearest(pattern: str, known: Collection[str]) -> str | None:
    """Return the name or prefix that is spelt most alike, whatever the case of its letters."""
    alike = {each.lower(): each for each in known if each.endswith(".*") == pattern.endswith(".*")}
    near = difflib.get_close_matches(pattern.lower(), alike, n=1)
    return alike[near[0]] if near else None
