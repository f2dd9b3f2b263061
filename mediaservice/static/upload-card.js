/**
 * upload-card.js: one image on the upload page, from the chosen file to its variants.
 *
 * Shows what it is told and says which button was pressed; it never calls the service. Text goes in
 * as text: names of files and messages are not markup.
 */

import { drawPlaceholder } from "./thumbhash.js";
import { STATE_WORDS, explain, formatBytes, formatSaving, formatType } from "./upload-words.js";

const COPIED_SHOWN_MS = 2000;
const CARD_PICTURE_WIDTH = 640;

/**
 * A card in the list; `onCancel`, `onRetry`, `onDelete` are called for the buttons of these names,
 * `announce` with what only people who see the card would know.
 */
export class Card {
  constructor(template, name, { onCancel, onRetry, onDelete, announce }) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.name = name;
    this.announce = announce;
    this.preview = null;
    this.part("name").textContent = name;
    this.part("progress").setAttribute("aria-label", `Upload of ${name}`);
    for (const [part, words, handler] of [
      ["cancel", "Cancel", onCancel],
      ["retry", "Try again", onRetry],
      ["delete", "Delete", onDelete],
      ["copy", "Copy link", () => this.copyLink()],
    ]) {
      this.part(part).setAttribute("aria-label", `${words}: ${name}`);
      this.part(part).addEventListener("click", handler);
    }
    const picture = this.part("picture");
    picture.addEventListener("load", () => this.revealPicture());
    picture.addEventListener("error", () => (picture.hidden = true));
  }

  part(name) {
    return this.element.querySelector(`[data-part="${name}"]`);
  }

  /** Show `only` of the buttons. */
  buttons(...only) {
    const focused = document.activeElement;
    for (const name of ["cancel", "retry", "copy", "delete"]) {
      this.part(name).hidden = !only.includes(name);
    }
    // The button that was pressed may be gone: the keyboard's place in the page should not be.
    if (focused?.hidden && this.element.contains(focused)) {
      this.element.focus({ preventScroll: true });
    }
  }

  setState(state) {
    this.element.dataset.state = state;
    this.part("badge").textContent = STATE_WORDS[state];
  }

  /** Show the file as the browser can; most cannot show HEIC. */
  showFile(file) {
    this.part("summary").textContent = formatBytes(file.size);
    this.preview ??= URL.createObjectURL(file);
    this.part("picture").src = this.preview;
    this.part("picture").hidden = false;
  }

  showStatus(status) {
    this.setState(status);
    this.part("error").hidden = true;
    const bar = this.part("progress");
    bar.hidden = false;
    bar.removeAttribute("value");
    this.buttons("cancel");
  }

  showProgress(fraction) {
    this.part("progress").value = fraction;
    this.part("badge").textContent = `${STATE_WORDS.uploading} ${Math.floor(fraction * 100)} %`;
  }

  /** Show a ready media: its placeholder at once, over it the picture when it has arrived. */
  showMedia(media) {
    this.setState("ready");
    this.media = media;
    this.part("progress").hidden = true;
    this.part("error").hidden = true;
    this.showPlaceholder(media);
    this.showPicture(media);
    this.showVariants(media);
    this.buttons("copy", "delete");
  }

  showPlaceholder({ placeholder }) {
    if (!placeholder) {
      return;
    }
    try {
      drawPlaceholder(this.part("placeholder"), placeholder);
      this.part("placeholder").hidden = false;
    } catch {
      // Another worker's, of another format: the picture is enough.
    }
  }

  showPicture(media) {
    this.forgetPreview();
    const fitting = media.variants.find(({ width }) => width === CARD_PICTURE_WIDTH);
    const picture = this.part("picture");
    picture.hidden = false;
    picture.classList.add("loading");
    picture.alt = this.name;
    picture.src = fitting?.url ?? media.url;
  }

  /** Let the picture fade in over its placeholder, which must not show through it afterwards. */
  async revealPicture() {
    const picture = this.part("picture");
    picture.classList.remove("loading");
    await Promise.allSettled(picture.getAnimations().map(({ finished }) => finished));
    this.part("placeholder").hidden = true;
  }

  showVariants(media) {
    const main = media.variants.find(({ url }) => url === media.url);
    const saving = main && formatSaving(main.size_bytes, media.size_bytes);
    this.part("summary").textContent = [
      `${formatType(media.content_type)} of ${formatBytes(media.size_bytes)}`,
      main && `→ ${formatType(main.content_type)} of ${formatBytes(main.size_bytes)}`,
      saving && `· ${saving} saved`,
    ].filter(Boolean).join(" ");
    this.part("rows").replaceChildren(
      ...media.variants.map((variant) => variantRow(variant, media.size_bytes)),
    );
    this.part("variants").hidden = media.variants.length === 0;
  }

  /** Show that it failed, as `showError` does; `canRetry` offers the button. */
  showFailure(error, { canRetry, ...file }) {
    this.setState("failed");
    this.part("progress").hidden = true;
    this.buttons(...(canRetry ? ["retry"] : []), "delete");
    return this.showError(error, file);
  }

  /** Show what went wrong and what to do, and return it in words. */
  showError(error, file) {
    const { what, todo } = explain(error, file);
    this.part("error-what").textContent = what;
    this.part("error-todo").textContent = todo;
    this.part("error-request").textContent = `${error.code}, request ${error.requestId}`;
    this.part("error-request").hidden = !error.requestId;
    this.part("error").hidden = false;
    return `${what} ${todo}`;
  }

  async copyLink() {
    const button = this.part("copy");
    try {
      await navigator.clipboard.writeText(this.media.url);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed by the browser";
    }
    this.announce(`${button.textContent}: ${this.name}`);
    setTimeout(() => (button.textContent = "Copy link"), COPIED_SHOWN_MS);
  }

  forgetPreview() {
    if (this.preview) {
      URL.revokeObjectURL(this.preview);
      this.preview = null;
    }
  }

  remove() {
    this.forgetPreview();
    this.element.remove();
  }
}

function variantRow(variant, originalBytes) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  const link = document.createElement("a");
  link.href = variant.url;
  link.target = "_blank";
  link.rel = "noopener";
  link.textContent = variant.name;
  name.append(link);
  const saved = cell(formatSaving(variant.size_bytes, originalBytes) ?? "–");
  saved.className = "saved";
  row.append(
    name,
    cell(`${variant.width} × ${variant.height}`),
    cell(formatBytes(variant.size_bytes)),
    saved,
  );
  return row;
}

function cell(text) {
  const element = document.createElement("td");
  element.textContent = text;
  return element;
}
