"""The accounts of the demo. Everybody knows their keys and passwords: empty `ACCOUNTS` before you have customers."""

from typing import NamedTuple


class Account(NamedTuple):
    """A tenant with one user, who has an API key for programs and a password for the browser."""

    tenant: str
    email: str
    key: str
    password: str


ACME = Account("acme", "ada@acme.example", "demo-acme", "demo-ada")
GLOBEX = Account("globex", "hank@globex.example", "demo-globex", "demo-hank")

ACCOUNTS = (ACME, GLOBEX)

PORTAL = "/settings/webhooks"
"""The path of the pages where people manage their endpoints."""


def how_to_see(port: int) -> str:
    """Return where a person sees the webhooks of a demo account, and how that person logs in."""
    return f"http://127.0.0.1:{port}{PORTAL} as {ACME.email} with the password {ACME.password}"
