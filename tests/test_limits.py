from tests import hosts


def test_each_app_in_a_process_has_the_ceiling_of_its_own_settings():
    # Both applications' limits once landed in one list on the class, so that the lowest held for all.
    low = hosts.flask_sqlalchemy("sqlite://", WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECONDS=5)
    high = hosts.flask_sqlalchemy("sqlite://", WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECONDS=60)
    body = {"name": "n", "url": "https://example.com/", "timeout_seconds": 60}

    assert low.client("acme").post("/v1/endpoints", json=body).status_code == 422
    assert high.client("acme").post("/v1/endpoints", json=body).status_code == 201
    low.close()
    high.close()
