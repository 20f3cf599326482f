// @ts-check
/** The list of conversations, of which only the rows near the visible part are in the document. */

import { cut, drawn, element, fill } from "../../text.js";
import { reasonOf } from "../parts/api.js";
import { MOST_STORED, archiveRow, conversationRow, shortTimes, upTo } from "../session/first-view.js";
import { showUnread } from "../parts/installable.js";
import { hueOf } from "../session/people.js";
import { keyOf } from "../session/store.js";
import { noticeText, summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../session/first-view.js").Row} Row */

const PREVIEW_LENGTH = 80;
/** Rows beyond the visible part that are in the document, on each side. */
const BEYOND = 6;
/** So many rows are there before their height is known. */
const FIRST_ROWS = 20;
/** So many rows before the end of the loaded ones, more are loaded. */
const NEAR_END = 30;
/** Key of the way to the archived conversations. */
const ARCHIVE = "archive";

/** Owns the list; reads the conversations from the store of the session. */
export class ConversationList {
  #list = element("conversations", HTMLElement);
  /** It scrolls. */
  #root = /** @type {HTMLElement} */ (this.#list.closest("nav"));
  #note = element("conversations-note", HTMLElement);
  #find = element("find-people", HTMLButtonElement);
  #fault = "";
  /** What the list shows, in order; only some of them have rows. @type {Conversation[]} */
  #items = [];
  /** The rows above them. @type {HTMLElement[]} */
  #above = [];
  /** Of a row, in pixels; 0: not known yet. All have the same. */
  #height = 0;
  /** @type {Conversation | null} */
  open = null;
  /** Opens the conversation below or above the open one, once `list-input` is loaded. @type {(step: 1 | -1) => void} */
  step = () => {};
  /** The conversation whose row had the focus last: Tab leads to it. @type {Conversation | undefined} */
  #stop;
  #isLoading = false;
  /** Which conversations are listed, once the filters are loaded. @type {import("./filters.js").Filters | null} */
  #filters = null;
  /** Whether the archived conversations are shown. */
  #inArchive = false;
  #title = document.title;
  #unread = -1;
  /** Once they are loaded. @type {import("./list-signs.js").Signs | null} */
  #signs = null;
  #ends = new AbortController();
  /** The rows of the last visit were filtered: they stay until the filters are loaded. */
  #waits;
  /** The row of each conversation, and what it was drawn from. @type {Map<string, { version: string, element: HTMLElement }>} */
  #rows = new Map();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.when = shortTimes(session.language);
    this.#waits = isFiltered(session.rows.get()?.filter);
    const { signal } = this.#ends;
    this.#root.addEventListener("scroll", () => this.#place(), { signal, passive: true });
    const sizes = new ResizeObserver(() => {
      const row = this.#list.querySelector("[aria-posinset]");
      // The size of the text may be another one.
      if (row instanceof HTMLElement && row.offsetHeight) this.#height = row.offsetHeight;
      this.#place();
    });
    sizes.observe(this.#root);
    signal.addEventListener("abort", () => sizes.disconnect());
    this.#list.addEventListener("focusin", ({ target }) => {
      const focused = this.#items.find(({ id }) => target instanceof HTMLElement && String(id) === target.dataset.conversation);
      this.#stop = focused ?? this.#stop;
    }, { signal });
    addEventListener("pagehide", () => this.#store(), { signal });
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.#store(); }, { signal });
  }

  /** Shows who is online and who is typing, and filters, and takes keys, long presses and swipes, from now on. */
  async showSigns() {
    // Without these modules the list has less.
    const modules = this.#signs ? null : await Promise.all([import("./list-signs.js"), import("./filters.js"), import("./list-input.js")]).catch(() => null);
    this.#waits = false;
    if (!modules || this.#signs || this.#ends.signal.aborted) return;
    const [{ Signs }, { Filters }, { listen }] = modules;
    this.#signs = new Signs(this.session);
    listen(this.session, this, this.#ends.signal);
    this.#filters = new Filters(this.session, this.#ends.signal, () => {
      this.#inArchive = false;
      this.#root.scrollTop = 0;
      this.session.changed();
    });
    this.session.changed();
  }

  stop() {
    this.#ends.abort();
    this.#list.replaceChildren();
    showUnread(0);
    document.title = this.#title;
  }

  /** Loads the most recent conversations. */
  async load() {
    const { store, words } = this.session;
    try {
      await store.load();
      this.#fault = "";
    } catch (error) {
      this.#fault = reasonOf(error, words);
    }
    this.session.changed();
  }

  /** Loads more conversations, when the user is near the end of those that are loaded. */
  async #loadMore() {
    const { store } = this.session;
    if (this.#isLoading || !store.hasMore || !store.isLoaded || !this.session.isOnline) return;
    this.#isLoading = true;
    await store.load(true).then(() => {
      this.#isLoading = false;
      // With a filter, none of the new ones may be listed: then the next ones are loaded.
      this.#place();
    }, () => {
      // The next scroll tries again.
      this.#isLoading = false;
    });
  }

  /** Stores the first rows for the next visit. */
  #store() {
    const { session } = this;
    const { listed, archived } = session.store.lists;
    // The page may go away before it knows them.
    if (this.#waits || (!listed.length && !session.store.isLoaded)) return;
    const filter = this.#filters?.chosen;
    const me = { name: session.people.nameOf(session.user), avatar: session.people.card(session.user)?.avatar ?? "", isGuest: session.isGuest };
    const rows = (isFiltered(filter) ? this.#items : listed).slice(0, MOST_STORED).map((each) => ({ ...this.#row(each, false), isOnline: false, typing: "" }));
    session.rows.set({ language: session.language, me, archive: this.#archive(isFiltered(filter) ? [] : archived), rows, filter });
  }

  /** @param {Conversation | null} open  the open conversation */
  draw(open) {
    const { store, words } = this.session;
    const { listed, archived } = store.lists;
    this.open = open;
    if (this.#waits) return void this.showSigns().then(() => this.session.changed());
    // In the rows of the last visit, the user has opened the archive already.
    if (archived.length && this.#list.dataset.early) {
      delete this.#list.dataset.early;
      this.#inArchive = true;
    }
    this.#inArchive &&= archived.length > 0;
    const shown = this.#filters?.draw(listed, open) ?? listed;
    const items = this.#inArchive ? archived : shown;
    const moved = this.#moved(items);
    this.#items = items;
    this.#above = [];
    if (shown === listed || this.#inArchive) {
      this.#above.push(...(this.#signs?.threads ?? []));
      if (archived.length) this.#above.push(this.#archiveRow(archived));
    }
    this.#place(moved, true);

    const text = this.#fault || this.#emptyText();
    if (this.#note.textContent !== text) this.#note.textContent = text;
    this.#note.hidden = !text;
    this.#find.hidden = store.conversations.size > 0 || !store.isLoaded || this.session.isGuest;

    const unread = listed.reduce((sum, each) => sum + store.unreadOf(each), 0);
    if (unread === this.#unread) return;
    this.#unread = unread;
    showUnread(unread);
    document.title = unread ? `(${upTo(unread)}) ${this.#title}` : this.#title;
  }

  /** @returns {string} why the list has no rows; empty: it has some, or more are being loaded */
  #emptyText() {
    const { store, words, isGuest } = this.session;
    if (store.conversations.size) return this.#items.length || store.hasMore ? "" : words.messages_filter_none;
    if (!store.isLoaded) return words.messages_loading;
    return isGuest ? words.messages_none_guest : words.messages_none_hint;
  }

  /**
   * How far the visible rows move when the list changes, so that they can stay where they are.
   *
   * @param {Conversation[]} after
   * @returns {number} rows; 0 at the upper end, where new ones come into view
   */
  #moved(after) {
    if (!this.#height || this.#root.scrollTop <= this.#height || after === this.#items) return 0;
    const [first, last] = this.#window(0);
    const moves = this.#items.slice(first, last).flatMap((each, index) => {
      const now = after.indexOf(each);
      return now < 0 ? [] : [now - first - index];
    });
    // The median: some rows may have moved for themselves.
    return moves.sort((a, b) => a - b)[moves.length >> 1] ?? 0;
  }

  /**
   * @param {number} beyond  rows on each side
   * @param {number} [shift]  pixels by which the list is about to scroll
   * @returns {[first: number, last: number]} the rows that are in view, the last one excluded
   */
  #window(beyond, shift = 0) {
    const { length } = this.#items;
    if (!this.#height) return [0, Math.min(length, FIRST_ROWS)];
    const top = Math.max(0, this.#root.scrollTop + shift - this.#upper);
    const first = Math.min(Math.floor(top / this.#height), length);
    return [Math.max(0, first - beyond), Math.min(length, Math.ceil((top + this.#root.clientHeight) / this.#height) + beyond)];
  }

  /**
   * Puts the rows near the visible part into the document, and those of the others away. The row with the focus stays.
   *
   * @param {number} [moved]  how far the visible rows have moved
   * @param {boolean} [isChanged]  else what the rows show is as before
   * @returns {void}
   */
  #place(moved = 0, isChanged = false) {
    if (this.#ends.signal.aborted) return;
    const { activeElement } = document;
    const focused = this.#list.contains(activeElement) ? /** @type {HTMLElement} */ (activeElement) : null;
    const focusedIndex = this.#items.findIndex(({ id }) => String(id) === focused?.dataset.conversation);
    const measured = this.#height;
    const shift = moved * this.#height;
    const [first, last] = this.#window(BEYOND, shift);
    const indexes = Array.from({ length: last - first }, (_, index) => first + index);
    if (focusedIndex >= 0 && focusedIndex < first) indexes.unshift(focusedIndex);
    if (focusedIndex >= last) indexes.push(focusedIndex);

    const size = String(this.session.store.hasMore ? -1 : this.#items.length);
    let before = -1;
    const rows = indexes.map((index) => {
      const conversation = this.#items[index];
      const known = isChanged ? undefined : this.#rows.get(keyOf(conversation))?.element;
      const row = known ?? drawn(() => this.#cached(conversation, conversation === this.open), () => this.#plain(conversation));
      const gap = index - before - 1;
      before = index;
      const space = gap ? `${gap * this.#height}px` : "";
      if (row.style.marginTop !== space) row.style.marginTop = space;
      setAttribute(row, "aria-posinset", String(index + 1));
      setAttribute(row, "aria-setsize", size);
      return row;
    });
    const below = (this.#items.length - 1 - before) * this.#height;
    this.#list.style.paddingBottom = below ? `${below}px` : "";

    // The list is one stop of the Tab key.
    const buttons = [...this.#above, ...rows].map((row) => /** @type {HTMLElement} */ (row.querySelector("button")));
    const lastStop = buttons.find(({ dataset }) => dataset.conversation === String(this.#stop?.id));
    const stop = buttons.find((each) => each === focused) ?? lastStop ?? buttons[this.#above.length] ?? buttons[0];
    for (const each of buttons) setAttribute(each, "tabindex", each === stop ? "0" : "-1");

    // Rows that stay are not taken out: they would lose the focus.
    let child = this.#list.firstElementChild;
    for (const row of [...this.#above, ...rows]) {
      if (row === child) child = child.nextElementSibling;
      else this.#list.insertBefore(row, child);
    }
    for (let next = child; child; child = next) {
      next = child.nextElementSibling;
      child.remove();
    }
    if (shift) this.#root.scrollTop += shift;
    for (const [key, { element }] of this.#rows) if (!element.isConnected && key !== ARCHIVE) this.#rows.delete(key);
    if (focused && document.activeElement !== focused) {
      const again = this.#list.querySelector(`[data-conversation="${focused.dataset.conversation}"]`) ?? (rows[0] ?? this.#above[0])?.querySelector("button");
      /** @type {HTMLElement | null | undefined} */ (again)?.focus({ preventScroll: true });
    }
    this.#height ||= rows[0]?.offsetHeight ?? 0;
    if (this.#height !== measured && this.#height) return this.#place();
    if (last >= this.#items.length - NEAR_END) this.#loadMore();
  }

  /**
   * Scrolls as far as needed to show a row.
   *
   * @param {Conversation} conversation
   * @param {boolean} [focuses]  the row gets the focus
   * @returns {boolean} false: it is not in the list
   */
  reveal(conversation, focuses = false) {
    const index = this.#items.indexOf(conversation);
    if (index < 0) return false;
    const { scrollTop, clientHeight } = this.#root;
    const top = this.#upper + index * this.#height;
    const bottom = top + this.#height;
    if (top < scrollTop) this.#root.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.#root.scrollTop = bottom - clientHeight;
    this.#place();
    if (focuses) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-conversation="${conversation.id}"]`))?.focus({ preventScroll: true });
    return true;
  }

  /** @returns {Conversation[]} what the list shows, in order: only those near the visible part have rows */
  get items() {
    return this.#items;
  }

  /** Of the rows above the conversations, in pixels. */
  get #upper() {
    return this.#above.reduce((sum, each) => sum + each.offsetHeight, 0);
  }

  /**
   * @param {Conversation} conversation  that cannot be shown as the others
   * @returns {HTMLElement}
   */
  #plain({ id, group, unread, unreadMore, mentions }) {
    const { words } = this.session;
    const row = /** @type {Row} */ ({ id, isGroup: group, unread, unreadMore, mentions, name: words.messages_custom, preview: words.messages_unshown });
    return conversationRow(row, words, this.when, () => this.session.open({ conversation: id }));
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} isOpen
   * @returns {HTMLElement} its row, drawn again only if it shows something else now
   */
  #cached(conversation, isOpen) {
    const { words } = this.session;
    const key = keyOf(conversation);
    const row = this.#row(conversation, isOpen);
    const version = JSON.stringify([row, this.when(row.time)]);
    const known = this.#rows.get(key);
    if (known?.version === version) return known.element;
    const element = conversationRow(row, words, this.when, () => this.session.open({ conversation: row.id }));
    this.#rows.set(key, { version, element });
    return element;
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} isOpen
   * @returns {Row} what the row shows
   */
  #row(conversation, isOpen) {
    const { store, drafts, inbox, wishes } = this.session;
    const { id, group, last, unread, unreadMore, mentions } = conversation;
    const draft = isOpen ? "" : drafts.get(keyOf(conversation)).text.trim().replace(/\s+/g, " ");
    return {
      id, isOpen, isPinned: inbox.pinOf(conversation) > 0, isMarked: inbox.isMarked(conversation), unread, unreadMore, mentions, isGroup: group,
      ...this.#face(conversation), isQuiet: wishes.isQuiet(id, true), name: store.nameOf(conversation), time: last?.time ?? 0,
      ...this.#signs?.of(conversation), ...this.#preview(conversation), draft: cut(draft, PREVIEW_LENGTH),
    };
  }

  /**
   * @param {Conversation} conversation
   * @returns {Pick<Row, "mark" | "avatar" | "hue">} its picture, and whether it is with a bot or a guest
   */
  #face({ id, group, peer, avatar }) {
    const { people, user } = this.session;
    const { bot, guest, avatar: face = "" } = people.card(peer) ?? {};
    const other = guest ? "guest" : "";
    const mark = bot ? "bot" : other;
    if (peer === user) return { mark, avatar: "", hue: "saved" };
    return { mark, avatar: group ? avatar : face, hue: peer || group ? hueOf(peer || `#${id}`) : "" };
  }

  /**
   * The way to the archived conversations, or back.
   *
   * @param {Conversation[]} archived
   * @returns {HTMLElement}
   */
  #archiveRow(archived) {
    const { words } = this.session;
    const archive = this.#archive(archived);
    const version = JSON.stringify([this.#inArchive, archive]);
    const known = this.#rows.get(ARCHIVE);
    if (known?.version === version) return known.element;
    const element = archiveRow(archive, words, this.#inArchive, () => {
      this.#inArchive = !this.#inArchive;
      this.#root.scrollTop = 0;
      this.session.changed();
    });
    this.#rows.set(ARCHIVE, { version, element });
    return element;
  }

  /**
   * @param {Conversation[]} archived
   * @returns {import("../session/first-view.js").Archive}
   */
  #archive(archived) {
    return { count: archived.length, unread: archived.reduce((sum, each) => sum + each.unread, 0) };
  }

  /** @param {number} id  of the conversation whose row gets the focus; if it is not listed, the button “new” gets it */
  focus(id) {
    const conversation = this.session.store.conversations.get(id);
    if (!conversation || !this.reveal(conversation, true)) element("new-conversation", HTMLButtonElement).focus({ preventScroll: true });
  }

  /** @param {Conversation} conversation @returns {{ preview: string, by?: string }} its last message; `by`: who has written it, in a group */
  #preview({ last, group, peer }) {
    const { words, people, user } = this.session;
    if (!last) return { preview: "" };
    if (last.kind !== "message" && last.kind !== "edit") return { preview: noticeText(last, this.session) };
    const preview = cut(summaryOf(last, words), PREVIEW_LENGTH);
    if (last.from === user && peer !== user) return { preview: fill(words.messages_own_preview, { text: preview }) };
    return { preview, by: group ? people.nameOf(last.from) : "" };
  }
}

/** @param {string} [filter]  the key of a chip */
function isFiltered(filter = "all") {
  return filter !== "all";
}

/**
 * Sets an attribute only if it has another value: else the browser would compute the styles again.
 *
 * @param {Element} element
 * @param {string} name
 * @param {string} value
 */
function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}
