"""What type of image first bytes announce, for the service and for its client alike.

Looks at bytes alone: whether a type is accepted, or was declared, is decided elsewhere.
"""

import filetype

SNIFF_BYTES = 4096  # enough for the signature of any image type
# filetype knows `heic` alone; ISO/IEC 23008-12 has these beside it.
_FURTHER_HEIC_BRANDS = (b"heix", b"heim", b"heis", b"hevc", b"hevx")


def sniff(first_bytes: bytes) -> str | None:
    """Return the type that the bytes themselves announce, an image's or another, or None."""
    if first_bytes[4:8] == b"ftyp" and first_bytes[8:12] in _FURTHER_HEIC_BRANDS:
        return "image/heic"
    return filetype.guess_mime(first_bytes) if first_bytes else None
