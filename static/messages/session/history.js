// @ts-check
/** Loads the entries of a conversation: pages of its history, from the server or the browser's storage. */

import { NotConnected } from "../../../sdk/errors.js";
import { entryOf } from "../../../sdk/messenger.js";
import { insert, isRevision, revised, usersIn } from "../parts/entries.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./store.js").Conversation} Conversation */

/** More entries of a conversation are not held: those on the other side are loaded again when they are needed. */
const MAX_ENTRIES = 1_000;
const PAGE = 50;
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
      await this.store.seek(conversation.peer); // it gets its id
      if (!conversation.id) conversation.entries = [];
    }
    const { entries } = conversation;
    const covers = entries && !conversation.cached && (around ? entries.some(({ id }) => id === around) : !conversation.hasNewer || conversation.unread > 0);
    if (!conversation.id || covers) return;
    const position = around || (conversation.unread ? conversation.read : -1);
    await this.#load(conversation, () => (position < 0 ? this.#page(conversation, {}) : this.#around(conversation, position)));
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
   * One message, for a quote.
   *
   * @param {number} conversation
   * @param {number} id
   * @returns {Promise<Entry | null>} null: there is none, or there is no connection
   */
  async find(conversation, id) {
    const { database, messenger, isOnline } = this.store.session;
    try {
      if (!isOnline) throw new NotConnected("offline");
      const { messages } = await messenger.history(conversation, { before: id + 1, limit: 1 }); // it may have been edited or recalled
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
    const work = async () => {
      conversation.pending = [];
      try {
        const loaded = await request();
        for (const entry of conversation.pending) {
          if (isRevision(entry)) loaded.entries = loaded.entries.map((each) => (each.id < entry.id ? revised(each, entry, this.store.session.user) : each));
          else if (!loaded.hasNewer && entry.id > loaded.newest) insert(loaded.entries, entry);
          this.store.countReply(loaded, entry);
        }
        Object.assign(conversation, loaded);
        if (!loaded.hasNewer) conversation.newest = Math.max(loaded.newest, conversation.arrived);
        if (conversation.group) this.store.receipts.countLater(conversation);
        this.store.session.people.load(loaded.entries.flatMap((entry) => [entry.from, ...usersIn(entry)]));
      } finally {
        conversation.pending = conversation.loading = null;
      }
      this.store.session.changed();
    };
    conversation.loading = work();
    await conversation.loading;
  }

  /**
   * @param {Conversation} conversation
   * @param {number} position
   * @returns {Promise<Loaded>}
   */
  async #around(conversation, position) {
    const [older, newer] = await Promise.all([
      position ? this.#page(conversation, { before: position + 1 }) : NONE, this.#page(conversation, { after: position }),
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
    const [oldest, newest] = [messages[0]?.id ?? 0, messages.at(-1)?.id ?? 0];
    const entries = messages.filter((entry) => !isRevision(entry));
    const forward = page.after !== undefined;
    return { entries, oldest, newest, hasOlder: forward || (hasMore && messages.length > 0), hasNewer: forward && hasMore, cached };
  }
}
