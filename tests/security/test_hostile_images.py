"""Images made to do harm, each through the real sandbox: a code comes out, and the next one works.

What a single loader does with odd bytes is in `tests/worker`; here it is the whole worker's answer,
its time and its memory.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from mediaworker.renditions import ImageError, Limits
from mediaworker.sandbox import Sandbox
from tests.builders import jpeg, png
from tests.worker.pictures import animation, encoded, flat, noise, scene, with_sides_of

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
MEMORY_BYTES = 512 * MEGABYTE
GIF_HEADER = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x80, 0, 0) + bytes(6)
GIF_FRAME = b"!\xf9\x04\0\x0a\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"


def png_of(
    width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes | None = None
) -> bytes:
    """A PNG whose pixels really are there, as zeros, however few bytes that takes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    if rows is None:
        compressor = zlib.compressobj(1)
        row = bytes(1 + 3 * width)
        rows = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in parts)


def with_app_segments(photo: bytes, marker: int, *bodies: bytes) -> bytes:
    segments = (bytes([0xFF, marker]) + struct.pack(">H", len(b) + 2) + b for b in bodies)
    return photo[:2] + b"".join(segments) + photo[2:]


def looping_exif() -> bytes:
    """An EXIF block whose first directory says that the next one is itself."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)


def progressive_scans(photo: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: little to send, much to decode."""
    image = Image.open(io.BytesIO(photo))
    written = io.BytesIO()
    image.save(written, "JPEG", progressive=True)
    data = written.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def damaged(original: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    changed = bytearray(original)
    for _ in range(20):
        changed[chance.randrange(16, len(changed))] = chance.randrange(256)
    return bytes(changed)


RENDERED = "rendered"
PHOTO = jpeg(320, 240)
LARGE, REFUSED, CORRUPT = "image_too_large", "unsupported_format", "corrupt_image"
EITHER = {RENDERED, CORRUPT}

# Made when they are needed: some take a second, and every process reads this file.
HOSTILE: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    # Bombs: more pixels than bytes let expect
    "PNG bomb, 16,000 x 16,000": (lambda: png_of(16_000, 16_000, rows=zlib.compress(b"")), {LARGE}),
    "PNG bomb, all pixels there": (lambda: png_of(12_000, 5_000), {LARGE}),
    "PNG, the most pixels allowed": (lambda: png_of(10_000, 5_000), {RENDERED}),
    "PNG, 65,535 wide": (lambda: png_of(65_535, 1), {LARGE}),
    "PNG, 65,535 high": (lambda: png_of(1, 65_535), {LARGE}),
    "PNG, sides of 2^31-1": (lambda: png_of(2**31 - 1, 1, rows=b""), {LARGE, CORRUPT}),
    "PNG, no side": (lambda: png_of(0, 0), {CORRUPT}),
    "PNG, text bomb of 64 MB": (
        lambda: png_of(9, 9, (b"zTXt", b"a\0\0" + zlib.compress(bytes(64 * MEGABYTE)))),
        EITHER,
    ),
    "PNG, profile bomb of 64 MB": (
        lambda: png_of(9, 9, (b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * MEGABYTE)))),
        EITHER,
    ),
    "PNG, pixel data of 64 MB for 81 pixels": (
        lambda: png_of(9, 9, rows=zlib.compress(bytes(64 * MEGABYTE))),
        EITHER,
    ),
    "PNG, 10,000 text chunks": (lambda: png_of(9, 9, *[(b"tEXt", b"a\0b")] * 10_000), EITHER),
    "GIF bomb, 65,535 x 65,535": (
        lambda: with_sides_of(encoded(scene(64, 48), "gif"), 65_535, 65_535),
        {LARGE},
    ),
    "GIF, 20,000 frames": (lambda: GIF_HEADER + GIF_FRAME * 20_000 + b";", {LARGE}),
    "GIF, frames without end": (lambda: GIF_HEADER + GIF_FRAME * 900, {CORRUPT, RENDERED}),
    "GIF, no frame": (lambda: GIF_HEADER + b";", {CORRUPT}),
    "WebP bomb, 16,383 x 16,383": (
        lambda: with_sides_of(animation([scene(64, 48), flat(64, 48)], "webp"), 16_383, 16_383),
        {LARGE},
    ),
    "AVIF bomb, 65,535 x 65,535": (
        lambda: with_sides_of(encoded(scene(64, 48), "avif"), 65_535, 65_535),
        {LARGE},
    ),
    "AVIF that says it is larger": (
        lambda: with_sides_of(encoded(scene(64, 48), "avif"), 6_000, 6_000),
        EITHER,
    ),
    "HEIC bomb, 65,535 x 65,535": (
        lambda: with_sides_of(encoded(scene(64, 48), "heic"), 65_535, 65_535),
        {LARGE},
    ),
    "JPEG, 65,535 wide": (lambda: with_sides_of(PHOTO, 65_535, 100), {LARGE}),
    "JPEG that says it is larger": (lambda: with_sides_of(PHOTO, 7_000, 7_000), EITHER),
    "JPEG, 500 scans": (lambda: progressive_scans(PHOTO, 500), EITHER),
    # Disguises
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>", {REFUSED}),
    "SVG behind a PNG's magic": (lambda: b"\x89PNG\r\n\x1a\n<svg/>" + bytes(100), {CORRUPT}),
    "PDF": (lambda: b"%PDF-1.7\n" + bytes(1000), {REFUSED}),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", {REFUSED}),
    "ImageMagick's script": (
        lambda: b"push graphic-context\nfill 'url(https://x/)'\npop",
        {REFUSED},
    ),
    "TIFF": (lambda: b"II*\0\x08\0\0\0" + bytes(100), {REFUSED}),
    "MP4": (lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100), {REFUSED}),
    "an executable": (lambda: b"\x7fELF" + bytes(1000), {REFUSED}),
    "a polyglot of JPEG and ZIP": (lambda: PHOTO + b"PK\x03\x04" + bytes(500), {RENDERED}),
    "a polyglot of GIF and script": (
        lambda: encoded(scene(64, 48), "gif") + b"/*<script>alert(1)</script>*/",
        {RENDERED},
    ),
    "a polyglot of PNG and HTML": (lambda: png() + b"<html><script>alert(1)</script>", {RENDERED}),
    "nothing": (lambda: b"", {REFUSED}),
    # Damage
    "JPEG, cut": (lambda: PHOTO[: len(PHOTO) // 2], {CORRUPT}),
    "PNG, cut": (lambda: encoded(noise(64, 48), "png")[:-500], {CORRUPT}),
    "WebP, cut": (lambda: encoded(noise(64, 48), "webp")[:-500], {CORRUPT}),
    "AVIF, cut": (lambda: encoded(noise(64, 48), "avif")[:-500], {CORRUPT}),
    "EXIF that loops": (lambda: with_app_segments(PHOTO, 0xE1, looping_exif()), {RENDERED}),
    "EXIF of noise": (
        lambda: with_app_segments(
            PHOTO, 0xE1, b"Exif\0\0II*\0" + random.Random(1).randbytes(60_000)
        ),
        {RENDERED},
    ),
    "XMP of 900 segments": (
        lambda: with_app_segments(
            PHOTO, 0xE1, *[b"http://ns.adobe.com/xap/1.0/\0" + bytes(900)] * 900
        ),
        {RENDERED},
    ),
    "a profile of noise": (
        lambda: with_app_segments(
            PHOTO, 0xE2, b"ICC_PROFILE\0\x01\x01" + random.Random(2).randbytes(60_000)
        ),
        {RENDERED},
    ),
    "a profile in 255 parts of which one is there": (
        lambda: with_app_segments(PHOTO, 0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(100)),
        EITHER,
    ),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(), memory_bytes=MEMORY_BYTES, wall_seconds=60) as found:
        yield found


def outcome(sandbox: Sandbox, original: bytes) -> str:
    try:
        rendered = sandbox.render(original)
    except ImageError as error:
        return error.code
    for rendition in (rendered.main, *rendered.variants):
        with Image.open(io.BytesIO(rendition.data)) as image:
            assert image.format == "WEBP"
            assert not image.getexif()
        assert b"script" not in rendition.data
    return RENDERED


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_becomes_a_code_in_its_memory_and_the_next_one_is_rendered(
    sandbox: Sandbox, name: str
):
    """The memory is measured by the kernel, as the most of the decoder's life so far."""
    make, expected = HOSTILE[name]
    child = sandbox._child
    found = outcome(sandbox, make())
    print(f"{name}: {found}")
    assert found in expected
    assert outcome(sandbox, PHOTO) == RENDERED
    assert sandbox._child is child, "one decoder outlives them all"
    peak = peak_bytes(child.pid)
    print(f"peak of the decoder: {peak / MEGABYTE:.0f} MB")
    assert peak < MEMORY_BYTES


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "gif", "avif", "heic"])
def test_many_damaged_images_become_codes(sandbox: Sandbox, format_name: str):
    original = encoded(noise(96, 64), format_name)
    outcomes = {outcome(sandbox, damaged(original, seed)) for seed in range(40)}
    assert outcomes <= {RENDERED, CORRUPT, REFUSED, LARGE}
    assert outcome(sandbox, PHOTO) == RENDERED
