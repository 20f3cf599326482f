// @ts-check
/**
 * Images, videos and voice messages. Files of this server are shown. Other addresses become links, so that a sender
 * cannot make the browsers of the readers call a foreign server.
 */

import { fileAddress, fill, make } from "./text.js";

const SHOWN_AS = new Map([["image", "img"], ["video", "video"], ["voice", "audio"]]);

/**
 * @param {string} type  of the message
 * @param {string} text  of the message: an address
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}  null: show it as text
 */
export function mediaOf(type, text, words) {
  const tag = SHOWN_AS.get(type);
  const url = tag ? addressIn(text) : null;
  if (!tag || !url) return null;
  if (url.origin !== location.origin) return link(type, url, words);
  const shown = make(tag, "media");
  const label = words[`talk_${type}`];
  shown.setAttribute(tag === "img" ? "alt" : "aria-label", label);
  if (tag !== "img") shown.setAttribute("controls", "");
  if (tag === "video") shown.setAttribute("preload", "metadata");
  shown.addEventListener("error", () => shown.replaceWith(link(type, url, words)));
  shown.setAttribute("src", url.href);
  return shown;
}

/**
 * @param {string} text
 * @returns {URL | null}
 */
function addressIn(text) {
  if (!/^(https?:\/\/|\/(?!\/))\S+$/i.test(text)) return null;
  try {
    return new URL(fileAddress(text), location.origin);
  } catch {
    return null;
  }
}

/**
 * @param {string} type
 * @param {URL} url
 * @param {Record<string, string>} words
 */
function link(type, url, words) {
  const made = make("a", "attachment", make("b", "", words[`talk_${type}`]), make("bdi", "", fill(words.talk_from, { host: url.host })));
  made.setAttribute("href", url.href);
  made.setAttribute("target", "_blank");
  made.setAttribute("rel", "noopener noreferrer nofollow");
  return made;
}
