"""What clients, attackers among them, do with the whole service and its store."""

from pathlib import Path
from typing import Any
from uuid import UUID

import requests
from flask.testing import FlaskClient

from devstack.process import answers
from devstack.roles import WEB, Role
from mediaservice.lifecycle import Lifecycle
from mediaservice.storage import Storage
from tests.builders import jpeg
from tests.security.tokens import ALICE, token
from tests.service import put_upload


class Web(Role):
    """Gunicorn as it is deployed."""

    def __init__(
        self, environ: dict[str, str], port: int, directory: Path, name: str = "web"
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            name,
            WEB,
            directory=directory,
            environ=environ,
            is_ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
        )


class Service:
    """One application, its store, and what clients do with both."""

    def __init__(self, client: FlaskClient, s3: Any) -> None:
        self.client = client
        self.s3 = s3
        parts = client.application.extensions["media"]
        self.lifecycle: Lifecycle = parts.lifecycle
        self.storage: Storage = parts.storage

    def call(self, method: str, path: str = "", caller: UUID = ALICE, **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {token(sub=str(caller))}"}
        headers |= arguments.pop("headers", {})
        return self.client.open(f"/api/media{path}", method=method, headers=headers, **arguments)

    def request(self, body: bytes, **fields: Any) -> dict[str, Any]:
        declared = {"content_type": "image/jpeg", "size_bytes": len(body), **fields}
        response = self.call("POST", "/request-upload", json=declared)
        assert response.status_code == 201, response.get_data(as_text=True)
        presigned: dict[str, Any] = response.get_json()
        return presigned

    def put(self, presigned: dict[str, Any], body: bytes) -> requests.Response:
        return put_upload(presigned, body)

    def upload(self, body: bytes | None = None) -> str:
        """Return the id of a media of Alice's that is processing."""
        body = body or jpeg()
        presigned = self.request(body)
        assert self.put(presigned, body).status_code == 200
        response = self.call("POST", "/complete", json={"upload_id": presigned["upload_id"]})
        assert response.status_code == 202
        return str(presigned["upload_id"])

    def objects(self) -> dict[tuple[str, str], str]:
        """Return everything that is stored: the ETags by bucket and key."""
        return {
            (bucket, entry["Key"]): entry["ETag"]
            for bucket in (self.storage.raw_bucket, self.storage.public_bucket)
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for entry in page.get("Contents", [])
        }
