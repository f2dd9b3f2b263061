"""Presigned URLs by AWS Signature Version 4, in a few microseconds each.

Every upload begins with one: boto3's `generate_presigned_url` takes about 40 times as long, its
bare signer 15 times. Here the day's signing key is derived once. The output equals botocore's to
the byte. No network, no boto3: credentials come in from `s3`.

Source: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)", Amazon S3 API
Reference.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from time import gmtime, strftime, time
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_BLOCK_BYTES = 64  # of SHA-256; this and the two pads below are HMAC's (RFC 2104)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Credentials(NamedTuple):
    """Keys, by the names that botocore's have; `token` only with temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None


class _Day(NamedTuple):
    """What stays the same for a day, or until the keys rotate."""

    date: str
    keys: tuple[str, str]
    scope: str
    credential: str
    # The two hashes of an HMAC, fed with the signing key: copying them takes half of hmac's time.
    inner: "hashlib._Hash"
    outer: "hashlib._Hash"


class UrlSigner:
    """Presigns requests for one store.

    `find_credentials` is asked at every signature, so that rotating keys are always the current
    ones. `addressing_style` is `path` or `virtual`.
    """

    def __init__(
        self,
        find_credentials: Callable[[], Credentials],
        *,
        endpoint: str,
        region: str,
        addressing_style: str,
    ) -> None:
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
        if ":" in host:  # of IPv6
            host = f"[{host}]"
        if parts.port and parts.port != _DEFAULT_PORTS[parts.scheme]:
            host = f"{host}:{parts.port}"
        self._find_credentials = find_credentials
        self._scheme = parts.scheme
        self._host = host
        self._path = parts.path
        self._region = region
        self._is_virtual = addressing_style == "virtual"
        self._day: _Day | None = None

    def presign(
        self,
        method: str,
        bucket: str,
        key: str,
        headers: dict[str, str],
        *,
        ttl_seconds: int,
        at: datetime | None = None,
        query: Mapping[str, str] | None = None,
    ) -> str:
        """Return a URL for a request with exactly these headers, good for `ttl_seconds` from `at`.

        Header names are lower-case letters, digits and hyphens, in any order; `host` is added. `at`
        is aware, by default now. Without a key it is about the bucket. Names in `query` are
        lower-case, too.
        """
        credentials = self._find_credentials()
        stamp = _timestamp(int(time() if at is None else at.timestamp()))
        day, keys = self._day, (credentials.access_key, credentials.secret_key)
        if day is None or day.keys != keys or day.date != stamp[:8]:
            day = self._day = self._begin_day(keys, stamp[:8])
        if self._is_virtual:
            host, path = f"{bucket}.{self._host}", self._path
        else:
            host, path = self._host, f"{self._path}/{bucket}"
        if key or self._is_virtual:
            path = f"{path}/{quote(key)}"
        names, lines, listed = _signed_headers(tuple(headers))
        values = [" ".join(headers.get(name, host).split()) for name in names]
        start = f"{day.credential}&X-Amz-Date={stamp}&X-Amz-Expires={ttl_seconds}"
        token = ""
        if credentials.token:
            token = f"&X-Amz-Security-Token={quote(credentials.token, safe='')}"
        before = after = ""
        if query:
            given = "&".join([f"{n}={quote(query[n], safe='')}" for n in sorted(query)])
            before, after = f"{given}&", f"&{given}"
        # Canonical order is alphabetical: the token before the signed headers, what is given last.
        canonical = f"{method}\n{path}\n{start}{token}{listed}{after}\n{lines % tuple(values)}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        inner, outer = day.inner.copy(), day.outer.copy()
        inner.update(f"{_ALGORITHM}\n{stamp}\n{day.scope}\n{digest}".encode())
        outer.update(inner.digest())
        return (
            f"{self._scheme}://{host}{path}?{before}{start}{listed}{token}"
            f"&X-Amz-Signature={outer.hexdigest()}"
        )

    def _begin_day(self, keys: tuple[str, str], date: str) -> _Day:
        access_key, secret_key = keys
        scope = f"{date}/{self._region}/s3/aws4_request"
        credential = quote(f"{access_key}/{scope}", safe="")
        signing_key = f"AWS4{secret_key}".encode()
        for part in scope.split("/"):
            signing_key = hmac.digest(signing_key, part.encode(), "sha256")
        block = signing_key.ljust(_BLOCK_BYTES, b"\0")
        return _Day(
            date,
            keys,
            scope,
            f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={credential}",
            hashlib.sha256(bytes(byte ^ 0x36 for byte in block)),
            hashlib.sha256(bytes(byte ^ 0x5C for byte in block)),
        )


@lru_cache(maxsize=1)
def _timestamp(seconds: int) -> str:
    return strftime("%Y%m%dT%H%M%SZ", gmtime(seconds))


@lru_cache
def _signed_headers(given: tuple[str, ...]) -> tuple[list[str], str, str]:
    """Return what follows from the headers' names alone.

    The names in order, the canonical request from the headers on with `%s` for each value, and the
    names as a part of the query.
    """
    names = sorted(["host", *given])
    joined = ";".join(names)
    lines = "".join(f"{name}:%s\n" for name in names)
    end = f"\n{joined}\nUNSIGNED-PAYLOAD"
    return names, lines + end, f"&X-Amz-SignedHeaders={joined.replace(';', '%3B')}"
