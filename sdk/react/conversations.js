// @ts-check
/** The list of the user's conversations as a page shows it. The module does not import React. */

/** @typedef {import("imserver-client/messenger").Conversation} Conversation */
/** @typedef {import("imserver-client/messenger").Entry} Entry */
/** @typedef {import("imserver-client/messenger").Messenger} Messenger */

/**
 * @typedef {object} ConversationsView
 * @property {Conversation[]} conversations  the conversations that are loaded, the one with the newest entry first
 * @property {boolean} hasMore   older conversations exist
 * @property {Error | null} error  why the last request failed
 */

/** @type {ConversationsView} */
const NOTHING_LOADED = { conversations: [], hasMore: false, error: null };
/** Kinds of entries that do not change the name, the members or our role of a conversation. */
const CONTENT_KINDS = new Set(["message", "edit", "recall", "reaction", "pin", "press"]);

/** Owns the view of the list, and follows it between `start()` and the function that `start()` returns. */
export class Conversations {
  view = NOTHING_LOADED;
  #messenger;
  #pageSize;
  /** @type {Set<() => void>} */
  #listeners = new Set();
  #isLoading = false;
  /** Something has changed since the last request was sent. */
  #isStale = false;

  /**
   * @param {Messenger | null} messenger
   * @param {number} pageSize
   */
  constructor(messenger, pageSize) {
    this.#messenger = messenger;
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
   * Loads the newest conversations and follows them.
   *
   * @returns {() => void} ends that
   */
  start() {
    const messenger = this.#messenger;
    if (!messenger) return () => {};
    const stops = [
      messenger.on("state", ({ state }) => {
        if (state === "online" && this.view.error) this.#reload(messenger);
      }),
      messenger.on("entry", (entry) => this.#receive(messenger, entry)),
      messenger.on("receipt", ({ from }) => {
        if (from === messenger.user) this.#reload(messenger); // another device of ours has read
      }),
      messenger.on("anew", () => {
        this.#show(NOTHING_LOADED);
        this.#reload(messenger);
      }),
    ];
    this.#reload(messenger);
    return () => {
      for (const stop of stops) stop();
    };
  }

  /** Loads the conversations after the last one that is loaded. */
  loadMore = async () => {
    const last = this.view.conversations[this.view.conversations.length - 1];
    if (this.#messenger && last) await this.#load(this.#messenger, last.place ?? last.last?.id ?? 0);
  };

  /**
   * Changes the view, and tells its listeners.
   *
   * @param {Partial<ConversationsView>} changes
   */
  #show(changes) {
    this.view = { ...this.view, ...changes };
    for (const changed of [...this.#listeners]) changed();
  }

  /**
   * Moves the conversation of an entry to the top. If the entry does not say how the conversation looks now, the list is loaded anew.
   *
   * @param {Messenger} messenger
   * @param {Entry} entry
   */
  #receive(messenger, entry) {
    const { conversations } = this.view;
    const known = conversations.find(({ id }) => id === entry.conversation);
    if (!known || this.#isLoading || !CONTENT_KINDS.has(entry.kind)) return void this.#reload(messenger);
    if (entry.id <= (known.last?.id ?? 0)) return;

    const isUnread = entry.kind === "message" && entry.from !== messenger.user;
    const unread = known.unread + (isUnread ? 1 : 0);
    const others = conversations.filter((conversation) => conversation !== known);
    this.#show({ conversations: [{ ...known, last: entry, unread }, ...others] });
  }

  /**
   * Loads the newest page, once more if something changes meanwhile.
   *
   * @param {Messenger} messenger
   */
  async #reload(messenger) {
    this.#isStale = true;
    if (this.#isLoading) return;
    this.#isLoading = true;
    while (this.#isStale) {
      this.#isStale = false;
      await this.#load(messenger, 0);
    }
    this.#isLoading = false;
  }

  /**
   * Loads a page, and merges it into the list.
   *
   * @param {Messenger} messenger
   * @param {number} before  place of a conversation; 0: loads the newest conversations
   */
  async #load(messenger, before) {
    try {
      const { conversations: loaded, hasMore } = await messenger.conversations({ limit: this.#pageSize, ...(before && { before }) });
      const isOther = (/** @type {Conversation} */ { id }) => !loaded.some((conversation) => conversation.id === id);
      const others = this.view.conversations.filter(isOther);
      if (before) {
        this.#show({ conversations: [...others, ...loaded], hasMore, error: null });
      } else if (hasMore && others.length) {
        // The others are older: whether even older ones exist is known from an earlier page.
        this.#show({ conversations: [...loaded, ...others], error: null });
      } else {
        this.#show({ conversations: loaded, hasMore, error: null });
      }
    } catch (error) {
      this.#show({ error: /** @type {Error} */ (error) });
    }
  }
}
