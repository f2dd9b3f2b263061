"""The peer: FastAPI, asyncpg and boto3, as a good team would write and tune them today.

uvloop, httptools, a pool of prepared connections, one client per process, pydantic's own JSON. It
knows its caller by a JWT, as the service does; no limits, idempotency, logs or metrics.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

import asyncpg
import boto3
import jwt
import uuid_utils.compat
from botocore.config import Config
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

from config.settings import Settings

_INSERT = """
INSERT INTO media (id, owner_id, owner_type, status, raw_key, content_type, size_bytes, created_at,
                   updated_at, upload_expires_at, due_at, attempt, attempts_left)
VALUES ($1, $2, 'user', 'pending', $3, $4, $5, now(), now(), now() + interval '900 s',
        now() + interval '1200 s', 0, 0)
RETURNING upload_expires_at
"""

settings = Settings.from_environ(os.environ)
s3 = boto3.client(
    "s3",
    endpoint_url=settings.presign_endpoint,
    region_name=settings.s3_region,
    aws_access_key_id=settings.s3_access_key_id,
    aws_secret_access_key=settings.s3_secret_access_key,
    config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
)


class RequestUpload(BaseModel):
    """What the client declares."""

    content_type: Annotated[str, Field(min_length=1, max_length=255)]
    size_bytes: Annotated[int, Field(gt=0)]


class PresignedUpload(BaseModel):
    """What the client needs."""

    upload_id: UUID
    upload_url: str
    method: str
    headers: dict[str, str]
    expires_at: datetime


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    url = settings.database_url.replace("+psycopg", "")
    application.state.pool = await asyncpg.create_pool(url, min_size=8, max_size=8)
    yield
    await application.state.pool.close()


app = FastAPI(lifespan=_lifespan)


@app.post("/api/media/request-upload", status_code=201)
async def request_upload(
    body: RequestUpload, authorization: Annotated[str, Header()]
) -> PresignedUpload:
    """Insert the row and presign the PUT."""
    try:
        claims = jwt.decode(
            authorization.removeprefix("Bearer "), settings.jwt_secret, algorithms=["HS256"]
        )
        caller = UUID(claims["sub"])
    except (jwt.PyJWTError, KeyError, ValueError):
        raise HTTPException(401) from None
    media_id = uuid_utils.compat.uuid7()
    key = f"uploads/{media_id}"
    expires_at = await app.state.pool.fetchval(
        _INSERT, media_id, caller, key, body.content_type, body.size_bytes
    )
    url = s3.generate_presigned_url(
        "put_object",
        ExpiresIn=900,
        Params={
            "Bucket": settings.s3_raw_bucket,
            "Key": key,
            "ContentType": body.content_type,
            "ContentLength": body.size_bytes,
            "IfNoneMatch": "*",
        },
    )
    return PresignedUpload(
        upload_id=media_id,
        upload_url=url,
        method="PUT",
        headers={"Content-Type": body.content_type, "If-None-Match": "*"},
        expires_at=expires_at,
    )
