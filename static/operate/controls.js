// @ts-check
/** The fields of settings, one kind for each type of value. A field without a valid value reads as undefined. */

import { fill, listOf, make, numberOf, textOf } from "../text.js";
import { code, duration, number, size, words } from "./ui.js";

/** @typedef {{ node: HTMLElement, read: () => unknown, write: (value: unknown) => void }} Control */
/** @typedef {Record<string, any>} Schema */

const DAY_SECONDS = 86_400;
/** A setting with this maximum has none in fact: it fits the type of the database. */
const LARGEST_INTEGER = 2 ** 31 - 1;

/** @returns {Control} */
export function switchControl() {
  const input = /** @type {HTMLInputElement} */ (make("input", "switch"));
  input.type = "checkbox";
  input.setAttribute("role", "switch");
  return {
    node: make("div", "setting-field", input),
    read: () => input.checked,
    write: (value) => {
      input.checked = value === true;
    },
  };
}

/**
 * @param {"text" | "url" | "secret"} type
 * @returns {Control}
 */
export function textControl(type) {
  const input = /** @type {HTMLInputElement} */ (make("input", type === "secret" ? "masked" : "")); // no password: no manager shall offer one
  input.type = type === "url" ? "url" : "text";
  input.autocomplete = "off";
  input.spellcheck = false;
  if (type === "url") input.dir = "ltr";
  return {
    node: make("div", "setting-field", input),
    read: () => input.value.trim(),
    write: (value) => {
      input.value = textOf(value);
    },
  };
}

/**
 * A number. Beside it stands the time or the size in the words of people, or else its bounds.
 *
 * @param {string} name
 * @param {Schema} schema
 * @returns {Control}
 */
export function numberControl(name, schema) {
  const input = /** @type {HTMLInputElement} */ (make("input", ""));
  input.type = "number";
  input.step = schema.type === "integer" ? "1" : "any";
  if ("minimum" in schema) input.min = String(schema.minimum);
  if ("maximum" in schema) input.max = String(schema.maximum);
  const note = make("small", "muted");
  const hasBounds = input.min && input.max && numberOf(schema.maximum) < LARGEST_INTEGER;
  const bounds = hasBounds ? `${number.format(numberOf(schema.minimum))} – ${number.format(numberOf(schema.maximum))}` : "";
  const updateNote = () => {
    note.textContent = inWords(name, input.valueAsNumber) || bounds;
  };
  input.addEventListener("input", updateNote);
  return {
    node: make("div", "setting-field", input, note),
    read: () => (Number.isFinite(input.valueAsNumber) && input.validity.valid ? input.valueAsNumber : undefined),
    write: (value) => {
      input.value = typeof value === "number" ? String(value) : "0";
      updateNote();
    },
  };
}

/**
 * @param {string} name  whose end says the unit
 * @param {number} value  NaN: the field is empty
 * @returns {string} the value as a time or a size; empty: it is neither
 */
function inWords(name, value) {
  if (!(value > 0)) return "";
  if (/(^|_)seconds$/.test(name) && !/_per_second/.test(name)) return duration(value);
  if (/_days$/.test(name)) return duration(value * DAY_SECONDS);
  return /bytes$/.test(name) ? size(value) : "";
}

/**
 * One of several values. If the default is empty, the first option is that of the server.
 *
 * @param {string[]} choices
 * @param {unknown} usual
 * @param {unknown} applies
 * @returns {Control}
 */
export function choiceControl(choices, usual, applies) {
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  const none = usual === "" && !choices.includes("") ? [""] : [];
  const inForce = textOf(applies);
  const ofServer = inForce ? fill(words.admin_setting_usual, { value: inForce }) : words.admin_setting_of_server;
  for (const each of [...none, ...choices]) {
    const option = /** @type {HTMLOptionElement} */ (make("option", "", each || ofServer));
    option.value = each;
    select.append(option);
  }
  return {
    node: make("div", "setting-field", select),
    read: () => select.value,
    write: (value) => {
      select.value = textOf(value);
    },
  };
}

/**
 * Any number of values. As long as the same ones are chosen, they keep the order in which they were written.
 *
 * @param {string[]} choices
 * @returns {Control}
 */
export function severalControl(choices) {
  const boxes = choices.map((each) => {
    const box = /** @type {HTMLInputElement} */ (make("input", ""));
    box.type = "checkbox";
    box.value = each;
    return box;
  });
  const node = make("fieldset", "setting-several", ...boxes.map((box) => make("label", "", box, code(box.value))));
  /** @type {string[]} */
  let written = [];
  return {
    node,
    read: () => {
      const chosen = boxes.filter(({ checked }) => checked).map(({ value }) => value);
      return isSame([...chosen].sort(), [...written].sort()) ? written : chosen;
    },
    write: (value) => {
      written = listOf(value);
      for (const box of boxes) box.checked = written.includes(box.value);
    },
  };
}

/** @returns {Control} texts, one on each line */
export function linesControl() {
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
  area.rows = 2;
  area.dir = "ltr";
  area.spellcheck = false;
  return {
    node: make("div", "setting-field", area, make("small", "muted", words.admin_setting_lines)),
    read: () => area.value.split("\n").map((each) => each.trim()).filter(Boolean),
    write: (value) => {
      area.value = listOf(value).join("\n");
      area.rows = Math.min(6, Math.max(2, listOf(value).length));
    },
  };
}

/** @returns {Control} */
export function jsonControl() {
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", "json"));
  area.dir = "ltr";
  area.spellcheck = false;
  return {
    node: make("div", "setting-field", area, make("small", "muted", "JSON")),
    read: () => {
      try {
        return JSON.parse(area.value);
      } catch {
        return undefined;
      }
    },
    write: (value) => {
      area.value = JSON.stringify(value, null, 1);
      area.rows = Math.min(12, area.value.split("\n").length + 1);
    },
  };
}

/**
 * @param {unknown} one
 * @param {unknown} other
 */
export function isSame(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}
