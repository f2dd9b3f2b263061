"""The service as it is deployed: gunicorn, listener and worker as processes, behind proxies that
stand for the network to PostgreSQL, RabbitMQ and the store.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
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


class Service:
    """One web, one listener, one worker on an empty database; `caller` uses it."""

    def __init__(
        self,
        directory: Path,
        *,
        postgresql: PostgreSQL,
        database: str,
        rabbitmq: RabbitMQ,
        seaweedfs: SeaweedFS,
        make_proxy: Callable[[int], Proxy],
    ) -> None:
        self.caller = uuid4()
        self.store = seaweedfs
        self.to_postgresql = make_proxy(postgresql.port)
        self.to_rabbitmq = make_proxy(rabbitmq.port)
        self.to_store = make_proxy(seaweedfs.port)
        self._token = secrets.token_hex(32)
        self._port = find_free_ports()
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "APP_ENV": "production",
            "AUTH_MODE": "gateway",
            "GATEWAY_TOKEN": self._token,
            "DATABASE_URL": postgresql.url_of(database, self.to_postgresql.port),
            "BROKER_URL": f"amqp://guest:guest@127.0.0.1:{self.to_rabbitmq.port}/",
            **seaweedfs.variables,
            "S3_ENDPOINT": f"http://127.0.0.1:{self.to_store.port}",
            "S3_PUBLIC_ENDPOINT": seaweedfs.endpoint,
            "RETRY_BACKOFF_SECONDS": "1",
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "WEB_CONCURRENCY": "1",
            "POLL_SECONDS": "0.2",  # each look takes time from other tests
            **measured(),
        }
        roles: dict[str, Any] = {"directory": directory, "environ": self._environ}
        self.web = Role("web", WEB, is_ready=self._is_ready, **roles)
        self.listener = Role("listener", LISTENER, **roles)
        self.worker = Role("worker", WORKER, **roles)
        self.processes = [self.web, self.listener, self.worker]

    def start(self) -> None:
        """Release and start every process."""
        for command in (("db", "upgrade"), ("media", "init")):
            subprocess.run(
                [sys.executable, *FLASK, *command],
                cwd=PROJECT,
                env=self._environ,
                check=True,
                capture_output=True,
            )
        for process in self.processes:
            process.start(wait=False)
        self.recover()

    def stop(self) -> None:
        """Stop every process."""
        for process in reversed(self.processes):
            process.signal(signal.SIGCONT)
            process.stop()

    def recover(self) -> None:
        """End every fault of the network, and start whatever is not running."""
        for proxy in (self.to_postgresql, self.to_rabbitmq, self.to_store):
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
            "Authorization": f"Bearer {self._token}",
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

    def _is_ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self._port}/readyz")
