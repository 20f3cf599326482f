// @ts-check
/** The list of conversations. */

import { cut, drawn, element, fill } from "../../text.js";
import { reasonOf } from "../parts/api.js";
import { MOST_STORED, archiveRow, conversationRow, shortTimes, upTo } from "../session/first-view.js";
import { withModule } from "../parts/form.js";
import { showUnread } from "../parts/installable.js";
import { hueOf } from "../session/people.js";
import { keyOf } from "../session/store.js";
import { noticeText, summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../session/first-view.js").Row} Row */

const PREVIEW_LENGTH = 80;
/** So many conversations are shown, and so many more each time. */
const STEP = 50;

/** Owns the list; reads the conversations from the store of the session. */
export class ConversationList {
  #list = element("conversations", HTMLElement);
  #note = element("conversations-note", HTMLElement);
  #more = element("conversations-more", HTMLButtonElement);
  #find = element("find-people", HTMLButtonElement);
  #fault = "";
  #shown = STEP;
  /** Whether the archived conversations are shown. */
  #inArchive = false;
  #title = document.title;
  /** Once they are loaded. @type {import("./list-signs.js").Signs | null} */
  #signs = null;
  #ends = new AbortController();
  /** The row of each conversation, and what it was drawn from. @type {Map<string, { version: string, element: HTMLElement }>} */
  #rows = new Map();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.when = shortTimes(session.language);
    const { signal } = this.#ends;
    this.#more.addEventListener("click", () => this.#showMore(), { signal });
    this.#list.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    this.#list.addEventListener("contextmenu", (event) => {
      const found = this.#at(event.target);
      if (!found) return;
      event.preventDefault();
      const isMouse = event instanceof PointerEvent && event.pointerType === "mouse";
      if (isMouse || !(event instanceof PointerEvent) || event.pointerType !== "touch") this.#openMenu(found, isMouse ? { x: event.clientX, y: event.clientY } : undefined);
    }, { signal });
    if (matchMedia("(any-pointer: coarse)").matches) this.#followFingers(signal);
    addEventListener("pagehide", () => this.#store(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden && this.#store(), { signal });
  }

  /** @param {AbortSignal} signal */
  async #followFingers(signal) {
    const modules = await Promise.all([import("../parts/swipe.js"), import("./conversation-menu.js"), import("../parts/long-press.js")]).catch(() => null); // without them, a key opens the menu
    if (!modules) return;
    const [{ onSwipe }, { pullsOf }, { onLongPress }] = modules;
    onLongPress(this.#list, (target, point) => {
      const found = this.#at(target);
      if (found) this.#openMenu(found, point);
      return found !== null;
    }, signal);
    onSwipe(this.#list, (target) => {
      const found = this.#at(target);
      return found && { row: /** @type {HTMLElement} */ (found.row.parentElement), ...pullsOf(this.session, found.conversation) };
    }, signal);
  }

  /**
   * @param {EventTarget | null} target
   * @returns {{ row: HTMLElement, conversation: Conversation } | null}
   */
  #at(target) {
    const row = target instanceof Element ? /** @type {HTMLElement | null} */ (target.closest("[data-conversation]")) : null;
    const conversation = this.session.store.conversations.get(Number(row?.dataset.conversation));
    return row && conversation ? { row, conversation } : null;
  }

  /**
   * @param {{ row: HTMLElement, conversation: Conversation }} found
   * @param {{ x: number, y: number }} [point]
   */
  #openMenu({ row, conversation }, point) {
    withModule(import("./conversation-menu.js"), this.session.words, ({ openActions }) => openActions(this.session, conversation, row, point));
  }

  /** Shows who is online and who is typing, from now on. */
  async showSigns() {
    const module = this.#signs ? null : await import("./list-signs.js").catch(() => null); // without it the list has less
    if (module && !this.#ends.signal.aborted) this.#signs ??= new module.Signs(this.session);
  }

  stop() {
    this.#ends.abort();
    this.#list.replaceChildren();
    showUnread(0);
    document.title = this.#title;
  }

  /**
   * Loads the most recent conversations.
   *
   * @param {boolean} [older]  those after the last loaded one instead
   */
  async load(older = false) {
    const { store, words } = this.session;
    try {
      await store.load(older);
      this.#fault = "";
    } catch (error) {
      this.#fault = reasonOf(error, words);
    }
    this.session.changed();
  }

  async #showMore() {
    const { store } = this.session;
    this.#shown += STEP;
    if (store.hasMore && store.conversations.size < this.#shown) await this.load(true);
    this.session.changed();
  }

  /** Stores the first rows for the next visit. */
  #store() {
    const { session } = this;
    const { listed, archived } = session.store.lists;
    if (!listed.length && !session.store.isLoaded) return; // the page goes away before it knows them
    const me = { name: session.people.nameOf(session.user), avatar: session.people.card(session.user)?.avatar ?? "", isGuest: session.isGuest };
    const rows = listed.slice(0, MOST_STORED).map((each) => ({ ...this.#row(each, false), isOnline: false, typing: "" }));
    session.rows.set({ language: session.language, me, archive: this.#archive(archived), rows });
  }

  /** @param {Conversation | null} open  the open conversation */
  draw(open) {
    const { store, words } = this.session;
    const { listed, archived } = store.lists;
    if (archived.length && this.#list.dataset.early) { // of the rows of the last visit
      delete this.#list.dataset.early;
      this.#inArchive = true;
    }
    this.#inArchive &&= archived.length > 0;
    const shown = this.#inArchive ? archived : listed;
    this.#shown = Math.max(this.#shown, shown.findIndex((each) => each === open) + 1);
    const rows = shown.slice(0, this.#shown).map((each) => drawn(() => this.#cached(each, each === open), () => this.#plain(each)));
    if (archived.length) rows.unshift(this.#archiveRow(archived));
    rows.unshift(...(this.#signs?.threads ?? []));
    if (rows.length !== this.#list.childElementCount || rows.some((row, index) => row !== this.#list.children[index])) {
      const focused = [...this.#list.children].findIndex((each) => each.contains(document.activeElement));
      const { conversation = "" } = focused < 0 ? {} : /** @type {HTMLElement} */ (document.activeElement).dataset;
      this.#list.replaceChildren(...rows);
      const again = this.#list.querySelector(`[data-conversation="${conversation}"]`) ?? this.#list.children[Math.min(focused, rows.length - 1)]?.querySelector("button");
      if (focused >= 0) /** @type {HTMLElement | null} */ (again)?.focus({ preventScroll: true });
    }
    const isEmpty = store.conversations.size === 0;
    this.#note.textContent = this.#fault || (store.isLoaded ? (this.session.isGuest ? words.messages_none_guest : words.messages_none_hint) : words.messages_loading);
    this.#note.hidden = !isEmpty && !this.#fault;
    this.#more.hidden = !store.hasMore && shown.length <= this.#shown;
    this.#find.hidden = !isEmpty || !store.isLoaded || this.session.isGuest;
    showUnread(store.unread);
    document.title = store.unread ? `(${upTo(store.unread)}) ${this.#title}` : this.#title;
  }

  /**
   * @param {Conversation} conversation  that cannot be shown as the others
   * @returns {HTMLElement}
   */
  #plain({ id, group, unread, mentions }) {
    const { words } = this.session;
    /** @type {Row} */
    const row = { id, isOpen: false, isPinned: false, isMarked: false, isQuiet: false, isGroup: group, unread, mentions, name: words.messages_custom, avatar: "", hue: "", mark: "", time: 0, preview: words.messages_unshown, draft: "" };
    return conversationRow(row, words, this.when, () => this.session.open({ conversation: id }));
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} isOpen
   * @returns {HTMLElement}
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
   * @returns {Row}
   */
  #row(conversation, isOpen) {
    const { store, people, drafts, inbox, wishes, user } = this.session;
    const { id, group, peer, avatar, last, unread, mentions } = conversation;
    const { bot = false, guest = false, avatar: face = "" } = people.card(peer) ?? {};
    return {
      id, isOpen, isPinned: inbox.pinOf(conversation) > 0, isMarked: inbox.isMarked(conversation), unread, mentions, isGroup: group, avatar: group ? avatar : peer === user ? "" : face, hue: peer === user ? "saved" : peer ? hueOf(peer) : "",
      mark: bot ? "bot" : guest ? "guest" : "", isQuiet: wishes.isQuiet(id, true), name: store.nameOf(conversation), time: last?.time ?? 0,
      ...this.#signs?.of(conversation), ...this.#preview(conversation), draft: isOpen ? "" : cut(drafts.get(keyOf(conversation)).text.trim().replace(/\s+/g, " "), PREVIEW_LENGTH),
    };
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
    const known = this.#rows.get("archive");
    if (known?.version === version) return known.element;
    const element = archiveRow(archive, words, this.#inArchive, () => {
      this.#inArchive = !this.#inArchive;
      this.#shown = STEP;
      this.session.changed();
    });
    this.#rows.set("archive", { version, element });
    return element;
  }

  /**
   * @param {Conversation[]} archived
   * @returns {import("../session/first-view.js").Archive}
   */
  #archive(archived) {
    return { count: archived.length, unread: archived.reduce((sum, each) => sum + each.unread, 0) };
  }

  /** @param {number} id  of the conversation whose row gets the focus; else it is beside the list */
  focus(id) {
    /** @type {HTMLElement} */ (this.#list.querySelector(`[data-conversation="${id}"]`) ?? element("new-conversation", HTMLButtonElement)).focus({ preventScroll: true });
  }

  /** @param {Conversation} conversation */
  #preview({ last, group, peer }) {
    const { words, people, user } = this.session;
    if (!last) return { preview: "" };
    if (last.kind !== "message" && last.kind !== "edit") return { preview: noticeText(last, this.session) };
    const preview = cut(summaryOf(last, words), PREVIEW_LENGTH);
    if (last.from === user && peer !== user) return { preview: fill(words.messages_own_preview, { text: preview }) };
    return { preview, by: group ? people.nameOf(last.from) : "" };
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (!(event.target instanceof HTMLElement)) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const rows = /** @type {HTMLElement[]} */ ([...this.#list.querySelectorAll(".conversation")]);
      rows[rows.indexOf(event.target) + step]?.focus();
      return;
    }
    const found = /^[pumaPUMA]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey ? this.#at(event.target) : null;
    if (!found) return;
    event.preventDefault();
    withModule(import("./conversation-menu.js"), this.session.words, ({ press }) => press(this.session, found.conversation, event.key.toLowerCase()));
  }
}
