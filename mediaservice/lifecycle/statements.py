"""Statements that every request or every turn of the loop runs: compiled once, sent by the driver.

SQLAlchemy writes the SQL and keeps the connections; what it does on each execution besides, more
work than the driver's own, is left out. Rare statements go through `Rows.execute`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine, Executable, Row
from sqlalchemy.exc import DBAPIError

from mediaservice.tracing import statement_span


class Prepared:
    """One statement that returns rows; on PostgreSQL the server, too, has planned it before.

    Parameters are of types that the driver knows: numbers, texts, UUIDs, aware times. Raises
    SQLAlchemy's DBAPIError, as `Rows.execute` does.
    """

    def __init__(self, engine: Engine, statement: Executable) -> None:
        self._engine = engine
        self._statement = statement
        self._sql = ""
        if engine.dialect.name == "postgresql":
            compiled = cast(Any, statement).compile(engine)
            self._sql = compiled.string
            self._constants: Mapping[str, Any] = compiled.params

    def run(self, **parameters: Any) -> Sequence[Row[Any]]:
        """Run as a transaction of its own and return the rows."""
        if not self._sql:
            return self._run_by_sqlalchemy(parameters)
        with self._cursor() as cursor:
            return self._execute(cursor, parameters)

    def run_alone(self, lock: int, **parameters: Any) -> Sequence[Row[Any]]:
        """Run in a transaction that overlaps no other with the same lock; return the rows.

        `lock` is a signed 64-bit number. On SQLite no two writers overlap anyway.
        """
        if not self._sql:
            return self._run_by_sqlalchemy(parameters)
        with self._cursor() as cursor:
            # Two statements without parameters travel together. The next one sees what the last
            # holder of the lock has committed; as one statement with the lock it might not.
            cursor.execute(f"BEGIN; SELECT pg_advisory_xact_lock({lock:d})", prepare=False)
            rows = self._execute(cursor, parameters)
            cursor.execute("COMMIT")
            return rows

    def _run_by_sqlalchemy(self, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(self._statement, parameters).all()

    def _execute(
        self, cursor: "psycopg.Cursor[Any]", parameters: Mapping[str, Any]
    ) -> Sequence[Row[Any]]:
        with statement_span(self._sql):
            cursor.execute(self._sql, {**self._constants, **parameters}, prepare=True)
            return cursor.fetchall()

    @contextmanager
    def _cursor(self) -> Iterator["psycopg.Cursor[Any]"]:
        try:
            connection = self._engine.raw_connection()
            driver = cast("psycopg.Connection[Any]", connection.driver_connection)
            try:
                with driver.cursor(row_factory=namedtuple_row) as cursor:
                    yield cursor
            finally:
                if driver.pgconn.transaction_status == TransactionStatus.IDLE:
                    connection.close()
                else:  # lost, or in the middle of a transaction
                    connection.invalidate()
        except psycopg.Error as error:
            raise DBAPIError.instance(
                self._sql, None, error, psycopg.Error, dialect=self._engine.dialect
            ) from error
