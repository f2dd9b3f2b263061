"""What rendering an original means, in values: the limits, the result, the ways to fail.

Shared by the consumer and the confined decoder, so nothing here may import a pixel library. The
bounds in these types are enforced when a value comes out of the decoder, which is not trusted.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta

RenditionName = Literal["main", "w1280", "w640", "w320"]
MAX_INPUT_BYTES: Final = 64 * 1024 * 1024
MAIN_LONGEST_SIDE: Final = 2048
# Largest first: each is made from the one before.
VARIANT_WIDTHS: Final[dict[RenditionName, int]] = {"w1280": 1280, "w640": 640, "w320": 320}

ErrorCode = Literal[
    "unsupported_format",
    "corrupt_image",
    "image_too_large",
    "decoder_crashed",
    "decoder_timeout",
    "decoder_out_of_memory",
]
Side = Annotated[int, Meta(ge=1, le=MAIN_LONGEST_SIDE)]
EncodedImage = Annotated[bytes, Meta(min_length=16, max_length=16 * 1024 * 1024)]
# A thumbhash is 5 to 25 bytes, in base64.
Placeholder = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{7,35}={0,2}$(?!\n)")]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an original may be at most, read from its header before any pixel is decoded."""

    max_input_bytes: int = MAX_INPUT_BYTES
    # A 48-megapixel phone photo passes; decoded it is 150 MB.
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    # Only the first frame is rendered, but all of them are walked through to open the file.
    max_frames: int = 1_000


@dataclass(frozen=True, slots=True)
class Rendition:
    """One encoded image, free of metadata, upright and in sRGB."""

    name: RenditionName
    data: EncodedImage
    width: Side
    height: Side
    content_type: Literal["image/webp"] = "image/webp"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Everything made from one original; `placeholder` is a thumbhash in base64."""

    main: Rendition
    variants: Annotated[tuple[Rendition, ...], Meta(max_length=len(VARIANT_WIDTHS))]
    placeholder: Placeholder


class ImageError(Exception):
    """The original cannot be rendered; the worker asks for no other attempt at it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
