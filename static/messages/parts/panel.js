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

const TOAST_MS = 5_000;
/** In such a window, panels are beside the conversation. */
const WIDE = "(width >= 1080px)";
/** In such a window, those are that belong to it: they take the place of the list. */
const ROOMY = "(width >= 900px)";

/** @typedef {Layer & { ended: () => void }} OpenLayer */

/** @type {OpenLayer[]} */
const layers = [];
/** @type {Record<string, string>} */
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
  for (const window of [WIDE, ROOMY]) matchMedia(window).addEventListener("change", () => layers.forEach(({ dialog }, index) => {
    const focused = document.activeElement;
    dialog.close();
    showLayer(dialog, index);
    if (focused instanceof HTMLElement && dialog.contains(focused)) focused.focus();
  }));
  const { layers: before = 0, searching = false } = history.state ?? {};
  history.replaceState({ layers: before + Number(searching) }, "");
  leave(); // a reload closes all layers, and the search
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
  let agreed = false;
  const no = button(words.messages_cancel);
  const go = button(yes, danger ? "wide danger" : "wide");
  const text = title === question ? [] : [make("p", "", question)];
  const layer = openDialog(title, make("div", "question", ...text, make("p", "card-row", no, go)));
  no.addEventListener("click", () => layer.close());
  go.addEventListener("click", () => {
    agreed = true;
    layer.close();
  });
  no.focus();
  await layer.closed;
  return agreed;
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

/** Resolves when the entries of closed layers have left the browser's history. Then another layer can be opened. */
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
  else if (location.hash !== hash || history.state?.searching) history.pushState({}, "", address); // back from a hit leads to the hits
}

/**
 * On a phone a search takes the place of the open conversation: it is a step of the browser's history then.
 *
 * @returns {boolean}
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
  const dialog = /** @type {HTMLDialogElement} */ (
    make("dialog", `layer ${kind}`, make("header", "layer-head", heading, close), make("div", "layer-body", content))
  );
  dialog.setAttribute("aria-labelledby", heading.id);
  const focused = document.activeElement;
  let resolve = () => {};
  const closed = new Promise((done) => { resolve = () => done(undefined); });
  /** @type {OpenLayer} */
  const layer = { dialog, closed, close: () => closeFrom(layer), ended: () => {
    const key = focused instanceof HTMLElement && !focused.isConnected ? focused.dataset.key : ""; // it was drawn again meanwhile
    const target = key ? document.querySelector(`[data-key="${CSS.escape(key)}"]`) : focused;
    const isLost = document.activeElement === document.body; // else the user has gone on beside the panel
    if (target instanceof HTMLElement && (isLost || !dialog.matches(".docked"))) target.focus({ preventScroll: true });
    resolve();
  } };
  close.addEventListener("click", layer.close);
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault(); // Escape: as the button
    layer.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || dialog.matches(":modal")) return; // `cancel` comes of modal ones only
    event.preventDefault();
    layer.close();
  });
  dialog.addEventListener("mousedown", (event) => {
    if (event.target === dialog && dialog.matches(":modal")) layer.close(); // beside it
  });
  const before = layers.findIndex(({ dialog: each }) => each.matches(".docked"));
  const replaces = kind.startsWith("panel") && before >= 0 && layers.every(({ dialog: each }) => each.matches(".docked") && !each.contains(focused));
  if (replaces) dismiss(before);
  layers.push(layer);
  history[replaces ? "replaceState" : "pushState"]({ ...history.state, layers: layers.length }, "");
  showLayer(dialog, layers.length - 1);
  return layer;
}

/**
 * Shows a layer: a panel beside the conversation if the window is wide, and no dialog is below it.
 *
 * @param {HTMLDialogElement} dialog
 * @param {number} index
 */
function showLayer(dialog, index) {
  const below = layers.slice(0, index).map((layer) => layer.dialog);
  const page = document.getElementById("inbox");
  const isDocked = dialog.matches(".panel") && page !== null && !page.hidden && matchMedia(dialog.matches(".belongs") ? ROOMY : WIDE).matches && below.every((each) => each.matches(".docked"));
  dialog.classList.toggle("docked", isDocked);
  dialog.classList.toggle("nested", below.some((each) => !each.matches(".docked")));
  const parent = isDocked ? page : document.body;
  if (dialog.parentElement !== parent) parent.append(dialog);
  for (const each of below) each.inert = isDocked; // it is covered
  if (isDocked) dialog.show();
  else dialog.showModal();
}

/**
 * Closes a layer and those above it, and leaves their entries of the browser's history.
 *
 * @param {OpenLayer} layer
 */
function closeFrom(layer) {
  const index = layers.indexOf(layer);
  if (index < 0) return;
  dismiss(index);
  leave();
}

/** Leaves the entries of closed layers. */
function leave() {
  const left = leaving ? leaving.then(leaveClosed) : leaveClosed(); // one after the other: steps that are under way are not in the state yet
  leaving = left;
  left.then(() => {
    if (leaving === left) leaving = null;
  });
}

/** Leaves the entries of the browser's history that have more layers than are open. */
async function leaveClosed() {
  const steps = layers.length - Number(history.state?.layers ?? 0);
  if (steps >= 0) return;
  const left = new Promise((resolve) => addEventListener("popstate", resolve, { once: true }));
  history.go(steps);
  await left;
}

/** @param {number} depth  number of layers that stay */
function dismiss(depth) {
  for (const layer of layers.splice(depth).reverse()) {
    layer.dialog.remove(); // without `close()`, after which Chromium has given the focus back, but takes no keys
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
