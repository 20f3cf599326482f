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

const MAX_ROWS = 190;
const BATCH = 15;
/** On a slow device, fewer rows are drawn at once. */
const MIN_BATCH = 3;
/** Rows that are so many times as far away as rows are drawn are removed: each one makes a frame slower. */
const FAR = 3;
const NEAR_ITEMS = 30;
const AT_END_PX = 24;
const WORK_MS = 6;

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
  #top = 0;
  /** @type {{ key: string, offset: number } | null} */
  #anchor = null;
  #scheduled = false;
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
    const at = this.isAtEnd ? -1 : this.#items.findIndex(({ key }) => key === this.#anchor?.key);
    const item = at < 0 ? undefined : this.#items.slice(at).find(({ key }) => /^\d+$/.test(key)); // the others are made anew
    return item && this.#anchor ? { key: item.key, align: this.#anchor.offset } : null;
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
    this.#first = this.#last = 0;
    const index = key === undefined ? -1 : items.findIndex((item) => item.key === key);
    this.#sticks = index < 0;
    this.#anchor = null;
    const middle = index < 0 ? items.length : index;
    this.#first = Math.max(0, middle - (index < 0 ? 2 : 1) * BATCH);
    this.#last = Math.min(items.length, middle + 2 * BATCH);
    this.#draw();
    if (index >= 0) this.#align(items[index].key, align);
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
    const indexes = new Map(items.map(({ key }, index) => [key, index]));
    const known = drawn.map((key) => indexes.get(key)).filter((index) => index !== undefined);
    this.#items = items;
    const anchor = this.#anchor;
    if (anchor && !indexes.has(anchor.key)) anchor.key = items.find(({ replaces }) => replaces === anchor.key)?.key ?? anchor.key;
    if (!known.length) return this.show(items);
    this.#first = Math.min(...known);
    this.#last = Math.max(...known) + 1;
    if (hadEnd) this.#last = this.#sticks ? items.length : Math.min(items.length, this.#last + BATCH);
    if (this.#first > 0 && drawn[0] !== items[this.#first].key) this.#first = Math.max(0, this.#first - 1);
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
    /** @type {Element | null} */
    let next = row;
    do next = step > 0 ? next.nextElementSibling : next.previousElementSibling;
    while (next && !(next instanceof HTMLElement && next.tabIndex === -1 && next.hasAttribute("tabindex")));
    if (!(next instanceof HTMLElement)) return false;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    return true;
  }

  #onScroll() {
    const { scrollTop } = this.root;
    if (this.#below() < AT_END_PX) this.#sticks = this.#last === this.#items.length;
    else if (scrollTop < this.#top) this.#sticks = false;
    this.#top = scrollTop;
    this.#findAnchor();
    this.#schedule();
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const work = () => {
      this.#scheduled = false;
      if (!this.root.clientHeight) return; // hidden: all measures are 0; the ResizeObserver continues when it is shown
      if (this.#below() < AT_END_PX && this.#last === this.#items.length) this.#sticks = true;
      this.#extend();
      this.events.onMove();
      this.#reportSeen();
    };
    if (document.hidden) setTimeout(work, 100); // a hidden page gets no animation frames
    else requestAnimationFrame(work);
  }

  /** Draws more rows where few are left beyond the visible part, for a short time; the rest in the next frames. */
  #extend() {
    const start = performance.now();
    const margin = Math.min(Math.max(this.root.clientHeight, 300), 1_200);
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
   * Makes the rows of the document those from #first to #last.
   *
   * @param {boolean} [isChanged]  else the rows that are there show what they shall
   */
  #draw(isChanged = true) {
    const shown = this.#items.slice(this.#first, this.#last);
    let child = this.#list.firstElementChild;
    const keys = new Set(shown.map(({ key }) => key));
    for (const [key, { element }] of this.#rows) {
      if (keys.has(key)) continue;
      if (element === child) child = child.nextElementSibling;
      if (element.contains(document.activeElement) && !this.focusNext(element, 1) && !this.focusNext(element, -1)) this.root.focus();
      element.remove();
      this.#rows.delete(key);
    }
    const focused = document.activeElement; // perhaps the row beside one that was removed
    for (const item of shown) {
      let row = this.#rows.get(item.key);
      if (row && isChanged && row.version !== item.version) {
        const element = this.#make(item);
        if (row.element === child) child = element;
        row.element.replaceWith(element);
        if (focused && row.element.contains(focused)) {
          element.tabIndex = -1; // the row of a recalled message has none
          element.focus({ preventScroll: true });
        }
        row = { element, version: item.version };
        this.#rows.set(item.key, row);
      } else if (!row) {
        row = { element: this.#make(item), version: item.version };
        this.#rows.set(item.key, row);
      }
      if (row.element === child) child = child.nextElementSibling;
      else this.#list.insertBefore(row.element, child);
    }
  }

  /** @param {Item} item */
  #make(item) {
    const element = item.make();
    element.dataset.key = item.key;
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
    const space = typeof align === "number" ? align : align === "start" ? this.root.clientHeight / 6 : Math.max(0, (this.root.clientHeight - row.offsetHeight) / 2);
    this.root.scrollTop += this.#offset(row) - space;
    this.#top = this.root.scrollTop;
    this.#findAnchor();
  }

  /** Remembers the first row that is in view, and where. */
  #findAnchor() {
    const rows = this.#list.children;
    const top = this.root.getBoundingClientRect().top;
    const visible = this.#firstWhere((row) => row.getBoundingClientRect().bottom > top);
    const row = rows[visible];
    if (row instanceof HTMLElement) this.#anchor = { key: row.dataset.key ?? "", offset: this.#offset(row) };
  }

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
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (test(rows[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** @param {Element} row */
  #offset(row) {
    return row.getBoundingClientRect().top - this.root.getBoundingClientRect().top;
  }

  #below() {
    return this.root.scrollHeight - this.root.scrollTop - this.root.clientHeight;
  }
}
