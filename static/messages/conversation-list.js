// @ts-check
/** The list of conversations. */

import { cut, element, fill, make } from "../text.js";
import { reasonOf } from "./api.js";
import { showBadge } from "./installable.js";
import { noticeText, summaryOf } from "./message-view.js";
import { keyOf } from "./store.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */

const PREVIEW_LENGTH = 80;

/** Owns the list; reads the conversations from the store of the session. */
export class ConversationList {
  #list = element("conversations", HTMLElement);
  #note = element("conversations-note", HTMLElement);
  #more = element("conversations-more", HTMLButtonElement);
  #fault = "";
  #title = document.title;
  #ends = new AbortController();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.time = new Intl.DateTimeFormat(session.language, { hour: "2-digit", minute: "2-digit", hour12: false });
    this.weekday = new Intl.DateTimeFormat(session.language, { weekday: "short" });
    this.date = new Intl.DateTimeFormat(session.language, { year: "numeric", month: "numeric", day: "numeric" });
    this.#more.addEventListener("click", () => this.load(true), { signal: this.#ends.signal });
    this.#list.addEventListener("keydown", (event) => this.#onKey(event), { signal: this.#ends.signal });
  }

  stop() {
    this.#ends.abort();
    this.#list.replaceChildren();
    showBadge(0);
    document.title = this.#title;
  }

  /**
   * Loads the most recent conversations and the names of their users.
   *
   * @param {boolean} [older]  those after the last loaded one instead
   */
  async load(older = false) {
    const { store, people, words } = this.session;
    try {
      await store.load(older);
      this.#fault = "";
      people.load(store.sorted.flatMap(({ peer, last }) => [peer, last?.from ?? "", ...(last?.meta?.users ?? [])]));
    } catch (error) {
      this.#fault = reasonOf(error, words);
    }
    this.session.changed();
  }

  /** @param {Conversation | null} open  the open conversation */
  draw(open) {
    const { store, words } = this.session;
    const focused = this.#list.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).dataset.conversation : "";
    this.#list.replaceChildren(...store.sorted.map((each) => this.#row(each, each === open)));
    if (focused) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-conversation="${CSS.escape(focused)}"]`))?.focus({ preventScroll: true });
    const isEmpty = store.conversations.size === 0;
    this.#note.textContent = this.#fault || (store.isLoaded ? words.messages_none : words.messages_loading);
    this.#note.hidden = !isEmpty && !this.#fault;
    this.#more.hidden = !store.hasMore;
    showBadge(store.unread);
    document.title = store.unread ? `(${store.unread}) ${this.#title}` : this.#title;
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} isOpen
   * @returns {HTMLElement}
   */
  #row(conversation, isOpen) {
    const { store, people, words, drafts } = this.session;
    const { last, unread, mentions, group, peer, id } = conversation;
    const name = store.nameOf(conversation);
    const draft = isOpen ? "" : drafts.get(keyOf(conversation)).text.trim();
    const time = make("time", "", last ? this.#when(last.time) : "");
    const heading = make("span", "row-line", make("b", "", make("bdi", "", name)), time);
    const preview = make("span", "preview", ...(draft ? [make("i", "draft", words.messages_draft), cut(draft.replace(/\s+/g, " "), PREVIEW_LENGTH)] : [this.#preview(conversation)]));
    const below = make("span", "row-line", preview);
    if (mentions) {
      const sign = make("span", "count at", "@");
      sign.setAttribute("aria-label", fill(words.messages_mentions, { count: mentions }));
      sign.setAttribute("role", "img");
      below.append(sign);
    }
    if (unread) {
      const count = make("span", "count", unread > 999 ? "999+" : String(unread));
      count.setAttribute("role", "img");
      count.setAttribute("aria-label", fill(words.messages_unread, { count: unread }));
      below.append(count);
    }
    const face = group || !peer ? make("span", "avatar group", "#") : people.avatar(peer);
    face.setAttribute("aria-hidden", "true");
    const button = make("button", "conversation", face, make("span", "row-words", heading, below));
    button.setAttribute("type", "button");
    button.dataset.conversation = String(id);
    if (isOpen) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.session.open({ conversation: id }));
    return make("li", "", button);
  }

  /** @param {Conversation} conversation */
  #preview({ last, group }) {
    const { words, people, user } = this.session;
    if (!last) return "";
    if (last.kind !== "message") return noticeText(last, this.session);
    const text = cut(summaryOf(last, words), PREVIEW_LENGTH);
    if (last.from === user) return fill(words.messages_own_preview, { text });
    return group ? `${people.nameOf(last.from)}: ${text}` : text;
  }

  /** @param {number} time */
  #when(time) {
    const days = (new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000;
    if (days <= 0) return this.time.format(time);
    return (days < 6.5 ? this.weekday : this.date).format(time);
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
