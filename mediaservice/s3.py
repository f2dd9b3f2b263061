"""One call to the store: signed by ourselves, sent by urllib3, every fault by a name of ours.

A boto3 client takes more than twice the processor time, and 16 MB. This is the only module that
imports boto3 or botocore, and only to set buckets up, or to find keys that no setting gives.
No fault leaves here with the URL of its request: whoever has that may do the same. What objects
mean is none of its business.
"""

import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import urllib3
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as TimedOut

from config.settings import BaseSettings, ConfigurationError
from mediaservice import metrics
from mediaservice.errors import STORE_UNAVAILABLE, MediaError
from mediaservice.signing import Credentials, UrlSigner
from mediaservice.tracing import store_span

_RETRY_AFTER_SECONDS = 5
_ATTEMPTS = 2  # but one that hangs is not repeated: whoever waited for it decides
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 7.0
_TRANSIENT = (429, 500, 502, 503, 504)
# Two attempts take seconds; the rest is for clocks that differ.
_TTL_SECONDS = 300
# Kept open for each host. No process has more threads that call; were there more, each would open
# a connection instead of waiting for one.
_CONNECTIONS = 4
_NO_KEYS = (
    "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY are not set, and AWS's usual places (environment, "
    "profile, web identity, role of the machine) have no keys either"
)
# A 404 by any other name is of something before the store: believed, it would end uploads and jobs
# for good, and leave bytes that count as purged.
_MISSING = ("NoSuchKey", "NoSuchBucketPolicy", "NoSuchCORSConfiguration")
_ERROR_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")
_QUERY = re.compile(r"\?\S*")


class StoreUnavailable(MediaError):
    """The store could not be reached or answered with a fault of its own; nothing is known.

    `is_refusal`: it answers, and does not do this, for want of a permission, by a lock or a policy,
    or never (501); the other answers are transient.
    """

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(STORE_UNAVAILABLE, retry_after_seconds=_RETRY_AFTER_SECONDS)
        self.reason = reason
        self.is_refusal = is_refusal

    def __str__(self) -> str:
        return self.reason


class ObjectNotFound(Exception):
    """There is no object under this key."""


class ObjectChanged(Exception):
    """The object under this key is not the one with the expected ETag."""


class EmptyObject(Exception):
    """A ranged GET of an object without bytes (416)."""


class S3Client:
    """Calls to one store, from any threads. Every method raises StoreUnavailable.

    `with_circuit_breaker` is for web, whose few processes would all wait for a store that hangs:
    after a time-out no call is made for as long as callers are told to wait.
    """

    def __init__(self, settings: BaseSettings, *, with_circuit_breaker: bool = False) -> None:
        self._settings = settings
        self._open_seconds = _RETRY_AFTER_SECONDS if with_circuit_breaker else 0
        self._open_until = 0.0
        self._find_credentials = _find_credentials(settings)
        self._signer = self.create_signer(settings.s3_endpoint)
        self._http = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            retries=_Retry(
                _ATTEMPTS - 1,
                redirect=False,
                status_forcelist=_TRANSIENT,
                raise_on_status=False,
                # The caller is told when to come back; we do not sleep as long as a store asks.
                respect_retry_after_header=False,
            ),
            # urllib3 would read the authorities' certificates anew for each connection.
            ssl_context=(
                ssl.create_default_context() if settings.s3_endpoint.startswith("https:") else None
            ),
        )

    def create_signer(self, endpoint: str) -> UrlSigner:
        """Return a signer with our keys for the store as it is called elsewhere."""
        return UrlSigner(
            self._find_credentials,
            endpoint=endpoint,
            region=self._settings.s3_region,
            addressing_style=self._settings.s3_addressing_style,
        )

    def request(
        self,
        operation: str,
        method: str,
        bucket: str,
        key: str = "",
        *,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Return the response to one call, its body read whole, or raise what went wrong.

        Every header is signed: AWS insists on it for those that begin with `x-amz-`.
        """
        headers = headers or {}
        with _observed(operation, bucket):
            if time.monotonic() < self._open_until:
                raise StoreUnavailable(f"{operation}: not tried, the store hung just now")
            url = self._signer.presign(
                method, bucket, key, headers, ttl_seconds=_TTL_SECONDS, query=query
            )
            path_starts = url.index("/", len("https://"))
            origin, path = url[:path_starts], url[path_starts:]
            try:
                # Not by the manager's own request, which resolves the dots in a key.
                response = self._http.connection_from_url(origin).urlopen(
                    method,
                    path,
                    body=body,
                    headers=headers,
                    redirect=False,
                    # An uploader may have called anything gzip.
                    decode_content=False,
                )
            except HTTPError as error:
                if _has_hung(error):
                    self._open_until = time.monotonic() + self._open_seconds
                raise StoreUnavailable(f"{operation} at {origin}: {_reason(error)}") from None
            if response.status >= 300:
                code = _ERROR_CODE.search(response.data)
                raise _translated(
                    operation, response.status, code[1].decode() if code else "", key or bucket
                )
            return response

    def administer(self, operation: str, **params: Any) -> Any:
        """Return what boto3 makes of a rare operation on a bucket."""
        from botocore.exceptions import BotoCoreError, ClientError

        bucket = params["Bucket"]
        with _observed(operation, bucket):
            try:
                return getattr(self._boto3_client, operation)(**params)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                raise _translated(
                    operation, status, error.response["Error"].get("Code", ""), bucket
                ) from None
            except (BotoCoreError, OSError) as error:
                raise StoreUnavailable(_reason(error)) from None

    @cached_property
    def _boto3_client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = self._settings
        return boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key_id or None,
            aws_secret_access_key=settings.s3_secret_access_key or None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": settings.s3_addressing_style},
                # Many S3-compatible stores do not know the checksums botocore adds since 1.36.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                proxies={},  # none, whatever the environment says; as in other calls
            ),
        )


class _Retry(urllib3.Retry):
    """Another attempt after a quick failure, none after a time-out."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *where: Any,
        **named: Any,
    ) -> Self:
        if error is not None and _has_hung(error):
            raise error
        return super().increment(method, url, response, error, *where, **named)


def _has_hung(error: Exception) -> bool:
    """Return whether a call waited in vain; a host that refuses one says so at once."""
    if isinstance(error, ProtocolError):  # the store stopped reading a body
        return isinstance(error.args[-1], TimeoutError)
    if isinstance(error, NameResolutionError):  # a resolver may take as long as it likes
        return True
    return isinstance(error, TimedOut) and not isinstance(error, NewConnectionError)


_OUTCOMES: dict[type[Exception], str] = {
    ObjectNotFound: "missing",
    ObjectChanged: "changed",
    EmptyObject: "ok",
}


@contextmanager
def _observed(operation: str, bucket: str) -> Iterator[None]:
    """Count, time and trace one call."""
    started_at = time.perf_counter()
    outcome = "ok"
    try:
        with store_span(operation, bucket):
            yield
    except Exception as error:
        outcome = _OUTCOMES.get(type(error), "unavailable")
        raise
    finally:
        metrics.STORE_REQUESTS.labels(operation, outcome).observe(time.perf_counter() - started_at)


def _translated(operation: str, status: int, code: str, name: str) -> Exception:
    # The response to a HEAD has no body to name a code in.
    if status == 404 and (code in _MISSING or operation.startswith("head_")):
        return ObjectNotFound(name)
    if status == 412:
        return ObjectChanged(name)
    if status == 416:
        return EmptyObject(name)
    return StoreUnavailable(
        f"{operation}: HTTP {status} {code}".rstrip(),
        is_refusal=status == 501 or (400 <= status < 500 and status not in (408, 409, 429)),
    )


def _reason(error: Exception) -> str:
    """Return what went wrong, without the query that urllib3 quotes: it has the signature."""
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {_QUERY.sub('', str(reason))}"


def _find_credentials(settings: BaseSettings) -> Callable[[], Credentials]:
    """Return a function that returns today's keys; raises ConfigurationError without any."""
    if settings.s3_access_key_id:
        keys = Credentials(settings.s3_access_key_id, settings.s3_secret_access_key)
        return lambda: keys
    import boto3

    try:
        found = boto3.Session().get_credentials()
    except Exception as error:  # noqa: BLE001 - each provider has its own
        raise ConfigurationError([f"{_NO_KEYS}: {_reason(error)}"]) from None
    if found is None:
        raise ConfigurationError([f"{_NO_KEYS}."])

    def current() -> Credentials:
        try:
            keys = found.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - as above
            raise StoreUnavailable(f"no keys for the store: {_reason(error)}") from None
        return Credentials(keys.access_key, keys.secret_key, keys.token)

    return current
