"""Pixels: an original's bytes in, clean WebP renditions and a placeholder out. Runs in the decoder.

No network, no files, no environment, no names or declared types: the bytes alone decide. The format
comes from an allow-list, limits are read from the header before any pixel is decoded, and nothing
but pixels goes out. The same bytes in give the same bytes out.
"""

from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import product
from typing import Final

import pi_heif
import pyvips

from mediaworker.placeholder import MAX_SIDE as PLACEHOLDER_SIDE
from mediaworker.placeholder import thumbhash
from mediaworker.renditions import (
    MAIN_LONGEST_SIDE,
    VARIANT_WIDTHS,
    ImageError,
    Limits,
    Rendered,
    Rendition,
    RenditionName,
)

QUALITY: Final = 80
# Measured on 2048-pixel photos: effort 4 takes 2.3 times as long for 5 % fewer bytes.
EFFORT: Final = 2

_Opener = Callable[[bytes, Limits], pyvips.Image]

_DEFAULT_LIMITS: Final = Limits()
_ICC_PROFILE: Final = "icc-profile-data"
# ISO/IEC 14496-12, colour information box: primaries 12 and transfer 13 of ISO/IEC 23091-2.
_DISPLAY_P3_BOX: Final = b"colrnclx\x00\x0c\x00\x0d"
# Usual ones have some kB, but a PNG of 50 kB can inflate to one of 50 MB.
_MAX_REMEMBERED_PROFILE_BYTES: Final = 256 * 1024

# libvips caches operations by their arguments: useless for images that are seen once.
pyvips.cache_set_max(0)
# The named loaders are called directly, but libvips must not reach any other by itself either.
pyvips.operation_block_set("VipsForeignLoad", True)
for _loader in ("Jpeg", "Png", "Webp", "Nsgif", "Heif"):
    pyvips.operation_block_set(f"VipsForeignLoad{_loader}", False)

pi_heif.options.DECODE_THREADS = 1
pi_heif.options.THUMBNAILS = False
pi_heif.options.DEPTH_IMAGES = False
pi_heif.options.AUX_IMAGES = False


def render(original: bytes, limits: Limits = _DEFAULT_LIMITS) -> Rendered:
    """Return the main rendition, its smaller variants and the placeholder of one original.

    Of an animation only the first frame is rendered. Raises ImageError for an original that cannot
    be rendered and MemoryError when this process may not have as much memory as that takes.
    """
    if len(original) > limits.max_input_bytes:
        raise ImageError("image_too_large", f"more than {limits.max_input_bytes} bytes")
    open_image = _opener(original)
    try:
        image = _upright_srgb(open_image(original, limits))
    except pyvips.Error as error:
        raise _decoding_failed(error.detail or str(error)) from error

    main = _encode("main", image)
    variants = []
    for name, width in VARIANT_WIDTHS.items():
        if main.width > width:
            image = _resized(image, width, _scaled(main.height, width / main.width)).copy_memory()
            variants.append(_encode(name, image))
    return Rendered(main, tuple(variants), _placeholder(image))


def _opener(original: bytes) -> _Opener:
    if original[:3] == b"\xff\xd8\xff":
        return _open_jpeg
    if original[:8] == b"\x89PNG\r\n\x1a\n":
        return _open_png
    if original[:4] == b"RIFF" and original[8:12] == b"WEBP":
        return _open_webp
    if original[:6] in (b"GIF87a", b"GIF89a"):
        return _open_gif
    if original[4:8] == b"ftyp":
        return _iso_media_opener(original)
    raise ImageError("unsupported_format", "not a JPEG, PNG, WebP, GIF, AVIF or HEIC image")


def _iso_media_opener(original: bytes) -> _Opener:
    # The brands follow the box's length, its name, the major brand and a version, 4 bytes each.
    box = original[8 : min(int.from_bytes(original[:4], "big"), 1024)]
    brands = {box[i : i + 4] for i in range(0, len(box) - 3, 4) if i != 4}
    if brands & {b"avif", b"avis"}:
        return _open_avif
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return _open_heic
    raise ImageError("unsupported_format", "an ISO media file, but neither AVIF nor HEIC")


def _open_jpeg(original: bytes, limits: Limits) -> pyvips.Image:
    image = _opened(pyvips.Image.jpegload_buffer, original, limits)
    # Decoding at 1/2, 1/4 or 1/8 is much cheaper and exact enough, as long as it only shrinks more.
    longest_side = max(image.width, image.height)
    shrink = max(n for n in (1, 2, 4, 8) if n == 1 or longest_side >= n * MAIN_LONGEST_SIDE)
    return _opened(pyvips.Image.jpegload_buffer, original, limits, shrink=shrink)


def _open_png(original: bytes, limits: Limits) -> pyvips.Image:
    return _opened(pyvips.Image.pngload_buffer, original, limits)


def _open_webp(original: bytes, limits: Limits) -> pyvips.Image:
    if original[12:16] == b"VP8X":
        # Merely opening an animation makes libvips allocate its canvas: look at that one first.
        width, height = (int.from_bytes(original[at : at + 3], "little") + 1 for at in (24, 27))
        _check(width, height, 1, limits)
    return _opened(pyvips.Image.webpload_buffer, original, limits, n=1)


def _open_gif(original: bytes, limits: Limits) -> pyvips.Image:
    return _opened(pyvips.Image.gifload_buffer, original, limits, n=1)


def _open_avif(original: bytes, limits: Limits) -> pyvips.Image:
    # Without a number of pages or frames, it is the primary image, wherever in the file that is.
    image = _opened(pyvips.Image.heifload_buffer, original, limits)
    return _with_profile(image, original)


def _opened(
    load: Callable[..., pyvips.Image], original: bytes, limits: Limits, **options: int
) -> pyvips.Image:
    """Read the header and check it; libvips decodes the pixels when they are first asked for."""
    # Without `memory`, large images of formats that cannot be streamed would go through a file.
    image = load(original, access="sequential", memory=True, fail_on="error", **options)
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    _check(image.width, image.height, frames, limits)
    return image


def _open_heic(original: bytes, limits: Limits) -> pyvips.Image:
    # libvips' wheel has no HEVC decoder. libheif applies the file's own rotation, and its EXIF
    # orientation, which repeats that rotation, never gets into the image made here.
    try:
        heif = pi_heif.open_heif(original)
        width, height = heif.size
        _check(width, height, len(heif), limits)
        pixels = bytes(heif.data)  # a copy: the original memory goes away with `heif`
    except (ValueError, EOFError, SyntaxError, RuntimeError, OSError, LookupError) as error:
        raise _decoding_failed(str(error)) from error
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(heif.mode)
    if bands is None:
        raise ImageError("unsupported_format", f"HEIC with {heif.mode} pixels")
    image = pyvips.Image.new_from_memory(pixels, width, height, bands, "uchar")
    image = image.copy(interpretation="srgb" if bands >= 3 else "b-w")
    return _with_profile(image, original, heif.info.get("icc_profile"))


def _with_profile(
    image: pyvips.Image, original: bytes, profile: bytes | None = None
) -> pyvips.Image:
    """Give an AVIF or HEIC the profile that its colour information box only names, if it does."""
    if not profile and not image.get_typeof(_ICC_PROFILE) and _DISPLAY_P3_BOX in original:
        profile = pyvips.Image.profile_load("p3")
    if profile:
        image = image.copy()
        image.set_type(pyvips.GValue.blob_type, _ICC_PROFILE, profile)
    return image


def _check(width: int, height: int, frames: int, limits: Limits) -> None:
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise ImageError("image_too_large", f"{width} x {height} pixels")
    if frames > limits.max_frames:
        raise ImageError("image_too_large", f"{frames} frames")


def _decoding_failed(detail: str) -> Exception:
    if "Security limit exceeded" in detail:  # libheif's own limits, which it calls memory errors
        return ImageError("image_too_large" if "Image size" in detail else "corrupt_image", detail)
    if "out of memory" in detail or "Memory allocation error" in detail:
        return MemoryError(detail)
    if "supported image dimension" in detail:  # libjpeg's own limit, 65500
        return ImageError("image_too_large", detail)
    return ImageError("corrupt_image", detail)


def _upright_srgb(image: pyvips.Image) -> pyvips.Image:
    """Decode at the main rendition's size; the rest is done on those fewer pixels, in memory."""
    scale = min(1.0, MAIN_LONGEST_SIDE / max(image.width, image.height))
    image = _resized(image, _scaled(image.width, scale), _scaled(image.height, scale))
    # A decoder delivers rows from top to bottom, once: rotating needs all of them.
    image = _srgb(image.copy_memory()).autorot().copy_memory()
    is_opaque = image.hasalpha() and image[image.bands - 1].min() == 255
    return image[:3] if is_opaque else image


def _srgb(image: pyvips.Image) -> pyvips.Image:
    if image.get_typeof(_ICC_PROFILE) and not _is_srgb(image):
        # A broken profile, or one for another kind of image, is ignored, as browsers do.
        with suppress(pyvips.Error):
            image = image.icc_transform("srgb", embedded=True, black_point_compensation=True)
    return image.colourspace("srgb").cast("uchar")


def _is_srgb(image: pyvips.Image) -> bool:
    if image.bands - image.hasalpha() != 3:
        return False
    profile = image.get(_ICC_PROFILE)
    is_small = len(profile) <= _MAX_REMEMBERED_PROFILE_BYTES
    return (_profile_is_srgb if is_small else _profile_is_srgb.__wrapped__)(profile)


@lru_cache(maxsize=16)
def _profile_is_srgb(profile: bytes) -> bool:
    """Tell by what the profile does to a grid of colours, since names and versions vary."""
    colours = bytes(value for rgb in product(range(0, 256, 51), repeat=3) for value in rgb)
    grid = pyvips.Image.new_from_memory(colours, len(colours) // 3, 1, 3, "uchar")
    grid = grid.copy(interpretation="srgb")
    grid.set_type(pyvips.GValue.blob_type, _ICC_PROFILE, profile)
    try:
        converted = grid.icc_transform("srgb", embedded=True, black_point_compensation=True)
        return bool((converted - grid).abs().max() <= 2)
    except pyvips.Error:
        return True


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def _resized(image: pyvips.Image, width: int, height: int) -> pyvips.Image:
    if (width, height) == (image.width, image.height):
        return image
    if not image.hasalpha():
        return image.resize(width / image.width, vscale=height / image.height)
    # Unless weighted by their alpha, invisible pixels would bleed their colour into visible ones.
    weighted = image.premultiply().resize(width / image.width, vscale=height / image.height)
    return weighted.unpremultiply().rint().cast(image.format)


def _encode(name: RenditionName, image: pyvips.Image) -> Rendition:
    data = image.webpsave_buffer(Q=QUALITY, effort=EFFORT, keep=pyvips.enums.ForeignKeep.NONE)
    return Rendition(name, data, image.width, image.height)


def _placeholder(image: pyvips.Image) -> str:
    scale = min(1.0, PLACEHOLDER_SIDE / max(image.width, image.height))
    tiny = _resized(image, _scaled(image.width, scale), _scaled(image.height, scale))
    if not tiny.hasalpha():
        tiny = tiny.bandjoin(255)
    return b64encode(thumbhash(tiny.width, tiny.height, tiny.write_to_memory())).decode()
