import pytest


@pytest.mark.parametrize("tag", ['""', '"01"', '"1', "W/", 'W/"1"', '"é"', ",", " "])
def test_an_odd_etag_matches_no_version(acme, tag):
    # `If-Match: ""` was a 500.
    endpoint = acme.post("/v1/endpoints", json={"name": "n", "url": "https://example.com/"})
    path = endpoint.headers["Location"]

    assert acme.patch(path, json={"name": "m"}, headers={"If-Match": tag}).status_code == 412
    assert acme.delete(path, headers={"If-Match": tag}).status_code == 412
    assert acme.get(path).json == endpoint.json
