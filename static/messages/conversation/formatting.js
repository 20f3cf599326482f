// @ts-check
/** Marks around what is selected in a text box, by keys and by a bar of buttons. Loaded with the first selection, or the first key. */

import { make } from "../../text.js";
import { loadStyle } from "../parts/form.js";
import { button } from "../parts/panel.js";
import { signOf } from "../parts/signs.js";

/** @typedef {"bold" | "italic" | "struck" | "code" | "list" | "quote" | "link"} Format */
/** @typedef {{ text: string, start: number, end: number }} Selected  a text, and what is selected in it */

/** @type {Record<string, string>} */
const MARKS = { bold: "*", italic: "_", struck: "~~", code: "`" };
/** @type {Record<string, string>} */
const LINES = { list: "- ", quote: "> " };
const BLOCK = "```";
/** Stands in a new link until the user types the address. */
const TARGET = "https://";
/** Each format with its sign, which is a letter or the lines of an icon, and its key. @type {[Format, string, string][]} */
const BUTTONS = [
  ["bold", "B", "Control+B"], ["italic", "I", "Control+I"], ["struck", "S", "Control+Shift+X"],
  ["code", "M8.5 7.5 4 12l4.5 4.5M15.5 7.5 20 12l-4.5 4.5", "Control+E"],
  ["list", "M9.5 6.5H20M9.5 12H20M9.5 17.5H20M4.8 6.5v.1M4.8 12v.1M4.8 17.5v.1", "Control+Shift+8"],
  ["quote", "M5 5.5v13M9.5 7.5H20M9.5 12H20M9.5 16.5h6", "Control+Shift+9"],
  ["link", "M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3L12 6.4M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1.1", "Control+Shift+U"],
];

/**
 * Marks what is selected, or takes the marks away.
 *
 * @param {Selected} before
 * @param {Format} format
 * @returns {Selected}
 */
export function marked({ text, start, end }, format) {
  const chosen = text.slice(start, end);
  const spaces = chosen.trim() ? chosen.length - chosen.trimStart().length : 0;
  const from = start + spaces;
  const to = from + (chosen.trim() || chosen).length;
  if (format === "link") return linked(text, from, to);
  if (format in LINES) return lined(text, from, to, LINES[format]);
  if (format === "code" && text.slice(from, to).includes("\n")) return around(text, from, to, `${BLOCK}\n`, `\n${BLOCK}`);
  return around(text, from, to, MARKS[format], MARKS[format]);
}

/**
 * Puts marks around a part of a text, or takes them away if they are there.
 *
 * @param {string} text
 * @param {number} from
 * @param {number} to
 * @param {string} before  the mark at its start
 * @param {string} after   the mark at its end
 * @returns {Selected}
 */
function around(text, from, to, before, after) {
  const chosen = text.slice(from, to);
  const isInside = chosen.length > before.length + after.length && chosen.startsWith(before) && chosen.endsWith(after);
  if (isInside) return replaced(text, from, to, chosen.slice(before.length, -after.length), 0);
  const isOutside = text.slice(0, from).endsWith(before) && text.slice(to).startsWith(after);
  if (isOutside) return replaced(text, from - before.length, to + after.length, chosen, 0);
  const { text: whole } = replaced(text, from, to, before + chosen + after, 0);
  return { text: whole, start: from + before.length, end: to + before.length };
}

/**
 * Replaces a part of a text.
 *
 * @param {string} text
 * @param {number} from
 * @param {number} to
 * @param {string} part
 * @param {number} skipped  characters at its start that are not selected
 * @returns {Selected}
 */
function replaced(text, from, to, part, skipped) {
  return { text: text.slice(0, from) + part + text.slice(to), start: from + skipped, end: from + part.length };
}

/**
 * Puts a sign before each line that has some of a part, or takes the signs away if all these lines have one. Empty lines get none.
 *
 * @param {string} text
 * @param {number} from
 * @param {number} to
 * @param {string} sign
 * @returns {Selected}
 */
function lined(text, from, to, sign) {
  const first = text.lastIndexOf("\n", from - 1) + 1;
  const next = text.indexOf("\n", to);
  const last = next < 0 ? text.length : next;
  const lines = text.slice(first, last).split("\n");
  const isOne = lines.length === 1;
  const isMarked = lines.every((line) => !line.trim() || line.startsWith(sign));
  const changed = lines.map((line) => {
    const isEmpty = !line.trim();
    if (isEmpty) return isOne ? sign + line : line; // the user begins a list with the only line
    return isMarked ? line.slice(sign.length) : sign + line;
  });
  const part = changed.join("\n");
  return replaced(text, first, last, part, isOne ? part.length : 0);
}

/**
 * Makes a link of a part of a text.
 *
 * @param {string} text
 * @param {number} from
 * @param {number} to
 * @returns {Selected} the part that is missing is selected: the words between the brackets, or the address
 */
function linked(text, from, to) {
  const chosen = text.slice(from, to);
  const isAddress = /^https?:\/\/\S+$/.test(chosen);
  const link = isAddress ? `[](${chosen})` : `[${chosen}](${TARGET})`;
  const { text: whole, end } = replaced(text, from, to, link, 0);
  const hasWords = chosen && !isAddress;
  if (hasWords) return { text: whole, start: end - 1 - TARGET.length, end: end - 1 };
  return { text: whole, start: from + 1, end: from + 1 };
}

/**
 * Formats what is selected in a text box. Only the part that changes is replaced, as if the user typed it: so the browser can undo it.
 *
 * @param {HTMLTextAreaElement} field
 * @param {Format} format
 */
export function format(field, format) {
  const before = { text: field.value, start: field.selectionStart, end: field.selectionEnd };
  const after = marked(before, format);
  let same = 0;
  while (same < before.text.length && before.text[same] === after.text[same]) same += 1;
  const most = Math.min(before.text.length, after.text.length) - same;
  let sameAtEnd = 0;
  while (sameAtEnd < most && before.text.at(-1 - sameAtEnd) === after.text.at(-1 - sameAtEnd)) sameAtEnd += 1;
  const part = after.text.slice(same, after.text.length - sameAtEnd);
  field.focus();
  field.setSelectionRange(same, before.text.length - sameAtEnd);
  const isDone = part ? document.execCommand("insertText", false, part) : document.execCommand("delete");
  if (!isDone) {
    field.setRangeText(part);
    field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }
  field.setSelectionRange(after.start, after.end);
}

/**
 * Makes the bar of a text box, which is shown while something is selected.
 *
 * @param {HTMLTextAreaElement} field
 * @param {Record<string, string>} words
 * @returns {Promise<HTMLElement>}
 */
export async function makeBar(field, words) {
  await loadStyle(new URL("../later/formatting.css", import.meta.url));
  const bar = make("div", "formats");
  bar.setAttribute("role", "toolbar");
  bar.setAttribute("aria-label", words.messages_format);
  bar.append(...BUTTONS.map(([name, sign, key]) => {
    const made = button("", `round format-${name}`);
    const label = words[`messages_format_${name}`];
    made.append(sign.length > 1 ? signOf(/** @type {`M${string}`} */ (sign)) : make("span", "", sign));
    made.setAttribute("aria-label", label);
    made.setAttribute("aria-keyshortcuts", key);
    made.title = `${label} (${key.replace("Control", "Ctrl").replace("Shift", "⇧").replaceAll("+", " ")})`;
    made.addEventListener("pointerdown", (event) => event.preventDefault()); // the text keeps the focus
    made.addEventListener("click", () => format(field, name));
    return made;
  }));
  return bar;
}
