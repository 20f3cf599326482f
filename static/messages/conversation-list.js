// @ts-check
/** The list of conversations. */

import { cut, element, fill, make } from "../text.js";
import { reasonOf } from "./api.js";
import { showUnread } from "./installable.js";
import { noticeText, summaryOf } from "./message-view.js";
import { keyOf } from "./store.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */

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
  #title = document.title;
  #ends = new AbortController();
  /** The row of each conversation, and what it was drawn from. @type {Map<string, { version: string, element: HTMLElement }>} */
  #rows = new Map();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.when = shortTimes(session.language);
    this.#more.addEventListener("click", () => this.#showMore(), { signal: this.#ends.signal });
    this.#list.addEventListener("keydown", (event) => this.#onKey(event), { signal: this.#ends.signal });
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

  /** @param {Conversation | null} open  the open conversation */
  draw(open) {
    const { store, words } = this.session;
    const { sorted } = store;
    this.#shown = Math.max(this.#shown, sorted.findIndex((each) => each === open) + 1);
    const rows = sorted.slice(0, this.#shown).map((each) => this.#cached(each, each === open));
    if (rows.length !== this.#list.childElementCount || rows.some((row, index) => row !== this.#list.children[index])) {
      const focused = this.#list.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).dataset.conversation : "";
      this.#list.replaceChildren(...rows);
      if (focused) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-conversation="${focused}"]`))?.focus({ preventScroll: true });
    }
    const isEmpty = store.conversations.size === 0;
    this.#note.textContent = this.#fault || (store.isLoaded ? words.messages_none_hint : words.messages_loading);
    this.#note.hidden = !isEmpty && !this.#fault;
    this.#more.hidden = !store.hasMore && sorted.length <= this.#shown;
    this.#find.hidden = !isEmpty || !store.isLoaded;
    showUnread(store.unread);
    document.title = store.unread ? `(${store.unread}) ${this.#title}` : this.#title;
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} isOpen
   * @returns {HTMLElement}
   */
  #cached(conversation, isOpen) {
    const { store, people, drafts, wishes } = this.session;
    const { id, group, peer, avatar, last, unread, mentions } = conversation;
    const key = keyOf(conversation);
    const row = {
      id, isOpen, unread, mentions, group, peer, avatar, isQuiet: wishes.isQuiet(id, true), name: store.nameOf(conversation), time: last ? this.when(last.time) : "",
      preview: this.#preview(conversation), draft: isOpen ? "" : cut(drafts.get(key).text.trim().replace(/\s+/g, " "), PREVIEW_LENGTH),
    };
    const version = JSON.stringify([row, people.card(peer)]);
    const known = this.#rows.get(key);
    if (known?.version === version) return known.element;
    const element = this.#row(row);
    this.#rows.set(key, { version, element });
    return element;
  }

  /**
   * @param {{ id: number, isOpen: boolean, unread: number, mentions: number, group: boolean, peer: string, avatar: string, isQuiet: boolean, name: string, time: string, preview: string, draft: string }} row
   * @returns {HTMLElement}
   */
  #row({ id, isOpen, unread, mentions, group, peer, avatar, isQuiet, name, time, preview, draft }) {
    const { people, words } = this.session;
    const heading = make("span", "row-line", make("b", "", make("bdi", "", name), ...people.marks(peer)), ...(isQuiet ? [this.#bell()] : []), make("time", "", time));
    const below = make("span", "row-line", make("span", "preview", ...(draft ? [make("i", "draft", words.messages_draft), draft] : [preview])));
    if (mentions) below.append(counter("count at", "@", fill(words.messages_mentions, { count: mentions })));
    if (unread) below.append(counter("count", unread > 999 ? "999+" : String(unread), fill(words.messages_unread, { count: unread })));
    const button = make("button", "conversation", people.face({ group, peer, name, avatar }), make("span", "row-words", heading, below));
    button.setAttribute("type", "button");
    button.dataset.conversation = String(id);
    if (isOpen) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.session.open({ conversation: id }));
    return make("li", "", button);
  }

  /** @returns {HTMLElement} says that the conversation is quiet */
  #bell() {
    const made = counter("quiet-mark", "", this.session.words.messages_notify_is_quiet);
    made.append(...[...document.querySelectorAll("#notices-here .icon")].map((icon) => icon.cloneNode(true)));
    return made;
  }

  /** @param {number} id  of the conversation whose row gets the focus; else it is beside the list */
  focus(id) {
    /** @type {HTMLElement} */ (this.#list.querySelector(`[data-conversation="${id}"]`) ?? element("new-conversation", HTMLButtonElement)).focus({ preventScroll: true });
  }

  /** @param {Conversation} conversation */
  #preview({ last, group }) {
    const { words, people, user } = this.session;
    if (!last) return "";
    if (last.kind !== "message" && last.kind !== "edit") return noticeText(last, this.session);
    const text = cut(summaryOf(last, words), PREVIEW_LENGTH);
    if (last.from === user) return fill(words.messages_own_preview, { text });
    return group ? `${people.nameOf(last.from)}: ${text}` : text;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !(event.target instanceof HTMLElement)) return;
    event.preventDefault();
    const rows = /** @type {HTMLElement[]} */ ([...this.#list.querySelectorAll(".conversation")]);
    rows[rows.indexOf(event.target) + step]?.focus();
  }
}

/**
 * Times for lists: the hour today, the weekday in the last days, else the date.
 *
 * @param {string} language
 * @returns {(time: number) => string}
 */
export function shortTimes(language) {
  const hour = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const weekday = new Intl.DateTimeFormat(language, { weekday: "short" });
  const date = new Intl.DateTimeFormat(language, { year: "numeric", month: "numeric", day: "numeric" });
  return (time) => {
    const days = (new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000;
    if (days <= 0) return hour.format(time);
    return (days < 6.5 ? weekday : date).format(time);
  };
}

/**
 * @param {string} classes
 * @param {string} text
 * @param {string} label  for screen readers
 */
function counter(classes, text, label) {
  const made = make("span", classes, text);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  return made;
}
