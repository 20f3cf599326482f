// @ts-check
/** Files before they are sent: what the browser can say about them, their order, a caption, and the messages that they become. */

import { leftOf, leftText } from "../../page-parts.js";
import { fill, make } from "../../text.js";
import { loadStyle } from "../parts/form.js";
import { button, openDialog } from "../parts/panel.js";
import { MOST_IN_ALBUM } from "./album.js";
import { fileIcon, sizeText } from "../parts/file.js";
import "../session/upload.js"; // the files need it, perhaps when there is no connection

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

/**
 * A file that may be sent. `type` is that of its message.
 *
 * @typedef {object} Picked
 * @property {File} file
 * @property {"picture" | "video" | "file"} type
 * @property {Record<string, any>} data  what its message will say: `name`, `bytes`, `width`, `height`, `seconds`
 * @property {HTMLCanvasElement | null} preview
 * @property {Blob | null} poster
 */

const PICTURES = new Set(["image/jpeg", "image/png", "image/gif", "image/webp"]);
/** The longer side of a preview. */
const PREVIEW_PIXELS = 320;
const POSTER_QUALITY = 0.8;
/** A video whose first picture takes longer is sent as a file. */
const MEASURE_MS = 5_000;
const MOST_FILES = 50;
/** In characters. */
export const MOST_CAPTION = 1000;
/** What browsers report as `keyCode` of a key that an input method takes; Safari does so after `isComposing` has ended. */
const TAKEN_BY_INPUT_METHOD = 229;

/**
 * What the browser can say about a file.
 *
 * @param {File} file
 * @returns {Promise<Picked>}
 */
export async function describe(file) {
  const about = { name: file.name, bytes: file.size };
  try {
    if (PICTURES.has(file.type)) {
      const image = await createImageBitmap(file, { imageOrientation: "from-image" });
      const { width, height } = image;
      const preview = drawn(image, width, height);
      image.close();
      return { file, type: "picture", data: { ...about, width, height }, preview, poster: null };
    }
    if (file.type.startsWith("video/")) return await describeVideo(file, about);
  } catch {
    // the browser cannot decode it
  }
  return { file, type: "file", data: about, preview: null, poster: null };
}

/**
 * Measures a video, and draws its first picture. Rejected if the browser cannot play it.
 *
 * @param {File} file
 * @param {{ name: string, bytes: number }} about
 * @returns {Promise<Picked>}
 */
async function describeVideo(file, about) {
  const video = document.createElement("video");
  const address = URL.createObjectURL(file);
  try {
    video.muted = true;
    video.preload = "auto";
    await new Promise((resolve, reject) => {
      video.addEventListener("loadeddata", resolve, { once: true });
      video.addEventListener("error", () => reject(video.error), { once: true });
      setTimeout(() => reject(new Error("too slow")), MEASURE_MS);
      video.src = address;
    });
    const { videoWidth: width, videoHeight: height, duration } = video;
    if (!width) throw new Error("no pictures");
    const preview = drawn(video, width, height);
    const poster = await new Promise((resolve) => preview.toBlob(resolve, "image/jpeg", POSTER_QUALITY));
    const seconds = Number.isFinite(duration) ? Math.round(duration * 10) / 10 : 0;
    return { file, type: "video", data: { ...about, width, height, ...(seconds && { seconds }) }, preview, poster };
  } finally {
    video.removeAttribute("src");
    URL.revokeObjectURL(address);
  }
}

/**
 * @param {CanvasImageSource} source
 * @param {number} width
 * @param {number} height
 * @returns {HTMLCanvasElement} the picture, made smaller if it is larger than a preview
 */
function drawn(source, width, height) {
  const scale = Math.min(1, PREVIEW_PIXELS / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d")?.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/**
 * @param {{ size: number, type: string }} file
 * @param {Record<string, number>} limits  kind → the most bytes that the server takes
 * @returns {number} the limit that the file is over; 0: none
 */
export function limitOver({ size, type }, limits) {
  const limit = limits[kindOf(type)] ?? 0;
  return limit && size > limit ? limit : 0;
}

/** @param {string} type  of a file @returns {string} the kind whose limit the server applies */
function kindOf(type) {
  if (PICTURES.has(type)) return "picture";
  if (type.startsWith("audio/")) return "voice";
  return type.startsWith("video/") ? "video" : "file";
}

/** @typedef {{ picked: Picked[], caption: string }} Confirmed */

/**
 * Shows the files in their order, to remove some, move them and write a caption. Those that the server would refuse are listed with the
 * limit, and not sent.
 *
 * @param {File[]} files
 * @param {Record<string, string>} words
 * @param {{ limits?: Record<string, number>, caption?: string }} [given]  `limits`: see {@link limitOver}; `caption`: what is typed already
 * @returns {Promise<Confirmed | null>} null: the user has cancelled
 */
export async function confirmFiles(files, words, { limits = {}, caption = "" } = {}) {
  if (!files.length) return null;
  const offered = files.slice(0, MOST_FILES);
  const refused = offered.filter((file) => limitOver(file, limits));
  const picked = await Promise.all(offered.filter((file) => !limitOver(file, limits)).map(describe));
  await loadStyle(new URL("../later/preview.css", import.meta.url));
  let isAgreed = false;
  const list = make("ul", "picked");
  const send = button(words.messages_media_send, "wide");
  const cancel = button(words.messages_cancel);
  const field = /** @type {HTMLTextAreaElement} */ (make("textarea", "picked-caption"));
  Object.assign(field, { rows: 1, placeholder: words.messages_media_caption, ariaLabel: words.messages_media_caption, value: caption });
  field.dataset.limit = String(MOST_CAPTION);
  const tooLong = make("p", "reason");
  tooLong.setAttribute("role", "status");
  field.addEventListener("input", () => { tooLong.textContent = leftOf(field) < 0 ? leftText(field, words) : ""; });
  /** @type {HTMLElement[]} */
  const parts = picked.length ? [field, tooLong] : [];
  if (files.length > MOST_FILES) parts.unshift(make("p", "reason", fill(words.messages_media_most, { count: MOST_FILES })));
  const buttons = make("p", "card-row", cancel, ...(picked.length ? [send] : []));
  const layer = openDialog("", make("div", "question picked-files", list, ...parts, buttons));
  const heading = layer.dialog.querySelector("h2");
  const agree = () => {
    if (leftOf(field) < 0) return field.focus();
    isAgreed = true;
    layer.close();
  };
  const draw = () => {
    const title = picked.length ? fill(words.messages_media_confirm, { count: picked.length }) : words.messages_fault_file_too_large;
    if (heading) heading.textContent = title;
    list.classList.toggle("single", picked.length === 1 && !refused.length);
    list.replaceChildren(...picked.map(row), ...refused.map(refusedRow));
  };
  cancel.addEventListener("click", () => layer.close());
  send.addEventListener("click", agree);
  field.addEventListener("keydown", (event) => {
    const isComposing = event.isComposing || event.keyCode === TAKEN_BY_INPUT_METHOD;
    if (event.key !== "Enter" || event.shiftKey || isComposing) return;
    event.preventDefault();
    agree();
  });
  draw();
  if (!picked.length) cancel.focus();
  else if (matchMedia("(hover: hover)").matches) field.focus();
  else send.focus(); // a keyboard would cover the pictures
  await layer.closed;
  return isAgreed ? { picked, caption: field.value.trim() } : null;

  /** @param {File} file */
  function refusedRow(file) {
    const reason = fill(words.messages_media_too_large, { size: sizeText(file.size), limit: sizeText(limitOver(file, limits)) });
    const about = make("div", "picked-about", make("bdi", "", file.name), make("small", "reason", reason));
    return make("li", "refused", fileIcon(file.name), about);
  }

  /** @param {Picked} each */
  function row(each) {
    const { name } = each.file;
    const remove = button("×", "round");
    remove.setAttribute("aria-label", fill(words.messages_media_remove, { name }));
    const about = make("div", "picked-about", make("bdi", "", name), make("small", "muted", sizeText(each.file.size)));
    const made = make("li", "", each.preview ?? fileIcon(name), about, ...(picked.length > 1 ? [handle(each)] : []), remove);
    remove.addEventListener("click", () => {
      picked.splice(picked.indexOf(each), 1);
      if (!picked.length) return layer.close();
      draw();
      (field.isConnected ? field : send).focus();
    });
    return made;
  }

  /**
   * A handle that a finger or the mouse pulls, and the arrow keys move.
   *
   * @param {Picked} each
   */
  function handle(each) {
    const { name } = each.file;
    const made = button("⠿", "round picked-handle");
    made.setAttribute("aria-label", fill(words.messages_media_move, { name }));
    made.title = made.getAttribute("aria-label") ?? "";
    const moveTo = (/** @type {number} */ index) => {
      if (index < 0 || index >= picked.length) return;
      picked.splice(picked.indexOf(each), 1);
      picked.splice(index, 0, each);
      const rows = /** @type {HTMLElement[]} */ ([...list.children]);
      const thisRow = /** @type {HTMLElement} */ (made.closest("li"));
      // The row is moved, and not drawn again: its handle has captured the pointer.
      if (rows.indexOf(thisRow) < index) rows[index].after(thisRow);
      else rows[index].before(thisRow);
    };
    made.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      moveTo(picked.indexOf(each) + step);
      made.focus();
    });
    made.addEventListener("pointerdown", (event) => {
      made.setPointerCapture(event.pointerId);
      made.closest("li")?.classList.add("moved");
    });
    made.addEventListener("pointermove", ({ pointerId, clientY }) => {
      if (!made.hasPointerCapture(pointerId)) return;
      const rows = [...list.children].slice(0, picked.length);
      const above = rows.filter((row) => row !== made.closest("li") && clientY > middleOf(row)).length;
      if (above !== picked.indexOf(each)) {
        moveTo(above);
        made.setPointerCapture(pointerId); // a moved element loses it
      }
    });
    for (const end of ["pointerup", "pointercancel"]) made.addEventListener(end, () => made.closest("li")?.classList.remove("moved"));
    return made;
  }
}

/** @param {Element} row */
function middleOf(row) {
  const { top, height } = row.getBoundingClientRect();
  return top + height / 2;
}

/**
 * Puts the files into the outbox: one as a message of its type, several as albums of at most {@link MOST_IN_ALBUM}.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 * @param {Confirmed} confirmed  the caption is that of the first message
 * @param {Pick<import("../session/outbox.js").Content, "replyTo" | "thread" | "also">} place  only the first message is the reply
 */
export function sendFiles({ outbox }, conversation, { picked, caption }, { replyTo, ...place }) {
  for (let start = 0; start < picked.length; start += MOST_IN_ALBUM) {
    const isFirst = start === 0;
    const some = picked.slice(start, start + MOST_IN_ALBUM);
    const more = isFirst && caption ? { caption } : {};
    const where = { ...place, replyTo: isFirst ? replyTo : undefined };
    if (some.length === 1) {
      const [{ type, data, preview }] = some;
      outbox.add(conversation, { type, data: { ...data, ...more, preview }, ...where }, unsentOf(some[0], more));
    } else {
      const items = some.map(({ type, data, preview }) => ({ type, ...data, preview }));
      const unsent = some.map((each) => unsentOf(each, { type: each.type }));
      outbox.add(conversation, { type: "album", data: { items, ...more }, ...where }, { items: unsent, more });
    }
  }
}

/**
 * @param {Picked} picked
 * @param {Record<string, any>} more  goes into the content of the message
 * @returns {import("../session/upload.js").UnsentFile}
 */
function unsentOf({ file, type, data: { seconds, width, height }, poster }, more) {
  const measured = type === "video" ? { ...(seconds && { seconds }), width, height } : {};
  return { content: file, options: { name: file.name, kind: type === "picture" ? type : "" }, more: { ...more, ...measured }, poster };
}
