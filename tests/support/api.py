"""Requests to our routes that tests share: create an endpoint, follow the pages of a list."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

PATH = "/v1/endpoints"
NEW = {"name": "orders", "url": "https://example.com/"}
"""All that an endpoint needs to be created."""


class Endpoint(dict[str, Any]):
    """An endpoint as the API shows it."""

    @property
    def id(self) -> str:
        return str(self["id"])

    @property
    def uuid(self) -> UUID:
        """Return the id as the database has it."""
        return UUID(self.id.removeprefix("ep_"))

    @property
    def path(self) -> str:
        return f"{PATH}/{self.id}"


def post_endpoint(client: FlaskClient, *, key: str | None = None, **fields: Any) -> TestResponse:
    """Ask for an endpoint, whatever the answer is; `key` is the Idempotency-Key."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(PATH, json={**NEW, **fields}, headers=headers)


def create_endpoint(client: FlaskClient, url: str = NEW["url"], **fields: Any) -> Endpoint:
    answer = post_endpoint(client, url=url, **fields)
    assert answer.status_code == 201, answer.text
    return Endpoint(answer.get_json())


def change_endpoint(client: FlaskClient, endpoint: Endpoint, **fields: Any) -> Endpoint:
    answer = client.patch(endpoint.path, json=fields)
    assert answer.status_code == 200, answer.text
    return Endpoint(answer.get_json())


def next_link(answer: TestResponse) -> str | None:
    """Return where `Link` says that the next page is."""
    if "Link" not in answer.headers:
        return None
    link = re.fullmatch(r'<([^<>"\s]+)>; rel="next"', answer.headers["Link"])
    assert link is not None
    return link[1]


def pages(client: FlaskClient, path: str) -> Iterator[list[dict[str, Any]]]:
    """Follow the links from `path` to the last page."""
    following: str | None = path
    for _ in range(100):
        if following is None:
            return
        answer = client.get(following)
        assert answer.status_code == 200
        following = next_link(answer)
        yield answer.get_json()
    raise AssertionError("The links go round in circles.")


def secret_of(client: FlaskClient, path: str) -> str:
    return str(client.get(f"{path}/secret").get_json()["secret"])


def assert_problem(answer: TestResponse, status: int) -> None:
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json"), answer.text
    assert answer.get_json()["status"] == status
    assert answer.get_json()["detail"]
