"""ThumbHash: a blurred preview of an image in about 25 bytes, for pages to show while it loads.

The algorithm alone, over plain RGBA bytes. It must stay compatible with the published decoders,
which run in browsers: the order of terms, the roundings and the bit layout are the format.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import cos, floor, fsum, pi
from operator import mul

# The format allows 100; a hash keeps at most 7x7 frequencies, which 32 pixels carry as well.
MAX_SIDE = 32


def thumbhash(width: int, height: int, rgba: bytes) -> bytes:
    """Return the hash of an image with sides up to MAX_SIDE, 4 bytes a pixel, straight alpha."""
    pixels = [rgba[i : i + 4] for i in range(0, 4 * width * height, 4)]
    alphas = [pixel[3] / 255 for pixel in pixels]
    opacity = sum(alphas)
    has_alpha = opacity < len(pixels)

    # Transparent pixels take the average colour, so that they do not disturb the visible ones.
    average = [
        sum(a * pixel[band] for a, pixel in zip(alphas, pixels, strict=True)) / 255 / (opacity or 1)
        for band in range(3)
    ]
    red, green, blue = (
        [
            average[band] * (1 - a) + a * pixel[band] / 255
            for a, pixel in zip(alphas, pixels, strict=True)
        ]
        for band in range(3)
    )
    rgb = list(zip(red, green, blue, strict=True))
    longest = max(width, height)
    frequencies = 5 if has_alpha else 7
    nx = max(1, _round(frequencies * width / longest))
    ny = max(1, _round(frequencies * height / longest))

    lightness = _Channel([(r + g + b) / 3 for r, g, b in rgb], width, max(3, nx), max(3, ny))
    yellow_blue = _Channel([(r + g) / 2 - b for r, g, b in rgb], width, 3, 3)
    red_green = _Channel([r - g for r, g, _ in rgb], width, 3, 3)
    channels = [lightness, yellow_blue, red_green]

    landscape = width > height
    header = (
        _round(63 * lightness.dc)
        | _round(31.5 + 31.5 * yellow_blue.dc) << 6
        | _round(31.5 + 31.5 * red_green.dc) << 12
        | _round(31 * lightness.scale) << 18
        | has_alpha << 23
        | (ny if landscape else nx) << 24
        | _round(63 * yellow_blue.scale) << 27
        | _round(63 * red_green.scale) << 33
        | landscape << 39
    )
    packed = bytearray(header.to_bytes(5, "little"))
    if has_alpha:
        alpha = _Channel(alphas, width, 5, 5)
        channels.append(alpha)
        packed.append(_round(15 * alpha.dc) | _round(15 * alpha.scale) << 4)

    nibbles = [_round(15 * ac) for channel in channels for ac in channel.ac]
    nibbles += [0] * (len(nibbles) % 2)
    packed += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return bytes(packed)


class _Channel:
    """One channel's low frequencies: the mean, the others scaled to 0..1, and that scale."""

    def __init__(self, values: Sequence[float], width: int, nx: int, ny: int) -> None:
        height = len(values) // width
        rows = [values[i : i + width] for i in range(0, len(values), width)]
        horizontal = [[_project(row, cx) for row in rows] for cx in range(nx)]
        terms = [
            _project(horizontal[cx], cy) / (width * height)
            for cy in range(ny)
            for cx in range(nx)
            if cx * ny < nx * (ny - cy)
        ]
        self.dc, *ac = terms
        self.scale = max(map(abs, ac))
        self.ac = [0.5 + 0.5 * term / self.scale if self.scale else term for term in ac]


def _project(values: Sequence[float], frequency: int) -> float:
    return fsum(map(mul, values, _wave(len(values), frequency)))


@lru_cache(maxsize=1024)
def _wave(length: int, frequency: int) -> list[float]:
    return [cos(pi / length * frequency * (i + 0.5)) for i in range(length)]


def _round(value: float) -> int:
    """Round halves up, as the format's JavaScript does; Python's own would round them to even."""
    return floor(value + 0.5)
