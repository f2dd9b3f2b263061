"""The HTTP edge of media: decorators are the contract, views call `lifecycle`.

The views' docstrings are the API's documentation. No rules live here, only shapes.
"""

import hashlib
import shlex
from datetime import UTC, datetime
from functools import cache, partial, wraps
from typing import Any
from uuid import UUID

from flask import Response, g, request

from mediaservice import errors, openapi, schemas
from mediaservice.errors import MediaError, describe_error_code, is_worth_retrying
from mediaservice.lifecycle import MediaRow, RequestedUpload, UploadRequest
from mediaservice.openapi import View
from mediaservice.parsing import StrictBlueprint
from mediaservice.states import Status
from mediaservice.tracing import current_traceparent
from mediaservice.web import components, respond

MAX_POLL_SECONDS = 15

blueprint = StrictBlueprint(
    "media",
    __name__,
    url_prefix="/api/media",
    description="Upload images straight to the store, follow them, get their CDN URLs.",
)


_fails = partial(openapi.fails, blueprint)


def _caller_required(view: View) -> View:
    """Authenticate before anything of the request is read; `g.caller` is the caller's UUID."""

    @wraps(view)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        g.caller = components().authenticate(request)
        return view(*args, **kwargs)

    return wrapped


@blueprint.post("/request-upload")
@_caller_required
@blueprint.arguments(schemas.RequestUploadSchema(), example=openapi.REQUEST_UPLOAD_EXAMPLE)
@blueprint.arguments(schemas.IdempotencyHeaderSchema(), location="headers")
@blueprint.response(
    201,
    schemas.PresignedUploadSchema,
    example=openapi.PRESIGNED_UPLOAD_EXAMPLE,
    headers=openapi.headers("Cache-Control"),
)
@blueprint.doc(responses={201: {"links": openapi.PRESIGNED_UPLOAD_LINKS}})
@_fails(
    *openapi.WITH_BODY,
    errors.OWNER_MISMATCH,
    errors.IDEMPOTENCY_KEY_REUSED,
    errors.UPLOAD_TOO_LARGE,
    errors.CONTENT_TYPE_NOT_ALLOWED,
    errors.TOO_MANY_PENDING,
    errors.STORE_UNAVAILABLE,
)
def request_upload(body: dict[str, Any], given: dict[str, Any]) -> Any:
    """Get a URL to PUT one image to.

    Send the bytes with the returned method and headers, exactly as they are, then call
    `complete`. The URL stores one object of exactly the declared size, type and checksum, once.
    """
    _check_owner(body)
    upload = components().lifecycle.uploads.request(
        UploadRequest(
            owner_id=g.caller,
            owner_type=body["owner_type"],
            content_type=body["content_type"],
            size_bytes=body["size_bytes"],
            checksum_sha256=body.get("checksum_sha256"),
            idempotency_key=given.get("idempotency_key"),
        )
    )
    g.media_id = upload.media_id
    presigned = {
        "upload_id": upload.media_id,
        "upload_url": upload.presigned.url,
        "method": upload.presigned.method,
        "headers": upload.presigned.headers,
        "expires_at": upload.expires_at,
        "curl": _curl(upload, body["content_type"]),
    }
    return respond(presigned, 201, {"Cache-Control": "no-store"})


@blueprint.post("/complete")
@_caller_required
@blueprint.arguments(schemas.CompleteUploadSchema(), example=openapi.COMPLETE_UPLOAD_EXAMPLE)
@blueprint.response(
    202,
    schemas.MediaStatusSchema,
    description="The bytes are accepted; a worker will process them.",
    example=openapi.PROCESSING_EXAMPLE,
    headers=openapi.headers("Retry-After"),
)
@blueprint.alt_response(
    200,
    schema=schemas.MediaStatusSchema,
    description="It is final already.",
    examples=openapi.FINAL_EXAMPLES,
    headers=openapi.headers(),
    success=True,
)
@_fails(
    *openapi.WITH_BODY,
    errors.NOT_OWNER,
    errors.MEDIA_NOT_FOUND,
    errors.UPLOAD_NOT_FOUND,
    errors.UPLOAD_EXPIRED,
    errors.SIZE_MISMATCH,
    errors.CONTENT_MISMATCH,
    errors.CHECKSUM_MISMATCH,
    errors.STORE_UNAVAILABLE,
)
def complete(body: dict[str, Any]) -> Any:
    """Say that the bytes are uploaded.

    The service checks them and has them processed. Safe to repeat: the response is the current
    state. `upload_not_found` means the PUT has not succeeded; the upload is still open.
    """
    g.media_id = body["upload_id"]
    row = components().lifecycle.uploads.complete(
        g.media_id,
        caller=g.caller,
        request_id=g.request_id,
        traceparent=current_traceparent(),
    )
    return respond(_status(row), 200 if _is_final(row) else 202, _polling_headers(row))


@blueprint.get("/<uuid:media_id>/status")
@_caller_required
@blueprint.response(
    200,
    schemas.MediaStatusSchema,
    examples=openapi.STATUS_EXAMPLES,
    headers=openapi.headers("Retry-After", "Cache-Control"),
)
@_fails(*openapi.WITH_MEDIA_ID)
def get_status(media_id: UUID) -> Any:
    """Get where a media stands.

    Until it is `ready` or `failed` the response has `Retry-After`: ask again then.
    """
    row = components().lifecycle.rows.visible(media_id, g.caller)
    return respond(_status(row), 200, {"Cache-Control": "no-store", **_polling_headers(row)})


@blueprint.get("/<uuid:media_id>")
@_caller_required
@blueprint.doc(parameters=[openapi.IF_NONE_MATCH])
@blueprint.response(
    200,
    schemas.MediaSchema,
    examples=openapi.MEDIA_EXAMPLES,
    headers=openapi.headers("ETag", "Cache-Control", "Retry-After"),
)
@blueprint.alt_response(
    304,
    description="Not changed since the `ETag` given in If-None-Match.",
    headers=openapi.headers("ETag", "Cache-Control", "Retry-After"),
    success=True,
)
@_fails(*openapi.WITH_MEDIA_ID)
def get_media(media_id: UUID) -> Any:
    """Get a media's metadata and CDN URLs.

    A ready media can be read by every caller, any other one by its owner. `url` is null until it
    is ready. The response has an ETag; If-None-Match saves the body.
    """
    parts = components()
    row = parts.lifecycle.rows.visible(media_id, g.caller)
    etag = f"{row.updated_at.timestamp():.6f}-{_cdn_digest(parts.settings.cdn_base_url)}"
    headers = {
        "ETag": f'"{etag}"',
        "Cache-Control": "private, no-cache",
        **_polling_headers(row),
    }
    # Weakly: a proxy that compresses makes it weak.
    if request.if_none_match.contains_weak(etag):
        return Response(status=304, headers=headers)
    return respond(_media(row, parts.settings.cdn_base_url), 200, headers)


@blueprint.delete("/<uuid:media_id>")
@_caller_required
@blueprint.response(204, headers=openapi.headers())
@_fails(*openapi.WITH_MEDIA_ID, errors.NOT_OWNER)
def delete_media(media_id: UUID) -> Any:
    """Delete one of your media.

    It is gone at once; its objects are purged within seconds. Safe to repeat.
    """
    components().lifecycle.deletion.delete(media_id, caller=g.caller)
    return Response(status=204)


@blueprint.post("/<uuid:media_id>/retry")
@_caller_required
@blueprint.response(
    202,
    schemas.MediaStatusSchema,
    example=openapi.PROCESSING_EXAMPLE,
    headers=openapi.headers("Retry-After"),
)
@_fails(*openapi.WITH_MEDIA_ID, errors.NOT_OWNER, errors.RETRY_NOT_POSSIBLE)
def retry_media(media_id: UUID) -> Any:
    """Retry one of your media whose processing failed.

    It gets a new set of attempts; follow it by its status as after `complete`. A media whose
    upload failed has no original to process: upload it again.
    """
    lifecycle = components().lifecycle
    lifecycle.rows.owned(media_id, g.caller)
    row = lifecycle.processing.retry(media_id)
    return respond(_status(row), 202, _polling_headers(row))


@blueprint.get("")
@_caller_required
@blueprint.arguments(schemas.ListQuerySchema(), location="query")
@blueprint.response(
    200,
    schemas.MediaPageSchema,
    example=openapi.PAGE_EXAMPLE,
    headers=openapi.headers("Cache-Control"),
)
@_fails(errors.INVALID_REQUEST, errors.OWNER_MISMATCH)
def list_media(query: dict[str, Any]) -> Any:
    """List your media, newest first, a page at a time.

    Media in every status, but no deleted ones. `next_cursor` of a page is the `cursor` of the next.
    """
    _check_owner(query)
    limit = query["limit"]
    parts = components()
    rows = parts.lifecycle.rows.page(
        owner_id=g.caller,
        owner_type=query.get("owner_type"),
        status=query.get("status"),
        before=query.get("cursor"),
        limit=limit + 1,
    )
    page = rows[:limit]
    body = {
        "items": [_media(row, parts.settings.cdn_base_url) for row in page],
        "next_cursor": page[-1].id if len(rows) > limit else None,
    }
    return respond(body, 200, {"Cache-Control": "private, no-cache"})


def _check_owner(given: dict[str, Any]) -> None:
    if given.get("owner_id", g.caller) != g.caller:
        raise MediaError(errors.OWNER_MISMATCH)


def _curl(upload: RequestedUpload, content_type: str) -> str:
    """Return the upload as a line for a shell, for people who try the API by hand."""
    options = " ".join(
        f"-H {shlex.quote(f'{name}: {value}')}" for name, value in upload.presigned.headers.items()
    )
    file_name = f"image.{content_type.removeprefix('image/')}"
    return (
        f"curl --fail-with-body --upload-file {shlex.quote(file_name)} {options} "
        f"{shlex.quote(upload.presigned.url)}"
    )


@cache
def _cdn_digest(cdn: str) -> str:
    """Return what an ETag has of the CDN's address: bodies name it, and a restart may change it."""
    return hashlib.sha256(cdn.encode()).hexdigest()[:8]


def _is_final(row: MediaRow) -> bool:
    return row.status in (Status.READY, Status.FAILED)


def _polling_headers(row: MediaRow) -> dict[str, str]:
    """Say when to ask again: the longer it takes the later, so that an outage draws no crowd."""
    if _is_final(row):
        return {}
    age_seconds = int((datetime.now(UTC) - row.updated_at).total_seconds())
    return {"Retry-After": str(min(max(1, age_seconds // 10), MAX_POLL_SECONDS))}


def _status(row: MediaRow) -> dict[str, Any]:
    error = None
    if row.status == Status.FAILED:
        is_pinned = row.raw_etag is not None
        error = {
            "code": row.error_code,
            "retryable": is_worth_retrying(row.error_code, is_pinned=is_pinned),
            "message": describe_error_code(row.error_code, is_pinned=is_pinned),
        }
    return {
        "id": row.id,
        "status": row.status,
        "error": error,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "processed_at": row.processed_at,
    }


def _media(row: MediaRow, cdn: str) -> dict[str, Any]:
    ready = row.status == Status.READY
    return {
        **_status(row),
        "owner_id": row.owner_id,
        "owner_type": row.owner_type,
        "content_type": row.content_type,
        "size_bytes": row.size_bytes,
        "url": f"{cdn}/{row.public_key}" if ready else None,
        "width": row.width,
        "height": row.height,
        "placeholder": row.placeholder,
        "variants": [_variant(variant, cdn) for variant in row.variants or []] if ready else [],
    }


def _variant(variant: dict[str, Any], cdn: str) -> dict[str, Any]:
    return {
        "name": variant["name"],
        "url": f"{cdn}/{variant['key']}",
        "width": variant["width"],
        "height": variant["height"],
        "size_bytes": variant["size_bytes"],
        "content_type": variant["content_type"],
    }
