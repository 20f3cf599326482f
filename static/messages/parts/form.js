// @ts-check
/** Parts of forms and lists in the panels. */

import { make } from "../../text.js";
import { attempt } from "./loading.js";

export { attempt, loadStyle, noteLine, show, withModule } from "./loading.js";

/**
 * A labelled field. The hint is read out with it.
 *
 * @template {HTMLElement} T
 * @param {string} label
 * @param {T} control
 * @param {string} [hint]
 * @returns {HTMLElement}
 */
export function field(label, control, hint = "") {
  const labelled = make("label", "field-label", make("span", "", label), control);
  if (!hint) return labelled;
  const text = make("small", "field-hint", hint);
  text.id = `${control.id || newId()}-hint`;
  control.setAttribute("aria-describedby", text.id);
  return make("div", "field-group", labelled, text);
}

/**
 * @param {Partial<HTMLInputElement>} properties
 * @returns {HTMLInputElement} which the browser does not fill in, unless `autocomplete` is among them
 */
export function input(properties) {
  const made = /** @type {HTMLInputElement} */ (make("input", ""));
  return Object.assign(made, { autocomplete: "off", ...properties });
}

/**
 * @param {[value: string, label: string][]} options
 * @param {string} value
 * @returns {HTMLSelectElement}
 */
export function select(options, value) {
  const made = /** @type {HTMLSelectElement} */ (make("select", ""));
  made.append(...options.map(([each, label]) => new Option(label, each, false, each === value)));
  return made;
}

/**
 * A switch that takes effect at once, and goes back if that fails.
 *
 * @param {string} label
 * @param {boolean} on
 * @param {Record<string, string>} words
 * @param {(on: boolean) => Promise<unknown>} change
 * @returns {HTMLElement}
 */
export function switchBox(label, on, words, change) {
  const box = input({ type: "checkbox", checked: on });
  box.setAttribute("role", "switch");
  box.addEventListener("change", async () => {
    const wanted = box.checked;
    if (!(await attempt(box, null, words, () => change(wanted)))) box.checked = !wanted;
  });
  return make("label", "switch", make("span", "", label), box);
}

/** Element → the load that is under way; `again`: it loads once more. @type {WeakMap<HTMLElement, { done: Promise<boolean>, again: boolean }>} */
const loads = new WeakMap();

/**
 * Loads what an element shows. If that is loading already, it loads once more afterwards: the first answer may be older. After a failure
 * it is loaded again with the next connection.
 *
 * @param {HTMLElement} body        is busy meanwhile, and says so while it is empty
 * @param {HTMLElement | null} note  shows why it failed; null: a toast does
 * @param {import("../session/session.js").Session} session
 * @param {() => Promise<unknown>} act
 * @returns {Promise<boolean>} whether the last one was done
 */
export function load(body, note, session, act) {
  const running = loads.get(body);
  if (running) {
    running.again = true;
    return running.done;
  }
  const started = { done: Promise.resolve(false), again: false };
  loads.set(body, started);
  const waiting = body.childElementCount ? null : make("p", "muted", session.words.messages_loading);
  if (waiting) body.append(waiting);
  const loadWhenOnline = () => {
    const stopListening = session.on("state", ({ state }) => {
      if (state !== "online") return;
      stopListening();
      if (body.isConnected) load(body, note, session, act);
    });
  };
  const run = async () => {
    let isDone = false;
    do {
      started.again = false;
      isDone = await attempt(body, note, session.words, act);
    } while (started.again);
    loads.delete(body);
    if (!isDone) {
      waiting?.remove();
      loadWhenOnline();
    }
    return isDone;
  };
  started.done = run();
  return started.done;
}

/** @returns {boolean} whether the device may have a keyboard: it has a mouse, or its window is wider than that of a phone */
export function mayHaveKeys() {
  return matchMedia("(any-pointer: fine), (width >= 720px)").matches;
}

/**
 * Replaces the children of an element. The focus stays on the element with the same `data-key`; if that is gone, it goes to `root`.
 *
 * @param {HTMLElement} root
 * @param {(Node | string)[]} children
 */
export function redraw(root, children) {
  const focused = document.activeElement;
  const isInside = focused instanceof HTMLElement && focused !== root && root.contains(focused);
  const key = isInside ? focused.dataset.key : "";
  root.replaceChildren(...children);
  if (!isInside) return;
  const successor = key ? root.querySelector(`[data-key="${CSS.escape(key)}"]`) : null;
  root.tabIndex = -1; // it can get the focus
  const target = successor instanceof HTMLElement ? successor : root;
  target.focus({ preventScroll: true });
}

/**
 * A section with a heading.
 *
 * @param {string} title
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function section(title, ...children) {
  const heading = make("h3", "label", title);
  heading.id = newId();
  const made = make("section", "panel-section", heading, ...children);
  made.setAttribute("aria-labelledby", heading.id);
  return made;
}

/**
 * A list with a name.
 *
 * @param {string} name
 * @param {HTMLElement[]} items  `li`
 * @returns {HTMLElement}
 */
export function namedList(name, items) {
  const list = make("ul", "people-list", ...items);
  list.setAttribute("role", "list"); // without bullets, Safari does not call it a list
  list.setAttribute("aria-label", name);
  return list;
}

/** Number of ids that were made. */
let ids = 0;

/** @returns {string} an id that no other element has */
export function newId() {
  ids += 1;
  return `part-${ids}`;
}
