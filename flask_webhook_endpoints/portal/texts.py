"""Texts of the pages in the reader's language, where the host uses Flask-Babel; in English otherwise.

The catalogues are in `translations`, in the domain `webhook_endpoints`. Times are UTC, because the server does not know
the reader's zone.
"""

import unicodedata
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import current_app

from flask_webhook_endpoints.identifiers import parse_time

if TYPE_CHECKING:
    from flask_babel import Domain

_DOMAIN = "webhook_endpoints"
TURNS = dict.fromkeys(map(ord, "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))
"""Characters that nobody sees and that change the direction of text."""
_TRANSLATIONS = Path(__file__).parent / "translations"


def gettext(message: str, /, **values: Any) -> str:
    """Return a message in the reader's language, with its `values` in the places `%(name)s`."""
    values = _isolated(values)
    if _has_babel():
        return str(_domain().gettext(message, **values))
    return message % values if values else message


def ngettext(singular: str, plural: str, number: int, /, **values: Any) -> str:
    """Return the form of a message that the number takes; `%(num)s` is the number."""
    values = {"num": figure(number), **_isolated(values)}
    if _has_babel():
        # The domain's own `ngettext` would fill in `num` by itself, and not as the reader writes it.
        form = str(_domain().get_translations().ungettext(singular, plural, number))
    else:
        form = singular if number == 1 else plural
    return form % values


def noted(text: str) -> str:
    """Return a text as it is; the catalogues find it by this call, and `gettext` translates it later."""
    return text


def figure(number: float) -> str:
    """Return a number as the reader writes it: `10,000`."""
    if _has_babel():
        from flask_babel import format_decimal  # noqa: PLC0415 - a host may have no Flask-Babel

        return str(format_decimal(number))
    return f"{number:,}"


def share(ratio: float) -> str:
    """Return a ratio in percent, rounded down to a tenth, so that 100 % means all."""
    text = figure(int(ratio * 1000) / 10)
    return gettext("%(share)s %%", share=text.removesuffix(".0"))


def moment(at: datetime | str) -> str:
    """Return a time in UTC as text; `at` may be the RFC 3339 text of an answer."""
    at = utc(at)
    if _has_babel():
        from flask_babel import format_datetime  # noqa: PLC0415 - a host may have no Flask-Babel

        return f"{format_datetime(at, 'medium', rebase=False)} UTC"
    return f"{at.day} {at:%b %Y, %H:%M:%S} UTC"


def day(at: datetime) -> str:
    """Return the day of a time in UTC as text."""
    at = utc(at)
    if _has_babel():
        from flask_babel import format_date  # noqa: PLC0415 - a host may have no Flask-Babel

        return str(format_date(at, "medium", rebase=False))
    return f"{at.day} {at:%b %Y}"


def utc(at: datetime | str) -> datetime:
    """Return a time, or the RFC 3339 text of one, as an aware datetime in UTC."""
    found = parse_time(at) if isinstance(at, str) else at
    if found is None:
        raise ValueError(f"Not a time: {at!r}.")
    return found.astimezone(UTC)


def language() -> str:
    """Return the language of the page as an HTML `lang` has it."""
    if _has_babel():
        from flask_babel import get_locale  # noqa: PLC0415 - a host may have no Flask-Babel

        locale = get_locale()
        if locale is not None:
            return str(locale).replace("_", "-")
    return "en"


def _isolated(values: dict[str, Any]) -> dict[str, Any]:
    """Keep values from turning the text around them. A name that reads from right to left ends where it ends.

    Source: Unicode Standard Annex 9, "Explicit Directional Isolates".
    """
    return {name: _isolate(value) if isinstance(value, str) else value for name, value in values.items()}


def _isolate(value: str) -> str:
    if value.isascii():
        return value
    # A name may end our isolate by a control of its own.
    kept = value.translate(TURNS)
    turns = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in kept)
    return f"\u2068{kept}\u2069" if turns else kept


def _has_babel() -> bool:
    return "babel" in current_app.extensions


@cache
def _domain() -> "Domain":
    from flask_babel import Domain  # noqa: PLC0415 - a host may have no Flask-Babel

    return Domain(translation_directories=[str(_TRANSLATIONS)], domain=_DOMAIN)
