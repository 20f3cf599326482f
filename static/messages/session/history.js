// @ts-check
/** Loads the entries of a conversation: pages of its history, from the server or the browser's storage. */

import { NotConnected } from "../../../sdk/errors.js";
import { entryOf } from "../../../sdk/messenger.js";
import { insert, isRevision, revised, usersIn } from "../parts/entries.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./store.js").Conversation} Conversation */

/** How many entries of a conversation the page keeps. Beyond that it drops the other end, and loads it again when it is needed. */
const MAX_ENTRIES = 1_000;
/** Entries per request. */
const PAGE = 50;
/** A page without entries. */
const NONE = { entries: [], oldest: 0, newest: 0, hasOlder: false, hasNewer: false, cached: false };

/**
 * @typedef {object} Loaded
 * @property {Entry[]} entries
 * @property {number} oldest
 * @property {number} newest
 * @property {boolean} hasOlder
 * @property {boolean} hasNewer
 * @property {boolean} cached
 */

/** Has no state: what it loads is in the conversations of the store. */
export class History {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
  }

  /**
   * Loads entries of a conversation, unless they are loaded: those around an id, or else the first unread or newest ones.
   *
   * @param {Conversation} conversation
   * @param {number} [around]  the id of an entry
   * @returns {Promise<void>}
   */
  async open(conversation, around = 0) {
    while (conversation.loading) await conversation.loading.catch(() => {});
    if (!conversation.id && !conversation.entries && this.store.session.isOnline) {
      // It gets its id.
      await this.store.seek(conversation.peer);
      if (!conversation.id) conversation.entries = [];
    }
    if (!conversation.id || isCovered(conversation, around)) return;
    const isAtEnd = !around && !conversation.unread;
    await this.#load(conversation, () => (isAtEnd ? this.#page(conversation, {}) : this.#around(conversation, around || conversation.read)));
    if (!conversation.group && this.store.session.isOnline) await this.store.receipts.load(conversation);
  }

  /**
   * Loads the newest entries, and drops the loaded ones if they do not reach there.
   *
   * @param {Conversation} conversation
   */
  async openNewest(conversation) {
    while (conversation.loading) await conversation.loading.catch(() => {});
    if (!conversation.id || (conversation.entries && !conversation.hasNewer)) return;
    await this.#load(conversation, () => this.#page(conversation, {}));
  }

  /**
   * Loads the page before the oldest loaded entry.
   *
   * @param {Conversation} conversation
   */
  async loadOlder(conversation) {
    if (!conversation.entries || !conversation.hasOlder || conversation.loading) return;
    const { oldest } = conversation;
    await this.#load(conversation, async () => {
      const page = await this.#page(conversation, { before: oldest });
      const entries = [...page.entries, ...(conversation.entries ?? [])];
      const kept = entries.slice(0, MAX_ENTRIES);
      const cut = kept.length < entries.length;
      return {
        ...page, entries: kept, oldest: page.oldest || oldest, newest: cut ? kept[kept.length - 1].id : conversation.newest,
        hasNewer: cut || conversation.hasNewer, cached: page.cached || conversation.cached,
      };
    });
  }

  /**
   * Loads the page after the newest loaded entry.
   *
   * @param {Conversation} conversation
   */
  async loadNewer(conversation) {
    if (!conversation.entries || !conversation.hasNewer || conversation.loading) return;
    const { newest } = conversation;
    await this.#load(conversation, async () => {
      const page = await this.#page(conversation, { after: newest });
      const entries = [...(conversation.entries ?? []), ...page.entries];
      const kept = entries.slice(-MAX_ENTRIES);
      const cut = kept.length < entries.length;
      return {
        ...page, entries: kept, newest: page.newest || newest, oldest: cut ? kept[0].id : conversation.oldest,
        hasOlder: cut || conversation.hasOlder, cached: page.cached || conversation.cached,
      };
    });
  }

  /**
   * Loads one message, for a quote.
   *
   * @param {number} conversation
   * @param {number} id
   * @returns {Promise<Entry | null>} null: there is none, or there is no connection
   */
  async find(conversation, id) {
    const { database, messenger, isOnline } = this.store.session;
    try {
      if (!isOnline) throw new NotConnected("offline");
      // It may have been edited or recalled.
      const { messages } = await messenger.history(conversation, { before: id + 1, limit: 1 });
      const entry = messages.find((each) => each.id === id) ?? null;
      if (entry) await database.put("entries", [entry]);
      else await database.delete("entries", [id]);
      return entry;
    } catch (error) {
      if (!(error instanceof NotConnected)) throw error;
      return entryOf(await database.get("entries", id));
    }
  }

  /**
   * Runs one request for entries of a conversation; entries that arrive meanwhile are added to its result.
   *
   * @param {Conversation} conversation
   * @param {() => Promise<Loaded>} request
   */
  async #load(conversation, request) {
    conversation.loading = this.#run(conversation, request);
    await conversation.loading;
  }

  /**
   * @param {Conversation} conversation
   * @param {() => Promise<Loaded>} request
   */
  async #run(conversation, request) {
    const { receipts, session } = this.store;
    conversation.pending = [];
    try {
      const loaded = await request();
      for (const entry of conversation.pending) this.#addPending(loaded, entry);
      Object.assign(conversation, loaded);
      if (!loaded.hasNewer) conversation.newest = Math.max(loaded.newest, conversation.arrived);
      if (conversation.group) receipts.countLater(conversation);
      session.people.load(loaded.entries.flatMap((entry) => [entry.from, ...usersIn(entry)]));
    } finally {
      conversation.pending = null;
      conversation.loading = null;
    }
    session.changed();
  }

  /**
   * Applies an entry that has arrived during the request, unless the answer has it already.
   *
   * @param {Loaded} loaded
   * @param {Entry} arrived
   */
  #addPending(loaded, arrived) {
    const { user } = this.store.session;
    if (isRevision(arrived)) loaded.entries = loaded.entries.map((entry) => (entry.id < arrived.id ? revised(entry, arrived, user) : entry));
    else if (!loaded.hasNewer && arrived.id > loaded.newest) insert(loaded.entries, arrived);
    this.store.countReply(loaded, arrived);
  }

  /**
   * A page up to a position, and the page after it.
   *
   * @param {Conversation} conversation
   * @param {number} position  0: before all entries
   * @returns {Promise<Loaded>}
   */
  async #around(conversation, position) {
    const [older, newer] = await Promise.all([
      position ? this.#page(conversation, { before: position + 1 }) : NONE,
      this.#page(conversation, { after: position }),
    ]);
    return {
      entries: [...older.entries, ...newer.entries], oldest: older.oldest || newer.oldest, newest: newer.newest || older.newest,
      hasOlder: older.hasOlder, hasNewer: newer.hasNewer, cached: older.cached || newer.cached,
    };
  }

  /**
   * A page of the history: from the server, or while there is no connection from the browser's storage.
   *
   * @param {Conversation} conversation
   * @param {{ before?: number, after?: number }} page
   * @returns {Promise<Loaded>}
   */
  async #page({ id }, page) {
    const { messenger, database, isOnline } = this.store.session;
    let messages = /** @type {Entry[]} */ ([]);
    let hasMore = false;
    let cached = !isOnline;
    if (isOnline) {
      try {
        ({ messages, hasMore } = await messenger.history(id, { ...page, limit: PAGE }));
        database.put("entries", messages.filter((entry) => !isRevision(entry)));
      } catch (error) {
        if (!(error instanceof NotConnected)) throw error;
        cached = true;
      }
    }
    if (cached) {
      messages = await database.entries(id, { ...page, limit: PAGE });
      hasMore = messages.length === PAGE;
    }
    const entries = messages.filter((entry) => !isRevision(entry));
    const oldest = messages[0]?.id ?? 0;
    const newest = messages.at(-1)?.id ?? 0;
    const isForward = page.after !== undefined;
    return { entries, oldest, newest, hasOlder: isForward || (hasMore && messages.length > 0), hasNewer: isForward && hasMore, cached };
  }
}

/**
 * @param {Conversation} conversation
 * @param {number} around  the id of an entry; 0: the first unread or newest ones
 * @returns {boolean} whether these entries are loaded
 */
function isCovered({ entries, cached, hasNewer, unread }, around) {
  if (!entries || cached) return false;
  if (around) return entries.some(({ id }) => id === around);
  return !hasNewer || unread > 0;
}
