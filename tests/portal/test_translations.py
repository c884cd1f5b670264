"""The catalogues of the portal's texts: complete, compiled, and true to their placeholders."""

import re
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import pytest
from babel.messages import mofile, pofile
from babel.messages.extract import extract_from_dir
from flask_babel import Babel

from flask_webhook_endpoints import errors
from flask_webhook_endpoints.errors import Problem
from flask_webhook_endpoints.portal import problems
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

pytestmark = on_sqlite

PORTAL = Path(str(files("flask_webhook_endpoints"))) / "portal"
LANGUAGES = ("de", "es", "fr")
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2")]
KEYWORDS = {"gettext": None, "ngettext": (1, 2), "noted": None, "whe_text": None, "whe_plural": (1, 2)}


def texts():
    """Return every text of the pages, those of several forms as tuples."""
    return {text for _, _, text, _, _ in extract_from_dir(PORTAL, METHODS, keywords=KEYWORDS)}


def catalogue(language):
    with (PORTAL / "translations" / language / "LC_MESSAGES" / "webhook_endpoints.po").open("rb") as file:
        return pofile.read_po(file, locale=language)


def places(text):
    return sorted(re.findall(r"%\(\w+\)s|%%", text))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(language):
    found = {message.id: message for message in catalogue(language) if message.id}

    assert set(found) == texts()
    for message in found.values():
        forms = message.string if isinstance(message.string, tuple) else (message.string,)
        assert all(forms), message.id
        assert not message.fuzzy, message.id


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_places_of_its_text(language):
    for message in catalogue(language):
        if not message.id:
            continue
        if isinstance(message.id, tuple):
            for form in message.string:
                assert set(places(form)) <= set(places(message.id[1])), message.id
        else:
            assert places(message.string) == places(message.id), message.id


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_compiled_is_what_is_written(language):
    compiled = PORTAL / "translations" / language / "LC_MESSAGES" / "webhook_endpoints.mo"
    written = BytesIO()
    mofile.write_mo(written, catalogue(language))

    assert compiled.read_bytes() == written.getvalue()


ELSEWHERE = {
    "BodyTooLarge", "CrossSiteRequest", "IdempotencyKeyReused", "InvalidFields", "InvalidRequest", "QuotaExceeded",
    "StaleEndpoint", "TooManyIdempotencyKeys", "TooManyRedeliveries",
    "LengthRequired", "MethodNotAllowed", "UnsupportedCoding", "UnsupportedMediaType", "WebhookLoop",
}  # fmt: skip
"""Problems for which pages have words of their own, and those of the last line, which no person meets."""


def test_every_problem_of_a_page_has_its_text():
    own = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Problem)}

    # Add a new one that pages show to `SHOWN` in portal/problems.py, another one to `ELSEWHERE`.
    assert own - {"Problem"} == problems.SHOWN.keys() | ELSEWHERE


def test_the_problems_of_pages_are_translated():
    details = {each.detail for each in Problem.__subclasses__() if each.__name__ in problems.SHOWN}

    assert len(details) == len(problems.SHOWN)
    assert details <= texts()


@pytest.mark.parametrize(
    ("language", "title"),
    [("de", "Webhook-Endpunkte"), ("fr", "Points de terminaison webhook"), ("es", "Endpoints de webhook")],
)
def test_a_page_is_in_the_language_that_flask_babel_chooses(database, language, title):
    host = with_portal(database)
    Babel(host.app, locale_selector=lambda: language)

    page = person(host).get(f"{PREFIX}/")

    assert page.html.html["lang"] == language
    assert page.html.find("h1").text == title
    host.close()
