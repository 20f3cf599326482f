// @ts-check
/** Messages with files that are not shown: a link with name and size. Helpers for all media. */

import { fileAddress, listOf, make, numberOf, recordOf, ROOT, textOf } from "../../text.js";

/**
 * The content of a message with media.
 *
 * @typedef {object} MediaData
 * @property {string} [url]        missing while it is uploaded
 * @property {string} [name]
 * @property {number} [bytes]
 * @property {number} [width]      of a picture or video, in pixels
 * @property {number} [height]
 * @property {number} [seconds]
 * @property {number[]} [wave]     of a voice message: at most 64 numbers from 0 to 31
 * @property {string} [thumbnail]  an address
 * @property {HTMLCanvasElement | null} [preview]  while it is uploaded
 */

/**
 * The content of a message with media, or of a part of an album, as somebody has sent it.
 *
 * @param {unknown} value
 * @returns {MediaData & { type: string }}
 */
export function mediaOf(value) {
  const { url, name, bytes, width, height, seconds, wave, thumbnail, preview, type } = recordOf(value);
  return {
    // Without an address, the file is being uploaded.
    ...(url !== undefined && { url: textOf(url) }),
    name: textOf(name), bytes: numberOf(bytes), width: numberOf(width), height: numberOf(height), seconds: numberOf(seconds),
    wave: listOf(wave).map(numberOf), thumbnail: textOf(thumbnail), preview: isCanvas(preview) ? preview : null, type: textOf(type),
  };
}

/**
 * @param {unknown} value
 * @returns {value is HTMLCanvasElement}
 */
function isCanvas(value) {
  return typeof HTMLCanvasElement === "function" && value instanceof HTMLCanvasElement;
}

/** The longer side of a picture or video in the list, in pixels. */
const SHOWN_PIXELS = 280;
/** No side of it is shorter. */
const LEAST_PIXELS = 64;
const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte"];

/** The namespace of SVG. */
const SVG = "http://www.w3.org/2000/svg";
/** The lines of icons in a square of 24. */
const ICONS = {
  smile: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M8.5 14.2c1.8 2.3 5.2 2.3 7 0M9.2 9.7v.5M14.8 9.7v.5",
  reply: "M9.5 7 4.5 12l5 5M4.5 12H15a5 5 0 0 1 5 5v1",
  dots: "M6 11.4a.6.6 0 1 1 0 1.2.6.6 0 0 1 0-1.2M12 11.4a.6.6 0 1 1 0 1.2.6.6 0 0 1 0-1.2M18 11.4a.6.6 0 1 1 0 1.2.6.6 0 0 1 0-1.2",
  saved: "M7 4.5h10v15l-5-4-5 4z",
  clock: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M12 7.5V12l3 2",
  attach: "M20 11.5 12.2 19a5 5 0 0 1-7-7l8-8a3.3 3.3 0 0 1 4.7 4.7l-8 8a1.6 1.6 0 0 1-2.3-2.4l7-7",
  microphone: "M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3zM5.5 11a6.5 6.5 0 0 0 13 0M12 17.5V21M8.5 21h7",
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8.5 5.5v13M15.5 5.5v13",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  previous: "M14.5 5.5 8 12l6.5 6.5",
  next: "M9.5 5.5 16 12l-6.5 6.5",
  forward: "M14.5 7l5 5-5 5M19.5 12H9a5 5 0 0 0-5 5v1",
  more: "M12 5v14M5 12h14",
  less: "M5 12h14",
  pin: "M9 4.5h6M10 4.5v5.2L7.5 13h9L14 9.7V4.5M12 13v6.5",
  archive: "M4 5.5h16v3.5H4zM5.5 9v9.5h13V9M9.5 12.5h5",
  folder: "M4 7.5v10A1.5 1.5 0 0 0 5.5 19h13a1.5 1.5 0 0 0 1.5-1.5V9a1.5 1.5 0 0 0-1.5-1.5h-6.8L10 5.5H5.5A1.5 1.5 0 0 0 4 7z",
};

/**
 * @param {keyof typeof ICONS} name
 * @returns {SVGElement}
 */
export function icon(name) {
  return drawing(ICONS[name], name);
}

/**
 * @param {string} path  the lines of an icon in a square of 24
 * @param {string} [name]
 * @returns {SVGElement}
 */
export function drawing(path, name = "") {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("class", "icon");
  picture.dataset.sign = name;
  picture.setAttribute("viewBox", "0 0 24 24");
  picture.setAttribute("aria-hidden", "true");
  const lines = document.createElementNS(SVG, "path");
  lines.setAttribute("d", path);
  picture.append(lines);
  return picture;
}

/** Paths of files. Other paths on this server may act, or stay open: six event streams would stop all requests of a browser. */
const FILES = /^\/(api\/v1\/uploads|static)\/[^%]*$/;

/**
 * An address of a file on this server. Other addresses are not loaded: a sender could make the browsers of readers call a foreign server.
 *
 * @param {unknown} text
 * @returns {string} empty: it is none
 */
export function ownAddress(text) {
  if (typeof text !== "string" || !URL.canParse(text, location.href)) return "";
  const url = new URL(fileAddress(text), location.href);
  const { origin, pathname } = url;
  const isOwn = origin === location.origin && pathname.startsWith(ROOT);
  return isOwn && FILES.test(pathname.slice(ROOT.length)) ? url.href : "";
}

/**
 * Reserves the space of a picture or video before it loads.
 *
 * @param {HTMLElement} element
 * @param {MediaData} data
 */
export function reserve(element, { width = 0, height = 0 }) {
  const isKnown = width > 0 && height > 0;
  const [wide, high] = isKnown ? [width, height] : [4, 3];
  const most = isKnown ? 1 : Infinity; // a small picture is not enlarged
  const scale = Math.min(SHOWN_PIXELS / Math.max(wide, high), most);
  element.style.width = `${Math.max(LEAST_PIXELS, Math.round(wide * scale))}px`;
  element.style.aspectRatio = `${Math.max(LEAST_PIXELS, wide * scale)} / ${Math.max(LEAST_PIXELS, high * scale)}`;
}

/**
 * @param {number} bytes
 * @returns {string} with its unit
 */
export function sizeText(bytes) {
  let size = bytes;
  let unit = 0;
  for (; size >= 1000 && unit < UNITS.length - 1; unit += 1) size /= 1000;
  const maximumFractionDigits = size < 10 && unit ? 1 : 0;
  /** @type {any} */
  const form = { style: "unit", unit: UNITS[unit], unitDisplay: unit ? "short" : "long", maximumFractionDigits };
  return new Intl.NumberFormat(document.documentElement.lang, form).format(size);
}

/**
 * @param {number} seconds
 * @returns {string} minutes and seconds
 */
export function timeText(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/**
 * @param {string} name  of a file
 * @returns {HTMLElement} a square with at most five characters of its ending
 */
export function fileIcon(name) {
  const dot = name.lastIndexOf(".");
  const ending = dot > 0 ? name.slice(dot + 1, dot + 6).toUpperCase() : "";
  const square = make("span", "file-icon", ending || "▤");
  square.setAttribute("aria-hidden", "true");
  return square;
}

/**
 * A link to a file, with its name and size. A file of this server is saved, a foreign one is opened in another tab.
 *
 * @param {MediaData} data
 * @param {string} word  if the file has no name
 * @returns {HTMLElement | null} null: it has no address that may be linked
 */
export function fileView(data, word) {
  const name = data.name || word;
  const sign = fileIcon(name);
  const about = make("span", "file-about", make("bdi", "", name));
  if (data.bytes && data.bytes > 0) about.append(make("small", "", sizeText(data.bytes)));
  if (data.url === undefined) return make("span", "file", sign, about);
  if (!data.url || !URL.canParse(data.url, location.href)) return null;
  const url = new URL(fileAddress(data.url), location.href);
  if (!/^https?:$/.test(url.protocol)) return null;
  if (url.origin !== location.origin) about.append(make("small", "", url.host));
  const link = make("a", "file", sign, about);
  link.setAttribute("href", url.href);
  link.setAttribute("rel", "noopener noreferrer nofollow");
  if (url.origin === location.origin) link.setAttribute("download", name);
  else link.setAttribute("target", "_blank");
  return link;
}

/**
 * @param {import("../session/upload.js").Unsent} unsent
 * @returns {number} bytes that are not uploaded yet
 */
export function sizeOf(unsent) {
  if ("content" in unsent) return unsent.content.size;
  return unsent.items.reduce((sum, item) => sum + ("content" in item ? item.content.size : 0), 0);
}
