"""The events that a form offers: the declared ones in groups, and what an endpoint has chosen besides."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from flask_webhook_endpoints.core.declarations import Declarations, DeclaredEvent
from flask_webhook_endpoints.portal.texts import gettext


class Choice(NamedTuple):
    """An event type that a person may tick."""

    pattern: str
    """A name, or `prefix.*`."""
    description: str | None
    is_deprecated: bool
    is_chosen: bool


class Group(NamedTuple):
    """Event types whose names begin with the same word."""

    title: str
    choices: Sequence[Choice]


def offered(declared: Declarations, chosen: Collection[str]) -> Sequence[Group]:
    """Return the groups by name, those of one word last, then what is chosen and in no group."""
    words: dict[str, list[DeclaredEvent]] = {}
    single: list[DeclaredEvent] = []
    for event in declared:
        word, dot, _ = event.name.partition(".")
        (words.setdefault(word, []) if dot else single).append(event)
    chosen = set(chosen)
    groups = [_group(word, events, chosen) for word, events in words.items()]
    if single:
        groups.append(Group(gettext("Other events"), [_choice(event, chosen) for event in single]))
    known = {choice.pattern for group in groups for choice in group.choices}
    if others := sorted(chosen - known):
        groups.append(Group(gettext("Chosen besides"), list(_others(others, declared.patterns()))))
    return groups


def _group(word: str, events: Iterable[DeclaredEvent], chosen: Collection[str]) -> Group:
    pattern = f"{word}.*"
    text = gettext("All of them, and those of this group that are added later.")
    whole = Choice(pattern, text, is_deprecated=False, is_chosen=pattern in chosen)
    return Group(word, [whole, *(_choice(event, chosen) for event in events)])


def _choice(event: DeclaredEvent, chosen: Collection[str]) -> Choice:
    return Choice(event.name, event.description, event.deprecated, event.name in chosen)


def _others(patterns: Iterable[str], known: Collection[str]) -> Iterable[Choice]:
    for pattern in patterns:
        text = None if pattern in known else gettext("This event is not among those that are published.")
        yield Choice(pattern, text, is_deprecated=False, is_chosen=True)
