// @ts-check
/** Conversations and what was said in them, as far as the page knows: no drawing here. */

/** @typedef {import("../sdk/messenger.js").Entry} Entry */
/** @typedef {import("../sdk/messenger.js").Messenger} Messenger */

const PAGE = 50;
/** What changes another entry, and is not shown itself. */
const REVISIONS = new Set(["edit", "recall"]);

/**
 * @typedef {object} Talk
 * @property {number} id               0: nothing was said yet
 * @property {boolean} group
 * @property {string} peer             who is at the other end, unless it is a group
 * @property {string} name             of a group
 * @property {number} unread
 * @property {number} place            the id of the newest entry
 * @property {Entry | null} last       the newest that is shown
 * @property {Entry[] | null} entries  in their order; null: not read yet
 * @property {Entry[] | null} meanwhile  what came while the past is being read
 * @property {Promise<void> | null} reading  the past is being read
 * @property {number} first            the earliest entry that was read
 * @property {boolean} more            there are earlier ones
 * @property {number} read             up to where the peer has read it
 * @property {number} received         up to where the peer has got it
 */

export class Correspondence {
  /** @type {Map<number, Talk>} */
  talks = new Map();
  /** Whether there are older conversations. */
  more = false;

  /**
   * @param {Messenger} messenger
   */
  constructor(messenger) {
    this.messenger = messenger;
  }

  /** @returns {Talk[]} the liveliest first */
  get listed() {
    return [...this.talks.values()].sort((a, b) => b.place - a.place);
  }

  /** @returns {number} */
  get unread() {
    return this.listed.reduce((sum, talk) => sum + talk.unread, 0);
  }

  /**
   * Reads conversations: the liveliest, or those behind the ones that are known.
   *
   * @param {boolean} [older]
   */
  async load(older = false) {
    const before = older ? Math.min(...this.listed.map(({ place }) => place)) : 0;
    const page = await this.messenger.conversations({ before, limit: PAGE });
    for (const each of page.conversations) {
      const place = each.place || each.last?.id || 0;
      const known = this.talks.get(each.id);
      if (known && known.place >= place) {
        known.name = each.name ?? known.name;
        continue; // what came meanwhile is newer
      }
      const talk = known ?? this.#begun(each.id, each.kind === "group", each.peer ?? "");
      Object.assign(talk, { name: each.name ?? "", unread: Math.max(each.unread, 0), place, last: each.last ?? null });
    }
    if (older || this.talks.size <= page.conversations.length) this.more = page.hasMore;
  }

  /**
   * The conversation with a user, which may be one in which nothing was said yet.
   *
   * @param {string} user
   * @returns {Talk}
   */
  with(user) {
    return this.listed.find((talk) => !talk.group && talk.peer === user) ?? { ...begun(0, false, user), entries: [] };
  }

  /**
   * Takes what was stored: what others said, and what we did.
   *
   * @param {Entry} entry
   * @returns {Talk}
   */
  take(entry) {
    const self = this.messenger.user;
    const group = !entry.to;
    const talk = this.talks.get(entry.conversation)
      ?? this.#begun(entry.conversation, group, group ? "" : entry.from === self ? String(entry.to) : entry.from);
    if (entry.kind === "message" && entry.from !== self && entry.id > talk.place) talk.unread += 1;
    talk.place = Math.max(talk.place, entry.id);
    if (talk.entries) put(talk.entries, entry);
    else talk.meanwhile?.push(entry);
    if (revises(entry)) talk.last = talk.last && revised(talk.last, entry);
    else if (!talk.last || talk.last.id < entry.id) talk.last = entry;
    return talk;
  }

  /**
   * Reads the end of a conversation, and where its other end stands.
   *
   * @param {Talk} talk
   * @returns {Promise<void>}
   */
  async open(talk) {
    if (!talk.id || (talk.entries && !talk.reading)) return;
    talk.reading ??= this.#read(talk).finally(() => { talk.reading = talk.meanwhile = null; });
    await talk.reading;
  }

  /** @param {Talk} talk */
  async #read(talk) {
    talk.meanwhile = [];
    const page = await this.messenger.history(talk.id, { limit: PAGE });
    const last = page.messages.at(-1)?.id ?? 0;
    const entries = shown(page.messages);
    for (const entry of talk.meanwhile) if (entry.id > last) put(entries, entry);
    Object.assign(talk, { entries, first: page.messages[0]?.id ?? 0, more: page.hasMore });
    if (talk.group) return;
    const { receipts } = await this.messenger.receipts(talk.id);
    for (const { user, read, received } of receipts) {
      if (user === talk.peer) Object.assign(talk, { read: Math.max(talk.read, read), received: Math.max(talk.received, received) });
    }
  }

  /**
   * Reads what was said earlier.
   *
   * @param {Talk} talk
   */
  async earlier(talk) {
    const before = talk.first;
    const page = await this.messenger.history(talk.id, { before, limit: PAGE });
    if (talk.first !== before) return; // asked twice
    talk.first = page.messages[0]?.id ?? before;
    talk.entries = [...shown(page.messages), ...(talk.entries ?? [])];
    talk.more = page.hasMore && page.messages.length > 0;
  }

  /**
   * @param {number} id
   * @param {boolean} group
   * @param {string} peer
   * @returns {Talk}
   */
  #begun(id, group, peer) {
    const talk = begun(id, group, peer);
    this.talks.set(id, talk);
    return talk;
  }
}

/**
 * @param {number} id
 * @param {boolean} group
 * @param {string} peer
 * @returns {Talk} of which nothing is known yet
 */
function begun(id, group, peer) {
  return {
    id, group, peer, name: "", unread: 0, place: 0, last: null, entries: null, meanwhile: null, reading: null, first: 0, more: false,
    read: 0, received: 0,
  };
}

/**
 * Puts an entry where it belongs, unless it is there; or changes the one that it is about.
 *
 * @param {Entry[]} entries  in their order
 * @param {Entry} entry
 */
function put(entries, entry) {
  if (revises(entry)) {
    const about = entries.findIndex(({ id }) => id === entry.about);
    if (about >= 0) entries[about] = revised(entries[about], entry);
    return;
  }
  const before = entries.findLastIndex(({ id }) => id <= entry.id);
  if (entries[before]?.id !== entry.id) entries.splice(before + 1, 0, entry);
}

/**
 * @param {Entry[]} entries
 * @returns {Entry[]} without what only changed others: those say it themselves
 */
function shown(entries) {
  return entries.filter((entry) => !revises(entry));
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether it says what another one is now; a message that was recalled before it came is about itself
 */
function revises({ kind, about, id }) {
  return REVISIONS.has(kind) && about !== id;
}

/**
 * @param {Entry} entry
 * @param {Entry} revision
 * @returns {Entry} what it is now
 */
function revised(entry, revision) {
  if (revision.about !== entry.id || entry.kind !== "message") return entry;
  if (revision.kind === "recall") return { ...entry, kind: "recall", about: entry.id, text: undefined, data: undefined };
  const { text, data, type } = revision;
  return { ...entry, text, data, type, meta: { ...entry.meta, ...{ edited: revision.id } } };
}
