"""A scope: one transaction as core sees it. Statements on our tables, each built once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database import dialects, failures, given, sessions
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array
from flask_webhook_endpoints.errors import RegistrationError

P = ParamSpec("P")
S = TypeVar("S")
N = TypeVar("N", bound=tuple[Any, ...])


@dataclass(kw_only=True, slots=True, eq=False)
class Scope:
    """One transaction of the host's session, in the database where the host has our tables."""

    session: Session
    tables: Tables
    writes: bool
    """True if the transaction may write. Its reads then go where the session sends writes, too."""
    now: datetime
    """The time at which everything in the transaction happens."""
    wake: Callable[[Session], None]
    """Wakes Celery, where the host has one, when a session's transaction commits."""
    _dialect: Dialect | None = None
    _connection: sa.Connection | None = None
    """Its connection, once `require_transaction` or `kept_connection` has taken it. The host's session takes long to
    find it each time."""
    _taken_in: tuple[Any, Any] | None = None
    """The session's transaction and savepoint in which it has taken the connection."""

    @property
    def dialect(self) -> Dialect:
        """The dialect of that database."""
        if self._dialect is None:
            self._dialect = self.session.get_bind(clause=bind_of(self.tables, writes=self.writes)).dialect
        return self._dialect

    def of(self, tenant_id: str) -> "TenantScope":
        """Return the same transaction on behalf of one tenant."""
        return TenantScope(
            session=self.session,
            tables=self.tables,
            writes=self.writes,
            now=self.now,
            wake=self.wake,
            _dialect=self._dialect,
            _connection=self._connection,
            _taken_in=self._taken_in,
            tenant_id=tenant_id,
        )

    def execute(
        self, statement: sa.Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any]:
        """Execute a statement, once for each of several values.

        Where the connection does not write, the host's engine connects again for later transactions.
        """
        try:
            # After a commit, a rollback or a new savepoint, the session must take the connection again.
            if self._connection is not None and sessions.transactions(self.session) == self._taken_in:
                return self._connection.execute(statement, values)
            bind = {"clause": bind_of(self.tables, writes=self.writes)}
            return cast("CursorResult[Any]", self.session.execute(statement, values, bind_arguments=bind))
        except DBAPIError as error:
            failures.hide_values(error)
            failures.advise(error)
            if failures.is_read_only(error):
                self._connect_again(error)
            raise

    def read(self, query: sa.Executable, values: Mapping[str, Any]) -> Sequence[Any]:
        """Return all rows of a query, whose values are known by their places alone.

        SQLAlchemy's rows take three times as long as psycopg's. Times are aware, and may have the zone of the session.
        """
        result = self.execute(query, values)
        cursor = cast(Any, result).cursor
        # SQLAlchemy has read the first row of a cursor that the server keeps, which has a name.
        if self.dialect.driver != "psycopg" or hasattr(cursor, "name"):
            return result.all()
        rows: Sequence[Any] = cursor.fetchall()
        result.close()
        return rows

    def _connect_again(self, error: DBAPIError) -> None:
        """Drop the connection, and all that the pool has: a failover leaves each of them with a standby."""
        # A flush that failed has given the connection back.
        if self.session.is_active:
            self.connection().invalidate(error)
        self.session.get_bind(clause=bind_of(self.tables, writes=self.writes)).engine.dispose()

    def connection(self) -> sa.Connection:
        """Return the connection of the transaction."""
        return self.session.connection(bind_arguments={"clause": bind_of(self.tables, writes=self.writes)})

    def schema_of(self, table: sa.Table) -> str | None:
        """Return the schema of a table of ours, where the host's connection may translate it to another one."""
        return self.connection().schema_for_object(table)

    def name_of(self, table: sa.Table) -> str:
        """Return the quoted name of a table of ours with its schema, for statements that take it as text."""
        preparer, schema = self.dialect.identifier_preparer, self.schema_of(table)
        name = preparer.format_table(table, use_schema=False)
        return name if schema is None else f"{preparer.quote_schema(schema)}.{name}"

    def require_transaction(self) -> None:
        """Raise `RegistrationError` where the driver commits each statement by itself, which no rollback undoes."""
        connection = self.connection()
        # The host's `get_bind` takes as long as one of our functions.
        self._dialect = connection.dialect
        if sessions.commits_each_statement(connection):
            raise RegistrationError(f"The database engine is in AUTOCOMMIT: {sessions.autocommit_setting(connection)}")
        if sessions.executes_as_its_connection(self.session):
            self._connection, self._taken_in = connection, sessions.transactions(self.session)

    @contextmanager
    def kept_connection(self) -> Iterator[Callable[[], None] | None]:
        """Read by one connection of the host's engine until the end; yield what ends each read's transaction.

        Yield None, and change nothing, where the host's session would do more than such a connection.
        """
        engine = sessions.plain_engine(self.session, bind_of(self.tables, writes=self.writes))
        if engine is None:
            yield None
            return
        with engine.connect() as connection, sessions.each_statement_alone(connection) as are_alone:
            self._connection, self._taken_in = connection, sessions.transactions(self.session)
            try:
                yield (lambda: None) if are_alone else connection.rollback
            finally:
                self._connection = None

    def lock_writers(self) -> None:
        """Keep others from writing until the transaction ends, on SQLite alone: its SELECT locks no row.

        SQLite also refuses to write after a read if another process has written in between.
        """
        if self.dialect.name in dialects.ONE_WRITER:
            self.execute(sa.delete(self.tables.worker).where(sa.false()))

    def wake_at_commit(self) -> None:
        """Wake Celery when this transaction commits, because it makes a delivery due."""
        self.wake(self.session)

    def insert_if_absent(self, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert a row unless its unique key is taken; return whether it was inserted.

        Waits for another transaction that holds the key, and neither fails nor rolls back where that one commits.
        """
        return self.execute(_insert_if_absent(self, table), row).rowcount == 1

    def insert_those_absent(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert the rows whose unique keys are not taken; all rows have the same keys."""
        if self.dialect.name not in dialects.ARRAYS:
            self.execute(insert_of_absent(self.dialect.name, table), rows)
            return
        # Arrays are one statement, where the driver would send a statement for each row.
        names = tuple(rows[0])
        columns = {f"{name}s": [row[name] for row in rows] for name in names}
        self.execute(_insert_columns(self, table, names), columns)

    def add_up(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows. Where a row of the same primary key exists, add the numbers, and keep the later of two times.

        All rows have the same keys. Give them in the order of the primary key, or two transactions deadlock.
        """
        names = tuple(rows[0])
        if self.dialect.name not in dialects.ARRAYS:
            self.execute(_add_up(self, table, names), rows)
            return
        self.execute(_add_up(self, table, names), {f"{name}s": [row[name] for row in rows] for name in names})

    def update_each(self, table: sa.Table, columns: Mapping[str, Sequence[Any]]) -> None:
        """Update rows, each with values of its own, given a column at a time. The first column is the primary key."""
        if self.dialect.name in dialects.ARRAYS:
            names, same, values = given.columns_of(columns)
            self.execute(_update_columns(self, table, names, same), values)
            return
        key, *others = columns
        # Other names than the columns', which SQLAlchemy keeps for the values that an UPDATE sets.
        named = [f"new_{name}" for name in columns]
        rows = [dict(zip(named, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self.execute(_update_one(self, table, key, tuple(others)), rows)

    def hold_no_gaps(self) -> None:
        """Begin a transaction that locks no gaps between rows, which MariaDB locks by default.

        Workers that claim and record beside each other, and hosts that publish, would deadlock over gaps.
        """
        if self.dialect.name not in dialects.LOCKS_WHAT_IT_READS:
            return
        try:
            # A statement: SQLAlchemy wraps its errors, but not those of `isolation_level` on a lost connection.
            self.execute(sa.text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
        except DBAPIError as error:
            # The host has begun a transaction before us: one that a test rolls back, or of two phases.
            if failures.code(error) != failures.IN_TRANSACTION:
                raise


def make(kind: type[N], rows: Iterable[Iterable[Any]]) -> list[N]:
    """Make rows that `Scope.read` has returned named tuples, in half the time of their own `_make`."""
    return list(map(partial(tuple.__new__, kind), rows))


def insert_of_absent(dialect: str, table: sa.Table) -> Any:
    """Return an INSERT that leaves out rows whose unique keys are taken."""
    match dialect:
        case dialects.POSTGRESQL:
            return postgresql.insert(table).on_conflict_do_nothing()
        case dialects.SQLITE:
            return sqlite.insert(table).on_conflict_do_nothing()
        case _:
            return sa.insert(table).prefix_with("IGNORE")


def bind_of(tables: Tables, *, writes: bool) -> sa.ClauseElement:
    """Return the clause by which a session finds our database, as for the host's own statements."""
    return tables.bind_of_writes if writes else tables.bind


@dataclass(kw_only=True, slots=True, eq=False)
class TenantScope(Scope):
    """A transaction on behalf of one tenant: every query on the tenant's data names `tenant_id`."""

    tenant_id: str


def statement(build: Callable[Concatenate[Tables, str, P], S]) -> Callable[Concatenate[Scope, P], S]:
    """Have a function of tables, a dialect's name and options build a statement once, and take a scope instead.

    To build a statement takes longer than the database takes to execute it.
    """

    @wraps(build)
    def built(scope: Scope, /, *arguments: P.args, **options: P.kwargs) -> S:
        key = (build, scope.dialect.name, arguments, tuple(options.items()))
        statements = scope.tables.statements
        if key not in statements:
            statements[key] = build(scope.tables, scope.dialect.name, *arguments, **options)
        return cast(S, statements[key])

    return built


def as_committed(statement: sa.Select[Any]) -> sa.Select[Any]:
    """Have a statement read what is committed now; without a lock, MariaDB reads the transaction's snapshot."""
    return statement.with_for_update(read=True)


@statement
def _insert_if_absent(_tables: Tables, dialect: str, table: sa.Table) -> Any:
    # Without the option an INSERT may report -1 rows.
    return insert_of_absent(dialect, table).inline().execution_options(preserve_rowcount=True)


@statement
def _insert_columns(_tables: Tables, _dialect: str, table: sa.Table, names: tuple[str, ...]) -> Any:
    return postgresql.insert(table).on_conflict_do_nothing().from_select(list(names), _columns(table, names))


def _columns(table: sa.Table, names: tuple[str, ...]) -> sa.Select[Any]:
    """Select the rows that parameters have a column at a time."""
    columns = [sa.bindparam(f"{name}s", type_=Array(table.c[name].type)) for name in names]
    return sa.select(sa.func.unnest(*columns).table_valued(*names).render_derived())


@statement
def _add_up(_tables: Tables, dialect: str, table: sa.Table, names: tuple[str, ...]) -> Any:
    others = [table.c[name] for name in names if not table.c[name].primary_key]
    if dialect not in dialects.ON_CONFLICT:
        of_mysql = mysql.insert(table)
        return of_mysql.on_duplicate_key_update({each.name: _added(each, of_mysql.inserted) for each in others})
    keys = [column.name for column in table.primary_key]
    insert: Any = sqlite.insert(table)
    if dialect in dialects.ARRAYS:
        insert = postgresql.insert(table).from_select(list(names), _columns(table, names))
    set_ = {each.name: _added(each, insert.excluded) for each in others}
    return insert.on_conflict_do_update(index_elements=keys, set_=set_)


def _added(column: sa.Column[Any], given: Any) -> sa.ColumnElement[Any]:
    """Return the sum of the stored number and the given one, or the later of two times."""
    new = given[column.name]
    return column + new if isinstance(column.type, sa.Integer) else sa.case((column < new, new), else_=column)


@statement
def _update_one(_tables: Tables, _dialect: str, table: sa.Table, key: str, names: tuple[str, ...]) -> sa.Update:
    values = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in names}
    return sa.update(table).where(table.c[key] == sa.bindparam(f"new_{key}")).values(values)


@statement
def _update_columns(
    _tables: Tables, _dialect: str, table: sa.Table, names: tuple[str, ...], same: frozenset[str]
) -> sa.Update:
    return given.update_of_columns(table, names, same, given.rows_of_columns(table, names, same))
