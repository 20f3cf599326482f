// @ts-check
/** The conversations of a login and their entries, as far as the page has loaded them. It draws nothing. */

import { entryOf } from "../../../sdk/messenger.js";
import { fieldsLike, listOf, numberOf, textOf } from "../../text.js";
import { insert, isBeside, isRevision, isSilent, mentions, revised, usersIn } from "../parts/entries.js";
import { Receipts } from "./receipts.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./session.js").Session} Session */

const PAGE = 50;
/** Older conversations are loaded without being asked for: so many pages of so many. */
const REST_PAGES = 5;
const REST_PAGE = 200;
/** More ids of streams are not remembered. */
const MAX_STREAMED = 200;
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
    const lists = { listed: /** @type {Conversation[]} */ ([]), archived: /** @type {Conversation[]} */ ([]) };
    for (const each of this.sorted) if (!inbox.isGone(each)) lists[inbox.isArchived(each) ? "archived" : "listed"].push(each);
    return lists;
  }

  /** @returns {number} unread messages in all conversations that are not archived */
  get unread() {
    return this.lists.listed.reduce((sum, each) => sum + this.unreadOf(each), 0);
  }

  /**
   * @param {Conversation} conversation
   * @returns {number} its unread messages; one that is marked counts as one
   */
  unreadOf(conversation) {
    return conversation.unread || Number(this.session.inbox.isMarked(conversation));
  }

  /**
   * @param {Conversation} conversation
   * @returns {string}
   */
  nameOf({ group, name, peer }) {
    const { words, people } = this.session;
    if (group) return name || words.messages_group;
    if (peer === this.session.user) return words.messages_to_oneself;
    return peer ? people.nameOf(peer) : words.messages_server;
  }

  // --- the list -----------------------------------------------------------------------------------------------

  /** Shows the conversations that the browser has stored. */
  async restore() {
    for (const saved of await this.session.database.all("conversations")) {
      const id = numberOf(saved.id);
      const known = this.conversations.get(id);
      if (numberOf(saved.unsent) > (known?.read ?? 0)) this.receipts.note("read", id, saved.unsent);
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
    if (this.receipts.hasUnsent) await this.receipts.send(); // the answer counts what is unread
    const readBefore = new Map(this.receipts.reads);
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
      if (this.receipts.reads.get(each.id) !== readBefore.get(each.id)) continue; // read during the request
      Object.assign(conversation, { added: each.added, unread: Math.max(each.unread, 0), unreadMore: each.unreadMore === true, mentions: each.mentions ?? 0, read: Math.max(each.read, 0) });
    }
    if (older || this.conversations.size <= page.conversations.length || !this.isLoaded) this.hasMore = page.hasMore;
    this.isLoaded = true;
    this.session.inbox.settle();
    this.session.people.load(listed.flatMap(({ peer, last }) => [peer, last?.from ?? "", ...(last?.meta?.users ?? [])]));
    this.save(...listed);
    this.#changed();
  }

  /** The server has deleted entries that we have: forgets everything. The list must be loaded again. */
  clear() {
    this.session.database.clear("conversations");
    this.session.database.clear("entries");
    for (const known of [this.conversations, this.#fresh, this.#presses, this.receipts]) known.clear();
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
    const peer = entry.from === self || entry.meta?.reminder ? String(entry.to) : entry.from;
    const known = this.conversations.get(entry.conversation);
    const conversation = known ?? this.#create(entry.conversation, group, group ? "" : peer);
    const isNew = entry.id > conversation.position;
    if (!isSilent(entry)) {
      if (entry.kind === "message" && entry.from !== self && isNew) {
        if (!isBeside(entry)) {
          conversation.unread += 1;
          if (mentions(entry, self)) conversation.mentions += 1;
        }
        this.receipts.note("received", conversation.id, entry.id);
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
      else if (entry.kind === "join") Object.assign(conversation, { role: "member", left: false, membership: entry.id, added: entry.from !== self });
      else if (entry.kind === "leave") Object.assign(conversation, { left: true, membership: entry.id });
    }
    if (!known && conversation.group) this.load().catch(() => {}); // its name
    if (isRevision(entry)) this.#revise(conversation, entry);
    else this.#insertLive(conversation, entry);
    this.session.people.load([conversation.peer, entry.from, ...usersIn(entry)]);
    this.save(conversation);
    this.#changed();
    return conversation;
  }

  /**
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
   * @param {{ entries: Entry[] | null }} loaded
   * @param {Entry} entry  perhaps a reply in a thread
   */
  countReply({ entries }, entry) {
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

  /**
   * @param {Conversation} conversation
   * @returns {boolean} whether `load` loads it, without older ones
   */
  isRecent(conversation) {
    return this.#recent.indexOf(conversation) < PAGE;
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

  // --- internal -----------------------------------------------------------------------------------------------

  #changed() {
    this.session.changed();
  }

  /** @param {Conversation[]} conversations */
  save(...conversations) {
    const saved = conversations.filter(({ id }) => id).map(({ id, group, peer, name, avatar, role, left, mutedUntil, unread, unreadMore, mentions, read, position, last, peerRead, peerReceived, counts }) => (
      { counts: [...counts].sort(([a], [b]) => a - b).slice(-MAX_SAVED_COUNTS), id, group, peer, name, avatar, role, left, mutedUntil, unread, unreadMore, mentions, read, position, last, peerRead, peerReceived, unsent: this.receipts.unsentOf(id) }));
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
    id, group, peer, name: "", avatar: "", role: "", members: 0, left: false, membership: 0, changed: 0, mutedUntil: 0, unread: 0, unreadMore: false, mentions: 0, read: 0, position: 0, last: null, arrived: 0, entries: null, hasOlder: false,
    hasNewer: false, oldest: 0, newest: 0, cached: false, pending: null, loading: null, peerRead: 0, peerReceived: 0, counts: new Map(),
  };
}

/**
 * @param {any} saved  by this version of the page or an earlier one
 * @returns {Conversation}
 */
function restored(saved) {
  const empty = emptyConversation(numberOf(saved.id), saved.group === true, textOf(saved.peer));
  const { name, avatar, role, left, mutedUntil, unread, unreadMore, mentions, read, position, peerRead, peerReceived } = { ...empty, ...fieldsLike(saved, empty) };
  const counts = listOf(saved.counts).filter((each) => Array.isArray(each) && each.length === 2 && typeof each[1]?.members === "number");
  return { ...empty, name, avatar, role, left, mutedUntil, unread, unreadMore, mentions, read, position, last: entryOf(saved.last), peerRead, peerReceived, counts: new Map(counts) };
}

/**
 * @param {Entry} entry  of a group
 * @param {string} user
 * @returns {boolean} whether it is about this member
 */
function isAbout({ meta, from }, user) {
  return (meta?.users ?? [from]).includes(user);
}
