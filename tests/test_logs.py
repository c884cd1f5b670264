"""The log: an event's message holds its details, whatever formatter the host has, and filters still know its name."""

import logging
import pickle
import subprocess
import sys
from logging.handlers import QueueHandler
from queue import Queue

import pytest

from flask_webhook_endpoints import logs

NAME = "flask_webhook_endpoints.delivery"
EXTRA = {
    "webhooks.delivery_id": "dlv_1",
    "webhooks.response_status": None,
    "webhooks.error": "two\nlines",
    "webhooks.ids": ("a", "b"),
}
SHOWN = "webhooks.attempt_failed delivery_id=dlv_1 error=two lines ids=a,b"


@pytest.fixture
def record(caplog):
    logs.logger(NAME).warning("webhooks.attempt_failed", extra=EXTRA)
    (record,) = caplog.records
    return record


def test_the_message_is_the_name_and_then_the_details_on_one_line(record):
    assert record.getMessage() == SHOWN


def test_filters_know_an_event_by_its_name_its_logger_and_its_fields(record):
    assert record.msg == "webhooks.attempt_failed"
    assert (record.name, record.levelno) == (NAME, logging.WARNING)
    assert vars(record)["webhooks.error"] == "two\nlines"
    assert record.filename == "test_logs.py"


def test_an_event_without_details_is_its_name(caplog):
    logs.logger(NAME).error("webhooks.not_pruned", extra={})

    assert caplog.messages == ["webhooks.not_pruned"]


def test_it_passes_through_queues_and_pickles(record):
    queue: Queue[logging.LogRecord] = Queue()
    QueueHandler(queue).handle(record)

    assert queue.get().getMessage() == SHOWN
    assert pickle.loads(pickle.dumps(record)).getMessage() == SHOWN


# An app that configures no logging wrote `webhooks.attempt_failed` to stderr, and nothing else.
def test_without_any_configuration_stderr_has_the_reason():
    code = f"from flask_webhook_endpoints import logs; logs.logger({NAME!r}).warning('webhooks.x', extra={EXTRA!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stderr == "webhooks.x delivery_id=dlv_1 error=two lines ids=a,b\n"


def test_every_event_of_the_library_is_logged_by_such_a_logger():
    root = logs.__file__.removesuffix("logs.py")
    grep = ["grep", "-rlE", r"^\w* = logging\.getLogger\(", root, "--include=*.py"]

    plain = subprocess.run(grep, capture_output=True, text=True, check=False).stdout.split()
    assert plain == [f"{root}worker/process.py"]
