// @ts-check
/** Pictures and videos in lists. A click opens the viewer. */

import { make } from "../../text.js";
import { withModule } from "../form.js";
import { button } from "../panel.js";
import { fileIcon, fileView, icon, ownAddress, reserve, timeText } from "./file.js";

/** @typedef {import("./file.js").MediaData} MediaData */
/** The message of a picture: who has sent it, when, with which caption. @typedef {{ session: import("../session.js").Session, entry: import("../entries.js").Entry, caption: string }} Origin */
/** A part of an album has its type. @typedef {MediaData & { type?: string, origin?: Origin }} Item */

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
      if (made.isConnected) return; // the row was drawn again meanwhile
      const again = [...document.querySelectorAll(".media-picture")].find((each) => shown.get(each)?.url === data.url);
      if (again instanceof HTMLElement) again.focus({ preventScroll: true });
    });
  });
  return made;
}

/**
 * Says of what message the pictures in an element are.
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
