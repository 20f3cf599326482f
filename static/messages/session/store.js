// @ts-check
/** The conversations of a login and their entries, as far as the page has loaded them. It draws nothing. */

import { CommandRefused, NotConnected } from "../../../sdk/errors.js";
import { entryOf } from "../../../sdk/messenger.js";
import { fieldsLike, listOf, numberOf, textOf } from "../../text.js";
import { insert, isBeside, isRevision, isSilent, mentions, revised, usersIn } from "../parts/entries.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./session.js").Session} Session */

const PAGE = 50;
/** Older conversations are loaded without being asked for: so many pages of so many. */
const REST_PAGES = 5;
const REST_PAGE = 200;
/** More entries of a conversation are not held: those on the other side are loaded again when they are needed. */
const MAX_ENTRIES = 1_000;
/** Most unread messages of a conversation that the server counts. */
const MOST_UNREAD = 1_000;
const RECEIPTS_AFTER_MS = 300;
const COUNT_AFTER_MS = 1_000;
/** More ids of streams are not remembered. */
const MAX_STREAMED = 200;
/** A receipt in a group is followed by one request for counts, not more often than this. */
const COUNTS_EVERY_MS = 2_000;
const COUNTS_PAGE = 200;
/** The browser stores so many counts of a conversation. */
const MAX_SAVED_COUNTS = 50;

/**
 * @typedef {object} Conversation
 * @property {number} id               0: it has no messages yet, or is not loaded
 * @property {boolean} group
 * @property {string} peer             the other user; empty for a group
 * @property {string} name             of a group
 * @property {string} avatar           of a group: address of the picture; empty: none
 * @property {string} role             ours in a group
 * @property {number} members          of a group: how many it has; 0: not known
 * @property {boolean} left            we are not in the group any more
 * @property {number} membership       id of the newest live entry by which we joined or left; 0: none
 * @property {number} changed          of a group: id of the newest live entry by which it, or its members, have changed; 0: none
 * @property {number} mutedUntil       until then we cannot write in the group, in Unix seconds; 0: we can
 * @property {number} unread           number of unread messages
 * @property {number} mentions         how many of them mention us
 * @property {number} read             position up to which we have read
 * @property {number} position         id of the newest entry
 * @property {Entry | null} last       the newest entry that is shown
 * @property {number} arrived          id of the newest entry that has arrived live
 * @property {Entry[] | null} entries  loaded, in order, without a gap; null: none
 * @property {boolean} hasOlder        older entries exist
 * @property {boolean} hasNewer        newer entries exist that are not loaded
 * @property {number} oldest           id of the oldest loaded entry
 * @property {number} newest           id of the newest loaded entry
 * @property {boolean} cached          the entries are from the browser's storage: load them again when online
 * @property {Entry[] | null} pending  entries that arrive while a page is loading
 * @property {Promise<void> | null} loading
 * @property {number} peerRead         position up to which the other user has read; 0: a group
 * @property {number} peerReceived     position up to which the other user has received; 0: a group
 * @property {Map<number, Count>} counts  of our messages in a group
 */

/**
 * How many other members of a group may read a message, and have received and read it.
 *
 * @typedef {{ members: number, received: number, read: number }} Count
 */

/**
 * A message that a bot is writing. Its stored message has the id of the stream as `clientMsgID`.
 *
 * @typedef {object} Streamed
 * @property {string} stream
 * @property {string} from
 * @property {number} [conversation]  a group; missing: the conversation with `from`
 * @property {number} piece     number of the last piece
 * @property {string} text      all of it so far
 * @property {number} time
 * @property {number} after     id of the newest entry when it began
 * @property {number} [thread]  the first message of the thread in which it is a reply
 */

/**
 * A position up to which we have read or received a conversation.
 *
 * @typedef {object} Mark
 * @property {"read" | "received"} kind
 * @property {number} conversation
 * @property {number} id
 * @property {Promise<void> | null} request  that sends it
 */

const NONE = { entries: [], oldest: 0, newest: 0, hasOlder: false, hasNewer: false, cached: false };

/** Owns the conversations. They are valid for one login. */
export class Store {
  /** @type {Map<number, Conversation>} */
  conversations = new Map();
  /** Whether there are older conversations. */
  hasMore = false;
  /** Whether the list was loaded from the server. */
  isLoaded = false;
  /** Loads a page of older ones. @type {Promise<void> | null} */
  #loadingOlder = null;
  /** Loads the rest of the list. @type {Promise<void> | null} */
  #loadingRest = null;
  #restPages = 0;
  /** The position of the oldest conversation that the server has listed: the next page is before it. 0: none. */
  #oldest = 0;
  /** Message → our last press of one of its buttons. @type {Map<number, Entry>} */
  #presses = new Map();
  /** Messages that bots are writing, by id of the stream. @type {Map<string, Streamed>} */
  #streams = new Map();
  /** Streams that this page has shown: their stored messages stay open. @type {Set<string>} */
  #streamed = new Set();
  /** Conversations without a message, or whose ids are not loaded yet, by user. @type {Map<string, Conversation>} */
  #fresh = new Map();
  /** Receipts that the server has not answered yet, by kind and conversation. @type {Map<string, Mark>} */
  #receipts = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #sending;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #counting;
  /** Groups whose receipts are to be counted, by the time of the last request. @type {Map<Conversation, { at: number, timer?: ReturnType<typeof setTimeout> }>} */
  #counted = new Map();
  /** Conversation → our last read position that was sent to the server, or came from it. @type {Map<number, number>} */
  #reads = new Map();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
  }

  /** @returns {Conversation[]} the most recent first */
  get #recent() {
    return [...this.conversations.values()].sort((a, b) => (b.last?.id ?? b.position) - (a.last?.id ?? a.position));
  }

  /** @returns {Conversation[]} the pinned ones first, then the most recent */
  get sorted() {
    const { inbox } = this.session;
    return this.#recent.sort((a, b) => inbox.pinOf(b) - inbox.pinOf(a));
  }

  /** @returns {{ listed: Conversation[], archived: Conversation[] }} in their order */
  get lists() {
    const { inbox } = this.session;
    const sorted = this.sorted.filter((each) => !inbox.isGone(each));
    return { listed: sorted.filter((each) => !inbox.isArchived(each)), archived: sorted.filter((each) => inbox.isArchived(each)) };
  }

  /** @returns {number} unread messages in all conversations that are not archived; a conversation that is marked counts as one */
  get unread() {
    const { inbox } = this.session;
    return this.lists.listed.reduce((sum, each) => sum + (each.unread || Number(inbox.isMarked(each))), 0);
  }

  /**
   * @param {Conversation} conversation
   * @returns {string}
   */
  nameOf({ group, name, peer }) {
    const { words, people } = this.session;
    if (group) return name || words.messages_group;
    return peer ? people.nameOf(peer) : words.messages_server;
  }

  // --- the list -----------------------------------------------------------------------------------------------

  /** Shows the conversations that the browser has stored. */
  async restore() {
    for (const saved of await this.session.database.all("conversations")) {
      const id = numberOf(saved.id);
      const known = this.conversations.get(id);
      if (numberOf(saved.unsent) > (known?.read ?? 0)) this.#note("read", id, saved.unsent);
      if (id && !known) this.conversations.set(id, restored(saved));
    }
    this.#changed();
  }

  /**
   * Loads a page of conversations.
   *
   * @param {boolean} [older]  those after the last loaded one, instead of the most recent
   * @returns {Promise<void>}
   */
  load(older = false) {
    if (!older) return this.#loadPage(false);
    this.#loadingOlder ??= this.#loadPage(true).finally(() => { this.#loadingOlder = null; });
    return this.#loadingOlder;
  }

  /**
   * Loads older conversations, up to 1,000: search, forwarding and the number of unread messages are about all of them.
   *
   * @returns {Promise<void>} never rejected: without a connection, the rest is missing
   */
  loadRest() {
    const work = async () => {
      for (; this.#restPages < REST_PAGES && this.hasMore && this.session.isOnline; this.#restPages++) await this.load(true);
      await this.session.people.load([...this.conversations.values()].map(({ peer }) => peer));
    };
    this.session.inbox.load();
    this.session.wishes.load();
    this.#loadingRest ??= work().catch(() => {}).finally(() => { this.#loadingRest = null; });
    return this.#loadingRest;
  }

  /** @param {boolean} older */
  async #loadPage(older) {
    const before = older ? this.#oldest : 0; // conversations that the browser has stored may be older
    if (this.#receipts.size) await this.sendReceipts(); // the answer counts what is unread
    const readBefore = new Map(this.#reads);
    const page = await this.session.messenger.conversations({ before, limit: older ? REST_PAGE : PAGE });
    const listed = [];
    for (const each of /** @type {any[]} */ (page.conversations)) {
      const position = each.place || each.last?.id || 0;
      if (position) this.#oldest = Math.min(position, this.#oldest || position);
      const conversation = this.conversations.get(each.id) ?? this.#create(each.id, each.kind === "group", each.peer ?? "");
      listed.push(conversation);
      Object.assign(conversation, { name: each.name ?? "", avatar: each.avatar ?? "", role: each.role ?? "" });
      if (conversation.arrived > position) continue; // an entry that arrived during the request is newer than the answer
      Object.assign(conversation, { position, last: each.last ?? null, left: each.last?.kind === "leave" && isAbout(each.last, this.session.user) }); // nothing is shown of a group after we left it
      if (this.#reads.get(each.id) !== readBefore.get(each.id)) continue; // read during the request
      Object.assign(conversation, { unread: Math.max(each.unread, 0), mentions: each.mentions ?? 0, read: Math.max(each.read, 0) });
    }
    if (older || this.conversations.size <= page.conversations.length || !this.isLoaded) this.hasMore = page.hasMore;
    this.isLoaded = true;
    this.session.inbox.settle();
    this.session.people.load(listed.flatMap(({ peer, last }) => [peer, last?.from ?? "", ...(last?.meta?.users ?? [])]));
    this.#save(...listed);
    this.#changed();
  }

  /** The server has deleted entries that we have: forgets everything. The list must be loaded again. */
  clear() {
    this.session.database.clear("conversations");
    this.session.database.clear("entries");
    for (const known of [this.conversations, this.#fresh, this.#presses, this.#receipts, this.#reads]) known.clear();
    for (const { timer } of this.#counted.values()) clearTimeout(timer);
    this.#counted.clear();
    this.hasMore = this.isLoaded = false;
    this.#oldest = this.#restPages = 0;
    this.#changed();
  }

  /**
   * The conversation with a user. It may be new; then it is listed after its first message.
   *
   * @param {string} user
   * @returns {Conversation}
   */
  withUser(user) {
    const known = this.known(user);
    if (known) return known;
    const made = emptyConversation(0, false, user);
    this.#fresh.set(user, made);
    return made;
  }

  /**
   * @param {string} user
   * @returns {Conversation | undefined} undefined: it was never opened, and is new or not loaded yet
   */
  known(user) {
    return this.#listedWith(user) ?? this.#fresh.get(user);
  }

  /** @param {string} user */
  #listedWith(user) {
    return this.#recent.find(({ group, peer }) => !group && peer === user);
  }

  /**
   * @param {string} key  see `keyOf`
   * @returns {Conversation | undefined} undefined: it is not loaded
   */
  withKey(key) {
    return key.startsWith("@") ? this.known(key.slice(1)) : this.conversations.get(Number(key));
  }

  /**
   * Loads the list as far as the conversation with a user. If there is none, all of it.
   *
   * @param {string} user
   */
  async seek(user) {
    if (!this.isLoaded) await this.load();
    while (this.hasMore && !this.#listedWith(user)) await this.load(true);
  }

  // --- entries ------------------------------------------------------------------------------------------------

  /**
   * Adds a stored entry, of another user or of our own.
   *
   * @param {Entry} entry
   * @returns {Conversation | undefined} the conversation that it is shown in
   */
  add(entry) {
    const self = this.session.user;
    if (entry.kind === "press" && !entry.meta?.ask) return this.#press(entry);
    if (this.#streams.delete(entry.clientMsgID ?? "")) this.#remember(entry.clientMsgID ?? "");
    const group = !entry.to;
    const peer = entry.from === self ? String(entry.to) : entry.from;
    const known = this.conversations.get(entry.conversation);
    const conversation = known ?? this.#create(entry.conversation, group, group ? "" : peer);
    const isNew = entry.id > conversation.position;
    if (!isSilent(entry)) {
      if (entry.kind === "message" && entry.from !== self && isNew) {
        if (!isBeside(entry)) {
          conversation.unread += 1;
          if (mentions(entry, self)) conversation.mentions += 1;
        }
        this.#note("received", conversation.id, entry.id);
      }
      conversation.position = Math.max(conversation.position, entry.id);
      conversation.arrived = Math.max(conversation.arrived, entry.id);
      if (!isBeside(entry) && (!conversation.last || conversation.last.id < entry.id)) conversation.last = entry;
    }
    if (["group", "join", "leave"].includes(entry.kind)) {
      const { change, name = "", avatar = "", members = conversation.members } = entry.meta ?? {};
      Object.assign(conversation, { members, changed: entry.id }, change === "rename" && { name }, change === "avatar" && { avatar });
    }
    if (isAbout(entry, self)) {
      if (entry.kind === "group" && entry.meta?.role) Object.assign(conversation, { role: entry.meta.role, mutedUntil: entry.meta.muted_until ?? 0 });
      else if (entry.kind === "join") Object.assign(conversation, { role: "member", left: false, membership: entry.id });
      else if (entry.kind === "leave") Object.assign(conversation, { left: true, membership: entry.id });
    }
    if (!known && conversation.group) this.load().catch(() => {}); // its name
    if (isRevision(entry)) this.#revise(conversation, entry);
    else this.#insertLive(conversation, entry);
    this.session.people.load([conversation.peer, entry.from, ...usersIn(entry)]);
    this.#save(conversation);
    this.#changed();
    return conversation;
  }

  /**
   * @param {Conversation} conversation
   * @param {Entry} entry
   */
  #insertLive(conversation, entry) {
    this.#countReply(conversation, entry);
    if (conversation.pending) conversation.pending.push(entry);
    if (conversation.entries && !conversation.hasNewer) {
      insert(conversation.entries, entry);
      conversation.newest = Math.max(conversation.newest, entry.id);
    }
    this.session.database.put("entries", [entry]);
  }

  /**
   * @param {{ entries: Entry[] | null }} loaded
   * @param {Entry} entry  perhaps a reply in a thread
   */
  #countReply({ entries }, entry) {
    const index = entry.meta?.thread ? entries?.findIndex(({ id }) => id === entry.meta.thread) ?? -1 : -1;
    if (entries?.[index]) this.session.database.put("entries", [(entries[index] = this.session.messenger.withReply(entries[index], entry))]);
  }

  /**
   * @param {Conversation} conversation
   * @param {Entry} revision
   */
  async #revise(conversation, revision) {
    const { user, database, people } = this.session;
    const revise = (/** @type {Entry} */ entry) => {
      const after = revised(entry, revision, user);
      if (after.from !== entry.from) people.erase(entry.from);
      return after;
    };
    conversation.last &&= revise(conversation.last);
    conversation.pending?.push(revision);
    const { entries } = conversation;
    const index = entries?.findIndex(({ id }) => id === revision.about) ?? -1;
    if (entries && index >= 0) {
      entries[index] = revise(entries[index]);
      return database.put("entries", [entries[index]]);
    }
    const stored = entryOf(await database.get("entries", revision.about ?? 0));
    if (stored) await database.put("entries", [revise(stored)]);
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
    if (!conversation.id && !conversation.entries && this.session.isOnline) {
      await this.seek(conversation.peer); // it gets its id
      if (!conversation.id) conversation.entries = [];
    }
    const { entries } = conversation;
    const covers = entries && !conversation.cached && (around ? entries.some(({ id }) => id === around) : !conversation.hasNewer || conversation.unread > 0);
    if (!conversation.id || covers) return;
    const position = around || (conversation.unread ? conversation.read : -1);
    await this.#load(conversation, () => (position < 0 ? this.#page(conversation, {}) : this.#around(conversation, position)));
    if (!conversation.group && this.session.isOnline) await this.#loadReceipts(conversation);
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
    const { database, messenger, isOnline } = this.session;
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
   * @typedef {object} Loaded
   * @property {Entry[]} entries
   * @property {number} oldest
   * @property {number} newest
   * @property {boolean} hasOlder
   * @property {boolean} hasNewer
   * @property {boolean} cached
   */

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
          if (isRevision(entry)) loaded.entries = loaded.entries.map((each) => (each.id < entry.id ? revised(each, entry, this.session.user) : each));
          else if (!loaded.hasNewer && entry.id > loaded.newest) insert(loaded.entries, entry);
          this.#countReply(loaded, entry);
        }
        Object.assign(conversation, loaded);
        if (!loaded.hasNewer) conversation.newest = Math.max(loaded.newest, conversation.arrived);
        if (conversation.group) this.#countLater(conversation);
        this.session.people.load(loaded.entries.flatMap((entry) => [entry.from, ...usersIn(entry)]));
      } finally {
        conversation.pending = conversation.loading = null;
      }
      this.#changed();
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
    const { messenger, database, isOnline } = this.session;
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

  // --- bots ---------------------------------------------------------------------------------------------------

  /**
   * @param {Entry} press  of a button, by us on any device
   * @returns {undefined}
   */
  #press(press) {
    const about = press.about ?? 0;
    if (press.from !== this.session.user || (this.#presses.get(about)?.id ?? 0) >= press.id) return;
    this.#presses.set(about, press);
    this.#changed();
  }

  /**
   * @param {Entry} entry
   * @returns {string | undefined} value of the button that we have pressed since the message was changed
   */
  pressedOf({ id, meta }) {
    const press = this.#presses.get(id);
    return press && press.id > (meta?.edited ?? 0) ? press.text : undefined;
  }

  /**
   * A bot has written a piece of a message.
   *
   * @param {import("../../../sdk/messenger.js").Piece} piece
   * @returns {boolean} whether a row is new, or gone; else only its text has changed
   */
  applyPiece({ stream, from, conversation, piece, text, whole, done, thread }) {
    const known = this.#streams.get(stream);
    if (done) this.#streams.delete(stream);
    else if (whole) this.#streams.set(stream, { stream, from, conversation, piece, text, thread, time: known?.time ?? Date.now(), after: known?.after ?? this.#newest });
    else if (known?.piece === piece - 1) Object.assign(known, { piece, text: known.text + text });
    if (known && !done) return false;
    if (whole) this.session.people.load([from]);
    this.#changed();
    return true;
  }

  /**
   * @param {Conversation} conversation
   * @returns {Streamed[]} what bots are writing there
   */
  streamsOf({ id, group, peer }) {
    return [...this.#streams.values()].filter(({ conversation, from }) => (conversation ? group && conversation === id : !group && from === peer));
  }

  /**
   * @param {string} stream
   * @returns {Streamed | undefined}
   */
  streamOf(stream) {
    return this.#streams.get(stream);
  }

  /** Id of the newest entry of all conversations. */
  get #newest() {
    return Math.max(0, ...[...this.conversations.values()].map(({ position }) => position));
  }

  /** A new connection has begun: the server sends the streams that are still open again. */
  forgetStreams() {
    this.#streams.clear();
    this.#changed();
  }

  /**
   * @param {Entry} entry
   * @returns {boolean} whether this page has shown how it was written
   */
  wasStreamed({ clientMsgID = "" }) {
    return this.#streamed.has(clientMsgID);
  }

  /** @param {string} stream */
  #remember(stream) {
    this.#streamed.add(stream);
    if (this.#streamed.size > MAX_STREAMED) this.#streamed.delete([...this.#streamed][0]);
  }

  // --- marks --------------------------------------------------------------------------------------------------

  /**
   * The user has seen a conversation up to an entry.
   *
   * @param {Conversation} conversation
   * @param {number} id
   */
  markRead(conversation, id) {
    if (!conversation.id || id <= conversation.read) return;
    const hadUnread = conversation.unread > 0;
    this.#advance(conversation, id);
    if (!hadUnread) return;
    this.#reads.set(conversation.id, id);
    this.#note("read", conversation.id, id);
    this.#save(conversation);
    this.#changed();
  }

  /**
   * Applies a receipt of another user, or a read position of our own from another device.
   *
   * @param {{ from: string, conversation: number, read?: number, received?: number }} receipt
   */
  applyReceipt({ from, conversation: id, read = 0, received = 0 }) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    if (from !== this.session.user && conversation.group) {
      if (conversation.entries) this.#countLater(conversation);
      return;
    }
    if (from !== this.session.user) {
      conversation.peerRead = Math.max(conversation.peerRead, read);
      conversation.peerReceived = Math.max(conversation.peerReceived, read, received);
    } else if (read > conversation.read) {
      const { entries, oldest, newest, hasOlder } = conversation;
      const isKnown = entries && (oldest <= conversation.read || !hasOlder) && newest >= read;
      this.#advance(conversation, read);
      this.#reads.set(id, read);
      if (conversation.unread && !isKnown) this.#countAgain(conversation);
      this.#save(conversation);
    }
    this.#changed();
  }

  /**
   * Moves our read position, and counts what is unread after it, as far as the entries are loaded.
   *
   * @param {Conversation} conversation
   * @param {number} id
   */
  #advance(conversation, id) {
    const self = this.session.user;
    const seen = (conversation.entries ?? []).filter((each) => each.id > conversation.read && each.id <= id && each.kind === "message" && each.from !== self && !isBeside(each));
    const atEnd = id >= (conversation.last?.id ?? 0);
    conversation.read = id;
    if (!atEnd && conversation.unread >= MOST_UNREAD) return this.#countAgain(conversation); // there may be more
    conversation.unread = atEnd ? 0 : Math.max(0, conversation.unread - seen.length);
    conversation.mentions = conversation.unread ? Math.max(0, conversation.mentions - seen.filter((each) => mentions(each, self)).length) : 0;
  }

  /**
   * The server counts what is unread, when the other device has stopped reading.
   *
   * @param {Conversation} conversation
   */
  #countAgain(conversation) {
    if (this.#recent.indexOf(conversation) >= PAGE) return; // `load` does not reach it
    clearTimeout(this.#counting);
    this.#counting = setTimeout(() => this.load().catch(() => {}), COUNT_AFTER_MS); // without a connection the list is old anyway
  }

  /**
   * Deletes entries for us only, on all our devices.
   *
   * @param {number[]} ids
   */
  async hide(ids) {
    await this.session.messenger.hide(ids);
    this.applyHidden(ids);
  }

  /** @param {number[]} ids */
  applyHidden(ids) {
    const hidden = new Set(ids);
    for (const conversation of this.conversations.values()) {
      conversation.entries &&= conversation.entries.filter(({ id }) => !hidden.has(id));
      if (conversation.last && hidden.has(conversation.last.id)) conversation.last = conversation.entries?.at(-1) ?? null;
    }
    this.session.database.delete("entries", ids);
    this.#changed();
  }

  /** @param {Conversation} conversation */
  async #loadReceipts(conversation) {
    const { receipts } = await this.session.messenger.receipts(conversation.id);
    for (const { user, read, received } of receipts) this.applyReceipt({ from: user, conversation: conversation.id, read, received });
  }

  /**
   * Somebody in a group has read or received: asks again how many have, once for all who do.
   *
   * @param {Conversation} conversation
   */
  #countLater(conversation) {
    const known = this.#counted.get(conversation) ?? { at: 0 };
    this.#counted.set(conversation, known);
    known.timer ??= setTimeout(() => {
      Object.assign(known, { at: Date.now(), timer: undefined });
      this.#countReceipts(conversation);
    }, Math.max(0, known.at + COUNTS_EVERY_MS - Date.now()));
  }

  /**
   * Asks how many have received and read our loaded messages of a group: those that not all had read when they were counted.
   *
   * @param {Conversation} conversation
   */
  async #countReceipts(conversation) {
    const { messenger, user, isOnline } = this.session;
    const isOpen = (/** @type {Count | undefined} */ count) => !count || count.read < count.members;
    const ids = (conversation.entries ?? []).filter(({ id, kind, from }) => kind === "message" && from === user && isOpen(conversation.counts.get(id))).map(({ id }) => id);
    if (!isOnline || !ids.length) return;
    try {
      const { counts } = await messenger.receiptCounts(conversation.id, ids.slice(-COUNTS_PAGE));
      for (const { id, members, received, read } of counts) conversation.counts.set(id, { members, received, read });
      this.#save(conversation);
      this.#changed();
    } catch {
      // the next receipt, or the next page, asks again
    }
  }

  /**
   * @param {Mark["kind"]} kind
   * @param {number} conversation
   * @param {number} id
   */
  #note(kind, conversation, id) {
    this.#receipts.set(`${kind} ${conversation}`, { kind, conversation, id, request: null });
    this.#sending ??= setTimeout(() => this.sendReceipts(), RECEIPTS_AFTER_MS);
  }

  /** Sends the receipts that wait. Those that the server has not received wait for the next connection. */
  async sendReceipts() {
    clearTimeout(this.#sending);
    this.#sending = undefined;
    if (!this.session.isOnline) return;
    for (const [key, mark] of this.#receipts) {
      if (mark.kind === "received" && (this.#receipts.get(`read ${mark.conversation}`)?.id ?? 0) >= mark.id) this.#receipts.delete(key);
      else mark.request ??= this.#send(key, mark);
    }
    await Promise.all([...this.#receipts.values()].map(({ request }) => request));
  }

  /**
   * @param {string} key
   * @param {Mark} mark
   */
  async #send(key, mark) {
    const { messenger } = this.session;
    try {
      await messenger[mark.kind](mark.conversation, mark.id);
    } catch (error) {
      mark.request = null;
      if (!(error instanceof CommandRefused)) return;
    }
    if (this.#receipts.get(key) === mark) this.#receipts.delete(key);
    const conversation = this.conversations.get(mark.conversation);
    if (conversation && mark.kind === "read") this.#save(conversation);
  }

  // --- internal -----------------------------------------------------------------------------------------------

  #changed() {
    this.session.changed();
  }

  /** @param {Conversation[]} conversations */
  #save(...conversations) {
    const saved = conversations.filter(({ id }) => id).map(({ id, group, peer, name, avatar, role, left, mutedUntil, unread, mentions, read, position, last, peerRead, peerReceived, counts }) => (
      { counts: [...counts].sort(([a], [b]) => a - b).slice(-MAX_SAVED_COUNTS), id, group, peer, name, avatar, role, left, mutedUntil, unread, mentions, read, position, last, peerRead, peerReceived, unsent: this.#receipts.get(`read ${id}`)?.id ?? 0 }));
    this.session.database.put("conversations", saved);
  }

  /**
   * @param {number} id
   * @param {boolean} group
   * @param {string} peer
   * @returns {Conversation}
   */
  #create(id, group, peer) {
    const fresh = group ? undefined : this.#fresh.get(peer);
    this.#fresh.delete(peer);
    const conversation = fresh ? Object.assign(fresh, { id }) : emptyConversation(id, group, peer);
    this.conversations.set(id, conversation);
    return conversation;
  }
}

/**
 * The name of a conversation in the browser's storage and in the address of the page; it stays when the first message is stored.
 *
 * @param {Conversation} conversation
 * @returns {string}
 */
export function keyOf({ id, group, peer }) {
  return group || !peer ? String(id) : `@${peer}`;
}

/**
 * @param {number} id
 * @param {boolean} group
 * @param {string} peer
 * @returns {Conversation}
 */
function emptyConversation(id, group, peer) {
  return {
    id, group, peer, name: "", avatar: "", role: "", members: 0, left: false, membership: 0, changed: 0, mutedUntil: 0, unread: 0, mentions: 0, read: 0, position: 0, last: null, arrived: 0, entries: null, hasOlder: false,
    hasNewer: false, oldest: 0, newest: 0, cached: false, pending: null, loading: null, peerRead: 0, peerReceived: 0, counts: new Map(),
  };
}

/**
 * @param {any} saved  by this version of the page or an earlier one
 * @returns {Conversation}
 */
function restored(saved) {
  const empty = emptyConversation(numberOf(saved.id), saved.group === true, textOf(saved.peer));
  const { name, avatar, role, left, mutedUntil, unread, mentions, read, position, peerRead, peerReceived } = { ...empty, ...fieldsLike(saved, empty) };
  const counts = listOf(saved.counts).filter((each) => Array.isArray(each) && each.length === 2 && typeof each[1]?.members === "number");
  return { ...empty, name, avatar, role, left, mutedUntil, unread, mentions, read, position, last: entryOf(saved.last), peerRead, peerReceived, counts: new Map(counts) };
}

/**
 * @param {Entry} entry  of a group
 * @param {string} user
 * @returns {boolean} whether it is about this member
 */
function isAbout({ meta, from }, user) {
  return (meta?.users ?? [from]).includes(user);
}
