/**
 * media-upload.js: upload images through media-service from a browser.
 *
 *     import { upload } from "/static/media-upload.js";
 *     const media = await upload(file, {
 *       headers: { Authorization: `Bearer ${token}` },
 *       onProgress: ({ fraction }) => (bar.value = fraction),
 *     });
 *     picture.src = media.url;
 *
 * One file without dependencies or a build step; copy it, or serve it from where it is. No page and
 * no framework in here. Whatever is repeated is safe to repeat: nothing is ever uploaded twice.
 *
 * Every function takes these options:
 * - `baseUrl`: where the media API is; default `/api/media`. It must be on the page's own origin, or
 *   behind your backend there: the API sends no CORS headers.
 * - `headers`: headers that say who is calling, as an object or as a function that returns one (or a
 *   promise of one), called for each request, so that tokens can be renewed.
 * - `signal`: an AbortSignal; when it fires, the promise rejects with its reason.
 * - `attempts`: how often a request is tried before its failure counts; default 5. While the device
 *   says that it is offline none counts: the next comes when it is online again, or after a minute.
 * - `wait`: `(seconds, signal) => Promise`, how to pause; default: a timer.
 * - `stallSeconds`: how long a PUT may stand still, or the store take to answer, before the PUT is
 *   repeated; default 30.
 *
 * They reject with an UploadError.
 */

const DEFAULT_ATTEMPTS = 5;
const FIRST_BACKOFF_SECONDS = 0.5;
const MAX_BACKOFF_SECONDS = 15;
const MAX_OFFLINE_SECONDS = 60;
const POLL_SECONDS = 1;
const STALL_SECONDS = 30;
const SERVICE_TIMEOUT_MS = 60_000;
/** Less than the time that a service allows beyond a URL's, by its defaults. */
const KEEP_OPEN_MS = 240_000;
/** A proxy's `Retry-After` may be a day. */
const MAX_RETRY_AFTER_SECONDS = 60;
/** As much as the service looks at. */
const HEADER_BYTES = 4096;
/** The most that any service accepts; larger files are not read for their checksum. */
const MAX_UPLOAD_BYTES = 64 * 1024 * 1024;

/** HTTP statuses that say nothing about the request itself. A 500 of the service's is a fault in it. */
const TRANSIENT_STATUSES = new Set([408, 425, 429, 502, 503, 504]);
/** Stores answer 500 in passing, and 409 while they are busy with an earlier attempt. */
const TRANSIENT_STORE_STATUSES = new Set([...TRANSIENT_STATUSES, 409, 500]);

/**
 * Why something failed.
 *
 * - `code`: stable, for programs: the service's `error`, a media's `error.code`, or one of this
 *   module's own: `file_unreadable`, `network_error`, `store_unreachable`, `upload_refused`,
 *   `unexpected_response`.
 * - `message`: a sentence for people.
 * - `retryable`: whether the same call may succeed later.
 * - `cause`: of a `network_error`, what failed: `fetch`, or the caller's own `headers`.
 * - `status`: the HTTP status, if there was an answer. `retryAfterSeconds`: when to come back.
 * - `details`: limits and facts, as the service gives them. `requestId`: to be quoted in reports.
 * - `mediaId`: the media whose processing failed; if `retryable`, `retryMedia(mediaId)` starts again.
 * - `uploadId`: set by `upload` and `finish` once the bytes are sent, unless the service has refused
 *   them. If `mediaId` is null, it is not known what becomes of them: `finish(uploadId)` goes on from
 *   there, without another upload.
 */
export class UploadError extends Error {
  constructor(code, message, { retryable = false, ...facts } = {}) {
    super(message, { cause: facts.cause });
    this.name = "UploadError";
    this.code = code;
    this.retryable = retryable;
    this.status = facts.status ?? null;
    this.retryAfterSeconds = facts.retryAfterSeconds ?? null;
    this.details = facts.details ?? {};
    this.requestId = facts.requestId ?? null;
    this.mediaId = facts.mediaId ?? null;
    this.uploadId = facts.uploadId ?? null;
  }
}

/**
 * Upload one image and return its media, as `getMedia` does, once it is ready.
 *
 * More options:
 * - `onProgress({ loaded, total, fraction })`: bytes sent so far; starts again when a PUT is retried.
 * - `onStatus(status, { uploadId })`: `hashing`, `requesting`, `uploading`, `completing`,
 *   `processing`, `ready`, in this order, each at most once.
 * - `checksum`: have the store check the SHA-256 of the bytes; default true. Browsers offer SHA-256 on
 *   https pages and on localhost only; elsewhere the upload goes on without.
 * - `contentType`: default: what the bytes say, see `guessContentType`.
 * - `ownerType`: `user` (default) or `event`.
 * - `idempotencyKey`: default: a new one, so that a repeated request makes no second upload.
 *
 * An upload that is aborted halfway expires by itself; `deleteMedia(uploadId)` ends it at once.
 */
export async function upload(file, options = {}) {
  const { signal, onStatus = () => {}, checksum = true } = options;
  const prepared = {
    ...options,
    contentType: options.contentType ?? (await guessContentType(file)),
    idempotencyKey: options.idempotencyKey ?? randomKey(),
  };
  if (checksum && globalThis.crypto?.subtle && file.size <= MAX_UPLOAD_BYTES) {
    onStatus("hashing", { uploadId: null });
    prepared.checksumSha256 = await sha256(file);
    signal?.throwIfAborted();
  }
  onStatus("requesting", { uploadId: null });
  const presigned = await requestUpload(file, prepared);
  onStatus("uploading", { uploadId: presigned.upload_id });
  const { uploadId, putFailure } = await putWithRenewal(presigned, file, prepared);
  if (putFailure) {
    await confirmArrival(putFailure, uploadId, prepared);
  }
  return finish(uploadId, prepared);
}

/** A PUT whose answer was lost may have stored the bytes all the same: the service knows. */
async function confirmArrival(putFailure, uploadId, options) {
  try {
    await complete(uploadId, { ...options, attempts: 1 });
  } catch (error) {
    options.signal?.throwIfAborted();
    const isKnown = isRefusal(error) || error.status === 401;
    throw isKnown && error.code !== "upload_not_found" ? error : putFailure;
  }
}

/**
 * Go on with an upload whose bytes are sent and return its media, as `upload` does; safe to repeat.
 *
 * Option: `onStatus`, called from `completing` on.
 */
export async function finish(uploadId, options = {}) {
  const { onStatus = () => {} } = options;
  try {
    onStatus("completing", { uploadId });
    const state = await complete(uploadId, options);
    if (state.status === "processing") {
      onStatus("processing", { uploadId });
    }
    const media = await follow(uploadId, options);
    onStatus("ready", { uploadId });
    return media;
  } catch (error) {
    if (error instanceof UploadError && !isRefusal(error)) {
      error.uploadId = uploadId;
    }
    throw error;
  }
}

/** Say whether the service has decided, which it has not while it does not know who is asking. */
function isRefusal({ status }) {
  return status >= 400 && status < 500 && status !== 401 && !TRANSIENT_STATUSES.has(status);
}

/** Wait until a media is ready and return it, as `getMedia` does; reject if its processing fails. */
export async function follow(mediaId, options = {}) {
  const state = await waitUntilFinal(mediaId, options);
  if (state.status === "failed") {
    throw failureOf(state);
  }
  return getMedia(mediaId, options);
}

/**
 * PUT, once more with a fresh URL if this one is refused; return the upload that has the bytes, and
 * the failure that `complete` may overrule. The URL may have expired: only the store knows, for the
 * clock here may be wrong.
 */
async function putWithRenewal(presigned, file, options) {
  try {
    return { uploadId: presigned.upload_id, putFailure: await tryPut(presigned, file, options) };
  } catch (error) {
    if (error.status !== 403) {
      throw error;
    }
  }
  const renewed = await renewUpload(presigned.upload_id, file, options);
  if (renewed === null) {
    return { uploadId: presigned.upload_id, putFailure: null };
  }
  return { uploadId: renewed.upload_id, putFailure: await tryPut(renewed, file, options) };
}

/** PUT; return the failure that leaves open whether the bytes have arrived, null if they have. */
async function tryPut(presigned, file, options) {
  // The service gives up an upload that takes longer than its URL is for, as on a slow line; asking
  // for it again keeps it open. The bytes under way do not need the fresh URL.
  const timer = setInterval(() => requestUpload(file, options).catch(() => {}), KEEP_OPEN_MS);
  try {
    await putObject(presigned, file, options);
    return null;
  } catch (error) {
    if (error.code !== "store_unreachable") {
      throw error;
    }
    return error;
  } finally {
    clearInterval(timer);
  }
}

/**
 * Ask for a fresh URL of the same upload. Return null if it was completed meanwhile, as by another
 * page after the answer to a PUT was lost; begin another if it has expired or was deleted.
 */
async function renewUpload(uploadId, file, options) {
  try {
    return await requestUpload(file, options);
  } catch (error) {
    if (error.code !== "idempotency_key_reused") {
      throw error;
    }
  }
  try {
    await complete(uploadId, options);
    return null;
  } catch (error) {
    if (error.code !== "upload_expired" && error.code !== "media_not_found") {
      throw error;
    }
  }
  options.idempotencyKey = randomKey();
  return requestUpload(file, options);
}

/**
 * Ask for an upload URL and return what to give to `putObject`.
 *
 * Options: `contentType`, `checksumSha256` (base64 or hex), `ownerType`, `idempotencyKey`.
 */
export async function requestUpload(file, options = {}) {
  const body = {
    content_type: options.contentType ?? (await guessContentType(file)),
    size_bytes: file.size,
  };
  if (options.checksumSha256) {
    body.checksum_sha256 = options.checksumSha256;
  }
  if (options.ownerType) {
    body.owner_type = options.ownerType;
  }
  const headers = { "Idempotency-Key": options.idempotencyKey ?? randomKey() };
  return callService("POST", "/request-upload", options, { body, headers });
}

/**
 * PUT the bytes to the store, as it was presigned, reporting progress and repeating what failed.
 *
 * Option: `onProgress({ loaded, total, fraction })`. Rejects with `store_unreachable` (no answer, or
 * a fault of the store's), `upload_refused` (the URL has expired, or the bytes are not the ones
 * declared) or `file_unreadable` (the file has changed since it was chosen).
 */
export async function putObject(presigned, file, options = {}) {
  await repeat(options, async () => {
    const status = await putOnce(presigned, file, options);
    // 412: a URL stores once, and it has: an earlier attempt arrived and only its answer was lost.
    if ((status >= 200 && status < 300) || status === 412) {
      return;
    }
    if (status === 0) {
      await read(file.slice(0, HEADER_BYTES)); // browsers tell neither fault from the other
    }
    if (status === 0 || TRANSIENT_STORE_STATUSES.has(status)) {
      throw new UploadError("store_unreachable", "The store did not take the bytes.", {
        retryable: true,
        status,
      });
    }
    throw new UploadError("upload_refused", "The store refused the bytes.", { status });
  });
}

/** Say that the bytes are uploaded; return the media's status, `processing` or further. */
export async function complete(uploadId, options = {}) {
  return callService("POST", "/complete", options, { body: { upload_id: uploadId } });
}

/** Return where a media stands: `{ id, status, error, … }`. */
export async function getStatus(mediaId, options = {}) {
  return callService("GET", `/${encodeURIComponent(mediaId)}/status`, options);
}

/** Ask for the status, as often as the service wishes, until it is `ready` or `failed`; return it. */
export async function waitUntilFinal(mediaId, options = {}) {
  const { wait = pause, signal } = options;
  for (;;) {
    let retryAfterSeconds = null;
    const state = await callService(
      "GET",
      `/${encodeURIComponent(mediaId)}/status`,
      options,
      { onResponse: (response) => (retryAfterSeconds = retryAfter(response)) },
    );
    if (state.status === "ready" || state.status === "failed") {
      return state;
    }
    await wait(retryAfterSeconds ?? POLL_SECONDS, signal);
  }
}

/** Return a media's metadata: URLs, sizes, variants, placeholder. */
export async function getMedia(mediaId, options = {}) {
  return callService("GET", `/${encodeURIComponent(mediaId)}`, options);
}

/** Return a page of the caller's media, newest first: `{ items, next_cursor }`. */
export async function listMedia(options = {}) {
  const query = new URLSearchParams(options.query ?? {}).toString();
  return callService("GET", query ? `?${query}` : "", options);
}

/** Delete a media of the caller's; safe to repeat. */
export async function deleteMedia(mediaId, options = {}) {
  await callService("DELETE", `/${encodeURIComponent(mediaId)}`, options);
}

/** Retry a media whose processing failed; return its status. */
export async function retryMedia(mediaId, options = {}) {
  try {
    return await callService("POST", `/${encodeURIComponent(mediaId)}/retry`, options);
  } catch (error) {
    const state = error.code === "retry_not_possible" ? await getStatus(mediaId, options) : null;
    // It is being processed again, or was: an earlier try's answer was lost.
    if (state?.status === "processing" || state?.status === "ready") {
      return state;
    }
    throw error;
  }
}

/** Return the UploadError of a media whose status is `failed`. */
export function failureOf(media) {
  return new UploadError(media.error.code, media.error.message, {
    retryable: media.error.retryable,
    mediaId: media.id,
  });
}

/**
 * Return the type of an image by its first bytes, `application/octet-stream` if they are no image's.
 *
 * Browsers go by the name alone, have no type for HEIC on most systems, and believe a misnamed file;
 * the service goes by the bytes, and so refuses what is no image before it is sent.
 */
export async function guessContentType(file) {
  const header = new Uint8Array(await read(file.slice(0, HEADER_BYTES)));
  return sniff(header) ?? UNKNOWN_TYPE;
}

/** Return the SHA-256 of a file in base64, as the store wants it. */
export async function sha256(file) {
  const digest = await crypto.subtle.digest("SHA-256", await read(file));
  return btoa(String.fromCharCode(...new Uint8Array(digest)));
}

async function read(blob) {
  try {
    return await blob.arrayBuffer();
  } catch {
    throw new UploadError("file_unreadable", "The file cannot be read.");
  }
}

const UNKNOWN_TYPE = "application/octet-stream";

function sniff(header) {
  const text = String.fromCharCode(...header);
  if (text.startsWith("\xff\xd8\xff")) {
    return "image/jpeg";
  }
  if (text.startsWith("\x89PNG\r\n\x1a\n")) {
    return "image/png";
  }
  if (text.startsWith("GIF8")) {
    return "image/gif";
  }
  if (text.startsWith("RIFF") && text.startsWith("WEBP", 8)) {
    return "image/webp";
  }
  return text.startsWith("ftyp", 4) ? sniffHeif(header, text) : null;
}

/** Tell AVIF from HEIC by the brands in the `ftyp` box: the major one, then the compatible ones. */
function sniffHeif(header, text) {
  const length = Math.min(new DataView(header.buffer).getUint32(0), header.length);
  const brands = [];
  for (let at = 8; at + 4 <= length; at += at === 8 ? 8 : 4) {
    brands.push(text.slice(at, at + 4));
  }
  if (brands.some((brand) => brand.startsWith("avi"))) {
    return "image/avif";
  }
  if (brands.some((brand) => brand.startsWith("hei") || brand.startsWith("hev"))) {
    return "image/heic";
  }
  return brands.some((brand) => brand === "mif1" || brand === "msf1") ? "image/heif" : null;
}

/** Call the service, repeating what may be repeated; return the JSON of its answer. */
async function callService(method, path, options, { body, headers, onResponse } = {}) {
  return repeat(options, async () => {
    const response = await fetchOnce(method, path, options, { body, headers });
    onResponse?.(response);
    const answer = response.status === 204 ? null : await readJson(response, options.signal);
    if (!response.ok) {
      throw errorOf(response, answer);
    }
    if (answer === undefined) {
      throw new UploadError("unexpected_response", "The service's answer is not JSON.", {
        retryable: true,
        status: response.status,
      });
    }
    return answer;
  });
}

async function fetchOnce(method, path, options, { body, headers }) {
  const { baseUrl = "/api/media", signal } = options;
  try {
    const own = typeof options.headers === "function" ? await options.headers() : options.headers;
    return await fetch(`${baseUrl}${path}`, {
      method,
      headers: {
        Accept: "application/json",
        ...(body ? { "Content-Type": "application/json" } : {}),
        ...headers,
        ...own,
      },
      body: body ? JSON.stringify(body) : undefined,
      cache: "no-store",
      signal: withTimeout(signal),
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw noAnswer(error);
  }
}

/** Browsers without AbortSignal.any wait as long as they please. */
function withTimeout(signal) {
  if (!AbortSignal.any) {
    return signal;
  }
  const timeout = AbortSignal.timeout(SERVICE_TIMEOUT_MS);
  return signal ? AbortSignal.any([signal, timeout]) : timeout;
}

function noAnswer(cause) {
  return new UploadError("network_error", "The service did not answer.", { retryable: true, cause });
}

/** Return the JSON of an answer, or undefined if it is none. */
async function readJson(response, signal) {
  try {
    return await response.json();
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw noAnswer(error);
  }
}

function errorOf(response, body) {
  const code = body?.error ?? "unexpected_response";
  const message = body?.message ?? `The service answered with status ${response.status}.`;
  return new UploadError(code, message, {
    retryable: TRANSIENT_STATUSES.has(response.status) || code === "upload_not_found",
    status: response.status,
    retryAfterSeconds: retryAfter(response),
    details: body?.errors,
    requestId: body?.request_id ?? response.headers.get("X-Request-ID"),
  });
}

function retryAfter(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  return Number.isFinite(seconds) && seconds >= 0 ? Math.min(seconds, MAX_RETRY_AFTER_SECONDS) : null;
}

/** PUT once and return the HTTP status, 0 for no answer. fetch() does not tell upload progress. */
function putOnce(presigned, file, { signal, onProgress, stallSeconds = STALL_SECONDS }) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    // A dead connection is not always told: bytes stop, and no event comes.
    let stall;
    const watch = () => {
      clearTimeout(stall);
      stall = setTimeout(abort, stallSeconds * 1000);
    };
    request.open(presigned.method, presigned.upload_url);
    for (const [name, value] of Object.entries(presigned.headers)) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = ({ loaded }) => {
      watch();
      onProgress?.({ loaded, total: file.size, fraction: file.size ? loaded / file.size : 1 });
    };
    request.onloadend = () => {
      clearTimeout(stall);
      signal?.removeEventListener("abort", abort);
      if (signal?.aborted) {
        reject(signal.reason);
      } else {
        resolve(request.status);
      }
    };
    signal?.addEventListener("abort", abort, { once: true });
    watch();
    request.send(file);
  });
}

/** Run `action` until it succeeds, fails for good, or `attempts` are used up. */
async function repeat(options, action) {
  const { attempts = DEFAULT_ATTEMPTS, signal, wait = pause } = options;
  for (let attempt = 1; ; ) {
    signal?.throwIfAborted();
    try {
      return await action();
    } catch (error) {
      const isOffline = globalThis.navigator?.onLine === false;
      if (!error.retryable || (attempt >= attempts && !isOffline)) {
        throw error;
      }
      if (isOffline) {
        await untilOnline(wait, signal);
      } else {
        await wait(Math.max(error.retryAfterSeconds ?? 0, backoff(attempt)), signal);
        attempt += 1;
      }
    }
  }
}

/** A device without a network says when it has one again, mostly; until then no try can succeed. */
async function untilOnline(wait, signal) {
  const heard = new AbortController();
  const online = new Promise((resolve) => {
    globalThis.addEventListener("online", resolve, { once: true, signal: heard.signal });
  });
  await Promise.race([online, wait(MAX_OFFLINE_SECONDS, signal)]).finally(() => heard.abort());
}

/** Exponential, with jitter: clients that failed together should not come back together. */
function backoff(attempt) {
  const longest = Math.min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1));
  return longest * (0.5 + Math.random() / 2);
}

async function pause(seconds, signal) {
  signal?.throwIfAborted();
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, seconds * 1000);
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** 128 random bits; `crypto.randomUUID` is missing on pages that are not secure contexts. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
