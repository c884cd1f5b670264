"""The layout that a reader relies on: CONTRIBUTING tells it; the gate runs this on what the wheel holds."""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path

import pytest

import flask_webhook_endpoints

PACKAGE = "flask_webhook_endpoints"
ROOT = Path(str(files(PACKAGE)))
SOURCES = sorted(ROOT.rglob("*.py"))
MIGRATIONS = ROOT / "database" / "migrations"

PUBLIC = {"__init__", "extension", "signals", "celery", "testing", "logs", "errors"}
PRIVATE = {"settings", "state", "access", "telemetry", "identifiers", "mounting"}
WINGS = {
    "api": {
        "routes", "endpoints", "deliveries", "event_types", "event_type_schemas", "idempotency", "requests",
        "responses",
        "endpoint_fields", "endpoint_schemas", "delivery_schemas", "openapi", "openapi_examples",
        "openapi_fields", "openapi_merge", "openapi_webhooks",
        "statistics", "statistics_schemas",
    },
    "cli": {
        "commands", "status", "events", "redeliver", "maintenance", "migrations", "doctor", "findings",
        "database_checks", "settings_checks", "celery_checks", "machine_checks", "vacuum_checks", "tune", "terminal",
        "openapi",
    },
    "worker": {
        "loop", "claims", "pruning", "recorder", "database_thread", "process", "attempt", "http_client", "dns", "retry",
        "pace", "unrecorded", "answers", "connections", "descriptors", "returns", "shortage", "drains", "failure_log",
        "news", "request", "deadlines",
    },
    "core": {
        "endpoints", "endpoint_lists", "endpoint_row", "secrets", "headers", "validation", "idempotency", "tenants",
        "key_rotation",
        "events", "declarations", "event_schemas", "event_choices", "breaches", "batches", "fan_out", "subscriptions",
        "wakeups",
        "queue", "sweep", "leases", "candidates", "turns", "places", "marks", "room", "rests", "receivers",
        "attempts", "attempt_errors", "results", "transitions", "cancellations",
        "deliveries", "delivery_lists", "newest", "redelivery", "redelivery_limit", "retention", "references",
        "statistics", "heartbeats", "numbers", "roll_ups", "recent_counts", "endpoint_statistics", "recent_results",
        "incidents", "curl", "signature_checks",
    },
    "host": {"endpoints", "deliveries", "transaction", "uncommitted"},
    "portal": {
        "blueprint", "pages", "problems", "rules", "forms", "texts", "assets", "frame",
        "endpoints", "endpoint", "charts", "events", "schema_table",
        "secret", "signature", "verdicts", "ping", "snippets",
        "deliveries", "delivery", "delivery_filters", "json_text", "recovery", "resending", "results",
        "new_endpoint", "endpoint_settings", "endpoint_deletion", "endpoint_form", "form_rows", "form_faults",
        "form_labels", "event_groups", "edit_conflicts", "delivery_states",
    },
    "database": {
        "models", "queue_models", "types", "tables", "scope", "sessions", "transactions", "migrate", "moving",
        "dialects", "given", "plans", "delivery_ids", "clocks", "failures",
    },
    "security": {"egress", "private", "encryption", "interfaces", "pasted", "ports", "signature_check", "signing"},
}  # fmt: skip

LOGGERS = {
    "database_thread", "delivery", "endpoints", "events", "pruner", "publish", "recorder", "sender", "signals",
    "transactions", "wakes", "wire", "worker",
}  # fmt: skip
"""Names below the package's that hosts may have configured; modules have moved since, the names have not."""


def named(path: Path) -> str:
    return ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in SOURCES}


TESTS = Path(__file__).parent

MODULES = [named(path) for path in SOURCES if not path.is_relative_to(MIGRATIONS)]


def test_the_root_has_what_a_host_may_import_and_what_the_wings_share():
    assert {path.stem for path in ROOT.glob("*.py")} == PUBLIC | PRIVATE
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= 14


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_has_its_modules_and_says_nothing_itself(wing):
    assert {path.stem for path in (ROOT / wing).glob("*.py")} == {"__init__", *WINGS[wing]}
    assert (ROOT / wing / "__init__.py").read_text() == ""


def test_there_are_no_other_wings():
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(WINGS)


def test_every_module_is_in_the_wheel_and_can_be_imported():
    assert [importlib.import_module(module).__name__ for module in MODULES] == MODULES


def test_migrations_and_the_mark_of_types_are_in_the_wheel():
    assert (ROOT / "py.typed").is_file()
    assert (MIGRATIONS / "env.py").is_file()
    revisions = [path.name[:4] for path in sorted((MIGRATIONS / "versions").glob("0*.py"))]
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert len(revisions) >= 12


def test_the_public_names_of_the_root():
    assert flask_webhook_endpoints.__all__ == [
        "Action",
        "Authorize",
        "DeclaredEvent",
        "Endpoint",
        "Event",
        "InvalidDeclaration",
        "InvalidEvent",
        "InvalidSetting",
        "NewEvent",
        "Problem",
        "RegistrationError",
        "Settings",
        "WebhookEndpoints",
        "WebhookEndpointsError",
        "metadata",
    ]


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in a new process."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_the_root_loads_nothing_before_it_is_asked_for():
    assert {name for name in loaded_by(f"import {PACKAGE}") if name.startswith(PACKAGE)} == {PACKAGE}


def test_pytest_loads_no_more_of_us_than_its_plugin_needs():
    loaded = loaded_by(f"import pytest, {PACKAGE}.testing")

    assert {name.removeprefix(PACKAGE) for name in loaded if name.startswith(PACKAGE)} == {
        "",
        ".testing",
        ".core",
        ".core.breaches",
        ".errors",
        ".security",
        ".security.signing",
    }
    assert not loaded & {"flask", "sqlalchemy", "sqlmodel", "marshmallow", "cryptography", "aiohttp", "celery"}


def imports(tree: ast.Module) -> set[str]:
    """Return the top-level packages that a module imports, wherever it does."""
    statements = list(ast.walk(tree))
    plain = {alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names}
    return {
        name.partition(".")[0]
        for name in plain | {str(each.module) for each in statements if isinstance(each, ast.ImportFrom)}
    }


def test_only_the_worker_knows_aiohttp():
    knowing = [named(path) for path, tree in trees().items() if "aiohttp" in imports(tree)]

    assert knowing
    assert all(name.startswith(f"{PACKAGE}.worker.") for name in knowing)


def modules_imported(tree: ast.Module) -> set[str]:
    """Return the modules of ours that a module imports anywhere, for types alone, too."""
    froms = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.module]
    named_in = {f"{each.module}.{alias.name}" for each in froms for alias in each.names}
    return {name for name in named_in | {str(each.module) for each in froms} if name in MODULES}


def test_no_modules_import_each_other_in_a_circle():
    # The root and the wings' `__init__`s only hand names on.
    graph = {
        named(path): modules_imported(tree)
        for path, tree in trees().items()
        if path.name != "__init__.py" and not path.is_relative_to(MIGRATIONS)
    }

    TopologicalSorter(graph).prepare()


def test_no_module_but_dialects_tells_databases_apart_by_their_names():
    names = {"postgresql", "sqlite", "mysql", "mariadb"}
    told = [
        f"{named(path)}:{each.lineno}"
        for path, tree in trees().items()
        if not path.is_relative_to(MIGRATIONS)
        for each in ast.walk(tree)
        if isinstance(each, ast.Compare | ast.MatchValue | ast.Tuple | ast.Dict | ast.Set | ast.Assign)
        for part in ast.walk(each)
        if isinstance(part, ast.Constant) and part.value in names
    ]

    assert {name.partition(":")[0] for name in told} == {f"{PACKAGE}.database.dialects"}


def writes(each: ast.AST) -> set[str]:
    """Return the columns that a node of a module's tree writes: by `values`, by `from_select`, or as keys of a dict."""
    if isinstance(each, ast.Dict):
        return {str(getattr(key, "value", "")) for key in each.keys} - {"status"}
    if isinstance(each, ast.Call) and getattr(each.func, "attr", "") in ("values", "from_select"):
        return {str(getattr(part, "arg", None) or getattr(part, "value", "")) for part in ast.walk(each)}
    return set()


def test_no_module_of_the_core_but_transitions_writes_a_status_a_state_or_a_pause():
    columns = {"status", "state", "finished_at", "paused_at", "pause_reason"}
    writing = {
        path.stem
        for path, tree in trees().items()
        if path.parent in (ROOT / "core", ROOT / "worker")
        for each in ast.walk(tree)
        if writes(each) & columns
    }

    assert writing == {"transitions"}


def documented(tree: ast.Module) -> list[tuple[int, str]]:
    """Return the docstrings of a module, its classes and functions, and of constants and fields, with their lines."""
    return [
        (each.lineno, each.value.value)
        for each in ast.walk(tree)
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
    ]


def test_the_first_sentence_of_a_docstring_has_fewer_than_20_words():
    long = [
        f"{named(path)}:{line}: {sentence}"
        for path, tree in trees().items()
        for line, text in documented(tree)
        for sentence in [re.split(r"(?<=[.!?])\s", text.strip().partition("\n\n")[0])[0]]
        if len(re.sub(r"`[^`]*`", "code", sentence).split()) >= 20
    ]

    assert long == []


def test_no_function_is_longer_than_40_lines():
    long = [
        f"{named(path)}.{each.name}"
        for path, tree in trees().items()
        if not path.is_relative_to(MIGRATIONS)
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.end_lineno - each.lineno >= 40
    ]

    assert long == []


def test_loggers_keep_the_names_that_hosts_may_have_configured():
    names = {
        named(path) if isinstance(call.args[0], ast.Name) else ast.literal_eval(call.args[0])
        for path, tree in trees().items()
        if path != ROOT / "logs.py"
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("logging.getLogger", "logs.logger")
    }

    assert names == {PACKAGE, *(f"{PACKAGE}.{name}" for name in LOGGERS)}


def test_test_modules_share_by_tests_support_alone():
    importing = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in TESTS.rglob("*.py")
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.ImportFrom | ast.Import)
        for name in [getattr(each, "module", None) or each.names[0].name]
        if name.startswith("tests") and not name.startswith("tests.support")
    ]

    assert importing == []
