"""What tests are made of: an environment, settings, pictures.

No fixtures and no assertions here: `conftest` starts servers, tests say what should be true.
"""

import base64
import hashlib
import io
import random
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from PIL import Image

from config.settings import Settings, WorkerSettings
from mediaservice import PROJECT
from mediaservice.keys import public_prefix
from mediaservice.messages import Job

ORIGIN = "https://app.example.com"
CDN = "https://cdn.example.com"
# Nobody's, and the same in every process of a run: parameters are part of a test's name.
UNKNOWN_ID = UUID("0190a8e5-6c1f-7d3a-9b7e-0a0b0c0d0e0f")


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a service in development, on SQLite, without a broker."""
    return {
        "APP_ENV": "development",
        "AUTH_MODE": "development",
        "BROKER_URL": "inline:",
        "DATABASE_URL": "sqlite:///unused.db",
        "S3_ENDPOINT": "http://127.0.0.1:9",
        "S3_ACCESS_KEY_ID": "test-key",
        "S3_SECRET_ACCESS_KEY": "test-secret",
        "S3_RAW_BUCKET": "raw",
        "S3_PUBLIC_BUCKET": "public",
        "CDN_BASE_URL": CDN,
        "WEB_ORIGINS": ORIGIN,
        **variables,
    }


def production(**variables: str) -> dict[str, str]:
    """Return the variables of a service that may be put on the internet."""
    return environment(
        APP_ENV="production",
        AUTH_MODE="jwt",
        S3_SECRET_ACCESS_KEY="test-secret-long-enough",
        JWT_SECRET="k3Jv0sD8aQ1xZ7mN5bR2tY6uP4wE9cL0",
        DATABASE_URL="postgresql://media:hunter2@db.example.com/media",
        BROKER_URL="amqp://media:hunter3@mq.example.com:5672/",
        **variables,
    )


def settings(**variables: Any) -> Settings:
    """Return valid settings; `variables` are environment variables, of any printable type."""
    return Settings.from_environ(environment(**{k: str(v) for k, v in variables.items()}))


def worker_settings(**variables: Any) -> WorkerSettings:
    """Return a worker's valid settings."""
    return WorkerSettings.from_environ(environment(**{k: str(v) for k, v in variables.items()}))


def jpeg(width: int = 64, height: int = 48, *, exif: bool = False) -> bytes:
    """Return a JPEG unlike any other; `exif` adds a camera, a rotation and a place."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    colour = tuple(random.randrange(256) for _ in range(3))
    image.paste(colour, (0, 0, width // 2, height // 2))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85, exif=_exif() if exif else b"")
    return written.getvalue()


def png(width: int = 64, height: int = 48) -> bytes:
    """Return a PNG."""
    written = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(written, "PNG")
    return written.getvalue()


def sha256(body: bytes) -> str:
    """Return a checksum as S3 writes it: the digest in base64."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def iso_media(*brands: str) -> bytes:
    """Return the first box of an ISO media file, its major brand first."""
    major, *others = brands
    body = b"ftyp" + major.encode() + bytes(4) + "".join(others).encode()
    return (len(body) + 4).to_bytes(4, "big") + body


# How images begin, and what the service, its clients and the worker all take them for.
IMAGE_HEADERS = [
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
    (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + bytes(17) + b"\0\0\0\x08acTL", "image/png"),
    (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
    (b"GIF87a\1\0\1\0", "image/gif"),
    (b"GIF89a\1\0\1\0", "image/gif"),
    (iso_media("avif", "avif", "mif1", "miaf"), "image/avif"),
    (iso_media("avis", "avis", "msf1", "miaf"), "image/avif"),
    (iso_media("mif1", "avif", "miaf"), "image/avif"),
    (iso_media("heic", "mif1", "heic"), "image/heic"),
    (iso_media("heix", "mif1", "heix"), "image/heic"),
    (iso_media("heim", "mif1"), "image/heic"),
    (iso_media("heis", "mif1"), "image/heic"),
    (iso_media("hevc", "msf1", "hevc"), "image/heic"),
    (iso_media("hevx", "msf1"), "image/heic"),
    (iso_media("mif1", "mif1", "heic"), "image/heic"),
    (iso_media("mif1", "mif1", "heix"), "image/heic"),
    (iso_media("msf1", "msf1", "hevc"), "image/heic"),
    (iso_media("mif1", "mif1", "miaf"), "image/heif"),
    (iso_media("msf1", "msf1"), "image/heif"),
]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "SecretCameraMaker"
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)}
    return exif


def process_request(**fields: Any) -> Job:
    """Return a job for a media that exists nowhere."""
    media_id = fields.pop("media_id", None) or uuid4()
    values = {
        "attempt": 1,
        "raw_bucket": "raw",
        "raw_key": f"uploads/{media_id}",
        "raw_etag": '"e"',
        "content_type": "image/jpeg",
        "size_bytes": 1,
        "public_bucket": "public",
        "public_prefix": public_prefix(media_id),
        "requested_at": datetime.now(UTC),
    }
    return Job(media_id=media_id, **{**values, **fields})


def loaded_by(*modules: str, then: str = "", **variables: str) -> set[str]:
    """Return the names of all modules that a new process has loaded once it has imported these.

    `then` is what it does before it is looked at, with these variables in its environment.
    """
    program = f"import sys, {', '.join(modules)}\n{then}\nprint(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return set(printed.split())
