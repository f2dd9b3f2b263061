"""What type of image first bytes announce, for the service and for its client alike.

Looks at bytes alone: whether a type is accepted, or was declared, is decided elsewhere.
"""

import filetype

SNIFF_BYTES = 4096  # enough for the signature of any image type
# The brands of ISO/IEC 23008-12 and of AVIF 1.1, in the order in which they decide: phones write
# some of them second, where filetype does not look.
_TYPE_OF_BRAND = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "image/heic"),
    b"mif1": "image/heif",
    b"msf1": "image/heif",
}


def sniff(first_bytes: bytes) -> str | None:
    """Return the type that the bytes themselves announce, an image's or another, or None."""
    if first_bytes[4:8] == b"ftyp":
        brands = _brands(first_bytes)
        for brand, content_type in _TYPE_OF_BRAND.items():
            if brand in brands:
                return content_type
    found = filetype.guess_mime(first_bytes) if first_bytes else None
    # An animated PNG is a PNG, and its declared type says so.
    return "image/png" if found == "image/apng" else found


def _brands(first_bytes: bytes) -> set[bytes]:
    """Return the brands of the `ftyp` box: the major one and, after a version, the others."""
    length = min(int.from_bytes(first_bytes[:4], "big"), len(first_bytes))
    return {first_bytes[at : at + 4] for at in range(8, length - 3, 4) if at != 12}
