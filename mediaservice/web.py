"""What HTTP responses have in common: a request id, one error shape, safe headers, one log line.

Also where views and commands find what the application is made of. Nothing about media.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec
import structlog
import uuid_utils
from flask import Flask, Response, current_app, g, request
from flask_smorest import Api, abort
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from werkzeug.exceptions import HTTPException

from config.settings import Settings
from mediaservice import metrics, schemas
from mediaservice.auth import Authenticate
from mediaservice.broker import Broker
from mediaservice.errors import (
    DATABASE_UNAVAILABLE,
    INTERNAL_SERVER_ERROR,
    MediaError,
    http_failure,
)
from mediaservice.lifecycle import Lifecycle
from mediaservice.parsing import MAX_BODY_BYTES
from mediaservice.storage import Storage

_DATABASE_RETRY_AFTER_SECONDS = 2
_REQUEST_ID = re.compile("[A-Za-z0-9._:/=+-]{1,128}")
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Components:
    """What an application is made of, kept as `app.extensions["media"]`."""

    settings: Settings
    storage: Storage
    lifecycle: Lifecycle
    authenticate: Authenticate
    create_broker: Callable[[], Broker]


def components() -> Components:
    """Return the parts of the current application."""
    found: Components = current_app.extensions["media"]
    return found


def respond(body: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    """Return a JSON response; what its shape is, the view's documented schema says."""
    return Response(_encoder.encode(body), status, headers, content_type="application/json")


class MediaFlask(Flask):
    """Flask for views that are plain functions, with safe headers on every response."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is; Flask would look each time whether it is a coroutine's."""
        return func

    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        """Answer a request, adding those safe headers that the response does not set itself."""

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            own = {name for name, _ in headers}
            safe = [header for header in _SECURITY_HEADERS.items() if header[0] not in own]
            return start_response(status, headers + safe, *error)

        return super().wsgi_app(environ, start)


class MediaApi(Api):
    """flask-smorest's Api with a stable `error` code and the request id in every error body."""

    ERROR_SCHEMA = schemas.ErrorSchema
    # Every status is described where it can happen.
    DEFAULT_ERROR_RESPONSE_NAME = None

    def handle_http_exception(self, error: HTTPException) -> Any:
        """Answer an error of Flask, werkzeug or webargs in our shape."""
        payload, status, headers = super().handle_http_exception(error)
        failure = http_failure(status)
        g.error = failure.code
        body = {
            "error": g.error,
            "request_id": g.get("request_id"),
            "message": failure.message,
            **payload,
        }
        # Such as Allow, without which a 405 is not one.
        own = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return body, status, {**own, **(headers or {})}


def set_up_web(app: Flask) -> None:
    """Register the hooks and error handlers that every request passes."""
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(MediaError, _handle_media_error)
    # Other faults of the database are faults of ours: nothing is gained by trying again.
    # The last is the server's own, as when it takes no writes.
    for fault in (OperationalError, InterfaceError, InternalError):
        app.register_error_handler(fault, _handle_database_error)
    app.register_error_handler(Exception, _handle_unexpected_error)
    # One byte more, so that a longer body can be told from one that just fits.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    # Its redirect would repeat whatever host the request names.
    app.url_map.merge_slashes = False


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid_utils.uuid4())
    g.request_id = request_id
    g.started_at = time.perf_counter()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    # Werkzeug would only find out when the query is read, and take it for a fault of ours.
    if not request.query_string.isascii():
        abort(400, message="The query must be percent-encoded.")


def _finish(response: Response) -> Response:
    known = vars(g)
    response.headers["X-Request-ID"] = known["request_id"]
    duration_seconds = time.perf_counter() - known["started_at"]
    method, rule, status = request.method, request.url_rule, response.status_code
    route = rule.rule if rule else None
    # What matches no route may have any method, and labels must stay few.
    metrics.HTTP_REQUESTS.labels(
        method if route else "other", route or "unmatched", status
    ).observe(duration_seconds)
    error = known.get("error")
    if error is not None:
        metrics.HTTP_ERRORS.labels(error).inc()
    facts = {
        "method": method,
        "route": route,
        "status": status,
        "duration_seconds": round(duration_seconds, 6),
        "caller": _text(known.get("caller")),
        "media_id": _text(known.get("media_id") or (request.view_args or {}).get("media_id")),
        "error": error,
    }
    log.info("request", **{name: fact for name, fact in facts.items() if fact is not None})
    return response


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _handle_media_error(error: MediaError) -> tuple[dict[str, Any], int, dict[str, str]]:
    failure = error.failure
    if failure.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error(failure.code, reason=str(error))
    return _error_response(error)


def _handle_database_error(error: DBAPIError) -> tuple[dict[str, Any], int, dict[str, str]]:
    log.error(DATABASE_UNAVAILABLE.code, reason=str(error.orig))
    return _error_response(
        MediaError(DATABASE_UNAVAILABLE, retry_after_seconds=_DATABASE_RETRY_AFTER_SECONDS)
    )


def _handle_unexpected_error(error: Exception) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Log what nobody foresaw, once and with its traceback; tell the client nothing of it."""
    log.error(INTERNAL_SERVER_ERROR.code, exc_info=error)
    return _error_response(MediaError(INTERNAL_SERVER_ERROR))


def _error_response(error: MediaError) -> tuple[dict[str, Any], int, dict[str, str]]:
    failure = error.failure
    g.error = failure.code
    body: dict[str, Any] = {
        "code": failure.http_status,
        "status": HTTPStatus(failure.http_status).phrase,
        "message": failure.message,
        "error": failure.code,
        "request_id": g.request_id,
    }
    if error.details:
        body["errors"] = error.details
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if failure.http_status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return body, failure.http_status, headers
