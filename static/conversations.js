// @ts-check
/** The conversations of the user and their messages, as far as the page has loaded them. It draws nothing. */

/** @typedef {import("../sdk/messenger.js").Entry} Entry */
/** @typedef {import("../sdk/messenger.js").Messenger} Messenger */

const PAGE = 50;
/** Kinds of entries that change another entry. They are not shown themselves. */
const REVISIONS = new Set(["edit", "recall"]);

/**
 * @typedef {object} Conversation
 * @property {number} id               0: it has no messages yet
 * @property {boolean} group
 * @property {string} peer             the other user; empty for a group
 * @property {string} name             of a group
 * @property {number} unread           number of unread messages
 * @property {number} position         id of the newest entry
 * @property {Entry | null} last       the newest entry that is shown
 * @property {Entry[] | null} entries  in order; null: not loaded
 * @property {Entry[] | null} pending  entries that arrive while the history is loading
 * @property {Promise<void> | null} loading  the request for the history
 * @property {number} oldest           id of the oldest loaded entry
 * @property {boolean} hasMore         older entries exist
 * @property {number} peerRead         position up to which the peer has read
 * @property {number} peerReceived     position up to which the peer has received
 */

/** Owns the conversations. They are valid for one login. */
export class ConversationStore {
  /** @type {Map<number, Conversation>} */
  conversations = new Map();
  /** Whether there are older conversations. */
  hasMore = false;

  /** @param {Messenger} messenger */
  constructor(messenger) {
    this.messenger = messenger;
  }

  /** @returns {Conversation[]} the most recent first */
  get sorted() {
    return [...this.conversations.values()].sort((a, b) => b.position - a.position);
  }

  /** @returns {number} unread messages in all conversations */
  get unread() {
    return this.sorted.reduce((sum, { unread }) => sum + unread, 0);
  }

  /**
   * Loads a page of conversations.
   *
   * @param {boolean} [older]  those after the last loaded one, instead of the most recent
   */
  async load(older = false) {
    const before = older ? Math.min(...this.sorted.map(({ position }) => position)) : 0;
    const page = await this.messenger.conversations({ before, limit: PAGE });
    for (const each of page.conversations) {
      const position = each.place || each.last?.id || 0;
      const known = this.conversations.get(each.id);
      if (known && known.position >= position) {
        known.name = each.name ?? known.name;
        continue; // an entry that arrived during the request is newer than the answer
      }
      const conversation = known ?? this.#create(each.id, each.kind === "group", each.peer ?? "");
      Object.assign(conversation, { name: each.name ?? "", unread: Math.max(each.unread, 0), position, last: each.last ?? null });
    }
    if (older || this.conversations.size <= page.conversations.length) this.hasMore = page.hasMore;
  }

  /**
   * The conversation with a user. It may be new; then it is listed after its first message.
   *
   * @param {string} user
   * @returns {Conversation}
   */
  withUser(user) {
    const known = this.sorted.find(({ group, peer }) => !group && peer === user);
    return known ?? { ...emptyConversation(0, false, user), entries: [] };
  }

  /**
   * Adds a stored entry, of another user or of our own.
   *
   * @param {Entry} entry
   * @returns {Conversation} the conversation that it belongs to
   */
  add(entry) {
    const self = this.messenger.user;
    const group = !entry.to;
    const peer = entry.from === self ? String(entry.to) : entry.from;
    const conversation = this.conversations.get(entry.conversation) ?? this.#create(entry.conversation, group, group ? "" : peer);
    if (entry.kind === "message" && entry.from !== self && entry.id > conversation.position) conversation.unread += 1;
    conversation.position = Math.max(conversation.position, entry.id);
    if (conversation.entries) insert(conversation.entries, entry);
    else conversation.pending?.push(entry);
    if (isRevision(entry)) conversation.last = conversation.last && revise(conversation.last, entry);
    else if (!conversation.last || conversation.last.id < entry.id) conversation.last = entry;
    return conversation;
  }

  /**
   * Applies a receipt of the peer, or a read position of our own from another device.
   *
   * @param {{ from: string, conversation: number, read?: number, received?: number }} receipt
   */
  applyReceipt({ from, conversation: id, read = 0, received = 0 }) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    if (conversation.peer === from) {
      conversation.peerRead = Math.max(conversation.peerRead, read);
      conversation.peerReceived = Math.max(conversation.peerReceived, read, received);
    } else if (from === this.messenger.user && read >= conversation.position) {
      conversation.unread = 0;
    }
  }

  /**
   * Loads the newest messages of a conversation and the read position of the peer, unless they are loaded.
   *
   * @param {Conversation} conversation
   * @returns {Promise<void>}
   */
  async loadHistory(conversation) {
    if (!conversation.id || (conversation.entries && !conversation.loading)) return;
    conversation.loading ??= this.#loadNewest(conversation).finally(() => { conversation.loading = conversation.pending = null; });
    await conversation.loading;
  }

  /** @param {Conversation} conversation */
  async #loadNewest(conversation) {
    conversation.pending = [];
    const page = await this.messenger.history(conversation.id, { limit: PAGE });
    const last = page.messages.at(-1)?.id ?? 0;
    const entries = withoutRevisions(page.messages);
    for (const entry of conversation.pending) if (entry.id > last) insert(entries, entry);
    Object.assign(conversation, { entries, oldest: page.messages[0]?.id ?? 0, hasMore: page.hasMore });
    if (conversation.group) return;
    const { receipts } = await this.messenger.receipts(conversation.id);
    for (const { user, read, received } of receipts) this.applyReceipt({ from: user, conversation: conversation.id, read, received });
  }

  /**
   * Loads the page of messages before the oldest loaded one.
   *
   * @param {Conversation} conversation
   */
  async loadOlder(conversation) {
    const before = conversation.oldest;
    const page = await this.messenger.history(conversation.id, { before, limit: PAGE });
    if (conversation.oldest !== before) return; // requested twice
    conversation.oldest = page.messages[0]?.id ?? before;
    conversation.entries = [...withoutRevisions(page.messages), ...(conversation.entries ?? [])];
    conversation.hasMore = page.hasMore && page.messages.length > 0;
  }

  /**
   * @param {number} id
   * @param {boolean} group
   * @param {string} peer
   * @returns {Conversation}
   */
  #create(id, group, peer) {
    const conversation = emptyConversation(id, group, peer);
    this.conversations.set(id, conversation);
    return conversation;
  }
}

/**
 * @param {number} id
 * @param {boolean} group
 * @param {string} peer
 * @returns {Conversation}
 */
function emptyConversation(id, group, peer) {
  return {
    id, group, peer, name: "", unread: 0, position: 0, last: null, entries: null, pending: null, loading: null, oldest: 0,
    hasMore: false, peerRead: 0, peerReceived: 0,
  };
}

/**
 * Inserts an entry at its position, once; or applies it, if it is a revision.
 *
 * @param {Entry[]} entries  in order
 * @param {Entry} entry
 */
function insert(entries, entry) {
  if (isRevision(entry)) {
    const index = entries.findIndex(({ id }) => id === entry.about);
    if (index >= 0) entries[index] = revise(entries[index], entry);
    return;
  }
  const before = entries.findLastIndex(({ id }) => id <= entry.id);
  if (entries[before]?.id !== entry.id) entries.splice(before + 1, 0, entry);
}

/**
 * @param {Entry[]} entries
 * @returns {Entry[]} without revisions: the history contains the revised entries
 */
function withoutRevisions(entries) {
  return entries.filter((entry) => !isRevision(entry));
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether it changes another entry; in the history, a recalled message refers to itself
 */
function isRevision({ kind, about, id }) {
  return REVISIONS.has(kind) && about !== id;
}

/**
 * @param {Entry} entry
 * @param {Entry} revision
 * @returns {Entry} the entry after the revision
 */
function revise(entry, revision) {
  if (revision.about !== entry.id || entry.kind !== "message") return entry;
  if (revision.kind === "recall") return { ...entry, kind: "recall", about: entry.id, text: undefined, data: undefined };
  const { text, data, type } = revision;
  return { ...entry, text, data, type, meta: { ...entry.meta, ...{ edited: revision.id } } };
}
