"""Placeholders: what mediaworker encodes, thumbhash.js shows as the format's own decoder does."""

import base64
import random

from mediaworker.placeholder import MAX_SIDE, thumbhash

DECODE = """async (hashes) => {
  const ours = await import("/static/thumbhash.js");
  const reference = await import("/reference.js");
  return hashes.map((base64) => {
    const hash = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const shown = ours.decodeThumbHash(hash);
    const expected = reference.thumbHashToRGBA(hash);
    const differences = expected.rgba.map((value, at) => Math.abs(value - shown.rgba[at]));
    return {
      size: [shown.width, shown.height],
      expected: [expected.w, expected.h],
      length: shown.rgba.length - expected.rgba.length,
      difference: Math.max(...differences),
    };
  });
}"""


def hashed(has_alpha: bool) -> str:
    width, height = random.randint(1, MAX_SIDE), random.randint(1, MAX_SIDE)
    pixels = bytearray(random.randbytes(4 * width * height))
    if not has_alpha:
        pixels[3::4] = b"\xff" * (width * height)
    return base64.b64encode(thumbhash(width, height, bytes(pixels))).decode()


def test_the_decoder_agrees_with_the_formats_own(page, npm_package):
    reference = npm_package("uppy-6") / "node_modules/thumbhash/thumbhash.js"
    page.route("**/reference.js", lambda route: route.fulfill(path=reference))
    page.goto("/")
    hashes = [hashed(has_alpha) for has_alpha in (True, False) for _ in range(20)]
    for base64_, found in zip(hashes, page.evaluate(DECODE, hashes), strict=True):
        assert found["size"] == found["expected"], base64_
        assert found["length"] == 0, base64_
        assert found["difference"] <= 1, f"{base64_}: one is rounding"
