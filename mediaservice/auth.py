"""Who is calling: a JWT, a gateway's word, or (in development, on loopback) anybody's word.

Knows nothing of media: it turns a request into the caller's UUID or into UNAUTHENTICATED.
"""

import hmac
import ipaddress
from collections.abc import Callable
from typing import Any
from uuid import UUID

import jwt
import structlog
from flask import Request

from config.settings import Settings
from mediaservice.errors import UNAUTHENTICATED, MediaError

JWKS_LIFESPAN_SECONDS = 300
JWKS_TIMEOUT_SECONDS = 3
MAX_TOKEN_LENGTH = 8192

Authenticate = Callable[[Request], UUID]
"""Return the caller of a request, or raise UNAUTHENTICATED."""

log = structlog.get_logger(__name__)


def create_authenticator(settings: Settings) -> Authenticate:
    """Return the way to authenticate that AUTH_MODE asks for."""
    if settings.auth_mode == "gateway":
        return _gateway(settings.gateway_token)
    if settings.auth_mode == "development":
        return _development
    return _jwt(settings)


def _jwt(settings: Settings) -> Authenticate:
    if settings.jwt_algorithm == "HS256":
        find_key: Callable[[str], Any] = lambda _token: settings.jwt_secret  # noqa: E731
    else:
        jwks = jwt.PyJWKClient(
            settings.jwt_jwks_url,
            lifespan=JWKS_LIFESPAN_SECONDS,
            timeout=JWKS_TIMEOUT_SECONDS,
        )
        find_key = jwks.get_signing_key_from_jwt
    required = ["exp", "sub"]
    if settings.jwt_audience:
        required.append("aud")
    if settings.jwt_issuer:
        required.append("iss")

    def authenticate(request: Request) -> UUID:
        token = _bearer(request)
        try:
            claims = jwt.decode(
                token,
                find_key(token),
                algorithms=[settings.jwt_algorithm],
                audience=settings.jwt_audience or None,
                issuer=settings.jwt_issuer or None,
                leeway=settings.jwt_leeway_seconds,
                options={"require": required, "verify_aud": bool(settings.jwt_audience)},
            )
        except jwt.PyJWTError as error:
            raise _refused(type(error).__name__) from None
        return _uuid(claims["sub"])

    return authenticate


def _gateway(token: str) -> Authenticate:
    expected = token.encode()

    def authenticate(request: Request) -> UUID:
        if not hmac.compare_digest(_bearer(request).encode(), expected):
            raise _refused("wrong gateway token")
        return _uuid(request.headers.get("X-User-ID", ""))

    return authenticate


def _development(request: Request) -> UUID:
    if not ipaddress.ip_address(request.remote_addr or "0.0.0.0").is_loopback:  # noqa: S104
        raise _refused("development authentication is for loopback only")
    return _uuid(request.headers.get("X-User-ID", ""))


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_LENGTH:
        raise _refused("no bearer token")
    return token.strip()


def _uuid(value: Any) -> UUID:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise _refused("the caller's id is not a UUID") from None


def _refused(reason: str) -> MediaError:
    log.info("authentication_refused", reason=reason)
    return MediaError(UNAUTHENTICATED)
