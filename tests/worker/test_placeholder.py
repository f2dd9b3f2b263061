"""The placeholder is a ThumbHash that any published decoder understands."""

import pytest

from mediaworker.placeholder import thumbhash

RED = (255, 0, 0, 255)


def average(placeholder: bytes) -> tuple[float, float, float, float]:
    """Decode the average colour, as a decoder in a browser does."""
    header = int.from_bytes(placeholder[:3], "little")
    lightness = (header & 63) / 63
    yellow_blue = (header >> 6 & 63) / 31.5 - 1
    red_green = (header >> 12 & 63) / 31.5 - 1
    alpha = (placeholder[5] & 15) / 15 if header >> 23 else 1.0
    blue = lightness - 2 / 3 * yellow_blue
    red = (3 * lightness - blue + red_green) / 2
    return red, red - red_green, blue, alpha


@pytest.mark.parametrize(
    "colour", [RED, (0, 255, 0, 255), (10, 20, 250, 255), (0, 0, 0, 255), (255, 255, 255, 255)]
)
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (32, 1), (1, 32), (31, 17)])
def test_a_flat_colour_comes_back(size, colour):
    width, height = size
    found = average(thumbhash(width, height, bytes(colour) * (width * height)))
    assert found == pytest.approx([value / 255 for value in colour], abs=0.05)


def test_half_transparent_pixels_are_half_there_and_colour_only_what_they_show():
    pixels = bytes((*RED[:3], 128)) * 64 + bytes((0, 0, 255, 0)) * 64
    red, green, blue, alpha = average(thumbhash(16, 8, pixels))
    assert alpha == pytest.approx(0.25, abs=0.04)
    assert (red, green, blue) == pytest.approx((1, 0, 0), abs=0.05)


def test_an_invisible_image_has_a_placeholder_too():
    assert average(thumbhash(8, 8, bytes(8 * 8 * 4)))[3] == 0


def test_it_equals_the_reference_implementation():
    gradient = bytes(
        value
        for y in range(12)
        for x in range(20)
        for value in (x * 12, y * 20, (x * y) % 256, 255)
    )
    assert thumbhash(20, 12, gradient).hex() == "d7090e1498707777908888878887760707f787"
