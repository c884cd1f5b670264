"""The faults of an endpoint's form, each at the field or the row that the person can mend.

The rules are those of the API's schemas. Only what a form alone can get wrong has a rule here.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from marshmallow import Schema

from flask_webhook_endpoints.core import validation
from flask_webhook_endpoints.core.headers import HIDDEN
from flask_webhook_endpoints.errors import InvalidFields, Problem
from flask_webhook_endpoints.portal import problems, rules
from flask_webhook_endpoints.portal.endpoint_form import FIELDS, EndpointForm
from flask_webhook_endpoints.portal.form_rows import Row
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.private import Private

Faults = Mapping[str, Sequence[str]]
"""Messages by the part of the form that they are about. Such are `url` or `headers-2`, the third row of headers."""

_ALL_EVENTS = "*"


def load(
    schema: Schema,
    form: EndpointForm,
    fields: Private[Any],
    *,
    row_schema: Schema,
    kept: Collection[str] = (),
) -> Private[Any]:
    """Return the fields as the schema loads them; raise `InvalidFields` with `Faults`.

    Args:
        schema: The schema of a new endpoint, or of changes.
        form: The form as it was sent.
        fields: Its fields, or those of them that changed.
        row_schema: The schema of changes, which checks one row at a time.
        kept: Event types that the endpoint has chosen already; they may stay though no declared event matches them.

    """
    own = {part: messages for part, messages in _own_faults(form, fields).items() if messages}
    wrong = {part.partition("-")[0] for part in own}
    checked: Private[Any] = Private({name: value for name, value in fields.items() if _part_of(name) not in wrong})
    chosen = checked.get("event_types")
    if chosen and any(name in kept for name in chosen):
        # They count, but the schema is not asked about them.
        checked = Private(checked, event_types=[_ALL_EVENTS if name in kept else name for name in chosen])
    try:
        loaded = validation.load_private(schema, checked)
    except InvalidFields as problem:
        raise InvalidFields(_in_order({**_of_schema(problem, form, row_schema), **own})) from None
    if own:
        raise InvalidFields(_in_order(own))
    return Private(loaded, event_types=chosen) if chosen else loaded


def by_part(problem: Problem | None) -> problems.Faults:
    """Return the faults of a form that was refused, by the parts of the form; none for other problems."""
    errors = problem.errors if isinstance(problem, InvalidFields) else {}
    return problems.Faults({_part_of(name): messages for name, messages in errors.items()})


def _own_faults(form: EndpointForm, fields: Private[Any]) -> dict[str, list[str]]:
    faults: dict[str, list[str]] = {}
    if "name" in fields and not form.name.strip():
        faults["name"] = [gettext("Give the endpoint a name.")]
    if "url" in fields and not form.url:
        faults["url"] = [gettext("Give the URL of your server, such as https://example.com/webhooks.")]
    if "timeout_seconds" in fields and not isinstance(fields["timeout_seconds"], int):
        faults["timeout_seconds"] = [gettext("Give a whole number of seconds.")]
    if "event_types" in fields and fields["event_types"] == []:
        faults["event_types"] = [gettext("Choose at least one event, or all events.")]
    if "headers_json" in fields:
        faults |= {f"headers-{index}": messages for index, messages in _faults_of_headers(form.headers)}
    if "metadata" in fields:
        faults |= {f"metadata-{index}": messages for index, messages in _faults_of_metadata(form.metadata)}
    return faults


def _faults_of_headers(rows: Sequence[Row]) -> Iterator[tuple[int, list[str]]]:
    named: set[str] = set()
    for index, row in enumerate(rows):
        if row.is_removed or row.is_blank:
            continue
        if not row.name:
            yield index, [gettext("Give the header a name, or empty its value.")]
        elif row.name.lower() in named:
            yield index, [gettext("This header is in the list already. Replace its value there.")]
        elif row.value == HIDDEN:
            yield index, [gettext("%(mask)s stands for a value that is hidden. Give the value itself.", mask=HIDDEN)]
        named.add(row.name.lower())


def _faults_of_metadata(rows: Sequence[Row]) -> Iterator[tuple[int, list[str]]]:
    named: set[str] = set()
    for index, row in enumerate(rows):
        if row.is_blank:
            continue
        if not row.name:
            yield index, [gettext("Give the value a key, or empty it.")]
        elif row.name in named:
            yield index, [gettext("This key is in the list already.")]
        named.add(row.name)


def _of_schema(problem: InvalidFields, form: EndpointForm, row_schema: Schema) -> Faults:
    faults: dict[str, list[str]] = {}
    for name, messages in problem.errors.items():
        part = _part_of(name)
        rows = {"headers": form.headers, "metadata": form.metadata}.get(part, ())
        of_rows = dict(_faults_of_rows(name, rows, row_schema))
        faults |= {f"{part}-{index}": found for index, found in of_rows.items()}
        if not of_rows:
            faults[part] = [rules.message_of(message) for message in _flat(messages)]
    return faults


def _faults_of_rows(name: str, rows: Sequence[Row], row_schema: Schema) -> Iterator[tuple[int, list[str]]]:
    """Yield what is wrong with each row by itself."""
    for index, row in enumerate(rows):
        if row.is_removed or row.is_blank:
            continue
        try:
            validation.load_private(row_schema, Private({name: {row.name: row.value}}))
        except InvalidFields as problem:
            told = (rules.message_of(message) for message in _flat(problem.errors[name]))
            # The row shows its name.
            own = (message.removeprefix(f"{row.name}: ") for message in told)
            yield index, [message[:1].upper() + message[1:] for message in own]


def _flat(messages: Any) -> list[str]:
    """Return the messages of a field. Those of a list's items lie in a map by their index, and may be the same."""
    if not isinstance(messages, Mapping):
        return list(messages)
    return list(dict.fromkeys(message for inner in messages.values() for message in inner))


def _part_of(name: str) -> str:
    return "headers" if name == "headers_json" else name


_ORDER = tuple(map(_part_of, FIELDS))


def _in_order(faults: Faults) -> Faults:
    """Return the faults in the order in which the page shows the fields."""

    def place(part: str) -> tuple[int, int]:
        name, _, index = part.partition("-")
        # The secret of a new endpoint is behind these.
        return _ORDER.index(name) if name in _ORDER else len(_ORDER), int(index or -1)

    return {part: faults[part] for part in sorted(faults, key=place)}
