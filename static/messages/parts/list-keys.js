// @ts-check
/** The keyboard in lists and in rows of filters: each is one stop of the Tab key, and arrow keys lead through it. */

/** Of people and conversations, and the filters of a search, which are one row. */
const LISTS = ".people-list, #conversations, .chips";
const CONTROLS = "button, a[href], input";

document.addEventListener("focusin", ({ target }) => {
  const list = listOf(target);
  if (!list) return;
  for (const control of controlsIn(list)) control.tabIndex = control === target ? 0 : -1; // Tab now leaves the list, and comes back to here
});
document.addEventListener("keydown", (event) => {
  const list = listOf(event.target);
  if (!list || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const rows = list.matches(".chips") ? [controlsIn(list)] : [...list.children].map(controlsIn).filter((row) => row.length);
  const at = rows.findIndex((row) => row.includes(target));
  const column = rows[at]?.indexOf(target) ?? -1;
  const right = getComputedStyle(list).direction === "rtl" ? -1 : 1;
  const end = rows.length > 1 ? rows[rows.length - 1][0] : rows[0]?.at(-1); // of a single row, its last control
  const next = {
    ArrowDown: rows[at + 1]?.[0], ArrowUp: rows[at - 1]?.[0], Home: rows[0]?.[0], End: end,
    ArrowRight: rows[at]?.[column + right], ArrowLeft: rows[at]?.[column - right],
  }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
});

/**
 * @param {EventTarget | null} target
 * @returns {Element | null} the list of which it is a control; null: it is none
 */
function listOf(target) {
  return target instanceof Element && target.matches(CONTROLS) ? target.closest(LISTS) : null;
}

/**
 * @param {Element} part
 * @returns {HTMLElement[]}
 */
function controlsIn(part) {
  return /** @type {HTMLElement[]} */ ([...part.querySelectorAll(CONTROLS)]);
}

export {};
