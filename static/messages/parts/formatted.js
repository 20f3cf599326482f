// @ts-check
/** Formatted texts as elements. */

import { copyText } from "../../page-parts.js";
import { make } from "../../text.js";
import { BLOCK_KINDS, parse } from "./format.js";

/** @typedef {import("./format.js").Inline} Inline */
/** @typedef {import("./format.js").Code} Code */
/** @typedef {import("./format.js").List} List */
/** @typedef {import("./format.js").Table} Table */
/** @typedef {import("./format.js").Part} Part */

/** How a text without marks is drawn, and a reaction: a feature may know more. @type {{ draw: (text: string) => Node | string }} */
export const plain = { draw: (text) => text };
const TAGS = { bold: "strong", italic: "em", struck: "s" };

/**
 * @param {string} text
 * @param {string[]} [names]  names after an @ that are marked
 * @param {{ isMarkdown?: boolean, words?: Record<string, string> }} [options]  `words`: code has a button that copies it
 * @returns {(Node | string)[]}
 */
export function formatted(text, names = [], { isMarkdown = false, words } = {}) {
  const parts = parse(text, names, isMarkdown);
  return (isMarkdown ? withoutEmpty(parts) : parts).map((part) => {
    if (part.kind === "block") return words ? make("div", "code", codeBlock(part), copyButton(part.text, words)) : codeBlock(part);
    if (part.kind === "heading") return make("strong", "heading", ...part.parts.map(drawn));
    if (part.kind === "table") return tableOf(part);
    if (part.kind === "quote") return make("blockquote", "", ...part.parts.map(drawn));
    return part.kind === "list" ? listOf(part) : drawn(part);
  });
}

/** @param {List} part */
function listOf({ first, items }) {
  const rows = items.map(({ depth, parts }) => make("li", depth ? "deeper" : "", ...parts.map(drawn)));
  const list = make(first ? "ol" : "ul", "", ...rows);
  if (first > 1) list.setAttribute("start", String(first));
  return list;
}

/**
 * In Markdown, empty lines beside a block only end it, and those at the end have nothing to part.
 *
 * @param {Part[]} parts
 * @returns {Part[]}
 */
export function withoutEmpty(parts) {
  const isBlock = (/** @type {number} */ index) => BLOCK_KINDS.has(parts[index]?.kind);
  return parts.flatMap((part, index) => {
    if (part.kind !== "text") return [part];
    const begun = isBlock(index - 1) ? part.text.replace(/^\s*\n/, "") : part.text;
    const isLast = index === parts.length - 1;
    const text = isBlock(index + 1) || isLast ? begun.trimEnd() : begun;
    return text ? [{ ...part, text }] : [];
  });
}

/** @param {Code} part  drawn with its line breaks, and the name of its language as an attribute for the style */
function codeBlock({ text, language }) {
  const block = make("pre", "", make("code", "", text));
  // The keyboard can scroll long lines.
  block.tabIndex = 0;
  if (language) block.dataset.language = language;
  return block;
}

/**
 * A button that copies code, and says in its own place whether it has.
 *
 * @param {string} text
 * @param {Record<string, string>} words
 */
function copyButton(text, words) {
  const copy = make("button", "copy-code", words.messages_copy);
  copy.setAttribute("type", "button");
  copy.addEventListener("click", async () => {
    copy.textContent = (await copyText(text)) ? words.messages_copied : words.messages_copy_failed;
  });
  return copy;
}

/** @param {Table} part */
function tableOf({ rows: [head, ...rows] }) {
  const rowOf = (/** @type {string} */ tag, /** @type {Inline[][]} */ cells) => (
    make("tr", "", ...cells.map((cell) => make(tag, "", ...cell.map(drawn))))
  );
  const body = make("tbody", "", ...rows.map((cells) => rowOf("td", cells)));
  const scrolled = make("div", "table", make("table", "", make("thead", "", rowOf("th", head)), body));
  // The keyboard can scroll it, as long lines of code.
  scrolled.tabIndex = 0;
  return scrolled;
}

/** @param {Inline} part */
function drawn(part) {
  if (part.kind === "text") return plain.draw(part.text);
  if (part.kind === "mention") return make("span", "mention", part.text);
  if (part.kind === "code") return make("code", "", part.text);
  if (part.kind !== "link") return make(TAGS[part.kind], "", plain.draw(part.text));
  const link = make("a", "", part.text);
  link.setAttribute("href", part.address);
  if (!part.address.endsWith(part.text)) link.setAttribute("title", part.address);
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
  return link;
}
