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

/** Keeps these signs for one session. */
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
    session.on("entry", ({ conversation, from }) => {
      this.#typists.get(conversation)?.delete(from);
      this.#typists.get(from)?.delete(from);
    });
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
    const row = make("button", "conversation archive", icon("reply"), make("b", "", words.messages_threads), count);
    row.setAttribute("type", "button");
    row.dataset.key = "threads";
    row.addEventListener("click", () => withModule(import("../conversation/thread.js"), words, ({ openThreads }) => openThreads(session)));
    return make("li", "", row);
  }

  /**
   * Notes that somebody is typing.
   *
   * @param {string | number} where  id of a group, or the user who types
   * @param {string} from
   */
  #note(where, from) {
    const { session } = this;
    session.people.load([from]);
    const typists = this.#typists.get(where) ?? new Map();
    this.#typists.set(where, typists.set(from, Date.now() + TYPING_MS));
    session.changed();
    setTimeout(() => session.changed(), TYPING_MS + 50); // a little later: the notice has ended then
  }

  /**
   * @param {Conversation} conversation
   * @returns {{ isOnline: boolean, typing: string }} `typing`: who is typing, in words; empty: nobody
   */
  of({ id, group, peer }) {
    const { people, words, user: self } = this.session;
    const isOnline = !group && peer !== self && people.card(peer)?.presence === "online";
    const typists = [...(this.#typists.get(group ? id : peer) ?? [])];
    const [user] = typists.find(([, until]) => until > Date.now()) ?? [];
    if (!user) return { isOnline, typing: "" };
    return { isOnline, typing: group ? `${people.nameOf(user)} ${words.messages_is_typing}` : words.messages_is_typing };
  }
}
