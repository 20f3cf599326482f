// @ts-check
/**
 * Pictures and videos in lists: a click opens the viewer, and a video that is a message of its own plays where it is.
 * Also messages with several of them, and captions.
 */

import { cut, fill, listOf, make } from "../../text.js";
import { withModule } from "../parts/loading.js";
import { unformatted } from "../parts/format.js";
import { formatted } from "../parts/formatted.js";
import { button } from "../parts/panel.js";
import { fileIcon, fileView, icon, mediaOf, ownAddress, reserve, timeText } from "../parts/file.js";
import { pauseOthers } from "./voice.js";

/** @typedef {import("../parts/file.js").MediaData} MediaData */
/** The message of a picture: who has sent it, when, with which caption. @typedef {{ session: import("../session/session.js").Session, entry: import("../parts/entries.js").Entry, caption: string }} Origin */
/** A part of an album has its type. @typedef {MediaData & { type?: string, origin?: Origin }} Item */
/** @typedef {import("../parts/entries.js").Entry} Entry */

export const MOST_IN_ALBUM = 10;
/** Number of pictures → how many are in each row. */
const ROWS = [[], [1], [2], [1, 2], [2, 2], [2, 3], [3, 3], [2, 2, 3], [2, 3, 3], [3, 3, 3], [3, 3, 4]];
// Ratios of width to height.
/** A picture that is wider or higher is cut. */
const WIDEST = 1.9;
const NARROWEST = 0.6;
/** Two pictures that are wider are below each other. */
const WIDE = 1.5;
/** A row is at least so wide, so that one of narrow pictures is not too high. */
const LEAST_ROW = 1.25;

/**
 * @param {Entry} entry
 * @returns {Item[]} the parts of an album that this page can show
 */
export function itemsOf({ data }) {
  const items = listOf(data?.items).filter((each) => each && typeof each === "object");
  return items.slice(0, MOST_IN_ALBUM).map(mediaOf);
}

/**
 * @param {Entry} entry
 * @returns {string}
 */
export function captionOf({ data }) {
  return typeof data?.caption === "string" ? data.caption : "";
}

/**
 * Makes a message of each part of a message, without its caption.
 *
 * @param {Entry} entry
 * @returns {Entry[]}
 */
export function partsOf(entry) {
  if (entry.type === "album") return itemsOf(entry).map((data) => ({ ...entry, type: data.type || "file", data }));
  return [captionOf(entry) ? { ...entry, data: { ...entry.data, caption: "" } } : entry];
}

/**
 * The pictures and videos of an album in rows, and its files below them.
 *
 * @param {Entry} entry
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}
 */
export function albumView(entry, words) {
  const items = itemsOf(entry);
  if (!items.length) return null;
  const isVisual = (/** @type {Item} */ { type }) => type === "picture" || type === "video";
  const visual = items.filter(isVisual);
  const album = make("div", "album");
  let index = 0;
  const areWide = visual.length === 2 && visual.every((each) => ratioOf(each) > WIDE);
  for (const count of areWide ? [1, 1] : ROWS[visual.length]) {
    const some = visual.slice(index, index + count);
    const row = make("div", "album-row", ...some.flatMap((each) => {
      const made = tile(each, words);
      if (made) made.style.flex = `${ratioOf(each)} 1 0`;
      return made ?? [];
    }));
    const ratio = some.reduce((sum, each) => sum + ratioOf(each), 0);
    row.style.aspectRatio = String(Math.max(LEAST_ROW, ratio));
    album.append(row);
    index += count;
  }
  const files = items.filter((each) => !isVisual(each)).flatMap((each) => fileView(each, words.messages_file) ?? []);
  if (!files.length) return album;
  return make("div", "album-files", ...(visual.length ? [album] : []), ...files);
}

/** @param {Item} item @returns {number} width to height, as the list shows it; 1 if the size is not known */
function ratioOf({ width = 0, height = 0 }) {
  return width > 0 && height > 0 ? Math.max(NARROWEST, Math.min(WIDEST, width / height)) : 1;
}

/**
 * @param {HTMLElement} content
 * @param {string} caption  empty: the content stays as it is
 * @returns {HTMLElement}
 */
export function captioned(content, caption) {
  if (!caption) return content;
  const text = make("div", "text caption", ...formatted(caption, []));
  text.dir = "auto";
  return make("div", "captioned", content, text);
}

/**
 * @param {Entry} entry
 * @returns {string} its caption, for one line
 */
export function captionSummary(entry) {
  return unformatted(cut(captionOf(entry), 1000));
}

/**
 * @param {Entry} entry
 * @param {Record<string, string>} words
 * @returns {string} what is in an album
 */
export function albumSummary(entry, words) {
  const types = new Set(itemsOf(entry).map(({ type }) => type));
  const [only] = types;
  const word = types.size === 1 ? words[`messages_album_${only}`] : "";
  return fill(word || words.messages_album_items, { count: itemsOf(entry).length });
}

/** What the pictures of the page show. @type {WeakMap<Element, Item>} */
const shown = new WeakMap();

/**
 * A picture in the list.
 *
 * @param {MediaData} data
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}
 */
export function pictureView(data, words) {
  const made = tile(data, words);
  if (made && !made.classList.contains("file")) reserve(made, data);
  return made;
}

/**
 * A picture or video that fills its place. A click opens the viewer, with all pictures of the list.
 *
 * @param {Item} data
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}
 */
export function tile(data, words) {
  const isVideo = data.type === "video";
  const word = isVideo ? words.messages_video : words.messages_picture;
  const address = ownAddress(data.url);
  if (!address && data.url === undefined) return make("span", "media-waiting", data.preview ?? fileIcon(data.name ?? ""));
  if (!address) return fileView(data, word);
  const made = button("", "media-picture");
  made.setAttribute("aria-label", `${isVideo ? words.messages_media_play : words.messages_media_open}, ${data.name ?? ""}`);
  const small = ownAddress(data.thumbnail) || (isVideo ? "" : address);
  if (small) {
    const image = /** @type {HTMLImageElement} */ (make("img", ""));
    image.alt = data.name ? `${word}, ${data.name}` : word;
    image.decoding = "async";
    image.addEventListener("error", () => (isVideo ? image.remove() : made.replaceWith(fileView(data, word) ?? "")));
    image.src = small;
    made.append(image);
  }
  if (isVideo) made.append(make("span", "tile-play", icon("play")), make("span", "tile-time", data.seconds ? timeText(data.seconds) : ""));
  shown.set(made, data);
  made.addEventListener("click", () => {
    const list = [...(made.closest("[role=log], .media-list") ?? document).querySelectorAll(".media-picture")];
    const pictures = list.map((each) => shown.get(each) ?? {});
    withModule(import("./viewer.js"), words, async ({ openViewer }) => {
      const viewer = await openViewer(pictures, list.indexOf(made), words, made);
      await viewer.closed;
      if (made.isConnected) return;
      // The row was drawn again meanwhile.
      const again = [...document.querySelectorAll(".media-picture")].find((each) => shown.get(each)?.url === data.url);
      if (again instanceof HTMLElement) again.focus({ preventScroll: true });
    });
  });
  return made;
}

/**
 * Notes to which message the pictures in an element belong: the viewer shows it.
 *
 * @template {HTMLElement | null} T
 * @param {T} content
 * @param {Origin} origin
 * @returns {T} the same
 */
export function withOrigin(content, origin) {
  for (const each of content ? [content, ...content.querySelectorAll(".media-picture")] : []) {
    const item = shown.get(each);
    if (item) shown.set(each, { ...item, origin });
  }
  return content;
}

/**
 * A video that is a message of its own. It plays while it loads: the browser asks for ranges of the file.
 *
 * @param {MediaData} data
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}
 */
export function videoView(data, words) {
  const address = ownAddress(data.url);
  if (!address) return data.url === undefined ? waiting(data) : fileView(data, words.messages_video);
  const video = /** @type {HTMLVideoElement} */ (make("video", "media-video"));
  video.controls = true;
  video.playsInline = true;
  const poster = ownAddress(data.thumbnail);
  video.preload = poster ? "none" : "metadata";
  if (poster) video.poster = poster;
  video.setAttribute("aria-label", [words.messages_video, data.name, data.seconds ? timeText(data.seconds) : ""].filter(Boolean).join(", "));
  reserve(video, data);
  video.addEventListener("error", () => video.replaceWith(fileView(data, words.messages_video) ?? ""));
  video.addEventListener("play", () => pauseOthers(video));
  video.src = address;
  return video;
}

/** @param {MediaData} data @returns {HTMLElement} in place of a video that is not sent yet */
function waiting(data) {
  const box = make("span", "media-waiting", data.preview ?? fileIcon(data.name ?? ""));
  reserve(box, data);
  return box;
}
