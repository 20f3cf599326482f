// @ts-check
/** The keyboard in lists and in rows of filters: each is one stop of the Tab key, and arrow keys lead through it. */

/** Of people and conversations, and the filters of a search, which are one row. */
const LISTS = ".people-list, #conversations, .chips";
const CONTROLS = "button, a[href], input";

document.addEventListener("focusin", ({ target }) => {
  const list = listOf(target);
  for (const each of list ? controlsIn(list) : []) each.tabIndex = each === target ? 0 : -1; // Tab now leaves the list, and comes back to here
});
document.addEventListener("keydown", (event) => {
  const list = listOf(event.target);
  if (!list || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const rows = list.matches(".chips") ? [controlsIn(list)] : [...list.children].map(controlsIn).filter((row) => row.length);
  const at = rows.findIndex((row) => row.includes(/** @type {HTMLElement} */ (event.target)));
  const beside = rows[at]?.indexOf(/** @type {HTMLElement} */ (event.target)) ?? -1;
  const forward = getComputedStyle(list).direction === "rtl" ? -1 : 1;
  const next = {
    ArrowDown: rows[at + 1]?.[0], ArrowUp: rows[at - 1]?.[0], Home: rows[0]?.[0], End: rows.length > 1 ? rows[rows.length - 1][0] : rows[0]?.at(-1),
    ArrowRight: rows[at]?.[beside + forward], ArrowLeft: rows[at]?.[beside - forward],
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
