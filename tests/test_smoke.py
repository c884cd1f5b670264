def test_a_tenant_registers_an_endpoint(acme):
    answer = acme.post("/v1/endpoints", json={"name": "n", "url": "https://example.com/"})

    assert answer.status_code == 201
    assert acme.get("/v1/endpoints").json == [answer.json]
