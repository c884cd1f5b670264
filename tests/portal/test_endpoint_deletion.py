"""The deletion of an endpoint: its page says what ends, and only the name confirms it."""

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import signals
from tests.support import deliveries
from tests.support.api import PATH, change_endpoint, create_endpoint
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

pytestmark = pytest.mark.host(make=with_portal)


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme, name="orders of  the café")


@pytest.fixture
def path(endpoint):
    return f"{PREFIX}/{endpoint.id}/delete"


def confirmed(app, path, name):
    form = app.get(path).forms[0]
    form["name"] = name
    return form


def exists(client, endpoint):
    return client.get(endpoint.path).status_code == 200


@pytest.mark.parametrize("name", ["orders of  the café", "orders of the café", " orders of the cafe\u0301 "])
def test_the_name_as_the_page_shows_it_deletes_the_endpoint(ada, acme, endpoint, path, name):
    page = confirmed(ada, path, name).submit(status=303).follow()

    assert "is deleted." in page
    assert page.request.path == f"{PREFIX}/"
    assert acme.get(PATH).get_json() == []


@on_sqlite
@pytest.mark.parametrize("name", ["", "Orders of the café", "orders", "\0", "\u202eorders"])
def test_another_name_deletes_nothing_and_is_kept(ada, acme, endpoint, path, name):
    page = confirmed(ada, path, name).submit(status=422)

    assert "Nothing was deleted." in page.html.find(id="whe-errors").text
    assert "This is not its name." in page.html.find(id="whe-name-fault").text
    assert page.html.find(id="whe-errors").a["href"] == "#whe-name"
    assert page.forms[0]["name"].value == name
    assert exists(acme, endpoint)


def test_the_page_counts_what_is_cancelled(ada, acme, host, path, endpoint):
    assert "No delivery waits" in ada.get(path)
    deliveries.publish(host, {"id": 1}, {"id": 2})
    assert "2 waiting deliveries are cancelled." in ada.get(path)
    change_endpoint(acme, endpoint, status="PAUSED")

    page = ada.get(path)

    assert "2 held deliveries are cancelled." in page
    assert "waiting" not in page
    assert "Its secrets, headers and settings are deleted for good." in page


def test_a_form_that_is_sent_twice_ends_on_the_list_both_times(ada, endpoint, path):
    form = confirmed(ada, path, endpoint["name"])

    first, second = form.submit(status=303), form.submit(status=303)

    assert first.location == second.location


def test_signals_tell_of_the_deletion_once(ada, endpoint, path):
    heard = []

    def hear(app, *, endpoint_id, **_):
        heard.append(endpoint_id)

    form = confirmed(ada, path, endpoint["name"])
    with signals.endpoint_deleted.connected_to(hear):
        form.submit()
        form.submit()

    assert heard == [endpoint.id]


@pytest.mark.several_connections
def test_an_endpoint_to_which_a_table_of_the_host_refers_stays_and_the_page_says_so(ada, acme, host, endpoint, path):
    with host.app.app_context():
        if host.db.engine.dialect.name == "sqlite":
            sa.event.listen(
                host.db.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=1")
            )
            host.db.engine.dispose()
        with host.db.engine.begin() as connection:
            kind = connection.dialect.type_compiler_instance.process(
                host.db.metadata.tables["webhook_endpoint"].c.id.type
            )
            connection.execute(
                sa.text(
                    f"CREATE TABLE app_route (id INTEGER, endpoint_id {kind},"
                    " FOREIGN KEY (endpoint_id) REFERENCES webhook_endpoint (id))"
                )
            )
            connection.execute(sa.text("INSERT INTO app_route SELECT 1, id FROM webhook_endpoint"))

    page = confirmed(ada, path, endpoint["name"]).submit(status=409)

    assert "still referred to elsewhere" in page.html.find(id="whe-errors").text
    assert exists(acme, endpoint)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE app_route"))


def test_the_settings_end_with_the_link(ada, endpoint):
    ada.get(f"{PREFIX}/{endpoint.id}/settings").click("Delete this endpoint")


def test_who_may_not_delete_finds_no_link_and_no_page(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "delete")
    ada, endpoint = person(host), create_endpoint(host.client())

    assert "Delete" not in ada.get(f"{PREFIX}/{endpoint.id}/settings")
    ada.get(f"{PREFIX}/{endpoint.id}/delete", status=403)
    ada.post(f"{PREFIX}/{endpoint.id}/delete", {"name": endpoint["name"]}, status=403)
    assert exists(host.client(), endpoint)
    host.close()


def test_another_tenants_endpoint_is_not_found(hank, acme, endpoint, path):
    hank.get(path, status=404)
    hank.post(path, {"name": endpoint["name"]}, status=404)

    assert exists(acme, endpoint)
