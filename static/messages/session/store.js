// @ts-check
/** The conversations of a login and their entries, as far as the page has loaded them. It draws nothing. */

import { entryOf } from "../../../sdk/messenger.js";
import { fieldsLike, listOf, numberOf, textOf } from "../../text.js";
import { insert, isAbout, isBeside, isRevision, isSilent, mentions, revised, usersIn } from "../parts/entries.js";
import { Receipts } from "./receipts.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./session.js").Session} Session */

/** Conversations of the first page of the list. */
const PAGE = 50;
/** How many pages of older conversations the page loads without being asked, and how many conversations each has. */
const REST_PAGES = 5;
const REST_PAGE = 200;
/** How many ids of streams the page remembers. */
const MAX_STREAMED = 200;
/** How many counts of a conversation the browser stores. */
const MAX_SAVED_COUNTS = 50;
/** Fields of a conversation that the browser stores unchanged, besides those that identify it. */
const SAVED_FIELDS = /** @type {const} */ ([
  "name", "avatar", "role", "left", "mutedUntil", "unread", "unreadMore", "mentions", "read", "position", "peerRead", "peerReceived",
]);

/**
 * @typedef {object} Conversation
 * @property {number} id               0: it has no messages yet, or is not loaded
 * @property {boolean} group
 * @property {string} peer             the other user; empty for a group
 * @property {string} name             of a group
 * @property {string} avatar           of a group: address of the picture; empty: none
 * @property {string} role             ours in a group
 * @property {string} [write]          the least role that may write in a group, once it was opened: `admin`, or everybody may
 * @property {string} [reply]          the same of replies in its threads
 * @property {boolean} [added]           others have added us to the group, and we have not opened it since
 * @property {number} members          of a group: how many it has; 0: not known
 * @property {boolean} left            we are not in the group any more
 * @property {number} membership       id of the newest live entry by which we joined or left; 0: none
 * @property {number} changed          of a group: id of the newest live entry by which it, or its members, have changed; 0: none
 * @property {number} mutedUntil       until then we cannot write in the group, in Unix seconds; 0: we can
 * @property {number} unread           number of unread messages
 * @property {boolean} unreadMore      there are more of them: the server counts no further
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

  receipts = new Receipts(this);

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
  }

  /** @returns {Conversation[]} the most recent first */
  get #recent() {
    const placeOf = (/** @type {Conversation} */ { last, position }) => last?.id ?? position;
    return [...this.conversations.values()].sort((one, other) => placeOf(other) - placeOf(one));
  }

  /** @returns {Conversation[]} the pinned ones first, then the most recent */
  get sorted() {
    const { inbox } = this.session;
    return this.#recent.sort((one, other) => inbox.pinOf(other) - inbox.pinOf(one));
  }

  /** @returns {{ listed: Conversation[], archived: Conversation[] }} in their order */
  get lists() {
    const { inbox } = this.session;
    /** @type {{ listed: Conversation[], archived: Conversation[] }} */
    const lists = { listed: [], archived: [] };
    for (const conversation of this.sorted) {
      const list = inbox.isArchived(conversation) ? lists.archived : lists.listed;
      if (!inbox.isGone(conversation)) list.push(conversation);
    }
    return lists;
  }

  /** @returns {number} unread messages in all conversations that are not archived */
  get unread() {
    return this.lists.listed.reduce((sum, each) => sum + this.unreadOf(each), 0);
  }

  /**
   * @param {Conversation} conversation
   * @returns {number} its unread messages; 1 if the user has marked it as unread and it has none
   */
  unreadOf(conversation) {
    return conversation.unread || Number(this.session.inbox.isMarked(conversation));
  }

  /**
   * @param {Conversation} conversation
   * @returns {string} the name that the page shows; a conversation with neither group nor peer is the one with the server
   */
  nameOf({ group, name, peer }) {
    const { words, people } = this.session;
    if (group) return name || words.messages_group;
    if (peer === this.session.user) return words.messages_to_oneself;
    return peer ? people.nameOf(peer) : words.messages_server;
  }

  // --- the list -----------------------------------------------------------------------------------------------

  /** Shows the conversations that the browser has stored, and sends the read positions that the server has not received. */
  async restore() {
    for (const row of await this.session.database.all("conversations")) {
      const id = numberOf(row.id);
      const known = this.conversations.get(id);
      if (numberOf(row.unsent) > (known?.read ?? 0)) this.receipts.note("read", id, row.unsent);
      if (id && !known) this.conversations.set(id, restored(row));
    }
    this.#changed();
  }

  /**
   * Loads a page of conversations.
   *
   * @param {boolean} [older]  those after the last loaded one, instead of the most recent
   * @returns {Promise<void>} of older ones, one page is loaded at a time
   */
  load(older = false) {
    if (!older) return this.#loadPage(false);
    this.#loadingOlder ??= this.#loadPage(true).finally(() => { this.#loadingOlder = null; });
    return this.#loadingOlder;
  }

  /**
   * Loads older conversations, up to 1,000: search, forwarding and the number of unread messages are about all of them.
   *
   * @returns {Promise<void>} never rejected: without a connection, the older conversations are missing
   */
  loadRest() {
    this.session.inbox.load();
    this.session.wishes.load();
    this.#loadingRest ??= this.#loadRestPages().catch(() => {}).finally(() => { this.#loadingRest = null; });
    return this.#loadingRest;
  }

  async #loadRestPages() {
    for (; this.#restPages < REST_PAGES && this.hasMore && this.session.isOnline; this.#restPages++) await this.load(true);
    await this.session.people.load([...this.conversations.values()].map(({ peer }) => peer));
  }

  /** @param {boolean} older */
  async #loadPage(older) {
    // Not the position of the oldest known conversation: the browser may have stored older ones.
    const before = older ? this.#oldest : 0;
    // The answer counts the unread messages.
    if (this.receipts.hasUnsent) await this.receipts.send();
    const readBefore = new Map(this.receipts.reads);
    const page = await this.session.messenger.conversations({ before, limit: older ? REST_PAGE : PAGE });
    const listed = /** @type {any[]} */ (page.conversations).map((row) => this.#takeRow(row, readBefore));
    // The most recent page does not know whether there are more after the older pages that are loaded already.
    if (older || this.conversations.size <= listed.length || !this.isLoaded) this.hasMore = page.hasMore;
    this.isLoaded = true;
    this.session.inbox.settle();
    this.session.people.load(listed.flatMap(({ peer, last }) => [peer, last?.from ?? "", ...(last?.meta?.users ?? [])]));
    this.save(...listed);
    this.#changed();
  }

  /**
   * Takes a row of the server's list, without the fields that have changed here since the request.
   *
   * @param {any} row
   * @param {Map<number, number>} readBefore  `receipts.reads` before the request
   * @returns {Conversation}
   */
  #takeRow(row, readBefore) {
    const { id, peer = "", name = "", avatar = "", role = "", added, unread, unreadMore, mentions: mentioned = 0, read } = row;
    const last = row.last ?? null;
    const position = row.place || last?.id || 0;
    if (position) this.#oldest = Math.min(position, this.#oldest || position);
    const conversation = this.conversations.get(id) ?? this.#create(id, row.kind === "group", peer);
    Object.assign(conversation, { name, avatar, role });

    // An entry that arrived during the request is newer than the answer.
    if (conversation.arrived > position) return conversation;
    // Nothing is shown of a group after we left it.
    const left = last?.kind === "leave" && isAbout(last, this.session.user);
    Object.assign(conversation, { position, last, left });

    // We have read it during the request.
    if (this.receipts.reads.get(id) !== readBefore.get(id)) return conversation;
    const counts = { unread: Math.max(unread, 0), unreadMore: unreadMore === true, mentions: mentioned };
    return Object.assign(conversation, counts, { added, read: Math.max(read, 0) });
  }

  /** The server has deleted entries that we have: forgets everything. The list must be loaded again. */
  clear() {
    this.session.database.clear("conversations");
    this.session.database.clear("entries");
    for (const known of [this.conversations, this.#fresh, this.#presses, this.receipts]) known.clear();
    this.hasMore = false;
    this.isLoaded = false;
    this.#oldest = 0;
    this.#restPages = 0;
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
    const fresh = emptyConversation(0, false, user);
    this.#fresh.set(user, fresh);
    return fresh;
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

  /** Loads the list as far as the conversation with a user. If there is none, all of it. @param {string} user */
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
    const { kind, id, from, to, meta, clientMsgID = "" } = entry;
    const self = this.session.user;
    if (kind === "press" && !meta?.ask) return this.#press(entry);
    if (this.#streams.delete(clientMsgID)) this.#remember(clientMsgID);

    const known = this.conversations.get(entry.conversation);
    const peer = from === self || meta?.reminder ? String(to) : from;
    const conversation = known ?? this.#create(entry.conversation, !to, to ? peer : "");

    if (!isSilent(entry)) this.#advance(conversation, entry);
    if (["group", "join", "leave"].includes(kind)) {
      const { change, name = "", avatar = "", members = conversation.members } = meta ?? {};
      Object.assign(conversation, { members, changed: id });
      if (change === "rename") conversation.name = name;
      if (change === "avatar") conversation.avatar = avatar;
      if (isAbout(entry, self)) applyMembership(conversation, entry, self);
    }
    if (!known && conversation.group) this.load().catch(() => {}); // its name
    if (isRevision(entry)) this.#revise(conversation, entry);
    else this.#insertLive(conversation, entry);
    this.session.people.load([conversation.peer, from, ...usersIn(entry)]);
    this.save(conversation);
    this.#changed();
    return conversation;
  }

  /**
   * Moves the end of a conversation to an entry, and counts a new message of another user as unread.
   *
   * @param {Conversation} conversation
   * @param {Entry} entry
   */
  #advance(conversation, entry) {
    const { id, kind, from } = entry;
    const self = this.session.user;
    if (kind === "message" && from !== self && id > conversation.position) {
      if (!isBeside(entry)) conversation.unread += 1;
      if (!isBeside(entry) && mentions(entry, self)) conversation.mentions += 1;
      this.receipts.note("received", conversation.id, id);
    }
    conversation.position = Math.max(conversation.position, id);
    conversation.arrived = Math.max(conversation.arrived, id);
    if (!isBeside(entry) && (conversation.last?.id ?? 0) < id) conversation.last = entry;
  }

  /**
   * Adds a live entry to the loaded ones, if they reach to the end, and to the browser's storage.
   *
   * @param {Conversation} conversation
   * @param {Entry} entry
   */
  #insertLive(conversation, entry) {
    this.countReply(conversation, entry);
    if (conversation.pending) conversation.pending.push(entry);
    if (conversation.entries && !conversation.hasNewer) {
      insert(conversation.entries, entry);
      conversation.newest = Math.max(conversation.newest, entry.id);
    }
    this.session.database.put("entries", [entry]);
  }

  /**
   * Counts a reply at the first message of its thread, if that message is loaded.
   *
   * @param {{ entries: Entry[] | null }} loaded
   * @param {Entry} entry  ignored unless it is a reply in a thread
   */
  countReply({ entries }, entry) {
    const root = entry.meta?.thread;
    const index = entries?.findIndex(({ id }) => id === root) ?? -1;
    if (!root || !entries || index < 0) return;
    entries[index] = this.session.messenger.withReply(entries[index], entry);
    this.session.database.put("entries", [entries[index]]);
  }

  /**
   * Changes the entry that a revision is about: as the last one of its conversation, among the loaded ones, and in the browser's storage.
   *
   * @param {Conversation} conversation
   * @param {Entry} revision
   */
  async #revise(conversation, revision) {
    const { user, database, people } = this.session;
    const revise = (/** @type {Entry} */ entry) => {
      const after = revised(entry, revision, user);
      // Another sender after a revision: the account of the sender was deleted.
      if (after.from !== entry.from) people.erase(entry.from);
      return after;
    };
    if (conversation.last) conversation.last = revise(conversation.last);
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

  // --- bots ---------------------------------------------------------------------------------------------------

  /**
   * Remembers our newest press of a button of each message.
   *
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
   * A bot has written a piece of a message. A piece that does not follow the last one is ignored.
   *
   * @param {import("../../../sdk/messenger.js").Piece} message
   * @returns {boolean} whether a row is new, or gone; else only its text has changed
   */
  applyPiece({ stream, from, conversation, piece, text, whole, done, thread }) {
    const known = this.#streams.get(stream);
    const { time, after } = known ?? { time: Date.now(), after: this.#newest };
    if (done) this.#streams.delete(stream);
    else if (whole) this.#streams.set(stream, { stream, from, conversation, piece, text, thread, time, after });
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
    const isHere = (/** @type {Streamed} */ { conversation, from }) => (group ? conversation === id : !conversation && from === peer);
    return [...this.#streams.values()].filter(isHere);
  }

  /** @param {string} stream */
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

  /**
   * @param {Conversation} conversation
   * @returns {boolean} whether `load` loads it, without older ones
   */
  isRecent(conversation) {
    return this.#recent.indexOf(conversation) < PAGE;
  }

  /** Deletes entries for us only, on all our devices. @param {number[]} ids */
  async hide(ids) {
    await this.session.messenger.hide(ids);
    this.applyHidden(ids);
  }

  /** Removes entries that we have hidden, here or on another device. @param {number[]} ids */
  applyHidden(ids) {
    const hidden = new Set(ids);
    for (const conversation of this.conversations.values()) {
      conversation.entries = conversation.entries?.filter(({ id }) => !hidden.has(id)) ?? null;
      if (conversation.last && hidden.has(conversation.last.id)) conversation.last = conversation.entries?.at(-1) ?? null;
    }
    this.session.database.delete("entries", ids);
    this.#changed();
  }

  #changed() {
    this.session.changed();
  }

  /** @param {Conversation[]} conversations  stored by the browser, except those without an id */
  save(...conversations) {
    const rows = conversations.filter(({ id }) => id).map((conversation) => {
      const { id, group, peer, last } = conversation;
      const counts = [...conversation.counts].sort(([one], [other]) => one - other).slice(-MAX_SAVED_COUNTS);
      return { ...savedFields(conversation), id, group, peer, last, counts, unsent: this.receipts.unsentOf(id) };
    });
    this.session.database.put("conversations", rows);
  }

  /**
   * Lists a conversation. With a user to whom we have begun to write, the object that the page already shows gets its id.
   *
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
    id, group, peer, name: "", avatar: "", role: "", members: 0, left: false, membership: 0, changed: 0, mutedUntil: 0,
    unread: 0, unreadMore: false, mentions: 0, read: 0, position: 0, last: null, arrived: 0,
    entries: null, hasOlder: false, hasNewer: false, oldest: 0, newest: 0, cached: false, pending: null, loading: null,
    peerRead: 0, peerReceived: 0, counts: new Map(),
  };
}

/** @param {Conversation} conversation */
function savedFields(conversation) {
  return Object.fromEntries(SAVED_FIELDS.map((field) => [field, conversation[field]]));
}

/**
 * @param {any} saved  by this version of the page or an earlier one
 * @returns {Conversation}
 */
function restored(saved) {
  const empty = emptyConversation(numberOf(saved.id), saved.group === true, textOf(saved.peer));
  const counts = listOf(saved.counts).filter((pair) => Array.isArray(pair) && pair.length === 2 && typeof pair[1]?.members === "number");
  return { ...empty, ...fieldsLike(saved, savedFields(empty)), last: entryOf(saved.last), counts: new Map(counts) };
}

/**
 * Applies to a group how our own membership has changed.
 *
 * @param {Conversation} conversation
 * @param {Entry} entry  about us
 * @param {string} self  our user
 */
function applyMembership(conversation, { id, kind, from, meta }, self) {
  if (kind === "join") Object.assign(conversation, { role: "member", left: false, membership: id, added: from !== self });
  if (kind === "leave") Object.assign(conversation, { left: true, membership: id });
  if (kind === "group" && meta?.role) Object.assign(conversation, { role: meta.role, mutedUntil: meta.muted_until ?? 0 });
}
