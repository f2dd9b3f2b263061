/**
 * thumbhash.js: decode a ThumbHash, the blurred preview in a media's `placeholder`.
 *
 *     import { drawPlaceholder } from "/static/thumbhash.js";
 *     drawPlaceholder(canvas, media.placeholder);
 *
 * The algorithm and a canvas, nothing else. mediaworker/placeholder.py encodes; the bit layout and
 * the order of terms are the format's. A hash has a few dozen cosine terms: lightness, yellow-blue,
 * red-green and, if the image has transparent parts, alpha.
 */

const LONGEST_SIDE = 32;

/**
 * Draw a base64 ThumbHash on a canvas, which takes the preview's size: stretch it by CSS. Throws if
 * it is something else, as other workers may send.
 */
export function drawPlaceholder(canvas, base64) {
  const { width, height, rgba } = decodeThumbHash(
    Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)),
  );
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}

/** Return `{ width, height, rgba }` of a hash: up to 32 pixels a side, 4 bytes a pixel. */
export function decodeThumbHash(hash) {
  const colours = hash[0] | (hash[1] << 8) | (hash[2] << 16);
  const shape = hash[3] | (hash[4] << 8);
  const hasAlpha = Boolean(colours >> 23);
  const isLandscape = Boolean(shape >> 15);
  const most = hasAlpha ? 5 : 7;
  const nx = isLandscape ? most : shape & 7;
  const ny = isLandscape ? shape & 7 : most;

  const terms = nibbles(hash, hasAlpha ? 6 : 5);
  const channel = (mean, scale, ...sides) => ({ mean, waves: readWaves(terms, scale, ...sides) });
  // The format stores colour weaker than it is: 1.25 makes up for the rounding.
  const lightness = channel((colours & 63) / 63, ((colours >> 18) & 31) / 31, Math.max(3, nx), Math.max(3, ny));
  const yellowBlue = channel(((colours >> 6) & 63) / 31.5 - 1, (((shape >> 3) & 63) / 63) * 1.25, 3, 3);
  const redGreen = channel(((colours >> 12) & 63) / 31.5 - 1, (((shape >> 9) & 63) / 63) * 1.25, 3, 3);
  const alpha = hasAlpha
    ? channel((hash[5] & 15) / 15, (hash[5] >> 4) / 15, 5, 5)
    : { mean: 1, waves: [] };

  const ratio = nx / ny;
  const width = Math.round(ratio > 1 ? LONGEST_SIDE : LONGEST_SIDE * ratio);
  const height = Math.round(ratio > 1 ? LONGEST_SIDE / ratio : LONGEST_SIDE);
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 4) {
      const value = ({ mean, waves }) => sumWaves(mean, waves, (x + 0.5) / width, (y + 0.5) / height);
      const p = value(yellowBlue);
      const q = value(redGreen);
      const l = value(lightness);
      const blue = l - (2 / 3) * p;
      const red = (3 * l - blue + q) / 2;
      rgba.set([255 * red, 255 * (red - q), 255 * blue, 255 * value(alpha)], at);
    }
  }
  return { width, height, rgba };
}

/** Yield the 4-bit numbers from `start` on, the low half of each byte first. */
function* nibbles(bytes, start) {
  for (const byte of bytes.subarray(start)) {
    yield byte & 15;
    yield byte >> 4;
  }
}

/** Read the waves of one channel: the triangle of low frequencies, without the mean. */
function readWaves(terms, scale, nx, ny) {
  const waves = [];
  for (let cy = 0; cy < ny; cy += 1) {
    for (let cx = cy ? 0 : 1; cx * ny < nx * (ny - cy); cx += 1) {
      waves.push({ cx, cy, weight: 2 * scale * (terms.next().value / 7.5 - 1) });
    }
  }
  return waves;
}

function sumWaves(mean, waves, x, y) {
  return waves.reduce(
    (sum, { cx, cy, weight }) => sum + weight * Math.cos(Math.PI * cx * x) * Math.cos(Math.PI * cy * y),
    mean,
  );
}
