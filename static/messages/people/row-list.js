// @ts-check
/** A long list of which only the rows near the visible part are in the document. */

import { make } from "../../text.js";
import { loadStyle } from "../parts/form.js";

/**
 * @typedef {object} Item
 * @property {string} key         that no other item has
 * @property {string} [heading]   it is a heading, not a row
 * @property {() => HTMLElement} [draw]  makes the row: `li`
 * @property {() => string} [version]  of what the row shows: it is drawn again when this has changed
 */

/** Heights in rem: of a row, and of a heading. */
const ROW = 3.5;
const HEADING = 2.25;
/** Rows are there this far beyond the visible part, in its heights. */
const BEYOND = 0.5;

/** Owns the rows in the document, and where each item is. */
export class RowList {
  root = make("ul", "people-list row-list");
  /** @type {Item[]} */
  #items = [];
  /** Where each item begins, and where the last one ends, in pixels. */
  #tops = [0];
  /** Number of each item that is no heading, from 1 on. @type {number[]} */
  #numbers = [];
  #count = 0;
  /** What is in the document. @type {Map<string, { row: HTMLElement, version: string }>} */
  #rows = new Map();
  /** @type {HTMLElement | null} */
  #scroller = null;
  #frame = 0;

  /**
   * @param {string} name  for screen readers
   * @param {() => void} [onEnd]  its end is near
   */
  constructor(name, onEnd = () => {}) {
    this.onEnd = onEnd;
    this.root.setAttribute("role", "list");
    this.root.setAttribute("aria-label", name);
    this.root.addEventListener("keydown", (event) => this.#onKey(event));
    loadStyle(new URL("../later/row-list.css", import.meta.url));
  }

  /**
   * Call it when the list is in the document.
   *
   * @param {Item[]} items
   */
  show(items) {
    const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.#items = items;
    this.#tops = [0];
    this.#numbers = [];
    this.#count = 0;
    for (const { heading } of items) {
      this.#tops.push((this.#tops.at(-1) ?? 0) + rem * (heading === undefined ? ROW : HEADING));
      this.#numbers.push(heading === undefined ? ++this.#count : 0);
    }
    this.root.style.blockSize = `${this.#tops.at(-1)}px`;
    this.#follow();
    this.#draw();
  }

  /** What rows show may have changed. */
  update() {
    this.#draw();
  }

  /**
   * Scrolls to an item.
   *
   * @param {string} key
   * @param {number} above  so many pixels of the visible part are covered
   */
  reveal(key, above) {
    const index = this.#items.findIndex((each) => each.key === key);
    if (!this.#scroller || index < 0) return;
    const itemTop = this.root.getBoundingClientRect().top + this.#tops[index];
    this.#scroller.scrollTop += itemTop - this.#scroller.getBoundingClientRect().top - above;
    this.#draw();
  }

  /** Finds the element that scrolls the list, and listens to it from now on. */
  #follow() {
    if (this.#scroller?.isConnected || !this.root.isConnected) return;
    let part = this.root.parentElement;
    while (part && !/auto|scroll/.test(getComputedStyle(part).overflowY)) part = part.parentElement;
    this.#scroller = part;
    const later = () => { this.#frame ||= requestAnimationFrame(() => this.#draw()); };
    part?.addEventListener("scroll", later, { passive: true });
    if (part) new ResizeObserver(later).observe(part);
  }

  /** Puts the rows near the visible part into the document, and takes the others away. The row with the focus stays. */
  #draw() {
    this.#frame = 0;
    const scroller = this.#scroller;
    if (!scroller?.isConnected) return;

    const { top } = this.root.getBoundingClientRect();
    const visible = scroller.getBoundingClientRect();
    const beyond = visible.height * BEYOND;
    const first = this.#indexAt(visible.top - top - beyond);
    const end = Math.min(this.#indexAt(visible.bottom - top + beyond) + 1, this.#items.length);
    const indexes = Array.from({ length: end - first }, (_, number) => first + number);
    const focused = this.#focusedIndex();
    if (focused >= 0 && focused < first) indexes.unshift(focused); // it keeps the focus, and keys go on from there
    else if (focused >= end) indexes.push(focused);

    const keys = new Set(indexes.map((index) => this.#items[index].key));
    for (const [key, { row }] of this.#rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    let place = this.root.firstElementChild;
    for (const index of indexes) {
      const row = this.#rowAt(index);
      if (place && place.parentElement !== this.root) place = row; // it was drawn again
      if (row === place) place = place.nextElementSibling;
      else this.root.insertBefore(row, place);
    }
    if (end >= this.#items.length) this.onEnd();
  }

  /** @returns {number} the index of the item whose row has the focus; -1: none */
  #focusedIndex() {
    const { activeElement } = document;
    if (!this.root.contains(activeElement)) return -1;
    return this.#items.findIndex(({ key }) => this.#rows.get(key)?.row.contains(activeElement));
  }

  /**
   * Searches by halves.
   *
   * @param {number} offset  pixels below the top of the list
   * @returns {number} the index of the item that is there
   */
  #indexAt(offset) {
    let low = 0;
    let high = Math.max(this.#items.length - 1, 0);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#tops[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /**
   * @param {number} index
   * @returns {HTMLElement} the row of an item, drawn again if it shows something else now
   */
  #rowAt(index) {
    const { key, heading, draw = () => make("li", "row-heading", heading ?? ""), version: versionOf = () => "" } = this.#items[index];
    const version = versionOf();
    const before = this.#rows.get(key);
    const row = before?.version === version ? before.row : draw();
    if (before && before.row !== row) replace(before.row, row);
    row.style.insetBlockStart = `${this.#tops[index]}px`;
    if (heading === undefined) {
      row.setAttribute("aria-posinset", String(this.#numbers[index]));
      row.setAttribute("aria-setsize", String(this.#count));
    }
    if (before?.row !== row) this.#rows.set(key, { row, version });
    return row;
  }

  /** @param {KeyboardEvent} event  the first and the last row may not be in the document */
  #onKey(event) {
    const isEnd = event.key === "End";
    const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
    if (!this.#scroller || hasModifier || !(isEnd || event.key === "Home")) return;
    event.preventDefault();
    const { top } = this.root.getBoundingClientRect();
    this.#scroller.scrollTop += top - this.#scroller.getBoundingClientRect().top + (isEnd ? this.root.offsetHeight : 0);
    this.#draw();
    const controls = /** @type {HTMLElement[]} */ ([...this.root.querySelectorAll("button, input")]);
    const last = controls.findLast((each) => each.matches("li > :first-child, li > :first-child *")); // of a row, not of its actions
    const target = isEnd ? last : controls[0];
    target?.focus();
  }
}

/**
 * @param {HTMLElement} before  the focus stays on its part with the same `data-key`
 * @param {HTMLElement} row
 */
function replace(before, row) {
  const focused = document.activeElement;
  const key = focused instanceof HTMLElement && before.contains(focused) ? focused.dataset.key : undefined;
  before.replaceWith(row);
  if (key === undefined) return;
  const again = row.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (again instanceof HTMLElement) again.focus({ preventScroll: true });
}
