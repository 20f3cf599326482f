// @ts-check
/** A stored conversation as a page shows it. The module does not import React. */

/** @typedef {import("imserver-client/messenger").Ask} Ask */
/** @typedef {import("imserver-client/messenger").Entry} Entry */
/** @typedef {import("imserver-client/messenger").Messenger} Messenger */
/** @typedef {import("imserver-client/messenger").More} More */
/** @typedef {import("imserver-client/messenger").Sent} Sent */

/** @typedef {{ to: string } | { conversation: number }} Where  the other user, or the number of a conversation */

/**
 * @typedef {object} ConversationView
 * @property {Entry[]} entries   the messages that are loaded, the oldest first, with edits, recalls and reactions applied; a recalled
 *   message has no content, and `about` is its own `id`
 * @property {boolean} hasMore   older messages exist
 * @property {string} typingUser who is typing; empty: nobody
 * @property {Error | null} error  why the last request for messages failed
 */

/** @type {ConversationView} */
const NOTHING_LOADED = { entries: [], hasMore: false, typingUser: "", error: null };
/** How long a typing notice is shown. A user who still types sends the next notice within this time. */
const TYPING_MS = 5_000;
/** The time between two typing notices that are sent. */
const TYPING_EACH_MS = 3_000;
/** Kinds of entries that change another one, which they are `about`. */
const CHANGES = new Set(["edit", "recall", "reaction", "pin", "press"]);
/** Conversations that are searched at a time for the one with a user: the server's maximum of a page. */
const CONVERSATIONS = 200;

/** Owns the view of one conversation, and follows it between `start()` and the function that `start()` returns. */
export class Conversation {
  view = NOTHING_LOADED;
  #messenger;
  #peer;
  /** Number of the conversation; 0: there is no conversation with `peer` yet. */
  #number;
  #pageSize;
  /** Id of the oldest entry that is loaded, shown or not; 0: none. */
  #oldest = 0;
  /** @type {Set<() => void>} */
  #listeners = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #typingTimer;
  /** When we sent the last typing notice, milliseconds since 1970. */
  #typedAt = -Infinity;

  /**
   * @param {Messenger | null} messenger
   * @param {Where} where
   * @param {number} pageSize
   */
  constructor(messenger, where, pageSize) {
    this.#messenger = messenger;
    this.#peer = "to" in where ? where.to : "";
    this.#number = "to" in where ? 0 : where.conversation;
    this.#pageSize = pageSize;
  }

  /**
   * @param {() => void} changed  called when there is a new `view`
   * @returns {() => void} ends that
   */
  subscribe = (changed) => {
    this.#listeners.add(changed);
    return () => void this.#listeners.delete(changed);
  };

  /**
   * Loads the newest messages and follows the conversation.
   *
   * @returns {() => void} ends that
   */
  start() {
    const messenger = this.#messenger;
    if (!messenger) return () => {};
    const stops = [
      messenger.on("state", ({ state }) => {
        if (state === "online" && this.view.error) this.#load(this.#oldest);
      }),
      messenger.on("entry", (entry) => this.#receive(messenger, entry)),
      messenger.on("anew", () => {
        this.#oldest = 0;
        this.#show(NOTHING_LOADED);
        this.#load(0);
      }),
      messenger.on("typing", ({ from, conversation }) => {
        const isHere = this.#peer ? from === this.#peer && !conversation : conversation === this.#number;
        if (isHere) this.#showTyping(from);
      }),
    ];
    this.#load(0);
    return () => {
      clearTimeout(this.#typingTimer);
      for (const stop of stops) stop();
    };
  }

  /** Loads the messages before the oldest one that is loaded. */
  loadEarlier = () => this.#load(this.#oldest);

  /**
   * Sends a text, or `more.data`. Rejected as {@link Messenger#send}.
   *
   * @param {string} [text]
   * @param {More} [more]
   */
  send = async (text, more = {}) => {
    const where = this.#peer ? {} : { conversation: this.#number };
    const sent = await this.#required().send(this.#peer, text, { ...where, ...more });
    const { data, type, replyTo, mentions } = more;
    const reply = replyTo && { about: replyTo };
    const mentioned = mentions && { meta: { mentions } };
    this.#showOwn("message", sent, { text, data, type, ...reply, ...mentioned });
  };

  /**
   * Changes a message of ours. Rejected as {@link Messenger#send}.
   *
   * @param {number} id
   * @param {string} text
   */
  edit = async (id, text) => {
    const sent = await this.#required().edit(id, text);
    this.#showOwn("edit", sent, { about: id, text });
  };

  /**
   * Recalls a message of ours. Rejected as {@link Messenger#send}.
   *
   * @param {number} id
   */
  recall = async (id) => {
    const sent = await this.#required().recall(id);
    this.#showOwn("recall", sent, { about: id });
  };

  /**
   * Answers a question with the value of an option, or in own words. Rejected as {@link Messenger#send}: `refused` of the error is
   * `answered` if somebody else was faster. Then, too, `entries` say who has answered.
   *
   * @param {number} id
   * @param {{ value: string } | { text: string }} given
   */
  answer = async (id, given) => {
    const { ask } = await this.#required().answer(id, given);
    this.#show({ entries: withAsk(this.view.entries, id, ask) });
  };

  /** Stores that we have read what is loaded. */
  markRead = async () => {
    const newest = this.view.entries[this.view.entries.length - 1];
    if (newest) await this.#required().read(this.#number, newest.id);
  };

  /** Tells the others that we are typing. Call it on every key press: it sends a notice every 3 s. */
  typing = () => {
    if (Date.now() - this.#typedAt < TYPING_EACH_MS) return;
    this.#typedAt = Date.now();
    this.#messenger?.typing(this.#peer ? { to: this.#peer } : { conversation: this.#number });
  };

  /** @returns {Messenger} */
  #required() {
    if (!this.#messenger) throw new Error("there is no messenger yet");
    return this.#messenger;
  }

  /**
   * Changes the view, and tells its listeners.
   *
   * @param {Partial<ConversationView>} changes
   */
  #show(changes) {
    this.view = { ...this.view, ...changes };
    for (const changed of [...this.#listeners]) changed();
  }

  /**
   * Shows an entry, if it belongs to this conversation.
   *
   * @param {Messenger} messenger
   * @param {Entry} entry
   */
  #receive({ user }, entry) {
    // In a conversation with oneself, sender and receiver are the same user.
    const other = entry.from === user ? entry.to : entry.from;
    const isWithPeer = entry.to !== undefined && other === this.#peer;
    const isHere = this.#number ? entry.conversation === this.#number : isWithPeer;
    if (!isHere) return;
    this.#number = entry.conversation;
    const { entries, typingUser } = this.view;
    const stillTyping = typingUser === entry.from ? "" : typingUser;
    this.#show({ entries: withEntry(this.#required(), entries, entry), typingUser: stillTyping });
  }

  /** @param {string} user */
  #showTyping(user) {
    clearTimeout(this.#typingTimer);
    this.#typingTimer = setTimeout(() => this.#show({ typingUser: "" }), TYPING_MS);
    this.#show({ typingUser: user });
  }

  /**
   * Loads a page of messages. A page that shows nothing is not the last: the pages before it are loaded, too.
   *
   * @param {number} before  id of an entry; 0: loads the newest messages
   */
  async #load(before) {
    const messenger = this.#messenger;
    if (!messenger) return;
    try {
      if (!this.#number) {
        const found = await numberOf(messenger, this.#peer);
        this.#number ||= found; // an entry that came meanwhile has set it
      }
      if (!this.#number) return this.#show({ error: null });

      let page;
      do {
        page = await messenger.history(this.#number, { limit: this.#pageSize, ...(before && { before }) });
        before = page.messages[0]?.id ?? before;
      } while (page.hasMore && !page.messages.some(isShown));
      this.#oldest = before; // does not change if there is nothing older

      let { entries } = this.view;
      for (const message of page.messages) entries = withEntry(messenger, entries, message);
      this.#show({ entries, hasMore: page.hasMore, error: null });
    } catch (error) {
      this.#show({ error: /** @type {Error} */ (error) });
    }
  }

  /**
   * Shows an entry of ours, which the server does not send to its own connection.
   *
   * @param {string} kind
   * @param {Sent} sent
   * @param {Partial<Entry>} content
   */
  #showOwn(kind, sent, content) {
    this.#number = sent.conversation;
    const entry = storedEntry(this.#required(), kind, sent, { ...(this.#peer && { to: this.#peer }), ...content });
    this.#show({ entries: withEntry(this.#required(), this.view.entries, entry) });
  }
}

/**
 * The entry of a message or change of ours, which the server does not send to its own connection.
 *
 * @param {Messenger} messenger  which has sent it
 * @param {string} kind
 * @param {Sent} sent            the answer
 * @param {Partial<Entry>} content
 * @returns {Entry}
 */
export function storedEntry({ user }, kind, { id, conversation, seq, replaced }, { text, data, type, ...content }) {
  const body = replaced ?? { ...(text !== undefined && { text }), ...(data !== undefined && { data }), ...(type && { type }) };
  return { id, conversation, seq, kind, from: user, time: Date.now(), ...content, ...body };
}

/**
 * @param {Messenger} messenger
 * @param {string} user
 * @returns {Promise<number>} number of the conversation with a user; 0: there is no conversation
 */
async function numberOf(messenger, user) {
  let before = 0;
  for (;;) {
    const page = await messenger.conversations({ limit: CONVERSATIONS, ...(before && { before }) });
    const found = page.conversations.find(({ peer }) => peer === user);
    const last = page.conversations[page.conversations.length - 1];
    if (found || !last || !page.hasMore) return found?.id ?? 0;
    before = last.place ?? last.last?.id ?? 0;
  }
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether it has a place of its own, and changes no other entry
 */
function isShown({ id, kind, about }) {
  return !CHANGES.has(kind) || (kind === "recall" && about === id);
}

/**
 * @param {Messenger} messenger
 * @param {Entry[]} entries  in the order of their ids
 * @param {Entry} entry      a message, or a change of a message
 * @returns {Entry[]} the entries with this one, or with its change of the message that it is about
 */
function withEntry(messenger, entries, entry) {
  if (entry.kind === "press") return withAsk(entries, entry.about, entry.meta?.ask);
  if (entry.kind === "pin") return entries;
  if (!isShown(entry)) return entries.map((message) => (message.id === entry.about ? changed(messenger, message, entry) : message));

  const result = entries.filter(({ id }) => id !== entry.id);
  const next = result.findIndex(({ id }) => id > entry.id);
  const place = next < 0 ? result.length : next;
  result.splice(place, 0, entry);
  return result;
}

/**
 * @param {Messenger} messenger
 * @param {Entry} message
 * @param {Entry} change  an edit, a recall or a reaction
 * @returns {Entry} the message after the change
 */
function changed(messenger, message, change) {
  if (change.kind === "edit") return edited(message, change);
  if (change.kind === "recall") return recalled(message);
  return messenger.withReaction(message, change);
}

/**
 * @param {Entry[]} entries
 * @param {number | undefined} id    of a question
 * @param {Partial<Ask> | undefined} changes  fields of the question; undefined: nothing has changed
 * @returns {Entry[]} the entries with the changed question
 */
function withAsk(entries, id, changes) {
  if (!changes) return entries;
  return entries.map((entry) => {
    if (entry.id !== id || !entry.meta?.ask) return entry;
    return { ...entry, meta: { ...entry.meta, ask: { ...entry.meta.ask, ...changes } } };
  });
}

/**
 * @param {Entry} message
 * @param {Entry} edit
 * @returns {Entry}
 */
function edited(message, { id, type, text, data, base64 }) {
  return {
    ...withoutContent(message),
    ...(type && { type }),
    ...(text !== undefined && { text }),
    ...(data !== undefined && { data }),
    ...(base64 !== undefined && { base64 }),
    meta: { ...message.meta, edited: id },
  };
}

/**
 * @param {Entry} message
 * @returns {Entry}
 */
function recalled(message) {
  return { ...withoutContent(message), about: message.id };
}

/**
 * @param {Entry} entry
 * @returns {Entry}
 */
function withoutContent({ text: _text, data: _data, base64: _base64, ...rest }) {
  return rest;
}
