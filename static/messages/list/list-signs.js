// @ts-check
/** Who is online, who is typing, and the unread replies in threads, in the list of conversations. */

import { fill, make } from "../../text.js";
import { withModule } from "../parts/form.js";
import "../parts/list-keys.js";
import { icon } from "../parts/file.js";
import { threadsOf } from "../session/threads.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

/** A typing notice is shown so long. */
const TYPING_MS = 6_000;
/** So many of the first conversations keep the presence of their people fresh. */
const WATCHED = 50;

/** Knows it for one session. */
export class Signs {
  /** Id of a group, or the other user → user → when the notice ends. @type {Map<string | number, Map<string, number>>} */
  #typists = new Map();
  /** The way to the threads. @type {{ unread: number, row: HTMLElement[] }} */
  #threads = { unread: -1, row: [] };

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    const peers = () => session.store.lists.listed.slice(0, WATCHED).map(({ peer }) => peer).filter(Boolean);
    session.people.watch(peers);
    session.people.load(peers()); // the list may have loaded them
    session.on("typing", ({ from, conversation }) => this.#note(conversation || from, from));
    session.on("entry", ({ conversation, from }) => void (this.#typists.get(conversation)?.delete(from), this.#typists.get(from)?.delete(from)));
  }

  /** @returns {HTMLElement[]} the row above the others; none if we follow no thread */
  get threads() {
    const { session } = this;
    const { unread, isUsed } = threadsOf(session);
    if (!isUsed) return [];
    if (unread !== this.#threads.unread) this.#threads = { unread, row: [this.#threadsRow(unread)] };
    return this.#threads.row;
  }

  /** @param {number} unread */
  #threadsRow(unread) {
    const { session } = this;
    const { words } = session;
    const count = unread ? make("span", "count", String(unread)) : "";
    if (count) {
      count.setAttribute("role", "img");
      count.setAttribute("aria-label", fill(words.messages_thread_new, { count: unread }));
    }
    const button = make("button", "conversation archive", icon("reply"), make("b", "", words.messages_threads), count);
    button.setAttribute("type", "button");
    button.dataset.key = "threads";
    button.addEventListener("click", () => withModule(import("../conversation/thread.js"), words, ({ openThreads }) => openThreads(session)));
    return make("li", "", button);
  }

  /**
   * @param {string | number} where
   * @param {string} from
   */
  #note(where, from) {
    const { session } = this;
    session.people.load([from]);
    this.#typists.set(where, (this.#typists.get(where) ?? new Map()).set(from, Date.now() + TYPING_MS));
    session.changed();
    setTimeout(() => session.changed(), TYPING_MS + 50);
  }

  /**
   * @param {Conversation} conversation
   * @returns {{ isOnline: boolean, typing: string }}
   */
  of({ id, group, peer }) {
    const { people, words } = this.session;
    const [user] = [...(this.#typists.get(group ? id : peer) ?? [])].find(([, until]) => until > Date.now()) ?? [];
    return { isOnline: !group && peer !== this.session.user && people.card(peer)?.presence === "online", typing: user ? (group ? `${people.nameOf(user)} ${words.messages_is_typing}` : words.messages_is_typing) : "" };
  }
}
