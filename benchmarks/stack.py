"""The servers that measurements run on, and the processes that are measured.

PostgreSQL with its own defaults (fsync on), RabbitMQ and SeaweedFS are started on loopback for the
run. Web processes share two cores; everything else, clients too, has the others.
"""

import os
import secrets
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID, uuid4

import jwt
import psycopg

from benchmarks.measure import family, pin
from devstack.postgresql import PostgreSQL
from devstack.process import Process, find_free_ports, is_listening
from devstack.rabbitmq import RabbitMQ
from devstack.seaweedfs import SeaweedFS
from mediaservice.models import Base, create_database_engine

PROJECT: Final = Path(__file__).resolve().parent.parent
MEASURED_CORES: Final = (0, 1)
OTHER_CORES: Final = (2, 3)
# Each side at its best: sync workers wait for the disk at each commit, an event loop does not.
SYNC_WORKERS: Final = 8
ASYNC_WORKERS: Final = 2
CALLERS: Final = 500


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls the API."""

    id: UUID
    headers: dict[str, str]


class Stack:
    """Real servers, an environment that leads to them, and callers with tokens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts = ExitStack()
        self._secret = secrets.token_hex(32)
        self.postgresql = PostgreSQL(directory / "postgresql", options=("max_wal_size=4GB",))
        self.rabbitmq = RabbitMQ(directory / "rabbitmq")
        self.store = SeaweedFS(directory / "seaweedfs")
        self.callers = [self._make_caller() for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, set(OTHER_CORES) & os.sched_getaffinity(0) or {0})
        for server in (self.postgresql, self.rabbitmq, self.store):
            self._parts.enter_context(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def create_database(self, name: str) -> str:
        """Make a database with the table in it; return its URL."""
        with self.postgresql.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = self.postgresql.url_of(name)
        engine = create_database_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        return url

    def connect(self, database_url: str) -> "psycopg.Connection[Any]":
        """Return an autocommitting connection of our own to a database."""
        return psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)

    def environ(self, database_url: str, **variables: str) -> dict[str, str]:
        """Return the environment of a process in production."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "APP_ENV": "production",
            "AUTH_MODE": "jwt",
            "JWT_SECRET": self._secret,
            "DATABASE_URL": database_url,
            "BROKER_URL": self.rabbitmq.url,
            "S3_ENDPOINT": self.store.endpoint,
            "S3_ACCESS_KEY_ID": self.store.access_key,
            "S3_SECRET_ACCESS_KEY": self.store.secret_key,
            "S3_RAW_BUCKET": "raw",
            "S3_PUBLIC_BUCKET": "public",
            "CDN_BASE_URL": "https://cdn.example.com",
            "MAX_PENDING_UPLOADS": "100000",
            "MAX_PENDING_BYTES": str(2**50),
            **variables,
        }

    def start_gunicorn(self, name: str, module: str, environ: dict[str, str]) -> "Web":
        """Start the service, or a reference, under gunicorn as it is deployed."""
        command = [sys.executable, "-m", "gunicorn", "--config", "config/gunicorn.py", module]
        return self._start_web(name, command, environ)

    def start_uvicorn(self, name: str, module: str, environ: dict[str, str]) -> "Web":
        """Start a reference under uvicorn, with what makes it fastest."""
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        command = [sys.executable, "-m", "uvicorn", *options, "--workers", str(ASYNC_WORKERS)]
        port = str(find_free_ports())
        return self._start_web(name, [*command, "--port", port, module], environ, int(port))

    def start(self, name: str, command: list[str], environ: dict[str, str], ready: Any) -> Process:
        """Start a process on the measured cores; it ends with the stack."""
        process = Process(
            name,
            command,
            log_path=self._directory / f"{name}.log",
            environ=environ,
            cwd=PROJECT,
            is_ready=ready,
        )
        self._parts.enter_context(process)
        pin(process.pid, MEASURED_CORES)
        return process

    def _start_web(
        self, name: str, command: list[str], environ: dict[str, str], port: int = 0
    ) -> "Web":
        port = port or find_free_ports()
        variables = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WEB_CONCURRENCY": str(SYNC_WORKERS),
        }
        process = self.start(name, command, environ | variables, lambda: is_listening(port))
        web = Web(process, port)
        web.wait_for_workers()
        pin(process.pid, MEASURED_CORES)
        return web

    def _make_caller(self) -> Caller:
        caller = uuid4()
        claims = {"sub": str(caller), "exp": int(time.time()) + 86_400}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        return Caller(caller, {"Authorization": f"Bearer {token}"})


class Web:
    """A server under measurement."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self.port = port

    @property
    def workers(self) -> list[int]:
        """The processes that serve; the one that started them only waits."""
        return family(self._process.pid)[1:]

    def stop(self) -> None:
        """Stop the server."""
        self._process.stop()

    def wait_for_workers(self) -> None:
        """Return when every worker has answered; a bounded number of empty requests finds out."""
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while connection.recv(65536):
                    pass
