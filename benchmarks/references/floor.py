"""The floor: a bare WSGI callable that inserts the row and signs the URL, and nothing else.

No authentication, limits, validation, logs or metrics; under the same gunicorn as the service.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import uuid_utils.compat
from botocore.credentials import ReadOnlyCredentials

from config.settings import Settings
from mediaservice.signing import UrlSigner

_INSERT = """
INSERT INTO media (id, owner_id, owner_type, status, raw_key, content_type, size_bytes, created_at,
                   updated_at, upload_expires_at, due_at, attempt, attempts_left)
VALUES (%s, %s, 'user', 'pending', %s, %s, %s, now(), now(), now() + interval '900 s',
        now() + interval '1200 s', 0, 0)
RETURNING upload_expires_at
"""
_OWNER = UUID("7d8ee0b5-6a4c-4a4b-9d36-0f0c2bd0e3a1")

settings = Settings.from_environ(os.environ)
_keys = ReadOnlyCredentials(settings.s3_access_key_id, settings.s3_secret_access_key, None)
_signer = UrlSigner(
    lambda: _keys,
    endpoint=settings.presign_endpoint,
    region=settings.s3_region,
    addressing_style=settings.s3_addressing_style,
)
_connections: list["psycopg.Connection[Any]"] = []


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer request-upload."""
    body = msgspec.json.decode(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    if not _connections:
        url = settings.database_url.replace("+psycopg", "")
        _connections.append(psycopg.connect(url, autocommit=True))
    media_id = uuid_utils.compat.uuid7()
    key = f"uploads/{media_id}"
    values = (media_id, _OWNER, key, body["content_type"], body["size_bytes"])
    row = _connections[0].execute(_INSERT, values, prepare=True).fetchone()
    assert row
    headers = {
        "content-length": str(body["size_bytes"]),
        "content-type": body["content_type"],
        "if-none-match": "*",
    }
    answer = msgspec.json.encode(
        {
            "upload_id": media_id,
            "upload_url": _signer.presign("PUT", "raw", key, headers, ttl_seconds=900),
            "method": "PUT",
            "headers": {"Content-Type": body["content_type"], "If-None-Match": "*"},
            "expires_at": row[0],
        }
    )
    start_response(
        "201 Created",
        [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))],
    )
    return [answer]
