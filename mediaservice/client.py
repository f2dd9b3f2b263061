"""A client of the HTTP API: uploads an image as a browser or a BFF does, and waits for it.

Knows what docs/openapi.json tells and how images begin, nothing else of this service's insides.
Every call is safe to repeat, so each is, while its failure is one that may pass.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

import urllib3
from urllib3.exceptions import HTTPError

from config.settings import IMAGE_CONTENT_TYPES
from mediaservice.sniffing import SNIFF_BYTES, sniff

_TRANSIENT: Final = (429, 502, 503, 504)
_TRANSIENT_AT_STORE: Final = (*_TRANSIENT, 500, 409)  # 409: it is busy with an earlier try
_FINAL: Final = ("ready", "failed")
_CHUNK_BYTES: Final = 64 * 1024
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=60)
# urllib3 gives each piece of a body as long as a connection, and lines may stand still for a while.
_PUT_TIMEOUT: Final = urllib3.Timeout(connect=30, read=60)


class UploadFailed(Exception):
    """An image could not be uploaded or processed; `code` is the service's, or None."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is uploading: a bearer token, a user's UUID, or both, as the service wants it."""

    token: str | None = None
    user_id: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The request headers that say so."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {**headers, "X-User-ID": self.user_id} if self.user_id else headers


class ServiceClient:
    """One caller of a running service at `url`, e.g. `https://media.example.com`."""

    def __init__(self, url: str, caller: Caller, *, timeout_seconds: float = 300) -> None:
        self._url = url.rstrip("/")
        self._headers = caller.headers
        self._timeout_seconds = timeout_seconds
        self._http = urllib3.PoolManager()
        self._retries = urllib3.Retry(
            total=5,
            connect=2,
            redirect=False,
            allowed_methods=None,
            status_forcelist=_TRANSIENT,
            backoff_factor=0.5,
            retry_after_max=60,
            raise_on_status=False,
        )

    def upload(
        self, path: Path, *, on_bytes: Callable[[int], object] = lambda _count: None
    ) -> dict[str, Any]:
        """Upload a file and return its media once it is ready, as `GET /api/media/{id}` has it.

        `on_bytes` hears how many bytes have been handed over since it was last called. Raises
        UploadFailed, with the media's id in its words once there is one.
        """
        presigned = self._call("POST", "request-upload", _declaration(path), key=str(uuid4()))
        media_id = presigned["upload_id"]
        try:
            self._put(presigned, path, on_bytes)
            status = self._call("POST", "complete", {"upload_id": media_id})
            self._wait(media_id, status)
            return self._call("GET", media_id)
        except UploadFailed as error:
            raise UploadFailed(f"{error} (media {media_id})", error.code) from None

    def _put(
        self, presigned: dict[str, Any], path: Path, on_bytes: Callable[[int], object]
    ) -> None:
        try:
            with path.open("rb") as file:
                response = self._request(
                    presigned["method"],
                    presigned["upload_url"],
                    body=_Watched(file, on_bytes),
                    headers={**presigned["headers"], "Content-Length": str(path.stat().st_size)},
                )
        except OSError as error:
            raise UploadFailed(f"cannot be read any more: {error.strerror}") from None
        # 412: the object is there already, from a first try whose response was lost.
        if response.status not in (200, 412):
            raise UploadFailed(f"the store refused the bytes with HTTP {response.status}")

    def _wait(self, media_id: str, status: dict[str, Any]) -> None:
        """Return when the media is ready."""
        give_up_at = time.monotonic() + self._timeout_seconds
        wait_seconds = 1.0
        while status["status"] not in _FINAL:
            if time.monotonic() + wait_seconds > give_up_at:
                raise UploadFailed(
                    f"still {status['status']} after {self._timeout_seconds:g} seconds: it may "
                    "become ready later"
                )
            time.sleep(wait_seconds)
            response = self._request("GET", self._address(f"{media_id}/status"))
            status = _body(response)
            wait_seconds = self._retries.get_retry_after(response) or wait_seconds
        if status["status"] == "failed":
            raise UploadFailed(status["error"]["message"], status["error"]["code"])

    def _call(
        self, method: str, name: str, body: dict[str, Any] | None = None, *, key: str | None = None
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if key is not None:
            headers["Idempotency-Key"] = key
        encoded = None if body is None else json.dumps(body).encode()
        return _body(self._request(method, self._address(name), body=encoded, headers=headers))

    def _address(self, name: str) -> str:
        return f"{self._url}/api/media/{name}"

    def _request(
        self, method: str, url: str, *, body: Any = None, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        if url.startswith(f"{self._url}/api/"):
            own, retries, timeout = self._headers, self._retries, _TIMEOUT
        else:  # the store, which has no business with the caller's credentials
            own, timeout = {}, _PUT_TIMEOUT
            retries = self._retries.new(status_forcelist=_TRANSIENT_AT_STORE)
        try:
            return self._http.request(
                method,
                url,
                body=body,
                headers={**own, **(headers or {})},
                retries=retries,
                timeout=timeout,
            )
        except HTTPError as error:
            host = urllib3.util.parse_url(url).netloc
            reason = getattr(error, "reason", None) or error
            raise UploadFailed(f"{host} does not answer: {reason}") from None


class _Watched:
    """A file that tells how much of it has been read; can be rewound for another try."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], object]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        """Read at most a small part at a time, so that there is progress to tell."""
        chunk = self._file.read(min(size, _CHUNK_BYTES) if size > 0 else _CHUNK_BYTES)
        self._on_bytes(len(chunk))
        return chunk

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position; what is read again then does not count twice."""
        before = self._file.tell()
        after = self._file.seek(position, whence)
        self._on_bytes(after - before)
        return after


def _declaration(path: Path) -> dict[str, Any]:
    """Return what has to be declared of a file: type by its content, size, checksum."""
    try:
        with path.open("rb") as file:
            content_type = sniff(file.read(SNIFF_BYTES))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
        size_bytes = path.stat().st_size
    except OSError as error:
        raise UploadFailed(f"cannot be read: {error.strerror}") from None
    if content_type is None:
        known = ", ".join(name.removeprefix("image/") for name in IMAGE_CONTENT_TYPES)
        raise UploadFailed(f"is not an image of a known format: {known}")
    return {
        "content_type": content_type,
        "size_bytes": size_bytes,
        "checksum_sha256": base64.b64encode(digest).decode(),
    }


def _body(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    """Return the JSON of a response; raises UploadFailed with the service's words for an error."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UploadFailed(f"HTTP {response.status} without JSON: is that the media service?")
    if response.status >= 400:
        message = str(body.get("message") or f"HTTP {response.status}")
        if response.status >= 500 and "request_id" in body:
            message += f" (request_id {body['request_id']})"
        raise UploadFailed(message, body.get("error"))
    return body
