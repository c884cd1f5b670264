"""Clients and receivers made of the OpenAPI document by the generators that people use, against the example app.

`make test-clients` installs the generators, in the versions of requirements.txt and package-lock.json. Each client is
type-checked and goes through an endpoint's whole life.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import example_app
from example_app.models import db
from flask_webhook_endpoints import testing
from tests.support import javascript, servers

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
KEY = "demo-acme"
STRICT = {"strict": True, "target": "es2022", "types": ["node"], "skipLibCheck": True, "outDir": "built"}
# Without it, Go's clients refuse answers with members that a later version adds.
GROWING = "disallowAdditionalPropertiesIfNotPresent=false"


@pytest.fixture(scope="session")
def tools() -> Path:
    """The programs of requirements.txt; Node's are installed beside package-lock.json."""
    javascript.install(HERE)
    found = Path(os.environ.get("CLIENTS_VENV", HERE.parents[1] / ".venv-clients")) / "bin"
    assert (found / "openapi-python-client").exists(), "Run `make test-clients`, which installs the generators."
    return found.absolute()


@pytest.fixture
def run(tools: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a program in this test's folder; fail with what it says."""
    node = Path(javascript.NODE).parent
    # Nothing is kept outside: Go, mypy and npx would write to the home folder.
    kept = {"HOME": str(tmp_path), "GOCACHE": str(tmp_path / "go"), "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
    path = os.pathsep.join(map(str, [tools, node, HERE / "node_modules" / ".bin", os.environ["PATH"]]))

    def run(*command: str | Path, **options: Any) -> str:
        program = shutil.which(command[0], path=path)
        assert program is not None, f"{command[0]} is not installed."
        done = subprocess.run(
            [program, *command[1:]], cwd=tmp_path, env={**kept, "PATH": path}, capture_output=True, text=True,
            timeout=240, check=False, **options,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setenv("SECRET_KEY", "a secret of the tests")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/example.db")
    app = example_app.create_app()
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    with servers.served(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def document(app: Flask, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(app.test_client().get("/v1/openapi.json").data)
    return path


def compile_typescript(run: Callable[..., str], folder: Path, source: Path, **options: str) -> Path:
    """Check a program strictly and return it as JavaScript."""
    shutil.copy(source, folder / "main.ts")
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": STRICT | options, "files": ["main.ts"]}))
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    run("tsc", "--project", folder)
    return folder / "built" / "main.js"


def test_openapi_python_client_makes_a_client_for_the_whole_life_of_an_endpoint(run, document, url, tmp_path):
    run("openapi-python-client", "generate", "--path", document, "--output-path", "webhooks_client", "--meta", "none",
        "--fail-on-warning")  # fmt: skip
    shutil.copy(HERE / "life.py", tmp_path)
    # The generator's own `__exit__` hands on `*args: object`, whatever the document says.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-webhooks_client.client]\ndisable_error_code = arg-type\n")

    run("mypy", "--strict", "--package", "webhooks_client")
    run("mypy", "--strict", "life.py")
    run("python", "life.py", url, KEY)


def test_openapi_generator_makes_a_go_client_for_the_whole_life_of_an_endpoint(run, document, url, tmp_path):
    run("openapi-generator-cli", "generate", "--generator-name", "go", "--input-spec", document, "--output", "hooks",
        "--additional-properties", f"packageName=hooks,withGoMod=false,{GROWING}",
        "--global-property", "apiTests=false,modelTests=false,apiDocs=false,modelDocs=false")  # fmt: skip
    shutil.copy(HERE / "life.go", tmp_path)
    (tmp_path / "go.mod").write_text("module life\n\ngo 1.19\n")

    run("go", "vet", "./...")
    run("go", "build", "-o", "life", ".")
    run(tmp_path / "life", url, KEY)


def test_openapi_generator_makes_a_typescript_client_for_the_whole_life_of_an_endpoint(run, document, url, tmp_path):
    run("openapi-generator-cli", "generate", "--generator-name", "typescript-fetch", "--input-spec", document,
        "--output", "client", "--additional-properties", GROWING)  # fmt: skip

    program = compile_typescript(run, tmp_path, HERE / "life_fetch.ts", module="commonjs", moduleResolution="node10")
    run("node", program, url, KEY)


def test_openapi_typescript_makes_types_for_the_whole_life_of_an_endpoint(run, document, url, tmp_path):
    run("openapi-typescript", document, "--output", "api.ts")
    (tmp_path / "package.json").write_text('{"type": "module"}')

    program = compile_typescript(run, tmp_path, HERE / "life_types.ts", module="nodenext")
    run("node", program, url, KEY)


@pytest.mark.parametrize(
    "command",
    [
        ["redocly", "lint", "--extends=recommended"],
        ["spectral", "lint", "--fail-severity=error", f"--ruleset={HERE / 'spectral.json'}"],
    ],
    ids=["redocly", "spectral"],
)
def test_linters_find_no_error(run, document, command):
    run(*command, document)


@pytest.fixture
def attempt(app: Flask) -> str:
    """A real delivery of a ping and the endpoint's secret, as JSON."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    with closing(testing.Receiver()) as receiver:
        endpoint = client.post("/v1/endpoints", json={"name": "n", "url": receiver.url}).json
        client.post(f"/v1/endpoints/{endpoint['id']}/ping")
        testing.drain(app)
        (received,) = receiver.received
    secret = client.get(f"/v1/endpoints/{endpoint['id']}/secret").json["secret"]
    headers = {name: value for name, value in received.headers.items() if name.startswith("webhook-")}
    return json.dumps(
        {"secret": secret, "headers": headers, "body": received.body.decode(), "endpoint": endpoint["id"]}
    )


def test_a_receiver_of_datamodel_code_generator_verifies_and_reads_a_delivery(run, document, attempt, tmp_path):
    run("datamodel-codegen", "--input", document, "--input-file-type", "openapi", "--output", "models.py",
        "--output-model-type", "pydantic_v2.BaseModel", "--use-annotated",
        "--openapi-scopes", "schemas", "webhooks")  # fmt: skip
    shutil.copy(HERE / "receive.py", tmp_path)

    run("mypy", "--strict", "receive.py")
    assert run("python", "receive.py", input=attempt).strip() == json.loads(attempt)["endpoint"]


def test_a_receiver_of_openapi_typescript_verifies_and_reads_a_delivery(run, document, attempt, tmp_path):
    run("openapi-typescript", document, "--output", "api.ts")
    (tmp_path / "package.json").write_text('{"type": "module"}')

    program = compile_typescript(run, tmp_path, HERE / "receive.ts", module="nodenext")
    assert run("node", program, input=attempt).strip() == json.loads(attempt)["endpoint"]
