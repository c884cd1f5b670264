"""What Werkzeug compiles of rules, Jinja of templates and SQLAlchemy of statements: kept for all hosts of the tests.

Each host compiles the same again. That took half of the time of a test with pages, a third of one without.
"""

from collections.abc import Callable
from functools import cache
from inspect import getattr_static
from itertools import count
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from flask import Flask
from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket
from sqlalchemy.util import memoized_property
from werkzeug.routing import Rule

SETTINGS = (
    "block_start_string",
    "block_end_string",
    "variable_start_string",
    "variable_end_string",
    "comment_start_string",
    "comment_end_string",
    "line_statement_prefix",
    "line_comment_prefix",
    "trim_blocks",
    "lstrip_blocks",
    "newline_sequence",
    "keep_trailing_newline",
    "optimized",
    "finalize",
    "is_async",
    "newstyle_gettext",
)
"""Attributes of an environment that change what Jinja makes of a template."""


def keep() -> None:
    """Keep what is compiled from now on; the hosts of this process share it."""
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": _Templates()}
    _keep_builders()
    _keep_statements()


class _Templates(BytecodeCache):
    """The code of templates, by their source and by what their environment makes of it."""

    def __init__(self) -> None:
        self._codes: dict[Any, CodeType | None] = {}

    def get_bucket(self, environment: Environment, name: str, filename: str | None, source: str) -> Bucket:
        autoescape = environment.autoescape
        key: Any = (
            name,
            filename,
            source,
            autoescape(name) if callable(autoescape) else autoescape,
            *(getattr(environment, setting, None) for setting in SETTINGS),
            environment.policies["ext.i18n.trimmed"],
            *environment.extensions,
            # Jinja computes a filter of a constant when it compiles.
            *environment.filters.items(),
            *environment.tests.items(),
        )
        bucket = Bucket(environment, key, "")
        bucket.code = self._codes.get(key)
        return bucket

    def set_bucket(self, bucket: Bucket) -> None:
        self._codes[bucket.key] = bucket.code


def _keep_builders() -> None:
    """Have Werkzeug compile the functions that build the URLs of equal rules once; each rule has two."""
    builders: dict[tuple[Any, ...], Callable[..., tuple[str, str]]] = {}
    compile_builder = Rule._compile_builder

    def kept(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        defaults = rule.defaults or {}
        if any(is_dynamic and part in defaults for is_dynamic, part in rule._trace):
            return compile_builder(rule, append_unknown)  # It holds what a converter made of a default.
        key = (rule.rule, tuple(rule._trace), tuple(defaults), append_unknown)
        if key not in builders:
            builders[key] = compile_builder(rule, append_unknown)
        return builders[key]

    Rule._compile_builder = kept  # type: ignore[method-assign]


class _Statements(dict[Any, Any]):
    """The SQL of statements; what SQLAlchemy keeps for one dialect object is found by others with its settings."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((_settings_of(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__((_settings_of(key[0]), *key[1:]), compiled)


_next_number = count()
_numbers: dict[Any, int] = {}
_number_of: WeakKeyDictionary[sa.Dialect, int] = WeakKeyDictionary()


def _settings_of(dialect: sa.Dialect) -> int:
    """Return the number of a dialect's settings, as it had them at its first statement; equal ones have the same."""
    if dialect not in _number_of:
        remembered = _remembered(type(dialect))
        # A copy, because a dialect remembers more while other threads compile.
        settings = [item for item in list(vars(dialect).items()) if item[0] not in remembered]
        kept = [item for item in settings if isinstance(item[1], str | int | tuple | None) or callable(item[1])]
        _number_of[dialect] = _numbers.setdefault((type(dialect), *kept), next(_next_number))
    return _number_of[dialect]


@cache
def _remembered(kind: type) -> set[str]:
    """Return the names of what a dialect computes of its settings, and keeps from then on."""
    return {name for name in dir(kind) if isinstance(getattr_static(kind, name), memoized_property)}


def _keep_statements() -> None:
    """Have all engines use one cache; one that was made to have none has none."""
    statements = _Statements()

    def of(engine: sa.Engine) -> _Statements | None:
        return vars(engine)["_kept_statements"]

    def keep(engine: sa.Engine, cache: object) -> None:
        vars(engine)["_kept_statements"] = None if cache is None else statements

    sa.Engine._compiled_cache = property(of, keep)  # type: ignore[assignment]
