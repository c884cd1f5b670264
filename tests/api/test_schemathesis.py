import subprocess
import sys
import threading

import pytest
from werkzeug.serving import make_server

from tests.support import hosts


@pytest.fixture
def served(database):
    host = hosts.flask_sqlalchemy(database)
    server = make_server("127.0.0.1", 0, host.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    host.close()


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
