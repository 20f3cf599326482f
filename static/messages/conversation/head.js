// @ts-check
/** The head of the open conversation: picture, name, and a line that says who is typing, who is here, or how many members there are. */

import { element, fill } from "../../text.js";
import { presenceOf } from "../session/presence.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

/** How long a notice of typing stands without another one. */
const TYPING_SHOWN_MS = 5_000;
/** The shortest wait until ended notices are taken away. */
const TYPING_WAIT_MS = 50;
/** How many users who are typing are named. */
const TYPISTS_NAMED = 3;

/** Draws the head, and knows who is typing. */
export class ConversationHead {
  /** @type {Conversation | null} */
  #open = null;
  /** What the picture and the name show now, to leave them alone while nothing changes. */
  #drawn = "";
  /** Users who are typing, with the time when their notice ends. @type {Map<string, number>} */
  #typists = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #typingTimer;
  #button = element("conversation-open", HTMLButtonElement);
  #name = element("conversation-name", HTMLElement);
  #status = element("conversation-status", HTMLElement);
  #face = element("conversation-avatar", HTMLElement);
  #bell = element("notices-here", HTMLButtonElement);

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
  }

  /** @param {Conversation | null} conversation  whose head is shown; null: none is open */
  show(conversation) {
    this.#open = conversation;
    this.#typists.clear();
  }

  draw() {
    const open = this.#open;
    const { hasNotifications, wishes } = this.session;
    this.#drawName(open);
    this.#drawStatus();
    this.#button.disabled = !open || open.left;
    this.#bell.hidden = !hasNotifications || !open?.id || open.left;
    this.#bell.dataset.quiet = String(wishes.isQuiet(open?.id ?? 0, true));
  }

  /** @param {Conversation | null} open */
  #drawName(open) {
    const { people, store, words } = this.session;
    const name = open ? store.nameOf(open) : words.messages_title;
    const drawn = JSON.stringify([name, open?.id, open?.avatar, people.card(open?.peer ?? "")]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#name.replaceChildren(name, ...people.marks(open?.peer ?? ""));
    this.#face.replaceChildren(...(open ? [people.face(open)] : []));
  }

  /** @param {{ from: string, conversation?: number }} notice  somebody is typing; without a conversation, to us alone */
  onTyping({ from, conversation }) {
    const open = this.#open;
    if (!open) return;
    const isHere = conversation ? conversation === open.id : !open.group && from === open.peer;
    if (!isHere) return;
    this.session.people.load([from]);
    this.#typists.set(from, Date.now() + TYPING_SHOWN_MS);
    this.#drawStatus();
  }

  /** @param {string} user  who has sent something: they are typing no more. The next drawing says so. */
  stoppedTyping(user) {
    this.#typists.delete(user);
  }

  #drawStatus() {
    const names = this.#typistNames();
    this.#status.dataset.typing = String(names.length > 0);
    const text = names.length ? this.#typingText(names) : this.#restingText();
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }

  /** Forgets notices that have ended, and draws again when the next one ends. */
  #typistNames() {
    clearTimeout(this.#typingTimer);
    const now = Date.now();
    for (const [user, end] of this.#typists) {
      if (end <= now) this.#typists.delete(user);
    }
    if (!this.#typists.size) return [];
    const nextEnd = Math.min(...this.#typists.values());
    this.#typingTimer = setTimeout(() => this.#drawStatus(), Math.max(TYPING_WAIT_MS, nextEnd - now));
    const users = [...this.#typists.keys()].slice(0, TYPISTS_NAMED);
    return users.map((user) => this.session.people.nameOf(user));
  }

  /** @param {string[]} names  at least one */
  #typingText(names) {
    const { words } = this.session;
    return fill(words.messages_typing, { name: names.join(words.messages_and), count: names.length });
  }

  /** While nobody is typing: of one person, whether they are here; of a group, how many members it has. */
  #restingText() {
    const open = this.#open;
    const { user, words } = this.session;
    if (!open) return "";
    if (open.peer && !open.group) {
      return open.peer === user ? words.messages_to_oneself_hint : presenceOf(this.session, open.peer);
    }
    return open.members && !open.left ? fill(words.messages_members, { count: open.members }) : "";
  }
}
