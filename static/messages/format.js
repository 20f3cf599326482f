// @ts-check
/**
 * Formatting as typed: `code`, ```blocks```, *bold*, **bold** as language models write it, _italic_, ~~struck~~, lists, quotes, links and mentions.
 * It never interprets markup.
 */

import { make } from "../text.js";

/** @typedef {{ kind: "text" | "code" | "bold" | "italic" | "struck" | "mention", text: string }} Marked */
/** @typedef {{ kind: "link", text: string, address: string }} Link */
/** @typedef {Marked | Link} Inline */

/**
 * `text` of each: without its marks.
 *
 * @typedef {{ kind: "block", text: string, language: string }} Code
 * @typedef {{ kind: "list", text: string, first: number, items: { depth: number, parts: Inline[] }[] }} List  `first`: number of the first item; 0: no numbers
 * @typedef {{ kind: "quote", text: string, parts: Inline[] }} Quote
 * @typedef {Inline | Code | List | Quote} Part
 */

const BLOCKS = /```(?:([A-Za-z][\w+#.-]{0,19})?\n)?([\s\S]+?)\n?```\n?/g;
const LINE = /^( {0,8})(?:[-*•]|(\d{1,3})[.)]) +(?=\S)|^> (?=\S)/; // “>_<” is no quote
const HAS_LINES = new RegExp(LINE.source, "m");
const WORD = "\\p{Lu}\\p{Ll}\\p{N}";
const MARKS = new RegExp([
  "`(?<code>[^`\\n]+)`",
  `(?<![${WORD}*])(?<stars>\\*\\*?)(?! )(?<bold>[^*\\n]+?)(?<! )\\k<stars>(?![${WORD}*])`,
  `(?<![${WORD}_/\\\\])_(?! )(?<italic>[^_\\n]+?)(?<! )_(?![${WORD}_/\\\\])`,
  "(?<!~)~~(?![~ ])(?<struck>[^~\\n]+?)(?<! )~~(?!~)",
  "(?<address>https?:\\/\\/[^\\s<>\"'`，。；！？、（）《》「」]+)",
  `(?<![${WORD}._/@-])(?<site>www\\.[^\\s<>"'\`，。；！？、（）《》「」]+)`,
  `(?<![${WORD}._%+/@-])(?<mail>[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\\.){1,8}[A-Za-z]{2,24})(?![${WORD}@-])`,
].join("|"), "gu");
const KINDS = /** @type {Marked["kind"][]} */ (["code", "bold", "italic", "struck"]);
const END_OF_SENTENCE = /(?<![.,:;!?'"*])[.,:;!?'"*]+$/; // looking behind keeps the time linear
const TAGS = { code: "code", bold: "strong", italic: "em", struck: "s" };

/**
 * @param {string} text
 * @param {string[]} [names]  names after an @ that are marked
 * @returns {Part[]}
 */
export function parse(text, names = []) {
  const mentions = mentionsOf(names);
  /** @type {Part[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(BLOCKS)) {
    parts.push(...linesOf(text.slice(end, match.index), mentions), { kind: "block", text: match[2], language: match[1] ?? "" });
    end = match.index + match[0].length;
  }
  return [...parts, ...linesOf(text.slice(end), mentions)];
}

/**
 * @param {string} text
 * @returns {string} without its marks; blocks end with a space
 */
export function unformatted(text) {
  return parse(text).map(({ kind, text: part }) => (kind === "block" || kind === "list" || kind === "quote" ? `${part} ` : part)).join("");
}

/**
 * @param {string} text
 * @param {string[]} [names]
 * @returns {(Node | string)[]}
 */
export function formatted(text, names = []) {
  return parse(text, names).map((part) => {
    if (part.kind === "block") {
      const block = make("pre", "", make("code", "", part.text));
      block.tabIndex = 0; // long lines are scrolled by the keyboard, too
      if (part.language) block.dataset.language = part.language;
      return block;
    }
    if (part.kind === "quote") return make("blockquote", "", ...part.parts.map(drawn));
    if (part.kind !== "list") return drawn(part);
    const list = make(part.first ? "ol" : "ul", "", ...part.items.map(({ depth, parts }) => make("li", depth ? "deeper" : "", ...parts.map(drawn))));
    if (part.first > 1) list.setAttribute("start", String(part.first));
    return list;
  });
}

/** @param {Inline} part */
function drawn(part) {
  if (part.kind === "text") return part.text;
  if (part.kind === "mention") return make("span", "mention", part.text);
  if (part.kind !== "link") return make(TAGS[part.kind], "", part.text);
  const link = make("a", "", part.text);
  link.setAttribute("href", part.address);
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
  return link;
}

/**
 * Text, lists and quotes.
 *
 * @param {string} text
 * @param {RegExp | null} mentions
 * @returns {Part[]}
 */
function linesOf(text, mentions) {
  if (!HAS_LINES.test(text)) return inline(text, mentions);
  /** @type {{ kind: "text" | "quote" | "list", isNumbered: boolean, first: number, rows: { depth: number, text: string }[] }[]} */
  const groups = [];
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    const kind = !match ? "text" : match[0].startsWith(">") ? "quote" : "list";
    const isNumbered = match?.[2] !== undefined;
    const before = groups.at(-1);
    const row = { depth: Math.floor((match?.[1]?.length ?? 0) / 2), text: line.slice(match?.[0].length ?? 0) };
    if (before && before.kind === kind && before.isNumbered === isNumbered) before.rows.push(row);
    else groups.push({ kind, isNumbered, first: Number(match?.[2] ?? 0), rows: [row] });
  }
  return groups.flatMap(/** @returns {Part[]} */ ({ kind, first, rows }) => {
    if (kind === "list") {
      const items = rows.map(({ depth, text: item }) => ({ depth, parts: inline(item, mentions) }));
      return [{ kind, first, items, text: items.map(({ parts }) => plainOf(parts)).join(" ") }];
    }
    const parts = inline(rows.map((row) => row.text).join("\n"), mentions);
    return kind === "quote" ? [{ kind, parts, text: plainOf(parts) }] : parts;
  });
}

/** @param {Inline[]} parts */
function plainOf(parts) {
  return parts.map(({ text }) => text).join("");
}

/**
 * @param {string} text
 * @param {RegExp | null} mentions
 * @returns {Inline[]}
 */
function inline(text, mentions) {
  /** @type {Inline[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(MARKS)) {
    const groups = match.groups ?? {};
    const link = linkOf(groups);
    const kind = KINDS.find((each) => groups[each] !== undefined);
    if (!kind && !link) continue;
    parts.push(...plain(text.slice(end, match.index), mentions));
    if (kind) parts.push({ kind, text: groups[kind] });
    else if (link) parts.push(link);
    end = match.index + (link ? link.text.length : match[0].length);
  }
  parts.push(...plain(text.slice(end), mentions));
  return parts;
}

/**
 * @param {string} text
 * @param {RegExp | null} mentions  null: there are none
 * @returns {Inline[]}
 */
function plain(text, mentions) {
  /** @type {Inline[]} */
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
 * @param {Record<string, string | undefined>} groups  of a match
 * @returns {Link | null}
 */
function linkOf({ address, site, mail }) {
  if (mail) return { kind: "link", text: mail, address: `mailto:${mail}` };
  const text = withoutEnd(address ?? site ?? "");
  const target = site ? `https://${text}` : text;
  const isSite = !site || /^www\.[^./]+\.[^./]/.test(text);
  return text && isSite && URL.canParse(target) ? { kind: "link", text, address: target } : null;
}

/**
 * @param {string} address
 * @returns {string} without the end of the sentence around it
 */
function withoutEnd(address) {
  const text = address.replace(END_OF_SENTENCE, "");
  return text.endsWith(")") && !text.includes("(") ? text.slice(0, -1).replace(END_OF_SENTENCE, "") : text;
}
