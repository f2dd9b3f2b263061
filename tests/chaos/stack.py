"""The whole service as real processes, two of each role, behind proxies that faults can use."""

import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from devstack.postgresql import PostgreSQL
from devstack.process import Process, answers, find_free_ports
from devstack.rabbitmq import RabbitMQ
from devstack.roles import FLASK, LISTENER, WEB, WORKER, Role
from devstack.seaweedfs import SeaweedFS
from mediaservice import PROJECT
from tests.chaos.proxy import Proxy

# Short times, so that every deadline of the design passes several times in one run.
UPLOAD_URL_TTL_SECONDS = 15
UPLOAD_GRACE_SECONDS = 6
PROCESSING_TIMEOUT_SECONDS = 10
DECODE_TIMEOUT_SECONDS = 5

# Every change of a row's status or deletion, whoever makes it: the truth that logs are not.
HISTORY_SQL = """
CREATE TABLE media_history (
    media_id uuid, was text, is_now text, was_deleted boolean, is_deleted boolean,
    at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION keep_media_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO media_history VALUES
            (NEW.id, NULL, NEW.status, false, NEW.deleted_at IS NOT NULL);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO media_history VALUES
            (OLD.id, OLD.status, NULL, OLD.deleted_at IS NOT NULL, NULL);
    ELSIF OLD.status <> NEW.status OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at THEN
        INSERT INTO media_history VALUES (OLD.id, OLD.status, NEW.status,
            OLD.deleted_at IS NOT NULL, NEW.deleted_at IS NOT NULL);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER media_history AFTER INSERT OR UPDATE OR DELETE ON media
    FOR EACH ROW EXECUTE FUNCTION keep_media_history();
"""


class Stack:
    """PostgreSQL, RabbitMQ, SeaweedFS; two webs, listeners and workers, and one bad worker."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._parts = ExitStack()
        self._directory = directory
        self.postgresql = self._parts.enter_context(PostgreSQL(directory / "postgresql"))
        self.rabbitmq = self._parts.enter_context(RabbitMQ(directory / "rabbitmq"))
        self.seaweedfs = self._parts.enter_context(SeaweedFS(directory / "seaweedfs"))
        self.proxies = {
            "postgresql": Proxy(self.postgresql.port),
            "rabbitmq": Proxy(self.rabbitmq.port),
            "seaweedfs": Proxy(self.seaweedfs.port),
        }
        self.gateway_token = secrets.token_hex(32)
        self._environ = self._environment()
        self._flask("db", "upgrade")
        self._flask("media", "init")
        with self.postgresql.connect() as connection:
            connection.execute(HISTORY_SQL)
        self.web_ports = [find_free_ports(), find_free_ports()]
        self.webs = [self._web(f"web{n}", port) for n, port in enumerate(self.web_ports)]
        self.listeners = [self._role(f"listener{n}", *LISTENER) for n in range(2)]
        self.workers = [self._role(f"worker{n}", *WORKER) for n in range(2)]
        self.poison_file = directory / "poison"
        self.bad_worker = self._role(
            "bad-worker",
            str(PROJECT / "tests" / "chaos" / "bad_worker.py"),
            str(seed),
            str(self.poison_file),
        )
        for process in self.roles:
            self._parts.enter_context(process)

    @property
    def engines(self) -> list[Process]:
        """The servers that hold state."""
        return [self.postgresql, self.rabbitmq, self.seaweedfs]

    @property
    def roles(self) -> list[Process]:
        """The service's own processes."""
        return [*self.webs, *self.listeners, *self.workers, self.bad_worker]

    def close(self) -> None:
        """Stop everything, in the opposite order."""
        self._parts.close()

    def _environment(self) -> dict[str, str]:
        ports = {name: proxy.port for name, proxy in self.proxies.items()}
        return {
            "PATH": os.environ["PATH"],
            "WEB_CONCURRENCY": "1",  # of each web, and there are two
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "HOST": "127.0.0.1",
            "APP_ENV": "production",
            "AUTH_MODE": "gateway",
            "GATEWAY_TOKEN": self.gateway_token,
            "DATABASE_URL": self.postgresql.url_of("postgres", ports["postgresql"]),
            "BROKER_URL": f"amqp://guest:guest@127.0.0.1:{ports['rabbitmq']}/",
            **self.seaweedfs.variables,
            "S3_ENDPOINT": f"http://127.0.0.1:{ports['seaweedfs']}",
            "S3_PUBLIC_ENDPOINT": self.seaweedfs.endpoint,
            "UPLOAD_URL_TTL_SECONDS": str(UPLOAD_URL_TTL_SECONDS),
            "UPLOAD_GRACE_SECONDS": str(UPLOAD_GRACE_SECONDS),
            "LATE_UPLOAD_SECONDS": "0",
            "PROCESSING_TIMEOUT_SECONDS": str(PROCESSING_TIMEOUT_SECONDS),
            "DECODE_TIMEOUT_SECONDS": str(DECODE_TIMEOUT_SECONDS),
            "RETRY_BACKOFF_SECONDS": "1",
            "MAX_ATTEMPTS": "4",
            "MAX_PENDING_UPLOADS": "100000",
            "MAX_PENDING_BYTES": str(2**40),
        }

    def audit(self) -> list[str]:
        """Return what the service's own audit has to report, besides its totals."""
        done = subprocess.run(
            [sys.executable, *FLASK, "media", "audit", "--min-age=0", "--json"],
            cwd=PROJECT,
            env=self._environ,
            check=False,
            capture_output=True,
            text=True,
        )
        *findings, totals = done.stdout.splitlines() or [""]
        return findings if totals else [done.stderr]

    def _flask(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, *FLASK, *arguments],
            cwd=PROJECT,
            env=self._environ,
            check=True,
            capture_output=True,
        )

    def _role(self, name: str, *arguments: str) -> Role:
        return Role(name, arguments, directory=self._directory, environ=self._environ)

    def _web(self, name: str, port: int) -> Process:
        return Role(
            name,
            WEB,
            directory=self._directory,
            environ={**self._environ, "PORT": str(port)},
            is_ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
        )
