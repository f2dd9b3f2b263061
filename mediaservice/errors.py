"""Every failure a client can meet, once: its stable code, HTTP status, whether to retry, its words.

A failure that has no entry here does not exist; only why a request is malformed is told in words of
the parser's. Codes a worker reports (`image_too_large`, ...) are data of a media, listed at the end
with their sentences.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """`code` is stable, for programs; `message` tells a person what happened and what to do."""

    code: str
    http_status: int
    retryable: bool
    message: str


class MediaError(Exception):
    """A request that cannot be served, as `failure` describes it.

    `details` are facts for the client's error body (limits, the values found), never secrets.
    `retry_after_seconds` becomes the `Retry-After` header.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        retry_after_seconds: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(failure.code)
        self.failure = failure
        self.retry_after_seconds = retry_after_seconds
        self.details = details or {}


UNAUTHENTICATED = Failure(
    "unauthenticated", 401, False, "Say who you are: the request has no valid credentials."
)
OWNER_MISMATCH = Failure(
    "owner_mismatch", 403, False, "owner_id must be the caller: nobody uploads for somebody else."
)
NOT_OWNER = Failure("not_owner", 403, False, "Only the owner may do this.")
MEDIA_NOT_FOUND = Failure("media_not_found", 404, False, "There is no such media.")
UPLOAD_NOT_FOUND = Failure(
    "upload_not_found",
    409,
    True,
    "The store has no object for this upload yet: PUT the bytes to upload_url, then call again.",
)
IDEMPOTENCY_KEY_REUSED = Failure(
    "idempotency_key_reused",
    409,
    False,
    "This Idempotency-Key was used for another request or a finished upload: use a new key.",
)
RETRY_NOT_POSSIBLE = Failure(
    "retry_not_possible", 409, False, "Only a media whose processing failed can be retried."
)
REPROCESSING_NOT_POSSIBLE = Failure(
    "reprocessing_not_possible", 409, False, "Only a media that is ready can be processed again."
)
UPLOAD_EXPIRED = Failure(
    "upload_expired", 410, False, "The upload URL expired before the upload was completed."
)
UPLOAD_TOO_LARGE = Failure(
    "upload_too_large", 413, False, "The declared size_bytes is over this service's limit."
)
CONTENT_TYPE_NOT_ALLOWED = Failure(
    "content_type_not_allowed", 415, False, "This content_type is not accepted here."
)
SIZE_MISMATCH = Failure(
    "size_mismatch", 422, False, "The stored object does not have the declared size_bytes."
)
CONTENT_MISMATCH = Failure(
    "content_mismatch", 422, False, "The stored bytes are not of the declared content_type."
)
CHECKSUM_MISMATCH = Failure(
    "checksum_mismatch", 422, False, "The stored bytes do not have the declared checksum_sha256."
)
TOO_MANY_PENDING = Failure(
    "too_many_pending", 429, True, "Too many unfinished uploads: complete or delete some first."
)
STORE_UNAVAILABLE = Failure(
    "store_unavailable", 503, True, "The object store did not answer: nothing changed, try again."
)
AUTHENTICATION_UNAVAILABLE = Failure(
    "authentication_unavailable",
    503,
    True,
    "The identity provider did not answer, so callers cannot be checked: try again.",
)
DATABASE_UNAVAILABLE = Failure(
    "database_unavailable", 503, True, "The database did not answer: try again."
)

# Those that are HTTP's own, whatever is asked for.
BAD_REQUEST = Failure(
    "bad_request", 400, False, "The request is malformed, or its body is not valid JSON."
)
NOT_FOUND = Failure("not_found", 404, False, "There is nothing at this address.")
METHOD_NOT_ALLOWED = Failure(
    "method_not_allowed",
    405,
    False,
    "This address has no such method: the header Allow names those it has.",
)
REQUEST_TOO_LARGE = Failure(
    "request_too_large", 413, False, "The body is longer than any request here has to be."
)
UNSUPPORTED_MEDIA_TYPE = Failure(
    "unsupported_media_type", 415, False, "The body must be sent as application/json."
)
INVALID_REQUEST = Failure(
    "invalid_request", 422, False, "Fields are missing or wrong: errors says what, by field."
)
INTERNAL_SERVER_ERROR = Failure(
    "internal_server_error",
    500,
    False,
    "Internal error: give the request_id to whoever runs this service.",
)
HTTP_FAILURES = {
    failure.http_status: failure
    for failure in (
        BAD_REQUEST,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        REQUEST_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INVALID_REQUEST,
        INTERNAL_SERVER_ERROR,
    )
}

# What a media's `error_code` may hold after an upload that was never accepted.
UPLOAD_FAILURES = {
    failure.code: failure
    for failure in (UPLOAD_EXPIRED, SIZE_MISMATCH, CONTENT_MISMATCH, CHECKSUM_MISMATCH)
}

PROCESSING_FAILED = "processing_failed"
PROCESSING_TIMEOUT = "processing_timeout"

# Sentences for the codes the reference worker reports; any other worker may bring its own codes.
PROCESSING_MESSAGES: dict[str, str] = {
    PROCESSING_FAILED: "The image could not be processed.",
    PROCESSING_TIMEOUT: "No worker sent a result in time, in any of the allowed attempts.",
    "unsupported_format": "The bytes are not an image of an accepted format.",
    "corrupt_image": "The image is damaged and cannot be decoded.",
    "image_too_large": "The image has more bytes, pixels or frames than allowed, or a longer side.",
    "decoder_crashed": "The image made the decoder crash.",
    "decoder_timeout": "The image took too long to decode.",
    "decoder_out_of_memory": "The image needs more memory to decode than is allowed.",
    "decoder_unavailable": "The worker could not start its decoder.",
    "original_missing": "The original is no longer in the store.",
    "original_changed": "The original in the store is not the one that was accepted.",
    "store_unavailable": "The worker could not reach the object store.",
    "internal_error": "The worker met an unexpected fault.",
}

# The same bytes will meet these again.
_FINAL = {
    "unsupported_format",
    "corrupt_image",
    "image_too_large",
    "original_missing",
    "original_changed",
}


def is_worth_retrying(error_code: str, *, is_pinned: bool) -> bool:
    """Return whether a media that failed with this code may still succeed with the same bytes."""
    return is_pinned and error_code not in _FINAL


def describe_error_code(error_code: str, *, is_pinned: bool) -> str:
    """Return the sentence for a media's `error_code`, whoever reported it.

    Workers may give their codes the names of ours: a pinned media's is a worker's.
    """
    if not is_pinned:
        return UPLOAD_FAILURES[error_code].message
    return PROCESSING_MESSAGES.get(error_code, PROCESSING_MESSAGES[PROCESSING_FAILED])


def http_failure(http_status: int) -> Failure:
    """Return the failure that is HTTP's own with this status."""
    if http_status in HTTP_FAILURES:
        return HTTP_FAILURES[http_status]
    words = HTTPStatus(http_status).description
    return Failure(f"http_{http_status}", http_status, http_status >= 500, words)
