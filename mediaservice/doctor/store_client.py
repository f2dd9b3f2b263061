"""The client that tries a store: uploads and plain requests, with keys of no media.

Speaks to the store as clients do, over plain HTTP with presigned URLs or with none.
"""

import base64
import hashlib
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import uuid4

import urllib3

from mediaservice.doctor.probes import ProbeFailed, ProbeSkipped
from mediaservice.keys import public_prefix, raw_key
from mediaservice.storage import ObjectNotFound, PresignedUpload, Storage

CONTENT_TYPE = "image/png"
PUBLIC_TYPE = "image/webp"
_TTL_SECONDS = 120
_REFUSALS = (400, 401, 403, 409, 411, 412, 413, 422)


class StoreClient:
    """What probes of one store share, and the objects they leave; `clear` when done."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.clock_ahead_seconds: float | None = None  # of the store's clock, once it has answered
        self.has_uploaded = False
        self.body = b"media doctor " + secrets.token_bytes(19)
        self.public_key = f"{public_prefix(uuid4())}doctor.webp"
        self._raw_keys: list[str] = []
        self._http = urllib3.PoolManager(
            retries=False, timeout=urllib3.Timeout(connect=3, read=10), maxsize=1
        )

    def clear(self) -> None:
        """Delete every object of the probes. Raises StoreUnavailable."""
        self._http.clear()
        self.storage.delete_objects(self.storage.raw_bucket, self._raw_keys)
        self.storage.delete_objects(self.storage.public_bucket, [self.public_key])

    def new_key(self) -> str:
        """Return a raw key that nobody has used."""
        self._raw_keys.append(raw_key(uuid4()))
        return self._raw_keys[-1]

    def presign(
        self, key: str, *, with_checksum: bool = True, at: datetime | None = None
    ) -> PresignedUpload:
        """Return an upload URL for the body, good for minutes from `at`."""
        checksum = base64.b64encode(hashlib.sha256(self.body).digest()).decode()
        return self.storage.presign_upload(
            key,
            content_type=CONTENT_TYPE,
            size_bytes=len(self.body),
            checksum_sha256=checksum if with_checksum else None,
            ttl_seconds=_TTL_SECONDS,
            at=at,
        )

    def put(
        self,
        upload: PresignedUpload,
        body: bytes | None = None,
        *,
        changed: dict[str, str | None] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Upload; a header that is `changed` to None is left out."""
        headers = {**upload.headers, **(changed or {})}
        response = self._http.request(
            upload.method,
            upload.url,
            body=self.body if body is None else body,
            headers={name: value for name, value in headers.items() if value is not None},
        )
        with suppress(ValueError, TypeError):  # no date, or one without its zone
            date = parsedate_to_datetime(response.headers.get("Date", ""))
            self.clock_ahead_seconds = (date - datetime.now(UTC)).total_seconds()
        return response

    def upload(self) -> str:
        """Store the body and return its key. Raises ProbeSkipped where uploads do not work."""
        self.require_uploads()
        key = self.new_key()
        self.put(self.presign(key))
        return key

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Make a request without any credentials but the URL's own."""
        return self._http.request(method, url, body=body, headers=headers)

    def read_url(self, key: str) -> str:
        """Return a presigned GET of an original."""
        return self.storage.presign_read(self.storage.raw_bucket, key, ttl_seconds=_TTL_SECONDS)

    def write_public(self) -> None:
        """Store the body as a worker stores an image."""
        self.storage.write_public(self.public_key, self.body, content_type=PUBLIC_TYPE)

    @property
    def public_address(self) -> str:
        """Where `write_public` leaves the body."""
        return self.address(self.storage.public_bucket, self.public_key)

    def address(self, bucket: str, key: str) -> str:
        """Return an object's, or with an empty key the bucket's, address without any signature."""
        url = self.storage.presign_read(bucket, key or "any", ttl_seconds=1).partition("?")[0]
        return url if key else url.removesuffix("any")

    def refused(self, key: str, response: urllib3.BaseHTTPResponse) -> str:
        """Say how the store refused to store; raises ProbeFailed if it did not."""
        self.require_uploads()
        try:
            self.storage.inspect_upload(key, with_checksum=False)
        except ObjectNotFound:
            stored = False
        else:
            stored = True
        if stored or response.status < 300:
            outcome = "stored" if stored else "not stored"
            raise ProbeFailed(f"HTTP {response.status}, and the object was {outcome}")
        if response.status not in _REFUSALS:
            raise ProbeFailed(f"HTTP {response.status} is a fault, not a refusal")
        return f"refused with HTTP {response.status}"

    def require_uploads(self) -> None:
        """Raise ProbeSkipped unless uploads work: one that takes none would seem to refuse well."""
        if not self.has_uploaded:
            raise ProbeSkipped("uploads do not work at all")
