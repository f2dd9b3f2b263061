"""Who is calling: a JWT, a gateway's word, or (in development, on loopback) an unverified claim.

Knows nothing of media: it turns a request into the caller's UUID or into UNAUTHENTICATED, which
tells a stranger nothing; the reason is for the log.
"""

import hmac
import ipaddress
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import jwt
import structlog
from flask import Request

from config.settings import LOOPBACK_HOSTS, Settings
from mediaservice.errors import AUTHENTICATION_UNAVAILABLE, UNAUTHENTICATED, MediaError
from mediaservice.jwks import RETRY_SECONDS, KeysUnavailable, SigningKeys
from mediaservice.parsing import UUID_TEXT
from mediaservice.states import NOBODY

MAX_TOKEN_LENGTH = 8192
REMEMBERED_TOKENS = 1000  # verified ones, by each process: some hundred bytes each, 8 MB at most

Authenticate = Callable[[Request], UUID]
"""Return the caller of a request, or raise UNAUTHENTICATED or AUTHENTICATION_UNAVAILABLE."""

log = structlog.get_logger(__name__)


def create_authenticator(settings: Settings) -> Authenticate:
    """Return the way to authenticate that AUTH_MODE asks for."""
    if settings.auth_mode == "gateway":
        return _gateway(settings.gateway_token)
    if settings.auth_mode == "development":
        return _development
    return _jwt(settings)


def document_security(settings: Settings) -> dict[str, Any]:
    """Return what the OpenAPI document says of who may call: the schemes, all of them needed."""
    bearer = {"type": "http", "scheme": "bearer"}
    jwt_ = {"bearerFormat": "JWT", "description": "The user's token; its `sub` is their UUID."}
    user = {
        "type": "apiKey",
        "in": "header",
        "name": "X-User-ID",
        "description": "The UUID of the user who is acting.",
    }
    schemes = {
        "jwt": {"bearer": {**bearer, **jwt_}},
        "gateway": {"bearer": {**bearer, "description": "The gateway token."}, "user": user},
        "development": {"user": user},
    }[settings.auth_mode]
    return {
        "components": {"securitySchemes": schemes},
        "security": [{name: [] for name in schemes}],
    }


def may_read_metrics(request: Request, settings: Settings) -> bool:
    """Return whether a request may see /metrics: by its token; in development, from here too.

    In production an address proves nothing: a proxy on this machine looks like this machine.
    """
    if settings.metrics_token:
        return hmac.compare_digest(_bearer(request).encode(), settings.metrics_token.encode())
    return settings.development and _is_from_this_machine(request)


def _jwt(settings: Settings) -> Authenticate:
    find_key = _key_finder(settings)
    required = ["exp", "sub"]
    if settings.jwt_audience:
        required.append("aud")
    if settings.jwt_issuer:
        required.append("iss")

    @lru_cache(REMEMBERED_TOKENS)
    def verify(token: str, key: str | jwt.PyJWK) -> tuple[Any, int]:
        """Return `sub` and `exp`. Callers send a token many times; what is refused is forgotten."""
        claims = jwt.decode(
            token,
            key,
            algorithms=[settings.jwt_algorithm],
            audience=settings.jwt_audience or None,
            issuer=settings.jwt_issuer or None,
            leeway=settings.jwt_leeway_seconds,
            options={"require": required, "verify_aud": bool(settings.jwt_audience)},
        )
        return claims["sub"], int(claims["exp"])

    def authenticate(request: Request) -> UUID:
        token = _bearer(request)
        try:
            subject, expires_at = verify(token, find_key(token))
            # `nbf` cannot become false again, but a remembered token can expire.
            if expires_at <= time.time() - settings.jwt_leeway_seconds:
                raise jwt.ExpiredSignatureError
        except (jwt.PyJWTError, RecursionError) as error:
            raise _refused(type(error).__name__) from None
        except KeysUnavailable:
            raise MediaError(
                AUTHENTICATION_UNAVAILABLE, retry_after_seconds=round(RETRY_SECONDS)
            ) from None
        return _caller(subject)

    return authenticate


def _key_finder(settings: Settings) -> Callable[[str], Any]:
    """Return the function that finds the key to verify a token with."""
    if settings.jwt_algorithm == "HS256":
        return lambda _token: settings.jwt_secret
    keys = SigningKeys(settings.jwt_jwks_url, settings.jwt_algorithm)

    def find_key(token: str) -> jwt.PyJWK:
        header = jwt.get_unverified_header(token)
        # Before the provider is asked for anything, the token must be one it could have signed.
        if header.get("alg") != settings.jwt_algorithm:
            raise jwt.InvalidAlgorithmError
        key = keys.find(header["kid"]) if header.get("kid") else None
        if key is None:
            raise jwt.InvalidKeyError
        return key

    return find_key


def _gateway(token: str) -> Authenticate:
    expected = token.encode()

    def authenticate(request: Request) -> UUID:
        if not hmac.compare_digest(_bearer(request).encode(), expected):
            raise _refused("wrong gateway token")
        return _caller(request.headers.get("X-User-ID"))

    return authenticate


def _development(request: Request) -> UUID:
    if not _is_from_this_machine(request):
        raise _refused("development authentication is for loopback only")
    return _caller(request.headers.get("X-User-ID"))


def _is_from_this_machine(request: Request) -> bool:
    """Tell a local client from a proxy's, and from a web page that names itself localhost's."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    if urlsplit(f"//{request.host}").hostname not in LOOPBACK_HOSTS:
        return False
    try:
        return ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_LENGTH:
        raise _refused("no bearer token")
    return token.strip()


def _caller(value: Any) -> UUID:
    if not isinstance(value, str) or not UUID_TEXT.fullmatch(value):
        raise _refused("the caller's id is not a UUID")
    caller = UUID(value)
    if caller == NOBODY:  # the owner of what nobody owns
        raise _refused("the caller's id is nobody's")
    return caller


def _refused(reason: str) -> MediaError:
    log.info("authentication_refused", reason=reason)
    return MediaError(UNAUTHENTICATED)
