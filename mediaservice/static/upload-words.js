/**
 * upload-words.js: what the upload page says: sizes, states, and for each failure what to do.
 *
 * Sentences only; which failures there are is decided by the service and media-upload.js.
 */

export const STATE_WORDS = {
  waiting: "Waiting",
  hashing: "Preparing",
  requesting: "Preparing",
  uploading: "Uploading",
  completing: "Checking",
  processing: "Processing",
  ready: "Ready",
  failed: "Failed",
};

const CHOOSE_ANOTHER = "Open it in a picture program, save it as JPEG or PNG, and upload that.";
const TRY_AGAIN = "Try again; if it fails each time, tell whoever runs this service.";

/** Per code: what happened (unless the service's own sentence is plain enough) and what to do. */
const ADVICE = {
  checksum_mismatch: [, "The file changed while it was uploaded. Try again."],
  content_mismatch: ["The file is not the kind of image its name says.", CHOOSE_ANOTHER],
  corrupt_image: ["The image is damaged.", CHOOSE_ANOTHER],
  image_too_large: ["The image is too large.", "Make it smaller and upload that."],
  file_unreadable: [
    "The file cannot be read any more.",
    "It was moved, changed or deleted since you chose it: choose it again.",
  ],
  network_error: [
    "The service cannot be reached.",
    "Check your connection, then try again.",
  ],
  not_owner: [, "Check who you are, at the top of the page."],
  size_mismatch: [, "The file changed while it was uploaded. Try again."],
  store_unreachable: [
    "The storage cannot be reached.",
    "Check your connection, then try again. If it fails each time, the storage may not allow this page's origin (WEB_ORIGINS).",
  ],
  too_many_pending: [
    "You have too many unfinished uploads.",
    "Wait until some are done, or delete some, then try again.",
  ],
  unauthenticated: [
    "The service does not know who you are.",
    "Fill in the field at the top of the page, then try again.",
  ],
  unsupported_format: ["The file is not an image that can be read.", CHOOSE_ANOTHER],
  upload_not_found: [
    "The image has not arrived.",
    "If it is being uploaded elsewhere, in another tab say, try again later; if not, upload it again.",
  ],
  upload_expired: ["The upload took too long.", "Try again."],
  upload_refused: ["The storage refused the file.", TRY_AGAIN],
};

/** Failures of a file that would fail again, whoever tries. */
const FILE_IS_AT_FAULT = new Set([
  "content_mismatch",
  "content_type_not_allowed",
  "corrupt_image",
  "image_too_large",
  "unsupported_format",
  "upload_too_large",
]);

/** Say whether the same file may succeed in another try. */
export function mayHelpToRetry(error) {
  return !FILE_IS_AT_FAULT.has(error.code);
}

/** Return `{ what, todo }` for an UploadError about a file of `sizeBytes`, if this page has one. */
export function explain(error, { sizeBytes, hasFile = false } = {}) {
  if (error.code === "upload_too_large") {
    const limit = Math.floor(error.details.max_upload_bytes / 1e5) / 10;
    return {
      what: `The image has ${formatBytes(sizeBytes)}; the most is ${limit} MB.`,
      todo: "Make it smaller and upload that.",
    };
  }
  if (error.code === "content_type_not_allowed") {
    const formats = new Set(error.details.allowed_content_types.map(formatType));
    return {
      what: "This kind of file is not accepted.",
      todo: `Choose an image of one of these kinds: ${[...formats].join(", ")}.`,
    };
  }
  const [what = error.message, todo = TRY_AGAIN] = ADVICE[error.code] ?? [];
  const isKept = hasFile && error.code === "network_error";
  return { what, todo: isKept ? `${todo} The file is still here.` : todo };
}

/** Return a size for people, e.g. `3.4 MB`. */
export function formatBytes(bytes) {
  for (const [unit, size] of [["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= size) {
      return `${(bytes / size).toLocaleString("en", { maximumFractionDigits: bytes < 10 * size ? 1 : 0 })} ${unit}`;
    }
  }
  return `${bytes} bytes`;
}

/** Return how much smaller `bytes` is than `original`, e.g. `94 %`, or null if it is not. */
export function formatSaving(bytes, original) {
  const percent = Math.floor(100 * (1 - bytes / original));
  return percent > 0 ? `${percent} %` : null;
}

/** Return the everyday name of a content type, e.g. `JPEG`. */
export function formatType(contentType) {
  const name = contentType.replace("image/", "");
  return { heif: "HEIC", webp: "WebP" }[name] ?? name.toUpperCase();
}
