"""What holds in every host: one check, run over each kind of it."""

from urllib.parse import urljoin

from flask.testing import FlaskClient

from tests.support.api import assert_problem


def life_of_an_endpoint(acme: FlaskClient, globex: FlaskClient, path: str = "/v1/endpoints") -> None:
    """Walk all five routes as one tenant, while the other sees nothing of it."""
    created = acme.post(path, json={"name": "my-webhook", "url": "https://example.com/webhook", "headers_json": None})

    assert created.status_code == 201, created.text
    endpoint = created.get_json()
    assert endpoint["status"] == "ACTIVE"
    one = urljoin(path, created.headers["Location"])
    assert one == f"{path}/{endpoint['id']}"
    assert acme.get(one).get_json() == endpoint
    assert acme.get(path).get_json() == [endpoint]

    assert globex.get(path).get_json() == []
    for refused in (globex.get(one), globex.patch(one, json={"name": "mine"}), globex.delete(one)):
        assert_problem(refused, 404)

    paused = acme.patch(one, json={"name": "updated-name", "status": "PAUSED"})
    assert paused.status_code == 200, paused.text
    changed = paused.get_json()
    assert changed == {
        **endpoint,
        "name": "updated-name",
        "status": "PAUSED",
        "paused_at": changed["updated_at"],
        "pause_reason": "user",
        "updated_at": changed["updated_at"],
    }
    assert changed["updated_at"] > endpoint["updated_at"]
    assert acme.get(one).get_json() == changed

    second = acme.post(path, json={"name": "second", "url": "https://example.com/"}).get_json()
    first_page = acme.get(f"{path}?limit=1")
    assert first_page.get_json() == [changed]
    following = urljoin(path, first_page.headers["Link"].removeprefix("<").partition(">")[0])
    assert acme.get(following).get_json() == [second]

    assert_problem(acme.patch(one, json={"status": "ASLEEP"}), 422)
    assert_problem(acme.put(one, json={}), 405)
    assert_problem(acme.get(f"{one}/nothing"), 404)
    assert acme.get(path).get_json() == [changed, second]

    for known in (one, f"{path}/{second['id']}"):
        deleted = acme.delete(known)
        assert (deleted.status_code, deleted.data) == (204, b"")
        assert_problem(acme.get(known), 404)
    assert acme.get(path).get_json() == []
