// @ts-check
/** Messages with several pictures, videos and files, and captions. */

import { cut, fill, listOf, make } from "../../text.js";
import { unformatted } from "../format.js";
import { formatted } from "../formatted.js";
import { fileView, mediaOf } from "./file.js";
import { tile } from "./tile.js";

/** @typedef {import("./tile.js").Item} Item */
/** @typedef {import("../entries.js").Entry} Entry */

export const MOST_IN_ALBUM = 10;
/** Number of pictures → how many are in each row. */
const ROWS = [[], [1], [2], [1, 2], [2, 2], [2, 3], [3, 3], [2, 2, 3], [2, 3, 3], [3, 3, 3], [3, 3, 4]];
/** A picture that is wider or higher is cut. */
const WIDEST = 1.9;
const NARROWEST = 0.6;
/** Two pictures that are wider are below each other. */
const WIDE = 1.5;
/** A row is at least so wide for its height, so that one of narrow pictures is not too high. */
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
 * A message as those that its parts would be, without its caption.
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
  const isSeen = (/** @type {Item} */ { type }) => type === "picture" || type === "video";
  const seen = items.filter(isSeen);
  const album = make("div", "album");
  let index = 0;
  const rows = seen.length === 2 && seen.every((each) => ratioOf(each) > WIDE) ? [1, 1] : ROWS[seen.length];
  for (const count of rows) {
    const some = seen.slice(index, index + count);
    const row = make("div", "album-row", ...some.flatMap((each) => {
      const made = tile(each, words);
      if (made) made.style.flex = `${ratioOf(each)} 1 0`;
      return made ?? [];
    }));
    row.style.aspectRatio = String(Math.max(LEAST_ROW, some.reduce((sum, each) => sum + ratioOf(each), 0)));
    album.append(row);
    index += count;
  }
  const files = items.filter((each) => !isSeen(each)).flatMap((each) => fileView(each, words.messages_file) ?? []);
  if (!files.length) return album;
  return make("div", "album-files", ...(seen.length ? [album] : []), ...files);
}

/** @param {Item} item */
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
