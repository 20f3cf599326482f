// @ts-check
/** Fields of forms: how they are made, and their values. */

import { make } from "../text.js";

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {"text" | "password" | "select" | "textarea" | "checkbox" | "url" | "datetime-local"} [type]
 * @property {string} [value]
 * @property {[string, string][]} [options]  value and label, of a select; of a text: what is offered
 * @property {boolean} [required]
 * @property {string} [hint]
 * @property {number} [most]  characters
 * @property {boolean} [isRare]  of a filter: it is folded away until it is wanted
 */

/**
 * A field with its label, its hint, and the texts that are offered for it.
 *
 * @param {Field} field
 */
export function fieldOf({ name: key, label, type = "text", value = "", options = [], required = false, hint = "", most = 0 }) {
  const tag = type === "select" || type === "textarea" ? type : "input";
  const control = /** @type {HTMLInputElement} */ (make(tag, ""));
  control.id = `field-${key}`;
  control.name = key;
  if (tag === "input") control.type = type;
  if (type === "select") control.append(...options.map(optionOf)); // before the value: a select takes no unknown one
  if (type === "checkbox") control.checked = value === "true";
  else control.value = value;
  control.required = required;
  control.autocomplete = "off";
  control.spellcheck = false;
  if (most) control.maxLength = most;

  const labelElement = make("label", "", label);
  labelElement.setAttribute("for", control.id);
  const isCheckbox = type === "checkbox";
  const made = make("div", isCheckbox ? "field check" : "field", ...(isCheckbox ? [control, labelElement] : [labelElement, control]));
  if (type !== "select" && options.length) {
    const offered = make("datalist", "", ...options.map(optionOf));
    offered.id = `offered-${key}`;
    control.setAttribute("list", offered.id);
    made.append(offered);
  }
  if (hint) {
    const note = make("small", "muted", hint);
    note.id = `${control.id}-hint`;
    control.setAttribute("aria-describedby", note.id);
    made.append(note);
  }
  return made;
}

/** @param {[string, string]} option  value and label */
function optionOf([value, label]) {
  const made = /** @type {HTMLOptionElement} */ (make("option", "", label));
  made.value = value;
  return made;
}

/**
 * @param {HTMLFormElement} form
 * @returns {Record<string, string>}  of a checkbox `true` or empty
 */
export function valuesOf(form) {
  /** @type {Record<string, string>} */
  const values = {};
  for (const control of form.elements) {
    const isField = control instanceof HTMLInputElement || control instanceof HTMLSelectElement || control instanceof HTMLTextAreaElement;
    if (!isField) continue;
    if (control.type === "checkbox") values[control.name] = /** @type {HTMLInputElement} */ (control).checked ? "true" : "";
    else if (control.name) values[control.name] = control.value.trim();
  }
  return values;
}
