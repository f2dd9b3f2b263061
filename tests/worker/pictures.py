"""Pictures for the worker's tests, made here: no photo is kept in this repository."""

import functools
import io
import struct
import zlib

import pillow_heif
import pyvips

Colour = tuple[int, int, int]

# The quarters of `scene`, clockwise from the top left: no turn or mirroring keeps their places.
RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 160, 60), (50, 60, 190), (210, 190, 60)

FORMATS = ("jpeg", "png", "webp", "gif", "avif", "heic")


def flat(width: int, height: int, colour: tuple[int, ...] = RED) -> pyvips.Image:
    image = pyvips.Image.black(width, height, bands=len(colour)) + list(colour)
    return image.cast("uchar").copy(interpretation="srgb")


@functools.cache
def scene(width: int, height: int) -> pyvips.Image:
    """Four differently coloured quarters."""
    half, rest = width // 2, width - width // 2
    top = flat(half, height // 2, RED).join(flat(rest, height // 2, GREEN), "horizontal")
    low = height - height // 2
    bottom = flat(half, low, YELLOW).join(flat(rest, low, BLUE), "horizontal")
    return top.join(bottom, "vertical").copy_memory()


def noise(width: int, height: int) -> pyvips.Image:
    """Something that does not compress, so that cutting its file cuts into its pixels."""
    bands = [pyvips.Image.gaussnoise(width, height, seed=seed) for seed in (1, 2, 3)]
    return bands[0].bandjoin(bands[1:]).cast("uchar").copy(interpretation="srgb")


def encoded(image: pyvips.Image, format_name: str, **options: object) -> bytes:
    match format_name:
        case "jpeg":
            return image.jpegsave_buffer(Q=95, subsample_mode="off", **options)
        case "png":
            return image.pngsave_buffer(**options)
        case "webp":
            return image.webpsave_buffer(Q=95, **options)
        case "gif":
            return image.gifsave_buffer(**options)
        case "avif":
            return image.heifsave_buffer(compression="av1", Q=90, effort=0, **options)
        case _:
            return heic(image, **options)


def heic(image: pyvips.Image, **options: object) -> bytes:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[image.bands]
    size = (image.width, image.height)
    target = io.BytesIO()
    fast = {"enc_params": {"preset": "ultrafast"}}
    pillow_heif.encode(mode, size, image.write_to_memory(), target, quality=90, **fast | options)
    return target.getvalue()


def animation(frames: list[pyvips.Image], format_name: str) -> bytes:
    strip = pyvips.Image.arrayjoin(frames, across=1).copy()
    strip.set_type(pyvips.GValue.gint_type, "page-height", frames[0].height)
    return encoded(strip, format_name)


def with_coded_colours(original: bytes, primaries: int) -> bytes:
    """The same AVIF or HEIC, with a code for its colours in the place of its ICC profile."""
    at = original.index(b"colr")
    assert original[at + 4 : at + 8] in (b"rICC", b"prof")
    coded = b"colrnclx" + struct.pack(">HHHB", primaries, 13, 6, 0x80)
    return original[:at] + coded + original[at + len(coded) :]


def with_primary(original: bytes, item: int) -> bytes:
    """The same AVIF, with another of its items named as the primary image."""
    at = original.index(b"pitm") + 8
    return original[:at] + item.to_bytes(2, "big") + original[at + 2 :]


def png_bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than its few bytes hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def with_sides_of(original: bytes, width: int, height: int) -> bytes:
    """The same file, with other sides written into its header."""
    patched = bytearray(original)
    if original.startswith(b"\xff\xd8"):
        at = original.index(b"\xff\xc0") + 5
        patched[at : at + 4] = struct.pack(">HH", height, width)
    elif original.startswith(b"GIF"):
        screen, frame = 6, original.index(b",\0\0\0\0" + original[6:10]) + 5
        for at in (screen, frame):
            patched[at : at + 4] = struct.pack("<HH", width, height)
    elif original.startswith(b"RIFF"):
        at = original.index(b"VP8X") + 12
        patched[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(
            3, "little"
        )
    else:
        at = original.index(b"ispe") + 8
        patched[at : at + 8] = struct.pack(">II", width, height)
    return bytes(patched)


def pixels(webp: bytes) -> pyvips.Image:
    return pyvips.Image.webpload_buffer(webp)


def riff_chunks(webp: bytes) -> set[bytes]:
    names, at = set(), 12
    while at < len(webp):
        names.add(webp[at : at + 4])
        (size,) = struct.unpack_from("<I", webp, at + 4)
        at += 8 + size + size % 2
    return names
