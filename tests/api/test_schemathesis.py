import subprocess
import sys
from contextlib import closing

import pytest

from tests.support import hosts, servers


@pytest.fixture
def served(database):
    with closing(hosts.flask_sqlalchemy(database)) as host, servers.served(host.app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.several_connections
def test_the_api_does_what_its_openapi_document_says(served):
    # A short run; the whole one is `python -m tests.support.openapi_check`.
    options = ["--phases=examples,fuzzing,stateful", "--max-examples=5"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.openapi_check", served, "X-Tenant: acme", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
