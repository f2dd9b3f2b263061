"""What a caller can show: keys, tokens and forgeries of them. Keys are made anew in each run."""

import base64
import json
import time
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

SECRET = "k3Jv0sD8aQ1xZ7mN5bR2tY6uP4wE9cL0"
ALICE = UUID("0190a8e5-6c1f-7d3a-9b7e-1f2e3d4c5b6a")
BOB = UUID("0190a8e5-6c1f-7d3a-9b7e-1f2e3d4c5b6b")


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with some changed; None leaves one out."""
    valid = {"sub": str(ALICE), "exp": int(time.time()) + 600}
    return {name: value for name, value in (valid | changes).items() if value is not None}


def token(
    key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changes: Any
) -> str:
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


def forged(header: Any, payload: Any, signature: bytes = b"") -> str:
    """Return a token of the given parts, whatever they are; bytes are taken as they are."""
    return ".".join(
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode())
        .rstrip(b"=")
        .decode()
        for part in (header, payload, signature)
    )


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    found = algorithm.to_jwk(key.public_key(), as_dict=True) | fields
    return found if kid is None else found | {"kid": kid}


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
