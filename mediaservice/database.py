"""The engine, and the few SQL expressions that PostgreSQL and SQLite spell differently.

Knows no table: that is in `models`.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import (
    JSON,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    Engine,
    FromClause,
    Text,
    TypeDecorator,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.type_api import TypeEngine

_POSTGRESQL = {
    "connect_timeout": 5,
    # After a failover the old name may lead to a standby: better none than that one.
    "target_session_attrs": "read-write",
    # A server that has vanished is noticed, instead of waited for.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_POSTGRESQL_OPTIONS = ("-c timezone=UTC", "-c statement_timeout=15000")

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """TIMESTAMPTZ; on SQLite, which has no zones, text in UTC. Always aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would mean another instant on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times are stored with their zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now_plus(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, plus seconds: one clock for every process, however theirs differ.

    On SQLite it has milliseconds only.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float | ColumnElement[float]) -> None:
        if not isinstance(seconds, ColumnElement):
            seconds = bindparam(None, float(seconds), type_=Double())
        super().__init__(seconds)


@compiles(now_plus, "postgresql")
def _now_plus_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kwargs)}))"


@compiles(now_plus, "sqlite")
def _now_plus_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    # SQLite has milliseconds; the zeros make it the text SQLAlchemy stores, so that it compares.
    seconds = compiler.process(element.clauses, **kwargs)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


def recordset(engine: Engine, **columns: TypeEngine[Any]) -> FromClause:
    """Return a table of typed columns read from the bind parameter `records`, a JSON array.

    One statement with one parameter serves a batch of any length, so it is compiled, and prepared
    by the server, once. UUIDs are given as 32 hex digits, which both databases understand.
    """
    records = bindparam("records", type_=Text())
    if is_postgresql(engine):
        given = (
            func.jsonb_to_recordset(cast(records, JSONB))
            .table_valued(*(column(name, type_) for name, type_ in columns.items()))
            .render_derived(name="given", with_types=True)
        )
        # The planner takes a function's rows for a hundred, and reads a small table as a whole for
        # so many. Of those below a limit that it is not told it expects a tenth.
        return select(given).limit(bindparam("at_most", 10**6)).subquery("records")
    each = func.json_each(records).table_valued("value")
    return select(
        *(
            func.json_extract(each.c.value, f"$.{name}", type_=type_).label(name)
            for name, type_ in columns.items()
        )
    ).subquery("records")


def create_database_engine(database_url: str) -> Engine:
    """Return the engine of one process; connections open lazily, so it may be made before a fork.

    Every statement commits by itself; `Rows.begin` is for transactions of several.
    """
    if database_url.startswith("postgresql"):
        url = make_url(database_url)
        given = url.query
        options = " ".join((*_POSTGRESQL_OPTIONS, *url.normalized_query.get("options", ())))
        engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            # There is nothing to roll back: whoever begins a transaction also ends it.
            pool_reset_on_return=None,
            json_deserializer=msgspec.json.decode,  # a page of a list has variants by the hundred
            pool_size=2,
            max_overflow=2,
            # What the URL says itself goes first.
            connect_args={
                **{name: value for name, value in _POSTGRESQL.items() if name not in given},
                "options": options,
            },
        )
        event.listen(engine, "handle_error", _leave_read_only)
        return engine
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT", connect_args={"timeout": 15})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def is_postgresql(engine: Engine) -> bool:
    """Return whether an engine is PostgreSQL's, or else SQLite's."""
    return engine.dialect.name == "postgresql"


def _leave_read_only(context: ExceptionContext) -> None:
    # A server that has turned read-only stays so; a new connection finds the one that writes.
    if isinstance(context.original_exception, ReadOnlySqlTransaction):
        context.is_disconnect = True


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # WAL lets web read while the listener writes.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
