"""The public keys of an identity provider: fetched, cached, renewed when it rotates them.

Knows keys, not tokens or callers. Whatever tokens ask for, the provider is asked at most once in
RETRY_SECONDS, for a bounded time and a bounded response.
"""

import json
import threading
import time
import urllib.request
from typing import Any, Final
from urllib.error import HTTPError

import jwt
import structlog

from mediaservice.threads import start_in_thread

LIFESPAN_SECONDS: Final = 300.0
# While the provider cannot be reached its last known keys still count, for this long.
STALE_SECONDS: Final = 3600.0
RETRY_SECONDS: Final = 10.0
TIMEOUT_SECONDS: Final = 3.0
MAX_BYTES: Final = 256 * 1024
MIN_RSA_BITS: Final = 2048

log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The provider did not answer, so it is not known whether a key is one of its keys."""


class SigningKeys:
    """The provider's keys for one algorithm, by their `kid`. One of these serves all threads."""

    def __init__(self, url: str, algorithm: str) -> None:
        self._url = url
        self._algorithm = algorithm
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._failed = False
        self._opener = urllib.request.build_opener(_NoRedirects)
        # Firewalls in front of providers refuse the name that urllib gives itself.
        self._opener.addheaders = [("User-Agent", "media-service")]

    def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key, or None if the provider has none of that name; may raise KeysUnavailable.

        An unknown name makes the provider be asked again, for it may have rotated its keys.
        """
        with self._lock:
            key = self._keys.get(kid)
            age_seconds = time.monotonic() - self._fetched_at
            if key is not None and age_seconds < LIFESPAN_SECONDS:
                return key
            if time.monotonic() - self._tried_at >= RETRY_SECONDS:
                self._renew()
                key = self._keys.get(kid)
            if not self._failed:
                return key
            if key is not None and age_seconds < STALE_SECONDS:
                return key
            raise KeysUnavailable

    def _renew(self) -> None:
        try:
            self._keys = self._usable(json.loads(self._fetch_in_time()))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the provider's fault
            self._failed = True
            log.error("jwks_unavailable", url=self._url, reason=f"{type(error).__name__}: {error}")
        else:
            self._failed = False
            self._fetched_at = time.monotonic()
        finally:
            self._tried_at = time.monotonic()

    def _usable(self, key_set: Any) -> dict[str, jwt.PyJWK]:
        keys = {
            key.key_id: key
            for key in jwt.PyJWKSet.from_dict(key_set).keys
            if isinstance(key.key_id, str)
            and key.public_key_use in ("sig", None)
            and key.algorithm_name == self._algorithm
            and (self._algorithm != "RS256" or key.key.key_size >= MIN_RSA_BITS)
        }
        if not keys:
            raise ValueError(f"no key that is fit for {self._algorithm}")
        return keys

    def _fetch_in_time(self) -> bytes:
        """Return the response, or leave the provider to a thread of its own.

        A resolver that hangs, an address after the other, header lines that trickle: no time-out of
        a socket bounds them.
        """
        try:
            return start_in_thread(self._fetch).result(TIMEOUT_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"no response within {TIMEOUT_SECONDS:g} s") from None

    def _fetch(self) -> bytes:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        body = b""
        try:
            opened = self._opener.open(self._url, timeout=TIMEOUT_SECONDS)
        except HTTPError as error:
            error.close()
            raise
        with opened as response:
            while piece := response.read1(MAX_BYTES):
                body += piece
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError("the response takes too long")
        return body


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The keys come from the configured address or not at all."""

    def redirect_request(self, *_: Any) -> None:
        """Make the redirect an error."""
