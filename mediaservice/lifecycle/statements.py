"""Statements that every request runs: written by SQLAlchemy, sent straight through libpq.

SQLAlchemy compiles the SQL and keeps the connections, psycopg converts the values; what both do on
each execution besides, three times libpq's own work, is left out. Rare statements go through
`Rows.execute`.
"""

import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, Self, cast

import psycopg
from psycopg import abc, adapt
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy import Engine, Executable, Row
from sqlalchemy.exc import DBAPIError

from mediaservice.tracing import statement_span

_numbers = count()


@dataclass(frozen=True, slots=True)
class _Session:
    """One connection as libpq has it, and the statements that its server has planned."""

    pgconn: PGconn
    values: abc.Transformer
    readable: select.poll
    prepared: set[bytes] = field(default_factory=set)

    @classmethod
    def on(cls, connection: "psycopg.Connection[Any]") -> Self:
        """Return the session of a connection that has none yet."""
        readable = select.poll()
        readable.register(connection.pgconn.socket, select.POLLIN)
        return cls(connection.pgconn, cast(Any, adapt.Transformer)(connection), readable)

    def prepare(self, name: bytes, sql: str) -> None:
        """Have a statement planned, unless it is. The server finds out its parameters' types."""
        if name not in self.prepared:
            self.check(self.pgconn.prepare(name, sql.encode()), ExecStatus.COMMAND_OK)
            self.prepared.add(name)

    def wait_for_result(self) -> PGresult | None:
        """Return the next result of what was sent; other threads run meanwhile."""
        while self.pgconn.is_busy():
            self.readable.poll()
            self.pgconn.consume_input()
        return self.pgconn.get_result()

    def check(self, result: PGresult | None, expected: ExecStatus) -> PGresult:
        """Return a result that is as expected, or raise psycopg's Error."""
        if result is None or self.pgconn.status == ConnStatus.BAD:
            raise psycopg.OperationalError("the connection is lost")
        if result.status != expected:
            raise error_from_result(result)
        return result

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is whole, and in the middle of nothing."""
        return (
            self.pgconn.transaction_status == TransactionStatus.IDLE
            and self.pgconn.pipeline_status == PipelineStatus.OFF
        )


class Prepared:
    """One statement that returns rows; on PostgreSQL each connection has planned it before.

    Parameters are of types whose texts the server understands: numbers, texts, UUIDs, aware times.
    Raises SQLAlchemy's DBAPIError, as `Rows.execute` does.
    """

    def __init__(self, engine: Engine, statement: Executable) -> None:
        self._engine = engine
        self._statement = statement
        self._sql = ""
        self._make_row: Callable[[Sequence[Any]], Row[Any]] | None = None
        if engine.dialect.name == "postgresql":
            numbered = cast(Any, type(engine.dialect))(paramstyle="numeric_dollar")
            compiled = cast(Any, statement).compile(dialect=numbered)
            given = {name: None for name, bind in compiled.binds.items() if bind.required}
            expanded = compiled.construct_expanded_state(given)  # IN has a place for each value
            self._sql = expanded.statement
            self._constants = {
                name: value for name, value in expanded.parameters.items() if name not in given
            }
            self._order: Sequence[str] = expanded.positiontup
            self._formats = [adapt.PyFormat.TEXT] * len(self._order)
            self._name = b"media_%d" % next(_numbers)

    def run(self, **parameters: Any) -> Sequence[Row[Any]]:
        """Run as a transaction of its own and return the rows."""
        if not self._sql:
            return self._run_by_sqlalchemy(parameters)
        with self._session() as session:
            result = session.pgconn.exec_prepared(self._name, self._dump(session, parameters))
            return self._load(session, result)

    def run_alone(self, lock: int, **parameters: Any) -> Sequence[Row[Any]]:
        """Run in a transaction that overlaps no other with the same lock; return the rows.

        `lock` is a signed 64-bit number. On SQLite no two writers overlap anyway.
        """
        if not self._sql:
            return self._run_by_sqlalchemy(parameters)
        with self._session() as session:
            values = self._dump(session, parameters)
            session.prepare(b"media_lock", "SELECT pg_advisory_xact_lock($1)")
            # What travels together up to a sync is one transaction, but each statement in it sees
            # what was committed when it began: so the second sees what the lock's last holder did.
            pgconn = session.pgconn
            pgconn.enter_pipeline_mode()
            pgconn.send_query_prepared(b"media_lock", [b"%d" % lock])
            pgconn.send_query_prepared(self._name, values)
            pgconn.pipeline_sync()
            # Each statement's results end with None; a failure skips what follows, up to the sync.
            locked, _, result, _, synced = (session.wait_for_result() for _ in range(5))
            session.check(synced, ExecStatus.PIPELINE_SYNC)
            pgconn.exit_pipeline_mode()
            session.check(locked, ExecStatus.TUPLES_OK)
            return self._load(session, result)

    def _run_by_sqlalchemy(self, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(self._statement, parameters).all()

    def _dump(self, session: _Session, parameters: Mapping[str, Any]) -> list[Any]:
        given = {**self._constants, **parameters}
        values = [given[name] for name in self._order]
        return list(session.values.dump_sequence(values, self._formats))

    def _load(self, session: _Session, result: PGresult | None) -> Sequence[Row[Any]]:
        rows = session.check(result, ExecStatus.TUPLES_OK)
        if self._make_row is None:
            columns = [((rows.fname(n) or b"").decode(), object) for n in range(rows.nfields)]
            self._make_row = cast(Any, NamedTuple)("Row", columns)._make
        session.values.set_pgresult(rows)
        return session.values.load_rows(0, rows.ntuples, self._make_row)

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        """Give a connection that has the statement planned; one that breaks is not used again."""
        try:
            connection = self._engine.raw_connection()
            session = connection.info.get("session")
            if session is None:
                session = _Session.on(cast(Any, connection.driver_connection))
                connection.info["session"] = session
            try:
                with statement_span(self._sql):
                    session.prepare(self._name, self._sql)
                    yield session
            finally:
                if session.is_reusable:
                    connection.close()
                else:
                    connection.invalidate()
        except psycopg.Error as error:
            raise DBAPIError.instance(
                self._sql, None, error, psycopg.Error, dialect=self._engine.dialect
            ) from error
