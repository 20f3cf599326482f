// @ts-check
/** Menus: rows with icons in groups. Rows that destroy something stand at the end. */

import { element, make } from "../../text.js";
import { loadStyle } from "./form.js";
import { button } from "./panel.js";
import { signOf } from "./signs.js";

/**
 * @typedef {object} Row
 * @property {string} word
 * @property {() => unknown} act
 * @property {Parameters<typeof signOf>[0]} [sign]
 * @property {string} [key]      the key that does it without the menu
 * @property {boolean} [danger]
 */

/**
 * @typedef {object} Menu
 * @property {string} label
 * @property {HTMLElement | null} [head]  buttons above the rows, of the class `sign`
 * @property {Row[][]} groups
 * @property {HTMLElement} anchor         the menu is beside it
 * @property {{ x: number, y: number }} [point]  or here
 * @property {() => HTMLElement | null | undefined} from  gets the focus again
 */

/** Least distance of a menu from the edge of the window, and its distance from its anchor. */
const EDGE_PX = 8;
const GAP_PX = 4;
/** In less space beside its anchor, a menu covers it: a message may be higher than the window. */
const LEAST_PX = 160;
/** The open menu; there is one at a time. @type {{ anchor: HTMLElement, close: () => void } | null} */
let current = null;

/**
 * Closes the open menu.
 *
 * @param {HTMLElement} [anchor]  only if the menu is beside it
 * @returns {boolean} whether a menu was open
 */
export function closeMenu(anchor) {
  if (!current || (anchor && current.anchor !== anchor)) return false;
  current.close();
  return true;
}

/**
 * Opens a menu, in place of the open one. It closes when the user chooses a row, presses Escape or Tab, or presses beside it.
 *
 * @param {Menu} shown
 */
export async function openMenu({ label, head = null, groups, anchor, point, from }) {
  await loadStyle(new URL("../later/menu.css", import.meta.url));
  closeMenu();
  const menu = make("div", "menu");
  menu.setAttribute("role", "menu");
  menu.setAttribute("aria-label", label);
  const listening = new AbortController();
  const { signal } = listening;
  const close = () => {
    const hadFocus = menu.contains(document.activeElement);
    current = null;
    listening.abort();
    menu.remove();
    if (hadFocus) from()?.focus({ preventScroll: true });
  };
  const closeBeside = (/** @type {PointerEvent} */ { target }) => {
    if (target instanceof Node && !menu.contains(target)) close();
  };

  if (head) menu.append(head);
  for (const rows of arranged(groups)) {
    if (menu.childElementCount) menu.append(make("hr", ""));
    menu.append(...rows.map((row) => drawRow(row, close)));
  }
  menu.addEventListener("click", ({ target }) => {
    if (target instanceof Element && head?.contains(target)) close();
  }, { capture: true });
  menu.addEventListener("keydown", (event) => onKey(menu, event, close));
  document.querySelectorAll(".menu").forEach((other) => other.remove());
  (anchor.closest("dialog:modal") ?? element("inbox", HTMLElement)).append(menu); // what is outside of a modal dialog takes no clicks
  place(menu, anchor, point);
  current = { anchor, close };
  setTimeout(() => document.addEventListener("pointerdown", closeBeside, { signal }));
  addEventListener("resize", close, { signal });
  menu.querySelector("button")?.focus({ preventScroll: true });
}

/**
 * @param {Row[][]} groups
 * @returns {Row[][]} with the rows that destroy something as the last group, and without empty groups
 */
function arranged(groups) {
  const safe = groups.map((rows) => rows.filter(({ danger }) => !danger));
  const dangerous = groups.flat().filter(({ danger }) => danger);
  return [...safe, dangerous].filter((rows) => rows.length);
}

/**
 * @param {Row} row
 * @param {() => void} close  the menu, before the act
 */
function drawRow({ word, act, sign = "other", key, danger }, close) {
  const row = button("", danger ? "menu-row danger" : "menu-row");
  row.append(signOf(sign), make("span", "", word));
  row.setAttribute("role", "menuitem");
  if (key) row.setAttribute("aria-keyshortcuts", key.toUpperCase()); // the style shows it
  row.addEventListener("click", () => {
    close();
    act();
  });
  return row;
}

/**
 * Moves the focus through the menu. The buttons of the head are one row for the arrows up and down.
 *
 * @param {HTMLElement} menu
 * @param {KeyboardEvent} event
 * @param {() => void} close
 */
function onKey(menu, event, close) {
  const items = [...menu.querySelectorAll("button")];
  const at = items.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
  const headCount = items.filter((item) => item.classList.contains("sign")).length;
  const down = at < headCount ? headCount : at + 1;
  const up = headCount && at === headCount ? 0 : at - 1;
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: down, ArrowUp: up, Home: 0, End: items.length - 1 }[event.key];
  if (event.key === "Escape" || event.key === "Tab") close();
  else if (next !== undefined) items[(next + items.length) % items.length]?.focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/**
 * Puts a menu at a point, or below its anchor or above it, inside the window. It never covers the anchor: if there is no space, the
 * messages scroll; if that is not enough, the menu does.
 *
 * @param {HTMLElement} menu
 * @param {HTMLElement} anchor
 * @param {{ x: number, y: number }} [point]
 */
function place(menu, anchor, point) {
  const beside = anchor.querySelector(".bubble") ?? anchor;
  const { offsetWidth: width, offsetHeight: height } = menu;
  const end = innerHeight - EDGE_PX;
  const spaces = () => {
    const { top, bottom } = beside.getBoundingClientRect();
    const [above, below] = [point?.y ?? top - GAP_PX, point?.y ?? bottom + GAP_PX];
    return { above, below, fits: below + height <= end || above - height >= EDGE_PX };
  };
  const before = spaces();
  if (!before.fits) (anchor.closest("[role=log]") ?? anchor).scrollTop += before.below - (end - height);
  const { above, below } = spaces();
  const isBelow = below + height <= end || end - below >= above - EDGE_PX;
  const { left, right } = beside.getBoundingClientRect();
  const x = point?.x ?? (anchor.closest(".own") ? right - width : left);
  const space = isBelow ? end - below : above - EDGE_PX;
  const isBeside = space >= Math.min(height, LEAST_PX);
  if (isBeside) menu.style.maxHeight = `${space}px`;
  const yBeside = isBelow ? below : above - height;
  const y = isBeside ? yBeside : end - height;
  menu.style.left = `${Math.max(EDGE_PX, Math.min(x, innerWidth - width - EDGE_PX))}px`;
  menu.style.top = `${Math.max(EDGE_PX, y)}px`;
}
