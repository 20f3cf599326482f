// @ts-check
/** Parts of pages that the first view of the messages page does not need. */

import { element, fill, hashOf, make } from "./text.js";

/** The number of hues in chat.css. */
const HUES = 10;

/** If at most this number of characters is left, a text box says how many. */
const WARN_LEFT = 400;

/**
 * @param {HTMLTextAreaElement} field  a text box with a limit: it takes more, so that what is pasted is not cut
 * @returns {number} characters that are left; below 0: too many
 */
export function leftOf({ value, dataset }) {
  return Number(dataset.limit) - value.trim().length;
}

/**
 * @param {HTMLTextAreaElement} field
 * @param {Record<string, string>} words
 * @returns {string} what is below it; empty: the limit is far
 */
export function leftText(field, words) {
  const left = leftOf(field);
  if (left < 0) return fill(words.over_limit, { count: -left, limit: field.dataset.limit ?? "" });
  return left <= WARN_LEFT ? fill(words.too_long, { count: left }) : "";
}

/**
 * A square with the first character of a name. Its colour depends on the name only.
 *
 * @param {string} name
 * @returns {HTMLElement}
 */
export function avatar(name) {
  const made = make("span", `avatar hue-${(hashOf(name) >>> 8) % HUES}`, Array.from(name.trim())[0] ?? "?");
  made.setAttribute("aria-hidden", "true");
  return made;
}

/**
 * Copies a text. Pages without https have no clipboard: they copy the selection of a field.
 *
 * @param {string} text
 * @returns {Promise<boolean>} false: the browser does not let the page copy
 */
export async function copyText(text) {
  if (await navigator.clipboard?.writeText(text).then(() => true, () => false)) return true;
  const { activeElement } = document;
  const field = /** @type {HTMLTextAreaElement} */ (make("textarea", "skip"));
  field.value = text;
  (activeElement?.closest("dialog") ?? document.body).append(field); // beside a modal dialog nothing can be selected
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (activeElement instanceof HTMLElement) activeElement.focus({ preventScroll: true });
  return isCopied;
}

/**
 * Shows a note, or hides it if the text is empty.
 *
 * @param {string} id
 * @param {string} text
 */
export function showNote(id, text) {
  const note = element(id, HTMLElement);
  note.textContent = text;
  note.hidden = !text;
}
