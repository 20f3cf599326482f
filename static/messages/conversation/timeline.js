// @ts-check
/**
 * A list of which only the rows near the visible part are in the document.
 *
 * Rows are in the normal flow of the page, without space for those that are not drawn. When rows are added or removed
 * above, or change their height, the visible ones stay where they are.
 */

import { make } from "../../text.js";

/**
 * @typedef {object} Item
 * @property {string} key
 * @property {string} version          the row is drawn again when it changes
 * @property {() => HTMLElement} make
 * @property {string} [replaces]       key of an item that it replaces, perhaps at another place
 */

/**
 * @typedef {object} Events
 * @property {() => void} needOlder    few items are left above
 * @property {() => void} needNewer
 * @property {(key: string) => void} onSeen  the last visible row
 * @property {() => void} onMove       whether the end is visible may have changed
 */

/** @typedef {"start" | "center" | number} Align  a number: so many pixels below the upper edge */

/** So many rows are in the document at most. */
const MAX_ROWS = 190;
/** So many rows are drawn at once. */
const BATCH = 15;
/** On a slow device, fewer rows are drawn at once. */
const MIN_BATCH = 3;
/** Rows are drawn up to a margin around the visible part. At so many times this distance they are removed: each one makes a frame slower. */
const FAR = 3;
const MIN_MARGIN_PX = 300;
const MAX_MARGIN_PX = 1_200;
/** If fewer items are left beyond the drawn ones, more are requested. */
const NEAR_ITEMS = 30;
/** So far from its end, the list still counts as being at its end. */
const AT_END_PX = 24;
/** In each frame, rows are drawn for so long. */
const WORK_MS = 6;
/** A hidden page, which gets no animation frames, works after this time. */
const WORK_HIDDEN_MS = 100;

/** Owns the rows in `root`, which scrolls. */
export class Timeline {
  /** @type {Item[]} */
  #items = [];
  /** The drawn items: from #first to before #last. */
  #first = 0;
  #last = 0;
  /** @type {Map<string, { element: HTMLElement, version: string }>} */
  #rows = new Map();
  #list = make("div", "rows");
  /** The end stays in view. */
  #sticks = true;
  /** `scrollTop` of the root when it was read last. */
  #top = 0;
  /** The first row in view, and how far it is below the upper edge: it stays there. @type {{ key: string, offset: number } | null} */
  #anchor = null;
  #isScheduled = false;
  /** How many rows are drawn at once while the user scrolls. */
  #batch = BATCH;

  /**
   * @param {HTMLElement} root
   * @param {Events} events
   */
  constructor(root, events) {
    this.root = root;
    this.events = events;
    root.append(this.#list);
    root.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    const sizes = new ResizeObserver(() => {
      this.#restore();
      this.#schedule();
    });
    sizes.observe(root);
    sizes.observe(this.#list);
  }

  /** Whether the last item is drawn and in view. */
  get isAtEnd() {
    return this.#sticks && this.#last === this.#items.length;
  }

  /** @returns {{ key: string, align: number } | null} the first message in view, and where it is; null: the end is in view */
  get place() {
    const anchor = this.#anchor;
    if (this.isAtEnd || !anchor) return null;
    const index = this.#items.findIndex(({ key }) => key === anchor.key);
    if (index < 0) return null;
    // Other items than messages, such as dividers, are not there when the messages are shown again.
    const message = this.#items.slice(index).find(({ key }) => /^\d+$/.test(key));
    return message ? { key: message.key, align: anchor.offset } : null;
  }

  /** @returns {HTMLElement[]} the drawn rows in order */
  get elements() {
    return /** @type {HTMLElement[]} */ ([...this.#list.children]);
  }

  /**
   * Replaces everything, and scrolls to an item, or to the end.
   *
   * @param {Item[]} items
   * @param {{ key?: string, align?: Align }} [where]
   */
  show(items, { key, align = "start" } = {}) {
    this.#items = items;
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#anchor = null;
    const index = key === undefined ? -1 : items.findIndex((item) => item.key === key);
    this.#sticks = index < 0;
    const middle = this.#sticks ? items.length : index;
    this.#first = Math.max(0, middle - (this.#sticks ? 2 : 1) * BATCH);
    this.#last = Math.min(items.length, middle + 2 * BATCH);
    this.#draw();
    if (!this.#sticks) this.#align(items[index].key, align);
    this.#restore();
    this.#schedule();
  }

  /**
   * Replaces the items; rows that are still there stay where they are.
   *
   * @param {Item[]} items
   */
  update(items) {
    const hadEnd = this.#last === this.#items.length;
    const drawn = this.#items.slice(this.#first, this.#last).map(({ key }) => key);
    const indexByKey = new Map(items.map(({ key }, index) => [key, index]));
    const known = drawn.map((key) => indexByKey.get(key)).filter((index) => index !== undefined);
    this.#items = items;
    const anchor = this.#anchor;
    if (anchor && !indexByKey.has(anchor.key)) anchor.key = items.find(({ replaces }) => replaces === anchor.key)?.key ?? anchor.key;
    if (!known.length) return this.show(items);

    this.#first = Math.min(...known);
    this.#last = Math.max(...known) + 1;
    if (hadEnd) this.#last = this.#sticks ? items.length : Math.min(items.length, this.#last + BATCH);
    // If the first drawn item is gone, one more item is drawn above.
    if (this.#first > 0 && drawn[0] !== items[this.#first].key) this.#first -= 1;
    this.#limit(this.#sticks);
    this.#draw();
    this.#restore();
    this.#schedule();
  }

  /**
   * Scrolls to an item.
   *
   * @param {string} key
   * @param {"start" | "center"} [align]
   * @returns {HTMLElement | null} its row; null: there is no such item
   */
  reveal(key, align = "center") {
    if (!this.#rows.has(key)) {
      if (!this.#items.some((item) => item.key === key)) return null;
      this.show(this.#items, { key, align });
    }
    this.#sticks = false;
    this.#align(key, align);
    this.#schedule();
    return this.#rows.get(key)?.element ?? null;
  }

  /** Scrolls to the end of the items. */
  toEnd() {
    this.#last = this.#items.length;
    this.#sticks = true;
    this.#limit(true);
    this.#draw();
    this.#restore();
    this.#schedule();
  }

  /** The visible rows stay where they are, also at the end: the user changes the height of one. */
  hold() {
    this.#sticks = false;
  }

  /**
   * Moves the focus from a row to one beside it.
   *
   * @param {HTMLElement} row
   * @param {1 | -1} step
   * @returns {boolean}  false: there is none
   */
  focusNext(row, step) {
    const beside = (/** @type {Element} */ each) => (step > 0 ? each.nextElementSibling : each.previousElementSibling);
    // Dividers take no focus.
    let next = beside(row);
    while (next && next.getAttribute("tabindex") !== "-1") next = beside(next);
    if (!(next instanceof HTMLElement)) return false;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    return true;
  }

  /** The end sticks as soon as the user reaches it, until they scroll up. */
  #onScroll() {
    const { scrollTop } = this.root;
    if (this.#below() < AT_END_PX) this.#sticks = this.#last === this.#items.length;
    else if (scrollTop < this.#top) this.#sticks = false;
    this.#top = scrollTop;
    this.#findAnchor();
    this.#schedule();
  }

  /** Draws missing rows in the next frame, and tells what is in view. */
  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const work = () => {
      this.#isScheduled = false;
      // While it is hidden, all measures are 0. The ResizeObserver continues when it is shown.
      if (!this.root.clientHeight) return;
      if (this.#below() < AT_END_PX && this.#last === this.#items.length) this.#sticks = true;
      this.#extend();
      this.events.onMove();
      this.#reportSeen();
    };
    if (document.hidden) setTimeout(work, WORK_HIDDEN_MS);
    else requestAnimationFrame(work);
  }

  /** Draws more rows where few are left beyond the visible part, for a short time; the rest in the next frames. */
  #extend() {
    const start = performance.now();
    const margin = Math.min(Math.max(this.root.clientHeight, MIN_MARGIN_PX), MAX_MARGIN_PX);
    for (let before = start; before - start < WORK_MS; before = performance.now()) {
      const above = this.root.scrollTop;
      const below = this.#below();
      if (above < margin && this.#first > 0) {
        this.#first = Math.max(0, this.#first - this.#batch);
        if (below > FAR * margin) this.#last -= this.#batch;
        this.#limit(false);
      } else if (below < margin && this.#last < this.#items.length) {
        this.#last = Math.min(this.#items.length, this.#last + this.#batch);
        if (above > FAR * margin) this.#first += this.#batch;
        this.#limit(true);
      } else {
        if (this.#first < NEAR_ITEMS) this.events.needOlder();
        if (this.#items.length - this.#last < NEAR_ITEMS) this.events.needNewer();
        return;
      }
      this.#draw(false);
      this.#restore();
      // A slow device draws fewer rows the next time.
      const share = WORK_MS / Math.max(performance.now() - before, 1);
      this.#batch = Math.round(Math.min(BATCH, Math.max(MIN_BATCH, this.#batch * share)));
    }
    this.#schedule();
  }

  /** @param {boolean} keepEnd  remove rows at the start, else at the end */
  #limit(keepEnd) {
    if (keepEnd) this.#first = Math.max(this.#first, this.#last - MAX_ROWS);
    else this.#last = Math.min(this.#last, this.#first + MAX_ROWS);
  }

  /**
   * Puts the rows from #first to #last into the document, and removes the others. Rows that are there already are not moved.
   *
   * @param {boolean} [isChanged]  the items may have other versions; false: rows that are there are not drawn again
   */
  #draw(isChanged = true) {
    const shown = this.#items.slice(this.#first, this.#last);
    let child = this.#list.firstElementChild;
    const keys = new Set(shown.map(({ key }) => key));
    for (const [key, { element }] of this.#rows) {
      if (keys.has(key)) continue;
      if (element === child) child = child.nextElementSibling;
      if (element.contains(document.activeElement)) {
        const hasMoved = this.focusNext(element, 1) || this.focusNext(element, -1);
        if (!hasMoved) this.root.focus();
      }
      element.remove();
      this.#rows.delete(key);
    }
    // It may be the row beside one that was removed.
    const focused = document.activeElement;
    for (const item of shown) {
      const old = this.#rows.get(item.key);
      const isOld = old && isChanged && old.version !== item.version;
      const element = old && !isOld ? old.element : this.#make(item);
      if (isOld) {
        if (old.element === child) child = element;
        old.element.replaceWith(element);
        if (focused && old.element.contains(focused)) {
          element.tabIndex = -1; // the row of a recalled message has none
          element.focus({ preventScroll: true });
        }
      }
      if (element === child) child = child.nextElementSibling;
      else this.#list.insertBefore(element, child);
    }
  }

  /**
   * Draws an item, and remembers its row.
   *
   * @param {Item} item
   */
  #make(item) {
    const element = item.make();
    element.dataset.key = item.key;
    this.#rows.set(item.key, { element, version: item.version });
    return element;
  }

  /** Puts the visible rows back to where they were. */
  #restore() {
    if (this.#sticks && this.#last === this.#items.length) this.root.scrollTop = this.root.scrollHeight;
    else if (this.#anchor) {
      const row = this.#rows.get(this.#anchor.key)?.element;
      const moved = row ? this.#offset(row) - this.#anchor.offset : 0;
      if (Math.abs(moved) >= 1) this.root.scrollTop += moved;
    }
    this.#top = this.root.scrollTop;
    this.#findAnchor();
  }

  /**
   * @param {string} key
   * @param {Align} align
   */
  #align(key, align) {
    const row = this.#rows.get(key)?.element;
    if (!row) return;
    this.root.scrollTop += this.#offset(row) - this.#spaceAbove(row, align);
    this.#top = this.root.scrollTop;
    this.#findAnchor();
  }

  /**
   * @param {HTMLElement} row
   * @param {Align} align
   * @returns {number} how many pixels the row is to be below the upper edge
   */
  #spaceAbove(row, align) {
    if (typeof align === "number") return align;
    const { clientHeight } = this.root;
    return align === "start" ? clientHeight / 6 : Math.max(0, (clientHeight - row.offsetHeight) / 2);
  }

  /** Remembers the first row that is in view, and where. */
  #findAnchor() {
    const rows = this.#list.children;
    const top = this.root.getBoundingClientRect().top;
    const visible = this.#firstWhere((row) => row.getBoundingClientRect().bottom > top);
    const row = rows[visible];
    if (row instanceof HTMLElement) this.#anchor = { key: row.dataset.key ?? "", offset: this.#offset(row) };
  }

  /** Tells which row is the last one of which at least the upper half is in view. */
  #reportSeen() {
    if (document.hidden || !this.#list.childElementCount) return;
    const { bottom } = this.root.getBoundingClientRect();
    const isBelow = (/** @type {DOMRect} */ { top, height }) => top + height / 2 > bottom;
    const index = this.#firstWhere((row) => isBelow(row.getBoundingClientRect())) - 1;
    const item = this.#items[this.#first + index];
    if (item) this.events.onSeen(item.key);
  }

  /**
   * @param {(row: Element) => boolean} test  false for the first rows, true for the rest
   * @returns {number} index of the first row for which it is true
   */
  #firstWhere(test) {
    const rows = this.#list.children;
    let low = 0;
    let high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (test(rows[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /**
   * @param {Element} row
   * @returns {number} how many pixels it is below the upper edge
   */
  #offset(row) {
    return row.getBoundingClientRect().top - this.root.getBoundingClientRect().top;
  }

  /** @returns {number} how many pixels of the drawn rows are below the visible part */
  #below() {
    return this.root.scrollHeight - this.root.scrollTop - this.root.clientHeight;
  }
}
