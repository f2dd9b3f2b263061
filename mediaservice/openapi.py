"""What the OpenAPI document says beside views and schemas: headers, examples, every failure.

Depends on no setting: docs/openapi.json is the document of every deployment, but for the ways to
authenticate, and a test holds it equal to the code.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from flask_smorest import Blueprint
from werkzeug.http import HTTP_STATUS_CODES

from mediaservice import errors, schemas
from mediaservice.errors import Failure

View = Callable[..., Any]

_REQUEST_ID = "0e6f8a52-5f0e-4c53-9d0b-6a3f0c6f2f7e"
_MEDIA_ID = "019aa0e8-7f3c-7b21-9a54-2d1c88f0b6e3"
_OWNER_ID = "7d8ee0b5-6a4c-4a4b-9d36-0f0c2bd0e3a1"
_UPLOAD_URL = (
    f"https://s3.example.com/raw/uploads/{_MEDIA_ID}?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=…&X-Amz-Date=20260401T120000Z&X-Amz-Expires=900"
    "&X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost%3Bif-none-match"
    "&X-Amz-Signature=…"
)

SPEC_OPTIONS = {
    "info": {
        "summary": "Direct image uploads: to the store, through a worker, onto the CDN.",
        "description": (
            "1. `POST /api/media/request-upload` answers with a presigned URL.\n"
            "2. PUT the bytes there with the headers of the response: browsers, the `curl` line of "
            "the response, or any other HTTP client.\n"
            "3. `POST /api/media/complete`.\n"
            "4. `GET /api/media/{media_id}/status`, when `Retry-After` says so, until `ready` or "
            "`failed`.\n"
            "5. `GET /api/media/{media_id}` has the CDN URLs.\n\n"
            "A failed call answers `{code, status, message, error, request_id, errors?}`; act on "
            "`error`, which is stable. Send `X-Request-ID` to choose the `request_id`."
        ),
        "license": {"name": "MIT", "identifier": "MIT"},
    },
    "servers": [{"url": "/", "description": "This service."}],
}

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The `X-Request-ID` of the request, or a new one; it is in every log line.",
        "schema": {"type": "string", "maxLength": 128},
        "example": _REQUEST_ID,
    },
    "Retry-After": {
        "description": "Seconds to wait before asking again.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    },
    "WWW-Authenticate": {
        "description": "`Bearer`.",
        "schema": {"type": "string"},
        "example": "Bearer",
    },
    "ETag": {
        "description": "Changes with the media and the CDN's address; for `If-None-Match`.",
        "schema": {"type": "string"},
        "example": '"1775044800.123456-7d2c19f0"',
    },
    "Cache-Control": {
        "description": "Who may keep the response, if anybody.",
        "schema": {"type": "string"},
        "example": "no-store",
    },
}

_UPLOAD_ID = "$response.body#/upload_id"
PRESIGNED_UPLOAD_LINKS = {
    "complete": {
        "operationId": "complete",
        "description": "When the bytes are PUT.",
        "requestBody": {"upload_id": _UPLOAD_ID},
    },
    **{
        name: {"operationId": operation_id, "parameters": {"media_id": _UPLOAD_ID}}
        for name, operation_id in (
            ("status", "get_status"),
            ("media", "get_media"),
            ("retry", "retry_media"),
            ("delete", "delete_media"),
        )
    },
}

IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "The `ETag` of an earlier response: 304 without a body if it is still the same.",
    "schema": {"type": "string"},
}


WITH_BODY = (
    errors.REQUEST_TOO_LARGE,
    errors.UNSUPPORTED_MEDIA_TYPE,
    errors.INVALID_REQUEST,
)
WITH_MEDIA_ID = (
    errors.NOT_FOUND,
    errors.MEDIA_NOT_FOUND,
)
_EVERYWHERE = (
    errors.BAD_REQUEST,
    errors.UNAUTHENTICATED,
    errors.AUTHENTICATION_UNAVAILABLE,
    errors.DATABASE_UNAVAILABLE,
    errors.INTERNAL_SERVER_ERROR,
)

# Facts about a failure, for its example.
_DETAILS: dict[str, dict[str, Any]] = {
    errors.INVALID_REQUEST.code: {"json": {"size_bytes": ["Missing data for required field."]}},
    errors.IDEMPOTENCY_KEY_REUSED.code: {"upload_id": _MEDIA_ID},
    errors.UPLOAD_TOO_LARGE.code: {"max_upload_bytes": 20_971_520},
    errors.CONTENT_TYPE_NOT_ALLOWED.code: {"allowed_content_types": ["image/jpeg", "image/png"]},
    errors.TOO_MANY_PENDING.code: {
        "max_pending_uploads": 100,
        "max_pending_bytes": 2_147_483_648,
    },
}

_STATUS = {
    "id": _MEDIA_ID,
    "status": "processing",
    "error": None,
    "created_at": "2026-04-01T12:00:00.123456Z",
    "updated_at": "2026-04-01T12:00:03.456789Z",
    "processed_at": None,
}
_READY = {
    **_STATUS,
    "status": "ready",
    "updated_at": "2026-04-01T12:00:04.012345Z",
    "processed_at": "2026-04-01T12:00:04.012345Z",
}
_FAILED = {
    **_STATUS,
    "status": "failed",
    "error": {
        "code": "corrupt_image",
        "retryable": errors.is_worth_retrying("corrupt_image", is_pinned=True),
        "message": errors.describe_error_code("corrupt_image", is_pinned=True),
    },
}
_FACTS = {
    "owner_id": _OWNER_ID,
    "owner_type": "user",
    "content_type": "image/jpeg",
    "size_bytes": 348_052,
}
_CDN = f"https://cdn.example.com/media/{_MEDIA_ID}"
_READY_MEDIA = {
    **_READY,
    **_FACTS,
    "url": f"{_CDN}/main.webp",
    "width": 2048,
    "height": 1365,
    "placeholder": "1QcSHQRnh493V4dIh4eXh1h4kJUI",
    "variants": [
        {
            "name": name,
            "url": f"{_CDN}/{name}.webp",
            "width": width,
            "height": height,
            "size_bytes": size_bytes,
            "content_type": "image/webp",
        }
        for name, width, height, size_bytes in (
            ("main", 2048, 1365, 181_020),
            ("w640", 640, 427, 30_412),
            ("w320", 320, 213, 9_874),
        )
    ],
}
_UNREADY_MEDIA = {
    **_STATUS,
    **_FACTS,
    "url": None,
    "width": None,
    "height": None,
    "placeholder": None,
    "variants": [],
}

# Without a checksum, so that whoever tries it by hand has the size alone to make their file's.
REQUEST_UPLOAD_EXAMPLE = {"content_type": "image/jpeg", "size_bytes": 348_052}
PRESIGNED_UPLOAD_EXAMPLE = {
    "upload_id": _MEDIA_ID,
    "upload_url": _UPLOAD_URL,
    "method": "PUT",
    "headers": {"Content-Type": "image/jpeg", "If-None-Match": "*"},
    "expires_at": "2026-04-01T12:15:00.123456Z",
    "curl": (
        "curl --fail-with-body --upload-file image.jpeg -H 'Content-Type: image/jpeg' "
        f"-H 'If-None-Match: *' '{_UPLOAD_URL}'"
    ),
}
COMPLETE_UPLOAD_EXAMPLE = {"upload_id": _MEDIA_ID}
PROCESSING_EXAMPLE = _STATUS
FINAL_EXAMPLES = {
    "ready": {"summary": "Done.", "value": _READY},
    "failed": {"summary": "Why not, and whether `retry` may help.", "value": _FAILED},
}
STATUS_EXAMPLES = {
    "processing": {"summary": "A worker has it.", "value": PROCESSING_EXAMPLE},
    **FINAL_EXAMPLES,
}
MEDIA_EXAMPLES = {
    "ready": {"summary": "With its URLs.", "value": _READY_MEDIA},
    "processing": {"summary": "No URLs yet.", "value": _UNREADY_MEDIA},
}
PAGE_EXAMPLE = {"items": [_READY_MEDIA], "next_cursor": _MEDIA_ID}


def headers(*names: str) -> dict[str, str]:
    """Return the description of a response's headers; every response has X-Request-ID."""
    return {name: name for name in ("X-Request-ID", *names)}


def describe(spec: APISpec) -> None:
    """Add the parts that operations refer to; those that none does are left out."""
    for name, header in _HEADERS.items():
        spec.components.header(name, header, lazy=True)
    # flask-smorest's, of pages by number; it is there even if nothing refers to it.
    spec.components.schemas.pop("PaginationMetadata", None)
    for failure in (value for value in vars(errors).values() if isinstance(value, Failure)):
        spec.components.example(
            failure.code, {"summary": failure.message, "value": _error_body(failure)}, lazy=True
        )


def fails(blueprint: Blueprint, *failures: Failure) -> Callable[[View], View]:
    """Document the failures of a view, beside those that any view has; one response per status."""

    def decorate(view: View) -> View:
        by_status: dict[int, list[Failure]] = {}
        for failure in (*_EVERYWHERE, *failures):
            by_status.setdefault(failure.http_status, []).append(failure)
        for status, alternatives in by_status.items():
            view = blueprint.alt_response(
                status,
                schema=schemas.ErrorSchema,
                description=_codes(alternatives),
                examples={failure.code: failure.code for failure in alternatives},
                headers=headers(*_error_headers(status)),
            )(view)
        return view

    return decorate


def _codes(failures: Iterable[Failure]) -> str:
    return "\n".join(f"- `{failure.code}`: {failure.message}" for failure in failures)


def _error_headers(http_status: int) -> list[str]:
    if http_status == HTTPStatus.UNAUTHORIZED:
        return ["WWW-Authenticate"]
    if http_status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return ["Retry-After"]
    return []


def _error_body(failure: Failure) -> dict[str, Any]:
    body: dict[str, Any] = {
        "code": failure.http_status,
        # Python's own phrases change from one version to the next.
        "status": HTTP_STATUS_CODES[failure.http_status],
        "message": failure.message,
        "error": failure.code,
        "request_id": _REQUEST_ID,
    }
    if failure.code in _DETAILS:
        body["errors"] = _DETAILS[failure.code]
    return body
