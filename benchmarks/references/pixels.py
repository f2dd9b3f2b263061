"""Rendering originals in a process of its own, by our image code and by others: one core, no I/O.

`python -m benchmarks.references.pixels SIDE ORIGINALS RENDITIONS` renders a folder's originals,
leaves what it made in another folder as `original.width.webp`, and prints what it took, as JSON.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mediaworker.renditions import MAIN_LONGEST_SIDE, VARIANT_WIDTHS

QUALITY: Final = 80
EFFORT: Final = 4

# Encoded renditions by their width, the largest first.
Renditions = Iterator[tuple[int, bytes]]


def render_ours(original: bytes) -> Renditions:
    """Render as the worker does."""
    from mediaworker.images import render

    rendered = render(original)
    for rendition in (rendered.main, *rendered.variants):
        yield rendition.width, rendition.data


def render_by_vips(original: bytes) -> Renditions:
    """Decode and shrink for each width, by the function that libvips has for it.

    Colours are left as they are and profiles dropped: the fastest there is, right for sRGB alone.
    """
    import pyvips

    def thumbnail(width: int, height: int) -> tuple[int, bytes]:
        image = pyvips.Image.thumbnail_buffer(original, width, height=height, size="down")
        data: bytes = image.webpsave_buffer(Q=QUALITY, effort=EFFORT, keep="none")
        return image.width, data

    return _of_each_width(thumbnail)


def render_by_pillow(original: bytes) -> Renditions:
    """Decode once, at the original's size, and shrink that for each width."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(original)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")

    def thumbnail(width: int, height: int) -> tuple[int, bytes]:
        smaller, written = image.copy(), io.BytesIO()
        smaller.thumbnail((width, height), Image.Resampling.LANCZOS)
        smaller.save(written, "WEBP", quality=QUALITY, method=EFFORT)
        return smaller.width, written.getvalue()

    return _of_each_width(thumbnail)


def _of_each_width(thumbnail: Callable[[int, int], tuple[int, bytes]]) -> Renditions:
    """Yield the renditions that the worker makes, by a function of largest width and height."""
    yield (main := thumbnail(MAIN_LONGEST_SIDE, MAIN_LONGEST_SIDE))
    for width in VARIANT_WIDTHS.values():
        if width < main[0]:
            yield thumbnail(width, 10 * width)


SIDES: Final[dict[str, Callable[[bytes], Renditions]]] = {
    "ours": render_ours,
    "vips": render_by_vips,
    "pillow": render_by_pillow,
}


def original_of(rendition: Path) -> str:
    """Return the name of the original that a rendition was made from."""
    original, _width, _webp = rendition.name.rsplit(".", 2)
    return original


def main(side: str, originals: Path, renditions: Path) -> None:
    """Render everything once to warm up and once for the clock."""
    photos = {path.name: path.read_bytes() for path in sorted(originals.iterdir())}
    for name, original in photos.items():
        for width, data in SIDES[side](original):
            (renditions / f"{name}.{width}.webp").write_bytes(data)
    started, cpu = time.perf_counter(), time.process_time()
    for original in photos.values():
        list(SIDES[side](original))
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    sys.stdout.write(json.dumps({"operations": len(photos), **took}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
