// @ts-check
/**
 * What is shown above the page: panels at its side, dialogs, questions and short notices.
 *
 * Each panel and dialog is a step of the browser's history: Escape, the back button and a click beside it close it. The
 * focus stays inside, and returns to where it was. In a wide window, panels are beside the conversation, which can be used
 * meanwhile. On a phone, a search in a conversation is such a step, too.
 */

import { make } from "../../text.js";

/**
 * @typedef {object} Layer
 * @property {HTMLDialogElement} dialog
 * @property {() => void} close
 * @property {Promise<void>} closed
 */

/** How long a notice is shown. */
const TOAST_MS = 5_000;
/** In such a window, panels are beside the conversation. */
const WIDE = "(width >= 1080px)";
/** In such a window, panels that belong to the conversation are beside it: they take the place of the list. */
const ROOMY = "(width >= 900px)";

/** `ended`: called when the layer is gone. @typedef {Layer & { ended: () => void }} OpenLayer */

/** The open layers, the topmost last. @type {OpenLayer[]} */
const layers = [];
/** The texts of the page. @type {Record<string, string>} */
let words = {};
/** Resolves when the browser has left the history entries of closed layers. @type {Promise<void> | null} */
let leaving = null;

/**
 * Called once, before anything is opened.
 *
 * @param {Record<string, string>} pageWords
 */
export function startPanels(pageWords) {
  words = pageWords;
  addEventListener("popstate", () => dismiss(Number(history.state?.layers ?? 0)));
  for (const width of [WIDE, ROOMY]) matchMedia(width).addEventListener("change", () => layers.forEach(showAgain));
  // A reload closes all layers, and the search: it leaves their steps of the history.
  const { layers: before = 0, searching = false } = history.state ?? {};
  history.replaceState({ layers: before + Number(searching) }, "");
  leave();
}

/**
 * Shows a layer where it belongs in a window that has another width now.
 *
 * @param {Layer} layer
 * @param {number} index
 */
function showAgain({ dialog }, index) {
  const focused = document.activeElement;
  dialog.close();
  showLayer(dialog, index);
  if (focused instanceof HTMLElement && dialog.contains(focused)) focused.focus();
}

/**
 * A panel at the side; in a wide window it is beside the conversation, on a phone it fills the screen.
 *
 * @param {string} title
 * @param {HTMLElement} content
 * @param {string} [classes]  `belongs`: to the conversation, and is beside it in a narrower window, too
 * @returns {Layer}
 */
export function openPanel(title, content, classes = "") {
  return open(`panel ${classes}`, title, content);
}

/**
 * A dialog in the middle.
 *
 * @param {string} title
 * @param {HTMLElement} content
 * @returns {Layer}
 */
export function openDialog(title, content) {
  return open("card", title, content);
}

/**
 * Asks a question with two answers.
 *
 * @param {string} question
 * @param {{ yes: string, danger?: boolean, title?: string }} options  `yes`: the word on the button
 * @returns {Promise<boolean>}
 */
export async function confirm(question, { yes, danger = false, title = question }) {
  let isAgreed = false;
  const cancel = button(words.messages_cancel);
  const agree = button(yes, danger ? "wide danger" : "wide");
  const text = title === question ? [] : [make("p", "", question)];
  const layer = openDialog(title, make("div", "question", ...text, make("p", "card-row", cancel, agree)));
  cancel.addEventListener("click", () => layer.close());
  agree.addEventListener("click", () => {
    isAgreed = true;
    layer.close();
  });
  cancel.focus();
  await layer.closed;
  return isAgreed;
}

/**
 * Shows a short notice. Screen readers announce it.
 *
 * @param {string} text
 * @param {{ label: string, act: () => void }} [action]
 */
export function toast(text, action) {
  const shown = make("p", "toast", make("span", "", text));
  if (action) {
    const act = button(action.label, "link");
    act.addEventListener("click", () => {
      shown.remove();
      action.act();
    });
    shown.append(act);
  }
  toastRegion().append(shown);
  setTimeout(() => shown.remove(), TOAST_MS);
}

/** Resolves when the steps of closed layers have left the browser's history. Then another layer can be opened. */
export async function whenLeft() {
  await leaving;
}

/**
 * Closes all layers at once.
 *
 * @returns {boolean} whether there were any
 */
export function closeLayers() {
  const [first] = layers;
  first?.close();
  return first !== undefined;
}

/**
 * Changes the part of the address after `#`. Open layers are closed; then the new address takes their place in the browser's history.
 *
 * @param {string} hash       empty: the list
 * @param {boolean} [replace]  replace the present entry of the browser's history
 */
export async function navigate(hash, replace = false) {
  await leaving;
  const replaces = replace || layers.length > 0;
  dismiss(0);
  const address = hash || location.pathname + location.search;
  if (replaces) history.replaceState({}, "", address);
  // From a hit of a search, the back button leads to the hits.
  else if (location.hash !== hash || history.state?.searching) history.pushState({}, "", address);
}

/**
 * Begins a search. On a phone it takes the place of the open conversation, and is a step of the browser's history.
 *
 * @returns {boolean} whether it is such a step
 */
export function startSearchStep() {
  const isStep = document.body.dataset.view === "conversation" && matchMedia("(width < 720px)").matches;
  if (isStep && !history.state?.searching) history.pushState({ searching: true }, "");
  return isStep;
}

/**
 * @param {string} label
 * @param {string} [classes]
 * @returns {HTMLButtonElement}
 */
export function button(label, classes = "quiet") {
  const made = /** @type {HTMLButtonElement} */ (make("button", classes, label));
  made.type = "button";
  return made;
}

/**
 * Opens a layer. A panel that is opened from the page, not from a panel, replaces the panels beside the conversation.
 *
 * @param {string} kind  class of the dialog
 * @param {string} title
 * @param {HTMLElement} content
 * @returns {Layer}
 */
function open(kind, title, content) {
  const close = button("×", "round close");
  close.setAttribute("aria-label", words.messages_close);
  const heading = make("h2", "", title);
  heading.id = `layer-${layers.length + 1}`;
  const head = make("header", "layer-head", heading, close);
  const dialog = /** @type {HTMLDialogElement} */ (make("dialog", `layer ${kind}`, head, make("div", "layer-body", content)));
  dialog.setAttribute("aria-labelledby", heading.id);

  const focused = document.activeElement;
  let resolve = () => {};
  const closed = new Promise((/** @type {(value: void) => void} */ settle) => { resolve = settle; });
  const ended = () => {
    returnFocus(dialog, focused);
    resolve();
  };
  /** @type {OpenLayer} */
  const layer = { dialog, closed, close: () => closeFrom(layer), ended };
  close.addEventListener("click", layer.close);
  closeByKeysAndClicks(layer);

  const isDocked = (/** @type {Layer} */ each) => each.dialog.matches(".docked");
  const replaces = kind.startsWith("panel") && layers.length > 0 && layers.every((each) => isDocked(each) && !each.dialog.contains(focused));
  if (replaces) dismiss(0);
  layers.push(layer);
  history[replaces ? "replaceState" : "pushState"]({ ...history.state, layers: layers.length }, "");
  showLayer(dialog, layers.length - 1);
  return layer;
}

/** @param {Layer} layer  is closed by Escape, and if it is modal by a click beside it */
function closeByKeysAndClicks({ dialog, close }) {
  // Escape. The browser must not close the dialog itself: the layer has a step of the history.
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  // Browsers send `cancel` to modal dialogs only.
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || dialog.matches(":modal")) return;
    event.preventDefault();
    close();
  });
  dialog.addEventListener("mousedown", ({ target }) => {
    if (target === dialog && dialog.matches(":modal")) close();
  });
}

/**
 * Returns the focus to the element that had it before a layer was opened, or to the element with its key if it was drawn again.
 *
 * @param {HTMLDialogElement} dialog
 * @param {Element | null} focused
 */
function returnFocus(dialog, focused) {
  const key = focused instanceof HTMLElement && !focused.isConnected ? focused.dataset.key : "";
  const target = key ? document.querySelector(`[data-key="${CSS.escape(key)}"]`) : focused;
  // The user may have gone on beside a docked panel: then the focus stays there.
  const isLost = document.activeElement === document.body;
  if (target instanceof HTMLElement && (isLost || !dialog.matches(".docked"))) target.focus({ preventScroll: true });
}

/**
 * Shows a layer: a panel beside the conversation if the window is wide, and no dialog is below it.
 *
 * @param {HTMLDialogElement} dialog
 * @param {number} index
 */
function showLayer(dialog, index) {
  const below = layers.slice(0, index).map((layer) => layer.dialog);
  const isNested = below.some((each) => !each.matches(".docked"));
  const page = document.getElementById("inbox");
  const hasSpace = matchMedia(dialog.matches(".belongs") ? ROOMY : WIDE).matches;
  const isDocked = dialog.matches(".panel") && page !== null && !page.hidden && hasSpace && !isNested;
  dialog.classList.toggle("docked", isDocked);
  dialog.classList.toggle("nested", isNested);
  const parent = isDocked ? page : document.body;
  if (dialog.parentElement !== parent) parent.append(dialog);
  for (const each of below) each.inert = isDocked; // it is covered
  if (isDocked) dialog.show();
  else dialog.showModal();
}

/**
 * Closes a layer and the layers above it, and leaves their steps of the browser's history.
 *
 * @param {OpenLayer} layer
 */
function closeFrom(layer) {
  const index = layers.indexOf(layer);
  if (index < 0) return;
  dismiss(index);
  leave();
}

/** Leaves the steps of closed layers, after the steps that are being left: those are not in `history.state` yet. */
function leave() {
  const current = leaving ? leaving.then(leaveClosed) : leaveClosed();
  leaving = current;
  current.then(() => {
    if (leaving === current) leaving = null;
  });
}

/** Leaves the steps of the browser's history that have more layers than are open. */
async function leaveClosed() {
  const steps = layers.length - Number(history.state?.layers ?? 0);
  if (steps >= 0) return;
  const arrival = new Promise((resolve) => addEventListener("popstate", resolve, { once: true }));
  history.go(steps);
  await arrival;
}

/** @param {number} depth  number of layers that stay; the others are removed, the topmost first */
function dismiss(depth) {
  for (const layer of layers.splice(depth).reverse()) {
    // Not `close()`: after it Chromium has given the focus back, but takes no keys.
    layer.dialog.remove();
    const last = layers.at(-1);
    if (last) last.dialog.inert = false;
    layer.ended();
  }
}

/** @returns {HTMLElement} the region of the notices; above an open dialog only if it is inside it */
function toastRegion() {
  const region = document.getElementById("toasts") ?? make("div", "toasts");
  region.id = "toasts";
  region.setAttribute("role", "status");
  const parent = layers.findLast(({ dialog }) => !dialog.matches(".docked"))?.dialog ?? document.body;
  if (region.parentElement !== parent) parent.append(region);
  return region;
}
