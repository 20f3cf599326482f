// @ts-check
/**
 * What is typed into a search: words, and filters as `from:ada has:file before:2026-11-01`, in any language of the page.
 *
 * A value with spaces has quotes: `from:"Ada L"`.
 */

import { listOf } from "../../text.js";
import { folded } from "../parts/names.js";

/** @typedef {"from" | "in" | "has" | "before" | "after"} FilterName */
/** @typedef {"picture" | "video" | "voice" | "file" | "link"} Content */

/**
 * @typedef {object} Query
 * @property {string} words    what is left without the filters
 * @property {string} from     the name of a person; empty: of anybody
 * @property {string} in       the name of a conversation; empty: in all
 * @property {Content[]} has
 * @property {number} since    in milliseconds; 0: no bound
 * @property {number} until
 * @property {{ name: FilterName, value: string, start: number } | null} open  the filter at the end that is still typed; `start`: its index in the text
 * @property {string[]} faults  filters that mean nothing
 */

/** @type {Record<FilterName, string[]>} */
const NAMES = {
  from: ["from", "来自", "von", "من"],
  in: ["in", "在", "في"],
  has: ["has", "包含", "含", "mit", "فيه"],
  before: ["before", "早于", "vor", "قبل"],
  after: ["after", "晚于", "nach", "بعد"],
};
/** @type {Record<Content, string[]>} */
const CONTENTS = {
  picture: ["picture", "image", "photo", "图片", "照片", "bild", "foto", "صورة"],
  video: ["video", "视频", "فيديو"],
  voice: ["voice", "audio", "语音", "sprache", "صوت"],
  file: ["file", "文件", "datei", "ملف"],
  link: ["link", "链接", "رابط"],
};
const FILTER = new RegExp(`(?<=^|\\s)(${Object.values(NAMES).flat().join("|")})[:：](?:"([^"]*)("?)|(\\S*))`, "giu");
/** Words as the server finds them: letters and digits, or one picture. */
const UNIT = /[\p{L}\p{N}]+|\p{Extended_Pictographic}/gu;
/** Scripts without spaces between words: any part is found. */
const RUN = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Extended_Pictographic}]/u;
const DATE = /^(\d{4})(?:[-/.年](\d{1,2})(?:[-/.月](\d{1,2}))?)?[年月日]?$/u;

/**
 * Takes the filters out of a text; the other words are what is searched.
 *
 * @param {string} text
 * @returns {Query}
 */
export function parse(text) {
  /** @type {Query} */
  const query = { words: "", from: "", in: "", has: [], since: 0, until: 0, open: null, faults: [] };
  const rest = text.replace(FILTER, (whole, typed, quoted, end, plain, start) => {
    const name = keyOf(NAMES, typed) ?? "has";
    const value = quoted ?? plain;
    const isOpen = start + whole.length === text.length && !end; // it may be typed on
    if (isOpen) query.open = { name, value, start };
    if (!apply(query, name, value) && !isOpen) query.faults.push(whole);
    return " ";
  });
  query.words = rest.trim().replace(/\s+/g, " ");
  return query;
}

/**
 * Writes a filter into the query.
 *
 * @param {Query} query
 * @param {FilterName} name
 * @param {string} value
 * @returns {boolean} false: the value means nothing
 */
function apply(query, name, value) {
  if (name === "from" || name === "in") query[name] = value;
  if (name === "has") {
    const content = keyOf(CONTENTS, value);
    if (content && !query.has.includes(content)) query.has.push(content);
    return content !== undefined;
  }
  if (name === "before" || name === "after") {
    const time = timeOf(value);
    if (time) query[name === "before" ? "until" : "since"] = time;
    return time > 0;
  }
  return value !== "";
}

/** @param {Query} query  whether anything but words narrows the messages */
export function isFiltered({ from, in: place, has, since, until }) {
  return Boolean(from || place || has.length || since || until);
}

/**
 * @param {string} value  a year, month or day
 * @returns {number} its beginning, in milliseconds; 0: it is none
 */
export function timeOf(value) {
  const [, year, month = "1", day = "1"] = DATE.exec(value) ?? [];
  if (!year) return 0;
  const date = new Date(Number(year), Number(month) - 1, Number(day));
  const exists = date.getMonth() === Number(month) - 1 && date.getDate() === Number(day); // else 31 February would be in March
  return exists ? date.getTime() : 0;
}

/** @param {Date} date  as a filter has it, in local time */
export function dateText(date) {
  return [date.getFullYear(), date.getMonth() + 1, date.getDate()].map((part) => String(part).padStart(2, "0")).join("-");
}

/**
 * @template T
 * @param {T[]} all
 * @param {string} name
 * @param {(each: T) => string} nameOf
 * @returns {T | undefined} the one with this name; else the first whose name begins with it
 */
export function findByName(all, name, nameOf) {
  const wanted = name.toLowerCase();
  return all.find((each) => nameOf(each).toLowerCase() === wanted) ?? all.find((each) => nameOf(each).toLowerCase().startsWith(wanted));
}

/**
 * @param {{ type?: string, data?: any }} entry
 * @param {string[]} [types]  missing: any
 * @returns {boolean} false: an album of which no part has one of these types
 */
export function hasTypes({ type, data }, types) {
  if (!types || type !== "album") return true;
  return listOf(data?.items).some((/** @type {any} */ each) => types.includes(each?.type || "file"));
}

/**
 * @param {string} text
 * @param {string} words  of a search
 * @returns {[number, number][]} where the words begin and end in the text, in order; case, accents and width make no difference
 */
export function hitsIn(text, words) {
  const units = new Set(folded(words).match(UNIT) ?? []);
  if (!units.size) return [];
  let plain = "";
  /** Index in `plain` → index in the text. @type {number[]} */
  const places = [];
  let place = 0;
  for (const character of text) {
    const part = folded(character);
    for (let count = 0; count < part.length; count++) places.push(place);
    plain += part;
    place += character.length;
  }
  places.push(place);
  const patterns = [...units].map((unit) => (RUN.test(unit) ? unit : `(?<![\\p{L}\\p{N}])${unit}`)); // words are found from their beginning
  const hit = new RegExp(patterns.join("|"), "gu");
  return [...plain.matchAll(hit)].map(({ 0: { length }, index }) => [places[index], places[index + length]]);
}

/**
 * The text with a filter in place of the one that is typed at its end, or behind it.
 *
 * @param {string} text
 * @param {string} name   in the language of the page
 * @param {string} value  empty: it is typed next
 * @returns {string}
 */
export function withFilter(text, name, value) {
  const { open } = parse(text);
  const before = (open ? text.slice(0, open.start) : text).trimEnd();
  const quoted = /\s/.test(value) ? `"${value.replaceAll('"', "")}"` : value;
  return `${before}${before && " "}${name}:${quoted}${value && " "}`;
}

/**
 * The text without a filter for this content.
 *
 * @param {string} text
 * @param {Content} content
 * @returns {string}
 */
export function withoutContent(text, content) {
  const changed = text.replace(FILTER, (whole, typed, quoted, _, plain) => {
    const isThis = keyOf(NAMES, typed) === "has" && keyOf(CONTENTS, quoted ?? plain) === content;
    return isThis ? "" : whole;
  });
  return changed.replace(/\s+/g, " ").trimStart();
}

/**
 * @template {string} K
 * @param {Record<K, string[]>} table  key → its words in all languages
 * @param {string} word
 * @returns {K | undefined} the key that has the word
 */
function keyOf(table, word) {
  return /** @type {K[]} */ (Object.keys(table)).find((key) => table[key].includes(word.toLowerCase()));
}
