"""The servers that measurements run on, and the processes that are measured.

PostgreSQL with its own defaults (fsync on), RabbitMQ and SeaweedFS are started on loopback when a
benchmark first asks for them. What is measured has two cores; servers and clients have the others.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID, uuid4

import jwt
import psycopg

from benchmarks.load import Load
from benchmarks.measure import Cost, cpu_seconds, family, median
from config.settings import Settings
from devstack.postgresql import PostgreSQL
from devstack.process import Process, find_free_ports, is_listening
from devstack.rabbitmq import RabbitMQ
from devstack.roles import GUNICORN, Role
from devstack.seaweedfs import SeaweedFS
from mediaservice import PROJECT
from mediaservice.broker.connection import create_topology
from mediaservice.database import create_database_engine
from mediaservice.keys import raw_key
from mediaservice.models import Media

MEASURED_CORES: Final = (0, 1)
OTHER_CORES: Final = (2, 3)
# Each side at its best: sync workers wait for the disk at each commit, an event loop does not.
SYNC_WORKERS: Final = 8
ASYNC_WORKERS: Final = 2
CALLERS: Final = 500


class Database:
    """One database with the service's table, and an autocommitting connection of our own."""

    def __init__(self, server: PostgreSQL, name: str) -> None:
        with server.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        self.url = server.url_of(name)
        engine = create_database_engine(self.url)
        Media.metadata.create_all(engine)
        engine.dispose()
        self.connection: psycopg.Connection[Any] = server.connect(name)

    def execute(self, statement: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        cursor = self.connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


class Stack:
    """Real servers, an environment that leads to them, and callers with tokens."""

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        self._directory = directory
        self._python = python
        self._parts = ExitStack()
        self._secret = secrets.token_hex(32)
        self._headers: dict[UUID, dict[str, str]] = {}
        self._connections: list[psycopg.Connection[Any]] = []
        self.callers = [uuid4() for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        available = os.sched_getaffinity(0)
        self._parts.callback(os.sched_setaffinity, 0, available)
        os.sched_setaffinity(0, set(OTHER_CORES) & available or available)
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    @cached_property
    def postgresql(self) -> PostgreSQL:
        """PostgreSQL; checkpoints only after 4 GB of log, else they fall on some rounds alone.

        Its buffers have room for what a turn reads, however large the table is.
        """
        options = ("max_wal_size=4GB", "max_connections=200", "shared_buffers=1GB")
        server = PostgreSQL(self._directory / "postgresql", options=options)
        return self._parts.enter_context(server)

    @cached_property
    def rabbitmq(self) -> RabbitMQ:
        """RabbitMQ with the service's exchanges and queues."""
        server = self._parts.enter_context(RabbitMQ(self._directory / "rabbitmq"))
        create_topology(server.url)
        return server

    @cached_property
    def store(self) -> SeaweedFS:
        """SeaweedFS."""
        return self._parts.enter_context(SeaweedFS(self._directory / "seaweedfs"))

    @property
    def servers(self) -> dict[str, Process]:
        """The servers that have been started, by name."""
        names = ("postgresql", "rabbitmq", "store")
        return {name: self.__dict__[name] for name in names if name in self.__dict__}

    def make_folder(self, name: str) -> Path:
        """Make an empty folder, which goes with the stack's own."""
        folder = self._directory / name
        folder.mkdir()
        return folder

    def create_database(self, name: str) -> Database:
        """Make a database with the table in it; its connection is closed with the stack."""
        database = Database(self.postgresql, name)
        self._connections.append(self._parts.enter_context(database.connection))
        return database

    def headers_of(self, caller: UUID) -> dict[str, str]:
        """Return the headers that say who is calling."""
        if caller not in self._headers:
            claims = {"sub": str(caller), "exp": int(time.time()) + 86_400}
            token = jwt.encode(claims, self._secret, algorithm="HS256")
            self._headers[caller] = {"Authorization": f"Bearer {token}"}
        return self._headers[caller]

    def store_upload(self, body: bytes) -> str:
        """Put an original into the raw bucket and return its key; any media may have it."""
        key = raw_key(uuid4())
        self.store.client().put_object(
            Bucket=self.store.raw_bucket, Key=key, Body=body, ContentType="image/jpeg"
        )
        return key

    def environ(self, database: Database, **variables: str) -> dict[str, str]:
        """Return the environment of a process in production."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "APP_ENV": "production",
            "AUTH_MODE": "jwt",
            "JWT_SECRET": self._secret,
            "DATABASE_URL": database.url,
            "BROKER_URL": self.rabbitmq.url,
            **self.store.variables,
            "CDN_BASE_URL": "https://cdn.example.com",
            **variables,
        }

    def settings(self, database: Database) -> Settings:
        """Return the settings of a process, for what is measured in this one."""
        return Settings.from_environ(self.environ(database))

    def start_service(self, name: str, database: Database, *, workers: int = SYNC_WORKERS) -> "Web":
        """Start the service's web processes as they are deployed."""
        return self.start_gunicorn(name, "app:app", self.environ(database), workers=workers)

    def start_gunicorn(
        self, name: str, module: str, environ: dict[str, str], *, workers: int = SYNC_WORKERS
    ) -> "Web":
        """Start a WSGI application under gunicorn with the service's configuration."""
        port = find_free_ports()
        variables = {"HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": str(workers)}
        return self._start_web(name, (*GUNICORN, module), environ | variables, port)

    def start_uvicorn(self, name: str, module: str, environ: dict[str, str]) -> "Web":
        """Start an ASGI application under uvicorn, with what makes it fastest."""
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        port = find_free_ports()
        arguments = ["-m", "uvicorn", *options, "--workers", str(ASYNC_WORKERS)]
        arguments += ["--port", str(port), module]
        return self._start_web(name, arguments, environ, port, python=sys.executable)

    def start_role(
        self,
        name: str,
        arguments: Sequence[str],
        environ: dict[str, str],
        *,
        python: str | None = None,
        cores: tuple[int, ...] = MEASURED_CORES,
        is_ready: Callable[[], bool] | None = None,
    ) -> Process:
        """Start a process on the measured cores; it ends with the stack."""
        role = Role(
            name,
            arguments,
            directory=self._directory,
            environ=environ,
            is_ready=is_ready,
            python=on_cores(cores, [python or self._python]),
        )
        return self._parts.enter_context(role)

    def meter(self, pids: list[int], work: Callable[[], tuple[int, float]]) -> Cost:
        """Return what work, which returns operations and seconds, costs processes and servers.

        What the stack's own connections ask of PostgreSQL is left out.
        """
        own = {connection.info.backend_pid for connection in self._connections}
        servers = {
            name: [pid for pid in family(server.pid) if pid not in own]
            for name, server in self.servers.items()
        }
        before = {name: cpu_seconds(members) for name, members in servers.items()}
        wal, cpu = self._wal_position(), cpu_seconds(pids)
        operations, seconds = work()
        cpu = cpu_seconds(pids) - cpu
        return Cost(
            operations,
            seconds,
            cpu,
            {name: cpu_seconds(members) - before[name] for name, members in servers.items()},
            self._wal_position() - wal,
        )

    def meter_here(self, work: Callable[[], tuple[int, float]]) -> Cost:
        """Return what work costs that this thread does, on the measured cores meanwhile."""
        usual = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(MEASURED_CORES) & _online() or usual)
        try:
            return self.meter([os.getpid()], work)
        finally:
            os.sched_setaffinity(0, usual)

    def _wal_position(self) -> int:
        if "postgresql" not in self.servers:
            return 0
        with self.postgresql.connect() as connection:
            found: Any = connection.execute(
                "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
            ).fetchone()
        return int(found[0])

    def _start_web(
        self,
        name: str,
        arguments: Sequence[str],
        environ: dict[str, str],
        port: int,
        *,
        python: str | None = None,
    ) -> "Web":
        process = self.start_role(
            name, arguments, environ, python=python, is_ready=lambda: is_listening(port)
        )
        return Web(self, process, port)


class Web:
    """A server under measurement."""

    def __init__(self, stack: Stack, process: Process, port: int) -> None:
        self._stack = stack
        self._process = process
        self.port = port

    @property
    def processes(self) -> list[int]:
        """All its processes."""
        return family(self._process.pid)

    @property
    def workers(self) -> list[int]:
        """The processes that serve; the one that started them only waits."""
        return self.processes[1:]

    def stop(self) -> None:
        """Stop the server."""
        self._process.stop()

    def serve(self, requests: list[bytes], *, seconds: float, connections: int) -> Cost:
        """Answer requests, in turn and over again, for a time."""
        load = Load(self.port, requests, connections=connections)
        return self._metered(load, lambda: load.run(seconds=seconds))

    def serve_each(self, requests: list[bytes], *, connections: int) -> Cost:
        """Answer each of the requests once."""
        load = Load(self.port, requests, connections=connections)
        return self._metered(load, lambda: load.run_each(requests))

    def _metered(self, load: Load, work: Callable[[], tuple[int, float]]) -> Cost:
        cost = self._stack.meter(self.workers, work)
        return replace(cost, latency_seconds=median(load.latencies))


def on_cores(cores: tuple[int, ...], command: list[str]) -> list[str]:
    """Return a command that runs another on some cores, if this machine has them."""
    online = set(cores) & _online()
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(online))) or "0", *command]


def _online() -> set[int]:
    return set(range(os.cpu_count() or 1))
