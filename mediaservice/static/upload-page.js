/**
 * upload-page.js: the upload page: which images there are, who is calling, what each button does.
 *
 * An ordinary client of the API by way of media-upload.js; a card shows, this decides.
 */

import {
  UploadError,
  deleteMedia,
  failureOf,
  finish,
  listMedia,
  retryMedia,
  upload,
} from "./media-upload.js";
import { Card } from "./upload-card.js";
import { explain, mayHelpToRetry } from "./upload-words.js";

const PARALLEL_UPLOADS = 3;
const SHOWN_AT_START = 20;
const USER_ID_KEY = "media-service.user-id";
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

const page = document.body.dataset;
const byId = (id) => document.getElementById(id);
const images = byId("images");

/** Tell people who do not see the page what just happened to an image. */
function announce(text) {
  byId("announcer").textContent = text;
}

/* Who is calling */

function callerHeaders() {
  const headers = {};
  const token = byId("token")?.value.trim();
  if (token) {
    headers.Authorization = `Bearer ${token}`;
  }
  const userId = byId("user-id")?.value.trim();
  if (userId) {
    headers["X-User-ID"] = userId;
  }
  return headers;
}

const client = { headers: callerHeaders };

function newUserId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}

function setUpIdentity() {
  byId("identity").addEventListener("submit", (event) => event.preventDefault());
  byId("token")?.addEventListener("change", showEarlier);
  const field = byId("user-id");
  if (!field) {
    return;
  }
  const remember = () => {
    const valid = UUID.test(field.value.trim());
    field.setAttribute("aria-invalid", String(!valid));
    if (valid && page.authMode === "development") {
      localStorage.setItem(USER_ID_KEY, field.value.trim());
    }
    showEarlier();
  };
  field.addEventListener("change", remember);
  byId("new-user").addEventListener("click", () => {
    field.value = newUserId();
    remember();
  });
  if (page.authMode === "development") {
    field.value = localStorage.getItem(USER_ID_KEY) ?? newUserId();
    remember();
  }
}

/* The images */

let running = 0;
const queue = [];

function startNext() {
  while (running < PARALLEL_UPLOADS && queue.length > 0) {
    running += 1;
    queue.shift()().finally(() => {
      running -= 1;
      startNext();
    });
  }
}

/** Those that have a card. */
const items = new Set();

/** One image: a chosen file, a media of the service, or first one and then both. */
class Item {
  constructor({ file = null, media = null }) {
    this.file = file;
    this.mediaId = media?.id ?? null;
    this.again = media ? "finish" : "upload";
    this.sizeBytes = file?.size ?? media.size_bytes;
    this.name = file?.name ?? nameOf(media);
    this.card = new Card(byId("card"), this.name, {
      onCancel: () => this.cancel(),
      onRetry: () => this.retry(),
      onDelete: () => this.delete(),
      announce,
    });
    items.add(this);
  }

  /** Upload the file when it is its turn. */
  enqueue() {
    this.controller = new AbortController();
    this.card.showFile(this.file);
    this.card.showStatus("waiting");
    // Its turn is over once its bytes are: however long processing takes, others can be sent.
    queue.push(() => new Promise((done) => this.run(() => this.upload(done)).finally(done)));
    startNext();
  }

  async upload(onSent) {
    const limit = Number(page.maxUploadBytes);
    if (this.file.size > limit) {
      throw new UploadError("upload_too_large", "The file is over the limit.", {
        details: { max_upload_bytes: limit },
      });
    }
    return upload(this.file, {
      ...this.options(),
      onStatus: (status, { uploadId }) => {
        this.mediaId = uploadId ?? this.mediaId;
        if (status === "processing") {
          onSent();
        }
        if (status !== "ready") {
          this.card.showStatus(status);
        }
      },
      onProgress: ({ fraction }) => this.card.showProgress(fraction),
    });
  }

  options() {
    return { ...client, signal: this.controller.signal };
  }

  /** Show the media that `action` ends with, or why it does not. */
  async run(action) {
    if (this.controller.signal.aborted) {
      return;
    }
    try {
      const media = await action();
      this.card.showMedia(media);
      announce(`${this.name} is ready.`);
    } catch (error) {
      if (!this.controller.signal.aborted) {
        this.fail(error);
      }
    }
  }

  fail(failure, { canRetry = true } = {}) {
    this.again = nextTry(failure, this.again, this.file);
    const isPossible = this.again !== "upload" || this.file !== null;
    const words = this.card.showFailure(failure, {
      sizeBytes: this.sizeBytes,
      hasFile: canRetry && this.file !== null,
      canRetry: canRetry && isPossible && mayHelpToRetry(failure),
    });
    announce(`${this.name} failed. ${words}`);
  }

  async retry() {
    if (this.again === "upload") {
      this.forget();
      this.enqueue();
      return;
    }
    this.controller = new AbortController();
    this.card.showStatus(this.again === "process" ? "processing" : "completing");
    await this.run(async () => {
      if (this.again === "process") {
        await retryMedia(this.mediaId, this.options());
      }
      return finish(this.mediaId, this.options());
    });
  }

  /** Drop what the service has of a failed or cancelled upload; if that fails, it expires. */
  forget() {
    if (this.mediaId) {
      deleteMedia(this.mediaId, { ...client, attempts: 2 }).catch(() => {});
      this.mediaId = null;
    }
  }

  /** Once the bytes are uploaded the image may become public: then only the service's word counts. */
  async cancel() {
    const isUploaded = ["completing", "processing"].includes(this.card.element.dataset.state);
    this.controller.abort();
    if (!isUploaded) {
      this.forget();
      this.leave("cancelled");
      return;
    }
    try {
      await this.deleteMedia();
      this.leave("cancelled");
    } catch (error) {
      this.fail(error, { canRetry: false });
    }
  }

  async delete() {
    // Without a file, what is not ready may be another tab's, and on its way.
    const isLive = this.card.media || (this.file === null && this.again === "finish");
    if (isLive && !confirm(`Delete ${this.name} for good?`)) {
      return;
    }
    try {
      await this.deleteMedia();
      this.leave("deleted");
    } catch (error) {
      announce(`${this.name} is not deleted. ${this.card.showError(error)}`);
    }
  }

  async deleteMedia() {
    if (this.mediaId) {
      await deleteMedia(this.mediaId, client).catch(passIfGone);
    }
  }

  leave(word) {
    const next = this.card.element.nextElementSibling ?? this.card.element.previousElementSibling;
    const hadFocus = this.card.element.contains(document.activeElement);
    this.remove();
    announce(`${this.name} is ${word}.`);
    showWhetherEmpty();
    if (hadFocus) {
      (next ?? byId("files")).focus();
    }
  }

  /** Take the card away, and do not ask about its image any more. */
  remove() {
    this.controller.abort();
    items.delete(this);
    this.card.remove();
  }
}

/**
 * Say what the next try has to do: `upload` the file, have its media processed again (`process`), or
 * `finish` the upload of bytes that are sent, or may be on their way from elsewhere. A lost connection
 * leaves a wish to `process` as it was.
 */
function nextTry(failure, before, file) {
  if (failure.mediaId !== null) {
    return failure.retryable ? "process" : "upload";
  }
  const isElsewhere = failure.code === "upload_not_found" && file === null;
  if (failure.uploadId !== null || isElsewhere) {
    return "finish";
  }
  return before === "process" && failure.code !== "media_not_found" ? "process" : "upload";
}

function passIfGone(error) {
  if (error.code !== "media_not_found") {
    throw error;
  }
}

/** A media has no name: people know their pictures by sight and by time. */
function nameOf(media) {
  return `Image of ${new Date(media.created_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
}

function addFiles(files) {
  const added = Array.from(files, (file) => new Item({ file }));
  images.prepend(...added.map(({ card }) => card.element));
  added.forEach((item) => item.enqueue());
  showWhetherEmpty();
}

function showWhetherEmpty() {
  byId("empty").hidden = images.childElementCount > 0;
}

let showing = 0;

/** Show what the caller has uploaded before, in place of what another caller had. */
async function showEarlier() {
  showing += 1;
  const turn = showing;
  [...items].filter(({ file }) => file === null).forEach((item) => item.remove());
  byId("notice").hidden = true;
  showWhetherEmpty();
  if (Object.keys(callerHeaders()).length === 0) {
    return;
  }
  try {
    const listed = await listMedia({ ...client, query: { limit: SHOWN_AT_START } });
    if (turn === showing) {
      listed.items.filter(isEarlier).forEach(showOne);
    }
  } catch (error) {
    if (turn !== showing) {
      return;
    }
    const { what, todo } = explain(error);
    byId("notice").textContent = `Your earlier images cannot be shown. ${what} ${todo}`;
    byId("notice").hidden = false;
  }
  showWhetherEmpty();
}

function isEarlier({ id }) {
  return ![...items].some(({ mediaId }) => mediaId === id);
}

function showOne(media) {
  const item = new Item({ media });
  images.append(item.card.element);
  item.controller = new AbortController();
  if (media.status === "ready") {
    item.card.showMedia(media);
  } else if (media.status === "failed") {
    item.fail(failureOf(media));
  } else {
    // What is pending may have arrived before the page was left.
    item.card.showStatus(media.status === "pending" ? "completing" : "processing");
    item.run(() => finish(media.id, item.options()));
  }
}

/* Leaving, and losing the network */

function setUpInterruptions() {
  addEventListener("beforeunload", (event) => {
    if (running > 0) {
      event.preventDefault();
    }
  });
  const showWhetherOffline = () => (byId("offline").hidden = navigator.onLine);
  addEventListener("offline", showWhetherOffline);
  addEventListener("online", showWhetherOffline);
  showWhetherOffline();
}

/* How files come in */

function setUpFiles() {
  const input = byId("files");
  input.addEventListener("change", () => {
    addFiles(input.files);
    input.value = "";
  });
  const drop = byId("drop");
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (carriesFiles(event)) {
      event.preventDefault();
      drop.classList.add("over");
    }
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) {
      drop.classList.remove("over");
    }
  });
  addEventListener("drop", (event) => {
    if (carriesFiles(event)) {
      event.preventDefault();
      drop.classList.remove("over");
      addFiles(event.dataTransfer.files);
    }
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      addFiles(event.clipboardData.files);
    }
  });
}

setUpFiles();
setUpInterruptions();
setUpIdentity();
