// @ts-check
/** Formatting as typed: `code`, ```blocks```, *bold*, **bold** as language models write it, links and mentions. It never interprets markup. */

import { make } from "../text.js";

/** @typedef {{ kind: "text" | "code" | "block" | "bold" | "link" | "mention", text: string }} Part */

const MARKS = /```(?:\n)?([\s\S]+?)\n?```\n?|`([^`\n]+)`|(?<![\p{Lu}\p{Ll}\p{N}*])(\*\*?)(?! )([^*\n]+?)(?<! )\3(?![\p{Lu}\p{Ll}\p{N}*])|(https?:\/\/[^\s<>"'`，。；！？、（）《》「」]+)/gu;
const END_OF_SENTENCE = /(?<![.,:;!?'"*])[.,:;!?'"*]+$/; // looking behind keeps the time linear

/**
 * @param {string} text
 * @param {string[]} [names]  names after an @ that are marked
 * @returns {Part[]}
 */
export function parse(text, names = []) {
  /** @type {Part[]} */
  const parts = [];
  const mentions = mentionsOf(names);
  let end = 0;
  for (const match of text.matchAll(MARKS)) {
    const [whole, block, code, , bold, address] = match;
    const link = address && linkIn(address);
    if (address && !link) continue;
    parts.push(...plain(text.slice(end, match.index), mentions));
    if (block !== undefined) parts.push({ kind: "block", text: block });
    else if (code !== undefined) parts.push({ kind: "code", text: code });
    else if (bold !== undefined) parts.push({ kind: "bold", text: bold });
    else if (link) parts.push({ kind: "link", text: link });
    end = match.index + (link ? link.length : whole.length);
  }
  parts.push(...plain(text.slice(end), mentions));
  return parts;
}

/**
 * @param {string} text
 * @param {string[]} [names]
 * @returns {(Node | string)[]}
 */
export function formatted(text, names = []) {
  return parse(text, names).map(({ kind, text: content }) => {
    if (kind === "code") return make("code", "", content);
    if (kind === "block") {
      const block = make("pre", "", make("code", "", content));
      block.tabIndex = 0; // long lines are scrolled by the keyboard, too
      return block;
    }
    if (kind === "bold") return make("strong", "", content);
    if (kind === "mention") return make("span", "mention", content);
    if (kind !== "link") return content;
    const link = make("a", "", content);
    link.setAttribute("href", content);
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer nofollow");
    return link;
  });
}

/**
 * @param {string} text
 * @param {RegExp | null} mentions  null: there are none
 * @returns {Part[]}
 */
function plain(text, mentions) {
  /** @type {Part[]} */
  const parts = [];
  let end = 0;
  for (const { 0: mention, index } of mentions ? text.matchAll(mentions) : []) {
    if (index > end) parts.push({ kind: "text", text: text.slice(end, index) });
    parts.push({ kind: "mention", text: mention });
    end = index + mention.length;
  }
  if (end < text.length) parts.push({ kind: "text", text: text.slice(end) });
  return parts;
}

/**
 * @param {string[]} names
 * @returns {RegExp | null}  the longest of several names that begin alike
 */
function mentionsOf(names) {
  const sorted = [...names].sort((a, b) => b.length - a.length);
  return sorted.length ? new RegExp(`@(?:${sorted.map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`, "g") : null;
}

/**
 * @param {string} text  starts with http
 * @returns {string} the address without the end of the sentence around it; empty: none
 */
function linkIn(text) {
  let address = text.replace(END_OF_SENTENCE, "");
  if (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1).replace(END_OF_SENTENCE, "");
  return URL.canParse(address) ? address : "";
}
