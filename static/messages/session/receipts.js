// @ts-check
/** How far we and others have read and received the conversations, and how much of them is unread. */

import { CommandRefused } from "../../../sdk/errors.js";
import { isBeside, mentions } from "../parts/entries.js";

/** @typedef {import("./store.js").Conversation} Conversation */
/** @typedef {import("./store.js").Count} Count */

/** Receipts wait so long for later ones, which replace them. */
const RECEIPTS_AFTER_MS = 300;
/** The list is loaded so long after another device has stopped reading. */
const COUNT_AFTER_MS = 1_000;
/** A receipt in a group is followed by one request for counts, not more often than this. */
const COUNTS_EVERY_MS = 2_000;
/** Messages per request for counts: the newest ones. */
const COUNTS_PAGE = 200;

/**
 * A position up to which we have read or received a conversation.
 *
 * @typedef {object} Mark
 * @property {"read" | "received"} kind
 * @property {number} conversation
 * @property {number} id
 * @property {Promise<void> | null} request  that sends it
 */

/** Owns the receipts that wait; the positions are in the conversations of the store. */
export class Receipts {
  /** Receipts that the server has not answered yet, by kind and conversation. @type {Map<string, Mark>} */
  #waiting = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #sending;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #counting;
  /**
   * Group → when its receipts were counted last, and the timer of the next request.
   *
   * @type {Map<Conversation, { at: number, timer?: ReturnType<typeof setTimeout> }>}
   */
  #counted = new Map();
  /** Conversation → our last read position that was sent to the server, or came from it. @type {Map<number, number>} */
  reads = new Map();

  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
  }

  /** Forgets what waits: the list is loaded again. */
  clear() {
    this.#waiting.clear();
    this.reads.clear();
    for (const { timer } of this.#counted.values()) clearTimeout(timer);
    this.#counted.clear();
  }

  get hasUnsent() {
    return this.#waiting.size > 0;
  }

  /**
   * @param {number} conversation
   * @returns {number} position up to which we have read it, if the server does not know; else 0
   */
  unsentOf(conversation) {
    return this.#waiting.get(`read ${conversation}`)?.id ?? 0;
  }

  /**
   * The user has seen a conversation up to an entry.
   *
   * @param {Conversation} conversation
   * @param {number} id
   */
  markRead(conversation, id) {
    if (!conversation.id || id <= conversation.read) return;
    const hadUnread = conversation.unread > 0 || conversation.added;
    this.#advance(conversation, id);
    if (!hadUnread) return;
    this.reads.set(conversation.id, id);
    this.note("read", conversation.id, id);
    this.store.save(conversation);
    this.store.session.changed();
  }

  /**
   * Applies a receipt of another user, or a read position of our own from another device.
   *
   * @param {{ from: string, conversation: number, read?: number, received?: number }} receipt
   */
  apply({ from, conversation: id, read = 0, received = 0 }) {
    const conversation = this.store.conversations.get(id);
    if (!conversation) return;
    if (from !== this.store.session.user && conversation.group) {
      if (conversation.entries) this.countLater(conversation);
      return;
    }

    if (from !== this.store.session.user) {
      conversation.peerRead = Math.max(conversation.peerRead, read);
      conversation.peerReceived = Math.max(conversation.peerReceived, read, received);
    } else if (read > conversation.read) {
      const { entries, oldest, newest, hasOlder } = conversation;
      // Whether all entries that were read meanwhile are loaded.
      const isKnown = entries && (oldest <= conversation.read || !hasOlder) && newest >= read;
      this.#advance(conversation, read);
      this.reads.set(id, read);
      if (conversation.unread && !isKnown) this.#countAgain(conversation);
      this.store.save(conversation);
    }
    this.store.session.changed();
  }

  /**
   * Moves our read position, and counts the unread messages after it, as far as the entries are loaded.
   *
   * @param {Conversation} conversation
   * @param {number} id
   */
  #advance(conversation, id) {
    const self = this.store.session.user;
    const passed = conversation.entries?.filter((entry) => entry.id > conversation.read && entry.id <= id) ?? [];
    const seen = passed.filter((entry) => entry.kind === "message" && entry.from !== self && !isBeside(entry));
    const atEnd = id >= (conversation.last?.id ?? 0);
    conversation.read = id;
    conversation.added = false;
    if (!atEnd && conversation.unreadMore) return this.#countAgain(conversation);

    const seenMentions = seen.filter((entry) => mentions(entry, self));
    conversation.unreadMore = false;
    conversation.unread = atEnd ? 0 : Math.max(0, conversation.unread - seen.length);
    conversation.mentions = conversation.unread ? Math.max(0, conversation.mentions - seenMentions.length) : 0;
  }

  /**
   * Lets the server count the unread messages, when the other device has stopped reading.
   *
   * @param {Conversation} conversation
   */
  #countAgain(conversation) {
    if (!this.store.isRecent(conversation)) return;
    clearTimeout(this.#counting);
    // A failure is ignored: without a connection the list is old anyway.
    this.#counting = setTimeout(() => this.store.load().catch(() => {}), COUNT_AFTER_MS);
  }

  /** @param {Conversation} conversation  with another user: loads how far both have read and received it */
  async load(conversation) {
    const { receipts } = await this.store.session.messenger.receipts(conversation.id);
    for (const { user, read, received } of receipts) this.apply({ from: user, conversation: conversation.id, read, received });
  }

  /**
   * Somebody in a group has read or received messages: asks once, after a pause, how many members have.
   *
   * @param {Conversation} conversation
   */
  countLater(conversation) {
    const request = this.#counted.get(conversation) ?? { at: 0 };
    this.#counted.set(conversation, request);
    const delay = Math.max(0, request.at + COUNTS_EVERY_MS - Date.now());
    request.timer ??= setTimeout(() => {
      Object.assign(request, { at: Date.now(), timer: undefined });
      this.#countReceipts(conversation);
    }, delay);
  }

  /**
   * Asks how many members have received and read our loaded messages of a group. Messages that all have read are not counted again.
   *
   * @param {Conversation} conversation
   */
  async #countReceipts(conversation) {
    const { messenger, user, isOnline } = this.store.session;
    const isOpen = (/** @type {Count | undefined} */ count) => !count || count.read < count.members;
    const sent = conversation.entries?.filter(({ kind, from }) => kind === "message" && from === user) ?? [];
    const ids = sent.map(({ id }) => id).filter((id) => isOpen(conversation.counts.get(id)));
    if (!isOnline || !ids.length) return;
    try {
      const { counts } = await messenger.receiptCounts(conversation.id, ids.slice(-COUNTS_PAGE));
      const before = JSON.stringify([...conversation.counts]);
      for (const { id, members, received, read } of counts) conversation.counts.set(id, { members, received, read });
      if (JSON.stringify([...conversation.counts]) === before) return;
      this.store.save(conversation);
      this.store.session.changed();
    } catch {
      // the next receipt, or the next page, asks again
    }
  }

  /**
   * Sends a receipt soon. It replaces an earlier one of the same kind and conversation.
   *
   * @param {Mark["kind"]} kind
   * @param {number} conversation
   * @param {number} id
   */
  note(kind, conversation, id) {
    this.#waiting.set(`${kind} ${conversation}`, { kind, conversation, id, request: null });
    this.#sending ??= setTimeout(() => this.send(), RECEIPTS_AFTER_MS);
  }

  /** Sends the waiting receipts. A receipt that the server has not received waits for the next connection. */
  async send() {
    clearTimeout(this.#sending);
    this.#sending = undefined;
    if (!this.store.session.isOnline) return;
    for (const [key, mark] of this.#waiting) {
      // Messages that we have read are received.
      const isImplied = mark.kind === "received" && this.unsentOf(mark.conversation) >= mark.id;
      if (isImplied) this.#waiting.delete(key);
      else mark.request ??= this.#send(key, mark);
    }
    await Promise.all([...this.#waiting.values()].map(({ request }) => request));
  }

  /**
   * Sends one receipt. A receipt that the server refuses is dropped, as one that it has received.
   *
   * @param {string} key
   * @param {Mark} mark
   */
  async #send(key, mark) {
    const { messenger } = this.store.session;
    try {
      await messenger[mark.kind](mark.conversation, mark.id);
    } catch (error) {
      mark.request = null;
      if (!(error instanceof CommandRefused)) return;
    }
    // A later receipt may have replaced it.
    if (this.#waiting.get(key) === mark) this.#waiting.delete(key);
    const conversation = this.store.conversations.get(mark.conversation);
    if (conversation && mark.kind === "read") this.store.save(conversation);
  }
}
