"""The secrets of an endpoint: the one in force, and those that still sign."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import secrets
from flask_webhook_endpoints.errors import UnknownEndpoint
from flask_webhook_endpoints.state import current_state
from tests.support.api import create_endpoint, secret_of
from tests.support.database import SECRET, execute

FIRST, SECOND, THIRD = (f"the {name} secret of all" for name in ("first", "second", "third"))


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme, secret=FIRST)


def rotate(client, endpoint, secret, overlap_seconds):
    answer = client.post(f"{endpoint.path}/secret/rotate", json={"secret": secret, "overlap_seconds": overlap_seconds})
    assert answer.status_code == 200


def stored(host, endpoint, tenant_id="acme", **options):
    with host.app.app_context():
        state = current_state()
        return state.run(
            lambda scope: secrets.all_of(scope.of(tenant_id), endpoint.uuid, cipher=state.cipher, **options),
            commit=False,
        )


def test_the_current_secret_comes_first_then_those_that_still_sign(host, acme, endpoint, webhook_clock):
    created_at = webhook_clock()
    webhook_clock.move(seconds=10)
    rotate(acme, endpoint, SECOND, 3600)
    webhook_clock.move(seconds=10)
    rotate(acme, endpoint, THIRD, 7200)

    found = stored(host, endpoint)

    assert [each.secret.reveal() for each in found] == [THIRD, SECOND, FIRST]
    moments = [each.created_at - created_at for each in found]
    assert moments == [pytest.approx(timedelta(seconds=each), abs=timedelta(seconds=9)) for each in (20, 10, 0)]
    expiries = [each.expires_at and each.expires_at - created_at for each in found]
    near = pytest.approx(timedelta(seconds=7220), abs=timedelta(seconds=9))
    assert expiries == [None, near, pytest.approx(timedelta(seconds=3610), abs=timedelta(seconds=9))]
    webhook_clock.move(hours=1.5)
    assert [each.secret.reveal() for each in stored(host, endpoint)] == [THIRD, SECOND]
    assert [each.secret.reveal() for each in stored(host, endpoint, with_expired=True)] == [THIRD, SECOND, FIRST]


def test_a_secret_whose_key_is_lost_is_listed_without_its_text(host, acme, endpoint):
    rotate(acme, endpoint, SECOND, 3600)
    execute(host, sa.update(SECRET).where(SECRET.c.expires_at.is_not(None)).values(secret_encrypted="lost"))

    found = stored(host, endpoint)

    assert (found[0].secret.reveal(), found[1].secret) == (SECOND, None)
    assert secret_of(acme, endpoint.path) == SECOND
    assert SECOND not in repr(found)


def test_secrets_of_another_tenants_endpoint_are_not_found(host, endpoint):
    with pytest.raises(UnknownEndpoint):
        stored(host, endpoint, "globex")
