"""The pages: how a view becomes a route, which template answers, and how long browsers may keep it."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, TypeVar

from flask import Response, current_app, flash, make_response, redirect, render_template, session, url_for
from flask.sessions import NullSession
from werkzeug.exceptions import HTTPException

from flask_webhook_endpoints import access
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.errors import Problem, RegistrationError
from flask_webhook_endpoints.state import Action

V = TypeVar("V", bound=Callable[..., Response])

_FOLDER = "webhook_endpoints"


class Page(NamedTuple):
    """A route of the portal, below the URL prefix that the host gave."""

    method: Literal["GET", "POST"]
    path: str
    view: Callable[..., Response]


def page(pages: list[Page], method: Literal["GET", "POST"], path: str) -> Callable[[V], V]:
    """Add the view to the pages; its name is the name of its route."""

    def add(view: V) -> V:
        pages.append(Page(method, path, view))
        return view

    return add


def render(template: str, *, status: int = HTTPStatus.OK, secret: bool = False, **values: Any) -> Response:
    """Answer with a template of ours, or the host's of the same name.

    Args:
        template: Its file below `webhook_endpoints/`, without `.html`.
        status: The status of the answer.
        secret: True if the page shows a secret: then no browser keeps it, not even for its button Back.
        values: The variables of the template, whose names begin with `whe_` there, so that they hide none of the
            variables of the host's layout.

    """
    name = f"{_FOLDER}/{template}.html"
    _require_escaping(name)
    variables = {f"whe_{key}": value for key, value in values.items()}
    response = make_response(render_template(name, **variables), status)
    response.headers["Cache-Control"] = "no-store" if secret else "private, no-cache"
    return response


def _require_escaping(name: str) -> None:
    """Raise `RegistrationError` where the host's Jinja would let texts of tenants and receivers become markup."""
    escapes = current_app.jinja_env.autoescape
    if not (escapes(name) if callable(escapes) else escapes):
        raise RegistrationError(f"The app's Jinja does not escape {name}: let select_jinja_autoescape be true for it.")


def see(view: str, /, **values: Any) -> Response:
    """Send the browser to a page of ours after a form had its effect (303, RFC 9110 section 15.4.4)."""
    return see_url(url_for(f".{view}", **values))


def see_url(url: str) -> Response:
    """Send the browser to a URL of ours, as `see` does."""
    return make_response(redirect(url, HTTPStatus.SEE_OTHER))


def tell(message: str, category: Literal["success", "error"] = "success") -> None:
    """Show a message on the next page, as Flask's `flash` does; the layout shows it."""
    # The host may keep no session for this request. What the message tells of has happened all the same.
    if not isinstance(session, NullSession):
        flash(message, category)


def shows(caller: Caller, action: Action, ep_id: str | None = None) -> bool:
    """Return whether a page may offer an action.

    A host may answer an action with a response of its own, such as its page for a fresh login. It is offered then, and
    the host is asked again when the person takes it.
    """
    try:
        return caller.may(action, ep_id)
    except HTTPException:
        return True


def reads(caller: Caller, action: Action, ep_id: str | None = None) -> bool:
    """Return whether a page may show what an action reads.

    Where the host would answer with a response of its own, it has not allowed to read yet.
    """
    try:
        return caller.may(action, ep_id)
    except HTTPException:
        return False


def offers(action: Action) -> bool:
    """Return whether the navigation may offer a page of the whole tenant; False where nobody is logged in."""
    try:
        access.enter(action)
    except HTTPException:
        return True
    except Problem:
        return False
    return True


def problem_page(problem: Problem) -> Response:
    """Answer an error as a page that says what is wrong."""
    response = render("problem", status=problem.status, problem=problem)
    response.headers.extend(problem.headers)
    return response
