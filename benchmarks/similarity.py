"""How much like its original a rendition still is."""

from typing import Final

import pyvips

# Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", 2004: window and constants.
_SIGMA: Final = 1.5
_C1: Final = (0.01 * 255) ** 2
_C2: Final = (0.03 * 255) ** 2


def structural_similarity(rendition: bytes, original: bytes) -> float:
    """Return the mean SSIM of luminance with the original, shrunk to the rendition's size.

    The original is decoded at its full size, turned upright and converted to sRGB before it is
    shrunk, so that no shortcut of any renderer is taken for the truth.
    """
    image = pyvips.Image.new_from_buffer(rendition, "")
    truth = pyvips.Image.new_from_buffer(original, "").autorot()
    if truth.get_typeof("icc-profile-data"):
        truth = truth.icc_transform("srgb", embedded=True, black_point_compensation=True)
    truth = truth.colourspace("srgb")
    truth = truth.resize(image.width / truth.width, vscale=image.height / truth.height)
    return mean_ssim(_luminance(image), _luminance(truth.copy_memory()))


def mean_ssim(one: pyvips.Image, other: pyvips.Image) -> float:
    """Return the mean SSIM of two images of one band, 0 to 255, and the same size."""

    def blurred(image: pyvips.Image) -> pyvips.Image:
        return image.gaussblur(_SIGMA, precision="float")

    mean_one, mean_other = blurred(one), blurred(other)
    variance_one = blurred(one * one) - mean_one * mean_one
    variance_other = blurred(other * other) - mean_other * mean_other
    covariance = blurred(one * other) - mean_one * mean_other
    similarity = (2 * mean_one * mean_other + _C1) * (2 * covariance + _C2)
    total = (mean_one * mean_one + mean_other * mean_other + _C1) * (
        variance_one + variance_other + _C2
    )
    return float((similarity / total).avg())


def _luminance(image: pyvips.Image) -> pyvips.Image:
    return image.colourspace("b-w").cast("float")
