"""The service as it is deployed: gunicorn, listener and worker as processes, behind proxies that
stand for the network to PostgreSQL, RabbitMQ and the store.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import requests

from devstack.postgresql import PostgreSQL
from devstack.process import answers, find_free_ports, wait_until
from devstack.rabbitmq import RabbitMQ
from devstack.roles import FLASK, LISTENER, WEB, WORKER, Role
from devstack.seaweedfs import SeaweedFS
from mediaservice import PROJECT
from tests.chaos.proxy import Proxy

FINAL = ("ready", "failed")


def measured() -> dict[str, str]:
    """Return the variables that make a child process count for `make coverage`, if that runs."""
    return {name: text for name, text in os.environ.items() if name.startswith("COVERAGE_")}


def put_upload(presigned: dict[str, Any], body: bytes) -> requests.Response:
    """PUT bytes where an answer to `request-upload` says, as a browser would."""
    return requests.request(
        presigned["method"],
        presigned["upload_url"],
        data=body,
        headers=presigned["headers"],
        timeout=30,
    )


class Deployment:
    """The service's processes on given servers, behind proxies that stand for the network."""

    def __init__(
        self,
        directory: Path,
        *,
        postgresql: PostgreSQL,
        database: str,
        rabbitmq: RabbitMQ,
        seaweedfs: SeaweedFS,
        **variables: str,
    ) -> None:
        self.gateway_token = secrets.token_hex(32)
        self.proxies = {
            "postgresql": Proxy(postgresql.port),
            "rabbitmq": Proxy(rabbitmq.port),
            "seaweedfs": Proxy(seaweedfs.port),
        }
        ports = {name: proxy.port for name, proxy in self.proxies.items()}
        self._directory = directory
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "HOST": "127.0.0.1",
            "WEB_CONCURRENCY": "1",
            "APP_ENV": "production",
            "AUTH_MODE": "gateway",
            "GATEWAY_TOKEN": self.gateway_token,
            "DATABASE_URL": postgresql.url_of(database, ports["postgresql"]),
            "BROKER_URL": f"amqp://guest:guest@127.0.0.1:{ports['rabbitmq']}/",
            **seaweedfs.variables,
            "S3_ENDPOINT": f"http://127.0.0.1:{ports['seaweedfs']}",
            "S3_PUBLIC_ENDPOINT": seaweedfs.endpoint,
            "RETRY_BACKOFF_SECONDS": "1",
            **variables,
        }

    def flask(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the service's commands."""
        return subprocess.run(
            [sys.executable, *FLASK, *command],
            cwd=PROJECT,
            env=self._environ,
            check=check,
            capture_output=True,
            text=True,
        )

    def release(self) -> None:
        """Make the tables, the queues and the buckets."""
        self.flask("db", "upgrade")
        self.flask("media", "init")

    def make_role(self, name: str, arguments: Sequence[str], **more: Any) -> Role:
        """Return a process of the service."""
        return Role(
            name, arguments, **{"directory": self._directory, "environ": self._environ, **more}
        )

    def make_web(self, name: str, port: int, page: str) -> Role:
        """Return a web on a port, which is ready once a page of its answers."""
        return self.make_role(
            name,
            WEB,
            environ={**self._environ, "PORT": str(port)},
            is_ready=lambda: answers(f"http://127.0.0.1:{port}/{page}"),
        )


class Service(Deployment):
    """One web, one listener, one worker on an empty database; `caller` uses it."""

    def __init__(self, directory: Path, *, seaweedfs: SeaweedFS, **servers: Any) -> None:
        super().__init__(
            directory,
            seaweedfs=seaweedfs,
            **servers,
            POLL_SECONDS="0.2",  # each look takes time from other tests
            **measured(),
        )
        self.caller = uuid4()
        self.store = seaweedfs
        self.to_postgresql, self.to_rabbitmq, self.to_store = self.proxies.values()
        self._port = find_free_ports()
        self.web = self.make_web("web", self._port, "readyz")
        self.listener = self.make_role("listener", LISTENER)
        self.worker = self.make_role("worker", WORKER)
        self.processes = [self.web, self.listener, self.worker]

    def start(self) -> None:
        """Release and start every process."""
        self.release()
        for process in self.processes:
            process.start(wait=False)
        self.recover()

    def stop(self) -> None:
        """Stop every process and proxy."""
        for process in reversed(self.processes):
            process.signal(signal.SIGCONT)
            process.stop()
        for proxy in self.proxies.values():
            proxy.close()

    def recover(self) -> None:
        """End every fault of the network, and start whatever is not running."""
        for proxy in self.proxies.values():
            proxy.resume()
            proxy.accept()
        for process in self.processes:
            process.signal(signal.SIGCONT)
            if not process.is_running:
                process.start(wait=False)
            process.wait_until_ready()

    def call(self, method: str, path: str = "", **arguments: Any) -> requests.Response:
        """Call the API as the caller."""
        headers = {
            "Authorization": f"Bearer {self.gateway_token}",
            "X-User-ID": str(self.caller),
            **arguments.pop("headers", {}),
        }
        url = f"http://127.0.0.1:{self._port}/api/media{path}"
        return requests.request(method, url, headers=headers, timeout=60, **arguments)

    def upload(self, body: bytes, content_type: str = "image/jpeg") -> UUID:
        """Request an upload and PUT the bytes as a browser would."""
        declared = {"content_type": content_type, "size_bytes": len(body)}
        answer = self.call("POST", "/request-upload", json=declared)
        assert answer.status_code == 201, answer.text
        presigned = answer.json()
        stored = put_upload(presigned, body)
        assert stored.status_code == 200, stored.text
        return UUID(presigned["upload_id"])

    def complete(self, media_id: UUID) -> requests.Response:
        """Say that the bytes are uploaded."""
        return self.call("POST", "/complete", json={"upload_id": str(media_id)})

    def process(self, body: bytes) -> UUID:
        """Upload and complete a JPEG."""
        media_id = self.upload(body)
        assert self.complete(media_id).status_code == 202
        return media_id

    def wait_until_final(self, media_id: UUID, seconds: float = 60) -> dict[str, Any]:
        """Return the status once it is ready or failed."""
        last: dict[str, Any] = {}

        def is_final() -> bool:
            answer = self.call("GET", f"/{media_id}/status")
            if answer.status_code == 200:
                last.update(answer.json())
            return last.get("status") in FINAL

        wait_until(is_final, seconds=seconds, what=f"{media_id} to be ready or failed")
        return last

    def keys(self, media_id: UUID) -> list[str]:
        """Return the keys of the media's objects in both buckets."""
        return [
            entry["Key"]
            for bucket, prefix in (("raw", f"uploads/{media_id}"), ("public", f"media/{media_id}/"))
            for entry in self.store.client()
            .list_objects_v2(Bucket=bucket, Prefix=prefix)
            .get("Contents", [])
        ]
