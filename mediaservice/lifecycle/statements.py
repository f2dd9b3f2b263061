"""Statements that every request or batch runs: written by SQLAlchemy, sent straight through libpq.

SQLAlchemy compiles the SQL and keeps the connections, psycopg converts the values; their overhead
at each execution, three times libpq's own work, is skipped. Rare statements go through
`Rows.execute`.

psycopg's connections do not block: what is sent may stay in libpq until there is room on its way,
so whoever waits for a result has to go on sending meanwhile.
"""

import select
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Self, cast

import psycopg
from psycopg import abc, adapt
from psycopg.errors import ReadOnlySqlTransaction, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy import Connection, Engine, Executable, PoolProxiedConnection, Row, event
from sqlalchemy.exc import DBAPIError

from mediaservice.database import is_postgresql
from mediaservice.tracing import statement_span

_numbers = count()


@dataclass(frozen=True, slots=True)
class _LibpqConnection:
    """One connection as libpq has it, and the names of the statements prepared on it."""

    pooled: PoolProxiedConnection
    pgconn: PGconn
    values: abc.Transformer
    readable: select.poll
    ready: select.poll  # to be read or to be written to
    prepared: set[bytes]

    @classmethod
    def on(cls, pooled: PoolProxiedConnection) -> Self:
        """Return what is below a connection that is checked out of the pool."""
        driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
        readable, ready = select.poll(), select.poll()
        readable.register(driver.pgconn.socket, select.POLLIN)
        ready.register(driver.pgconn.socket, select.POLLIN | select.POLLOUT)
        values = cast(Any, adapt.Transformer)(driver)
        prepared = pooled.info.setdefault("prepared", set())
        return cls(pooled, driver.pgconn, values, readable, ready, prepared)

    def prepare(self, name: bytes, sql: str) -> None:
        """Prepare a statement, once; the server infers its parameters' types."""
        if name not in self.prepared:
            self.check(self.pgconn.prepare(name, sql.encode()), ExecStatus.COMMAND_OK)
            self.prepared.add(name)

    def wait_for_result(self) -> PGresult | None:
        """Return the next result of what was sent; other threads run meanwhile."""
        while self.pgconn.is_busy():
            is_unsent = self.pgconn.flush()
            (self.ready if is_unsent else self.readable).poll()
            self.pgconn.consume_input()
        return self.pgconn.get_result()

    def check(self, result: PGresult | None, expected: ExecStatus) -> PGresult:
        """Return a result that is as expected, or raise psycopg's Error."""
        if result is None or self.pgconn.status == ConnStatus.BAD:
            raise psycopg.OperationalError("the connection is lost")
        if result.status != expected:
            error = error_from_result(result)
            if isinstance(error, ReadOnlySqlTransaction):
                self.pgconn.finish()  # as in database: the next one may be to a server that writes
            raise error
        return result

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is whole, and in the middle of nothing."""
        return (
            self.pgconn.transaction_status == TransactionStatus.IDLE
            and self.pgconn.pipeline_status == PipelineStatus.OFF
        )


class LibpqConnections:
    """The connections of one engine's pool, as libpq has them.

    One of them stays checked out, for whoever comes first: a process that does one thing at a time
    is spared the pool's bookkeeping, which takes half as long as sending a statement.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._kept: _LibpqConnection | None = None
        self._using_kept = threading.Lock()
        event.listen(engine, "engine_disposed", self._drop_kept)

    @contextmanager
    def checked_out(self) -> Iterator[_LibpqConnection]:
        """Give a connection to one thread; one that breaks is not used again."""
        if not self._using_kept.acquire(blocking=False):
            connection = _LibpqConnection.on(self.engine.raw_connection())
            try:
                yield connection
            finally:
                if connection.is_reusable:
                    connection.pooled.close()
                else:
                    connection.pooled.invalidate()
            return
        try:
            if self._kept is None:
                self._kept = _LibpqConnection.on(self.engine.raw_connection())
            yield self._kept
        finally:
            if self._kept and not self._kept.is_reusable:
                self._drop_kept()
            self._using_kept.release()

    def _drop_kept(self, _engine: Engine | None = None) -> None:
        connection, self._kept = self._kept, None
        if connection:
            connection.pooled.invalidate()


class PreparedStatement:
    """One statement that returns rows; on PostgreSQL it is prepared, on each connection once.

    Parameters are of types whose texts the server understands: numbers, texts, UUIDs, aware times.
    Raises SQLAlchemy's DBAPIError, as `Rows.execute` does.
    """

    def __init__(self, connections: LibpqConnections, statement: Executable) -> None:
        self._connections = connections
        self._engine = engine = connections.engine
        self._statement = statement
        self._make_row: Callable[[Sequence[Any]], Row[Any]] | None = None
        self._is_postgresql = is_postgresql(engine)
        if self._is_postgresql:
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
        if not self._is_postgresql:
            return self._run_by_sqlalchemy(parameters)
        with self.connection() as connection, statement_span(self._sql):
            result = connection.pgconn.exec_prepared(self._name, self._dump(connection, parameters))
            return self.load(connection, result)

    def run_alone(self, lock: int, **parameters: Any) -> Sequence[Row[Any]]:
        """Run in a transaction that overlaps no other with the same lock; return the rows.

        `lock` is a signed 64-bit number. On SQLite no two writers overlap anyway.
        """
        if not self._is_postgresql:
            return self._run_by_sqlalchemy(parameters)
        with self.connection() as connection, statement_span(self._sql):
            values = self._dump(connection, parameters)
            connection.prepare(b"media_lock", "SELECT pg_advisory_xact_lock($1)")
            # What travels together up to a sync is one transaction, but each statement in it sees
            # what was committed when it began: so the second sees what the lock's last holder did.
            pgconn = connection.pgconn
            pgconn.enter_pipeline_mode()
            pgconn.send_query_prepared(b"media_lock", [b"%d" % lock])
            pgconn.send_query_prepared(self._name, values)
            pgconn.pipeline_sync()
            # Each statement's results end with None; a failure skips what follows, up to the sync.
            locked, _, result, _, synced = (connection.wait_for_result() for _ in range(5))
            connection.check(synced, ExecStatus.PIPELINE_SYNC)
            pgconn.exit_pipeline_mode()
            connection.check(locked, ExecStatus.TUPLES_OK)
            return self.load(connection, result)

    def run_within(
        self, connection: Connection, parameters: Mapping[str, Any]
    ) -> Sequence[Row[Any]]:
        """Run by SQLAlchemy, as part of a transaction, and return the rows."""
        return connection.execute(self._statement, parameters).all()

    def prepare(self, connection: _LibpqConnection) -> None:
        """Prepare it on a connection, once."""
        connection.prepare(self._name, self._sql)

    def send(self, connection: _LibpqConnection, parameters: Mapping[str, Any]) -> None:
        """Send it to a connection in pipeline mode; `load` is for what comes back."""
        connection.pgconn.send_query_prepared(self._name, self._dump(connection, parameters))

    def _run_by_sqlalchemy(self, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return self.run_within(connection, parameters)

    def _dump(self, connection: _LibpqConnection, parameters: Mapping[str, Any]) -> list[Any]:
        given = {**self._constants, **parameters}
        values = [given[name] for name in self._order]
        return list(connection.values.dump_sequence(values, self._formats))

    def load(self, connection: _LibpqConnection, result: PGresult | None) -> Sequence[Row[Any]]:
        """Return the rows of a result, or raise psycopg's Error."""
        rows = connection.check(result, ExecStatus.TUPLES_OK)
        if self._make_row is None:
            columns = [((rows.fname(n) or b"").decode(), object) for n in range(rows.nfields)]
            self._make_row = cast(Any, NamedTuple)("Row", columns)._make
        connection.values.set_pgresult(rows)
        return connection.values.load_rows(0, rows.ntuples, self._make_row)

    @contextmanager
    def connection(self) -> Iterator[_LibpqConnection]:
        """Give a connection on which the statement is prepared; raises DBAPIError."""
        try:
            with self._connections.checked_out() as connection:
                self.prepare(connection)
                yield connection
        except psycopg.Error as error:
            raise DBAPIError.instance(
                self._sql, None, error, psycopg.Error, dialect=self._engine.dialect
            ) from error


class PipelinedTransaction:
    """Prepared statements on their way to the server, as one transaction.

    The process is free for other work until it asks for the `rows`. If it never does, they may be
    committed or not. SQLite has no way to be on: there they run when their rows are asked for.
    """

    def __init__(
        self,
        transactional_engine: Engine,
        calls: Sequence[tuple[PreparedStatement, Mapping[str, Any]]],
    ) -> None:
        self._engine = transactional_engine
        self._is_postgresql = is_postgresql(transactional_engine)
        self._calls = calls
        self._fault: DBAPIError | None = None
        self._checked_out = ExitStack()
        if calls and self._is_postgresql:
            try:
                self._send()
            except DBAPIError as fault:
                self._fault = fault

    def rows(self) -> list[Sequence[Row[Any]]]:
        """Return each statement's rows, once all is committed; to be called once.

        Raises DBAPIError, for a fault in sending too. Nothing is committed then, as far as is known
        where a connection was lost.
        """
        if self._fault is not None:
            raise self._fault
        if not self._is_postgresql:
            with self._engine.begin() as connection:
                return [statement.run_within(connection, given) for statement, given in self._calls]
        with self._checked_out:
            return self._receive() if self._calls else []

    def _send(self) -> None:
        with ExitStack() as checked_out:
            self._connection = checked_out.enter_context(self._calls[0][0].connection())
            for statement, _ in self._calls:
                statement.prepare(self._connection)
            self._connection.pgconn.enter_pipeline_mode()
            for statement, given in self._calls:
                statement.send(self._connection, given)
            self._connection.pgconn.pipeline_sync()
            self._checked_out = checked_out.pop_all()

    def _receive(self) -> list[Sequence[Row[Any]]]:
        results = []
        for _ in self._calls:
            results.append(self._connection.wait_for_result())
            self._connection.wait_for_result()  # the None that ends them
        self._connection.check(self._connection.wait_for_result(), ExecStatus.PIPELINE_SYNC)
        self._connection.pgconn.exit_pipeline_mode()
        return [
            statement.load(self._connection, result)
            for (statement, _), result in zip(self._calls, results, strict=True)
        ]
