"""The HTTP edge of media: decorators are the contract, views call `lifecycle`.

The views' docstrings are the API's documentation. No rules live here, only shapes.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from flask import Response, g, request

from mediaservice import schemas
from mediaservice.errors import OWNER_MISMATCH, MediaError, describe_error_code
from mediaservice.lifecycle import MediaRow, UploadRequest
from mediaservice.parsing import StrictBlueprint
from mediaservice.states import Status
from mediaservice.web import components

POLL_AFTER_SECONDS = 1

blueprint = StrictBlueprint(
    "media",
    __name__,
    url_prefix="/api/media",
    description="Upload images straight to the store, follow them, get their CDN URLs.",
)

View = Callable[..., Any]


def _fails(*statuses: int) -> Callable[[View], View]:
    """Document the failures of a view, each in the one error shape."""

    def decorate(view: View) -> View:
        for status in (401, *statuses):
            view = blueprint.alt_response(status, schema=schemas.Error)(view)
        return view

    return decorate


def _caller_required(view: View) -> View:
    """Authenticate before anything of the request is read; `g.caller` is the caller's UUID."""

    @wraps(view)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        g.caller = components().authenticate(request)
        return view(*args, **kwargs)

    return wrapped


@blueprint.post("/request-upload")
@_caller_required
@blueprint.arguments(schemas.RequestUpload)
@blueprint.arguments(schemas.IdempotencyHeader, location="headers")
@blueprint.response(201, schemas.UploadTicket)
@_fails(400, 403, 409, 413, 415, 422, 429, 503)
def request_upload(body: dict[str, Any], headers: dict[str, Any]) -> Any:
    """Get a URL to PUT one image to.

    Send the bytes with the returned method and headers, exactly as they are, then call
    `complete`. The URL stores one object of exactly the declared size, type and checksum, once.
    """
    _check_owner(body)
    ticket = components().lifecycle.uploads.request(
        UploadRequest(
            owner_id=g.caller,
            owner_type=body["owner_type"],
            content_type=body["content_type"],
            size_bytes=body["size_bytes"],
            checksum_sha256=body.get("checksum_sha256"),
            idempotency_key=headers.get("idempotency_key"),
        )
    )
    g.media_id = ticket.media_id
    answer = {
        "upload_id": ticket.media_id,
        "upload_url": ticket.upload.url,
        "method": ticket.upload.method,
        "headers": ticket.upload.headers,
        "expires_at": ticket.expires_at,
    }
    return answer, 201, {"Cache-Control": "no-store"}


@blueprint.post("/complete")
@_caller_required
@blueprint.arguments(schemas.CompleteUpload)
@blueprint.response(202, schemas.MediaStatus)
@blueprint.alt_response(200, schema=schemas.MediaStatus, description="It is final already.")
@_fails(400, 403, 404, 409, 410, 413, 415, 422, 503)
def complete(body: dict[str, Any]) -> Any:
    """Say that the bytes are uploaded.

    The service checks them and has them processed. Safe to repeat: the answer is the current
    state. `upload_not_found` means the PUT has not succeeded; the upload is still open.
    """
    g.media_id = body["upload_id"]
    row = components().lifecycle.uploads.complete(
        g.media_id, caller=g.caller, request_id=g.request_id
    )
    return _status(row), 200 if _is_final(row) else 202, _polling_headers(row)


@blueprint.get("/<uuid:media_id>/status")
@_caller_required
@blueprint.response(200, schemas.MediaStatus)
@_fails(404, 503)
def get_status(media_id: UUID) -> Any:
    """Get where a media stands.

    Until it is `ready` or `failed` the answer has `Retry-After`: ask again then.
    """
    row = components().lifecycle.rows.visible(media_id, g.caller)
    return _status(row), 200, {"Cache-Control": "no-store", **_polling_headers(row)}


@blueprint.get("/<uuid:media_id>")
@_caller_required
@blueprint.response(200, schemas.Media)
@blueprint.alt_response(304, description="Not changed since the `ETag` given in If-None-Match.")
@_fails(404, 503)
def get_media(media_id: UUID) -> Any:
    """Get a media's metadata and CDN URLs.

    A ready media can be read by every caller, any other one by its owner. `url` is null until it
    is ready. The answer has an ETag; If-None-Match saves the body.
    """
    row = components().lifecycle.rows.visible(media_id, g.caller)
    etag = f"{row.updated_at.timestamp():.6f}"
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    if etag in request.if_none_match:
        return Response(status=304, headers=headers)
    return _media(row), 200, {**headers, **_polling_headers(row)}


@blueprint.delete("/<uuid:media_id>")
@_caller_required
@blueprint.response(204)
@_fails(403, 404, 503)
def delete_media(media_id: UUID) -> None:
    """Delete a media of yours.

    It is gone at once; its objects are purged within seconds. Safe to repeat.
    """
    components().lifecycle.deletion.delete(media_id, caller=g.caller)


@blueprint.post("/<uuid:media_id>/retry")
@_caller_required
@blueprint.response(202, schemas.MediaStatus)
@_fails(403, 404, 409, 503)
def retry_media(media_id: UUID) -> Any:
    """Have a media of yours processed again whose processing failed."""
    lifecycle = components().lifecycle
    lifecycle.rows.owned(media_id, g.caller)
    row = lifecycle.processing.retry(media_id)
    return _status(row), 202, _polling_headers(row)


@blueprint.get("")
@_caller_required
@blueprint.arguments(schemas.ListQuery, location="query")
@blueprint.response(200, schemas.MediaPage)
@_fails(403, 422, 503)
def list_media(query: dict[str, Any]) -> Any:
    """List your media, newest first, a page at a time."""
    _check_owner(query)
    limit = query["limit"]
    rows = components().lifecycle.rows.page(
        owner_id=g.caller,
        owner_type=query.get("owner_type"),
        status=query.get("status"),
        before=query.get("cursor"),
        limit=limit + 1,
    )
    page = rows[:limit]
    answer = {
        "items": [_media(row) for row in page],
        "next_cursor": page[-1].id if len(rows) > limit else None,
    }
    return answer, 200, {"Cache-Control": "private, no-cache"}


def _check_owner(given: dict[str, Any]) -> None:
    if given.get("owner_id", g.caller) != g.caller:
        raise MediaError(OWNER_MISMATCH)


def _is_final(row: MediaRow) -> bool:
    return row.status in (Status.READY, Status.FAILED)


def _polling_headers(row: MediaRow) -> dict[str, str]:
    return {} if _is_final(row) else {"Retry-After": str(POLL_AFTER_SECONDS)}


def _status(row: MediaRow) -> dict[str, Any]:
    error = None
    if row.status == Status.FAILED:
        error = {
            "code": row.error_code,
            "retryable": row.raw_etag is not None,
            "message": describe_error_code(row.error_code),
        }
    return {
        "id": row.id,
        "status": row.status,
        "error": error,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "processed_at": row.processed_at,
    }


def _media(row: MediaRow) -> dict[str, Any]:
    ready = row.status == Status.READY
    return {
        **_status(row),
        "owner_id": row.owner_id,
        "owner_type": row.owner_type,
        "content_type": row.content_type,
        "size_bytes": row.size_bytes,
        "url": _cdn_url(row.public_key) if ready else None,
        "width": row.width,
        "height": row.height,
        "placeholder": row.placeholder,
        "variants": [{**variant, "url": _cdn_url(variant["key"])} for variant in row.variants or []]
        if ready
        else [],
    }


def _cdn_url(key: str) -> str:
    return f"{components().settings.cdn_base_url}/{key}"
