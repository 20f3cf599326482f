// @ts-check
/** Modules and style sheets that are loaded when they are needed, and acts that may fail, with the line that says why. */

import { make } from "../../text.js";
import { noAnswer, reasonOf } from "./api.js";
import { toast } from "./panel.js";

/**
 * Uses a module that is loaded when it is needed: the page is there earlier. If it cannot be loaded, `use` is not called.
 *
 * @template M
 * @param {Promise<M>} module  of `import()`
 * @param {Record<string, string>} words
 * @param {(module: M) => unknown} use
 * @param {HTMLElement | null} [note]  shows why it cannot be loaded; null: a toast does
 */
export async function withModule(module, words, use, note = null) {
  const loaded = await module.catch(() => null);
  if (loaded) await use(loaded);
  else if (note) show(note, noAnswer(words));
  // Browsers may remember the failure until the page is loaded again.
  else toast(noAnswer(words), { label: words.enter_again, act: () => location.reload() });
}

/**
 * Shows a text in the line for failures.
 *
 * @param {HTMLElement} note
 * @param {string} text  empty: hide it
 */
export function show(note, text) {
  note.textContent = text;
  note.hidden = !text;
}

/** Address of a style sheet → resolved when the page has it, or it cannot be loaded. @type {Map<string, Promise<void>>} */
const styles = new Map();

/**
 * Loads a style sheet that the page needs later. Without it everything works.
 *
 * @param {URL} address
 * @returns {Promise<void>}
 */
export function loadStyle({ href }) {
  const known = styles.get(href);
  if (known) return known;
  const link = /** @type {HTMLLinkElement} */ (make("link", ""));
  const loading = new Promise((/** @type {(value: void) => void} */ resolve) => {
    link.addEventListener("load", () => resolve());
    link.addEventListener("error", () => {
      styles.delete(href); // the next caller tries again
      link.remove();
      resolve();
    });
  });
  Object.assign(link, { rel: "stylesheet", href });
  document.head.append(link);
  styles.set(href, loading);
  return loading;
}

/** @returns {HTMLElement} a hidden line for the reason of a failure; screen readers announce it */
export function noteLine() {
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  note.hidden = true;
  return note;
}

/**
 * Does what a control asks for, unless that is being done already.
 *
 * @param {HTMLElement} control     keeps the focus meanwhile
 * @param {HTMLElement | null} note  shows why it failed; null: a toast does
 * @param {Record<string, string>} words
 * @param {() => Promise<unknown>} act
 * @returns {Promise<boolean>} whether it was done
 */
export async function attempt(control, note, words, act) {
  if (control.getAttribute("aria-busy") === "true") return false;
  control.setAttribute("aria-busy", "true");
  if (note) show(note, "");
  try {
    await act();
    return true;
  } catch (error) {
    if (note) show(note, reasonOf(error, words));
    else toast(reasonOf(error, words));
    return false;
  } finally {
    control.removeAttribute("aria-busy");
  }
}
