"""The originals that workers are measured on: a folder of photos, or made-up ones."""

from pathlib import Path
from typing import Final

import pyvips

# No HEIC: plain libvips has no decoder for it to be compared with.
CONTENT_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".avif": "image/avif",
}
# What phones make: 8 and 12 megapixels, lying and upright.
_MADE_UP: Final = ((3264, 2448), (2448, 3264), (4032, 3024), (3024, 4032))


def load_photos(folder: Path | None) -> dict[str, bytes]:
    """Return originals by name: those of a folder, or four that are made up and always the same."""
    if folder is None:
        return {f"{width}x{height}.jpg": make_photo(width, height) for width, height in _MADE_UP}
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in CONTENT_TYPES)
    if not found:
        raise FileNotFoundError(f"there are no photos in {folder}")
    return {path.name: path.read_bytes() for path in found}


def make_photo(width: int, height: int) -> bytes:
    """Return a JPEG that compresses like a photo: soft shapes, edges, and a sensor's grain."""
    soft = pyvips.Image.perlin(width, height, cell_size=width // 6, seed=1, uchar=True)
    fine = pyvips.Image.worley(width, height, cell_size=width // 40, seed=2)
    fine = fine * (255 / fine.max())
    bands = []
    for number, (weight, offset) in enumerate(((0.9, 0), (0.7, 30), (0.5, 60))):
        grain = pyvips.Image.gaussnoise(width, height, sigma=4, mean=0, seed=number)
        bands.append(soft * weight + fine * (1 - weight) + offset + grain)
    image = bands[0].bandjoin(bands[1:]).cast("uchar").copy(interpretation="srgb")
    written: bytes = image.jpegsave_buffer(Q=90)
    return written
