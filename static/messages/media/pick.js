// @ts-check
/** Choosing, pasting and dropping files; what the page can say about them; and sending them. */

import { fill, make } from "../../text.js";
import { button, openDialog } from "../panel.js";
import { fileIcon, sizeText } from "./file.js";

/** @typedef {import("../session.js").Session} Session */
/** @typedef {import("../store.js").Conversation} Conversation */

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
const PREVIEW_PIXELS = 320;
const MEASURE_MS = 5_000;
const MOST_FILES = 50;

/**
 * Opens the browser's dialog. Resolves to no files if it was closed.
 *
 * @param {{ accept?: string, multiple?: boolean }} [options]
 * @returns {Promise<File[]>}
 */
export function chooseFiles({ accept = "", multiple = true } = {}) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = accept;
  input.multiple = multiple;
  input.hidden = true;
  document.body.append(input); // some browsers forget an input that is in no document
  return new Promise((resolve) => {
    const done = () => {
      input.remove();
      resolve([...(input.files ?? [])]);
    };
    input.addEventListener("change", done);
    input.addEventListener("cancel", done);
    input.click();
  });
}

/**
 * Calls `onFiles` with files that are pasted or dropped into an element.
 *
 * @param {HTMLElement} target
 * @param {Record<string, string>} words
 * @param {(files: File[]) => void} onFiles
 * @param {AbortSignal} [signal]  ends it
 */
export function listenForFiles(target, words, onFiles, signal) {
  const over = make("div", "drop-here", words.messages_media_drop);
  over.hidden = true;
  target.append(over);
  signal?.addEventListener("abort", () => over.remove());
  const hasFiles = (/** @type {DragEvent} */ { dataTransfer }) => dataTransfer?.types.includes("Files") ?? false;
  target.addEventListener("paste", (event) => {
    const data = event.clipboardData;
    if (!data?.files.length || data.types.includes("text/plain")) return; // of a copied table there is a picture, too
    event.preventDefault();
    onFiles([...data.files]);
  }, { signal });
  target.addEventListener("dragenter", (event) => void (hasFiles(event) && (over.hidden = false)), { signal });
  target.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault(), { signal });
  target.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!(relatedTarget instanceof Node && target.contains(relatedTarget))) over.hidden = true;
  }, { signal });
  target.addEventListener("drop", (event) => {
    over.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    onFiles([...(event.dataTransfer?.files ?? [])].filter((file) => file.size || file.type)); // a folder has neither
  }, { signal });
}

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
    const poster = await new Promise((resolve) => preview.toBlob(resolve, "image/jpeg", 0.8));
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
  const kind = PICTURES.has(type) ? "picture" : type.startsWith("audio/") ? "voice" : type.startsWith("video/") ? "video" : "file";
  const limit = limits[kind] ?? 0;
  return limit && size > limit ? limit : 0;
}

/**
 * Shows the files and asks whether to send them. Those that the server would refuse are listed with the limit, and not sent.
 *
 * @param {File[]} files
 * @param {Record<string, string>} words
 * @param {Record<string, number>} [limits]  see {@link limitOver}
 * @returns {Promise<Picked[]>} none: the user has cancelled
 */
export async function confirmFiles(files, words, limits = {}) {
  if (!files.length) return [];
  const offered = files.slice(0, MOST_FILES);
  const refused = offered.filter((file) => limitOver(file, limits));
  let picked = await Promise.all(offered.filter((file) => !limitOver(file, limits)).map(describe));
  let agreed = false;
  const list = make("ul", "picked");
  const send = button(words.messages_media_send, "wide");
  const no = button(words.messages_cancel);
  const title = picked.length ? fill(words.messages_media_confirm, { count: picked.length }) : words.messages_fault_file_too_large;
  const layer = openDialog(title, make("div", "question", list, make("p", "card-row", no, ...(picked.length ? [send] : []))));
  for (const each of picked) list.append(row(each));
  for (const file of refused) list.append(refusedRow(file));
  no.addEventListener("click", () => layer.close());
  send.addEventListener("click", () => {
    agreed = true;
    layer.close();
  });
  (picked.length ? send : no).focus();
  await layer.closed;
  return agreed ? picked : [];

  /** @param {File} file */
  function refusedRow(file) {
    const reason = fill(words.messages_media_too_large, { size: sizeText(file.size), limit: sizeText(limitOver(file, limits)) });
    const about = make("div", "picked-about", make("bdi", "", file.name), make("small", "reason", reason));
    return make("li", "refused", fileIcon(file.name), about);
  }

  /** @param {Picked} each */
  function row(each) {
    const remove = button("×", "round");
    remove.setAttribute("aria-label", fill(words.messages_media_remove, { name: each.file.name }));
    const about = make("div", "picked-about", make("bdi", "", each.file.name), make("small", "muted", sizeText(each.file.size)));
    const made = make("li", "", each.preview ?? fileIcon(each.file.name), about, remove);
    remove.addEventListener("click", () => {
      picked = picked.filter((other) => other !== each);
      made.remove();
      if (!picked.length) layer.close();
      else send.focus();
    });
    return made;
  }
}

/**
 * Puts the files into the outbox, each as a message.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 * @param {Picked[]} picked
 */
export function sendFiles(session, conversation, picked) {
  for (const { file, type, data, preview, poster } of picked) {
    const { seconds, width, height } = data;
    const more = type === "video" ? { ...(seconds && { seconds }), width, height } : {};
    session.outbox.add(conversation, { type, data: { ...data, preview } }, { content: file, options: { name: file.name, kind: type === "picture" ? type : "" }, more, poster });
  }
}
