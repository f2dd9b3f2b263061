"""Where the objects of a media are in the two buckets. docs/policies/ names these prefixes, too."""

import re
from typing import Final
from uuid import UUID

PUBLIC_KEY_PATTERN: Final = r"^media/[0-9a-f-]{36}(/[A-Za-z0-9_][A-Za-z0-9._~@+=-]*)+(?!\n)$"
"""A public key is also the path of a CDN URL: it has nothing that a client or a proxy may read as
something else (`..`, `//`, `?`, `%`), so it needs no quoting anywhere.

`(?!\\n)` is for Python, whose `$` lets a final newline pass.
"""

_ID: Final = "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_RAW_KEY: Final = re.compile(f"uploads/{_ID}")
_PUBLIC_KEY: Final = re.compile(f"media/{_ID}/.+", re.DOTALL)


def raw_key(media_id: UUID) -> str:
    """Return where a media's original goes. Ids are random, so no key is ever used twice."""
    return f"uploads/{media_id}"


def public_prefix(media_id: UUID) -> str:
    """Return the only prefix of the public bucket that results for this media may name."""
    return f"media/{media_id}/"


def media_of_raw_key(key: str) -> UUID | None:
    """Return whose original is at a key of the raw bucket, or None if it is not one of ours."""
    found = _RAW_KEY.fullmatch(key)
    return UUID(found[1]) if found else None


def media_of_public_key(key: str) -> UUID | None:
    """Return whose image is at a key of the public bucket, or None if it is not one of ours."""
    found = _PUBLIC_KEY.fullmatch(key)
    return UUID(found[1]) if found else None
