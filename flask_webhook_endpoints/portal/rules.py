"""The messages of rules that fields break, in the reader's language: the API has them in English alone.

A message may have numbers, which settings change, and a name before it, such as `X-Team: must be a string.`
"""

import re
from itertools import count

from flask_webhook_endpoints.portal.texts import gettext, noted

_NUMBER = re.compile(r"[0-9]+")


def message_of(message: str) -> str:
    """Return the message of a rule in the reader's language; an unknown one as it is."""
    if (text := _text_of(message)) in _RULES:
        return gettext(text, **_numbers_of(message))
    name, _, rest = message.partition(": ")
    if (text := _text_of(rest)) in _RULES:
        return f"{name}: {gettext(text, **_numbers_of(rest))}"
    return message


def is_known(message: str) -> bool:
    """Return whether the catalogues have the message of a rule."""
    return bool({_text_of(message), _text_of(message.partition(": ")[2])} & _RULES)


def _text_of(message: str) -> str:
    """Return a message with places for its numbers."""
    places = (f"%(number{index})s" for index in count())
    text = _NUMBER.sub(lambda _: next(places), message.replace("%", "%%"))
    return text if _NUMBER.search(message) else message


def _numbers_of(message: str) -> dict[str, str]:
    return {f"number{index}": number for index, number in enumerate(_NUMBER.findall(message))}


_RULES = frozenset(
    (
        # Any field.
        noted("Missing data for required field."),
        noted("Field may not be null."),
        noted("Not a valid string."),
        noted("Not a valid integer."),
        noted("Unknown field."),
        noted("Longer than maximum length %(number0)s."),
        noted("Length must be between %(number0)s and %(number1)s."),
        noted("Must be greater than or equal to %(number0)s and less than or equal to %(number1)s."),
        noted("Must not be only white space."),
        noted("Must not contain control characters or lone surrogates."),
        noted("Must not contain lone surrogates, or control characters other than tab and line ends."),
        # URLs.
        noted("Must be an absolute URL that starts with http:// or https://."),
        noted("Must start with https://."),
        noted("Must have a port from %(number0)s to %(number1)s, or none."),
        noted("Must not name an address that is not public."),
        noted(
            "Must have a port that is allowed: by default %(number0)s, %(number1)s, and most from %(number2)s to"
            " %(number3)s."
        ),
        noted("Must not contain spaces, backslashes or control characters."),
        noted("Must be ASCII: write an international name as xn--…, other characters as %XX."),
        noted("Must not have a fragment (#)."),
        noted("Must not have a user name or password."),
        noted("Must have a valid host name."),
        noted("Must have a valid host and port."),
        noted("Must have a valid IPv%(number0)s address in the brackets."),
        noted("Must not have an IPv%(number0)s zone."),
        noted("Must write an IPv%(number0)s address as four decimal numbers."),
        # Headers and metadata.
        noted("Must not have names that differ only in case."),
        noted("Must have %(number0)s headers at most."),
        noted("Must have %(number0)s keys at most."),
        noted("Must have %(number0)s bytes in all at most."),
        noted("Must have %(number0)s bytes as JSON at most."),
        noted("Must have keys of %(number0)s to %(number1)s characters, without control characters."),
        noted("Must have names of %(number0)s to %(number1)s letters, digits or !#$%%&'*+-.^_`|~ (RFC %(number2)s)."),
        noted("this header may not be set."),
        noted("longer than maximum length %(number0)s."),
        noted("must not contain control characters or characters outside Latin-%(number0)s."),
        noted("must not contain lone surrogates, or control characters other than tab and line ends."),
        # Secrets.
        noted("Must be %(number0)s to %(number1)s printable ASCII characters."),
        noted("Must not begin or end with white space."),
        noted("Must not begin with whsk_ or whpk_: those are keys of asymmetric signatures."),
        noted(
            "Must be spelt as RFC %(number0)s says, padding included, if it is whsec_ and the base%(number1)s of"
            " %(number2)s to %(number3)s bytes."
        ),
        noted(
            "Must be the base%(number0)s of %(number1)s to %(number2)s bytes after whsec_, or contain another character"
            " than those of base%(number3)s."
        ),
        # Events.
        noted(
            "Must be names like invoice.paid or invoice.*, of %(number0)s characters at most; null or * stands for all"
            " events."
        ),
        noted("Must be a name like invoice.paid, of %(number0)s characters at most."),
        noted("Is needed, because the event has no declared example."),
        noted("Must be JSON without lone surrogates that fits into %(number0)s bytes."),
    )
)
