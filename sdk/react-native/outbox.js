// @ts-check
/** Messages of ours that are not stored yet. They wait on the phone while there is no connection, and are stored once. */

import { newId } from "imserver-client";
import { Closed, CommandRefused } from "imserver-client/errors";

/** @typedef {import("imserver-client/messenger").Messenger} Messenger */
/** @typedef {import("imserver-client/messenger").More} More */
/** @typedef {import("imserver-client/messenger").Sent} Sent */
/** @typedef {import("./storage.js").StoredValue<readonly Unsent[]>} StoredMessages */

/** @typedef {{ to: string } | { conversation: number }} Where  the other user, or the number of a conversation */

/**
 * @typedef {object} Unsent
 * @property {string} id        its `clientMsgID`
 * @property {string} to        the other user; empty: `more.conversation`
 * @property {string} [text]
 * @property {More} more
 * @property {number} time      when it was written, milliseconds since 1970
 * @property {boolean} failed   the server does not take it: send it again with `retry()`, or `discard()` it
 * @property {string} reason    why it failed
 */

/** Close code of a message that is larger than the server allows. */
const TOO_LARGE = 1009;

/** Owns the messages of one user that wait on this phone. Sends them one after the other. */
export class Outbox {
  /** The oldest first. @type {readonly Unsent[]} */
  items = [];
  #messenger;
  #stored;
  /** @type {Promise<void> | null} */
  #restored = null;
  /** @type {Set<() => void>} */
  #listeners = new Set();
  #isSending = false;

  /**
   * @param {Messenger} messenger
   * @param {StoredMessages} stored
   */
  constructor(messenger, stored) {
    this.#messenger = messenger;
    this.#stored = stored;
    messenger.on("state", () => this.#sendAll());
    messenger.on("entry", ({ from, clientMsgID }) => {
      if (from === messenger.user && clientMsgID) this.discard(clientMsgID); // it is stored: the answer was lost
    });
  }

  /**
   * @internal Takes the messages that an earlier start of the app has left.
   * @returns {Promise<void>}
   */
  restore() {
    const take = async () => {
      const stored = await this.#stored.get();
      if (Array.isArray(stored)) this.#show(stored);
    };
    this.#restored ??= take();
    this.#restored.catch(() => { this.#restored = null; });
    return this.#restored;
  }

  /**
   * @param {() => void} changed  called when there are new `items`
   * @returns {() => void} ends that
   */
  subscribe = (changed) => {
    this.#listeners.add(changed);
    return () => void this.#listeners.delete(changed);
  };

  /**
   * Sends a message, now or when there is a connection, also after the app was ended.
   *
   * @param {Where} where
   * @param {string} [text]  unless `more` has data
   * @param {More} [more]
   * @returns {Promise<string>} its `clientMsgID`, when the phone has stored it; rejected if the phone cannot
   */
  send = async (where, text, more = {}) => {
    const { clientMsgID: id = newId(), ...otherFields } = more;
    const to = "to" in where ? where.to : "";
    const newItem = {
      id, to, ...(text !== undefined && { text }), more: { ...otherFields, ...(!to && where) }, time: Date.now(), failed: false, reason: "",
    };
    await this.restore();
    this.#show([...this.items, newItem]);
    try {
      await this.#save();
    } catch (error) {
      this.#show(this.items.filter((item) => item !== newItem));
      throw error;
    }
    this.#sendAll();
    return id;
  };

  /**
   * Sends a message again that has failed.
   *
   * @param {string} id
   */
  retry = async (id) => {
    await this.#update(id, { failed: false, reason: "" });
    this.#sendAll();
  };

  /**
   * Removes a message that has failed, or is not sent yet.
   *
   * @param {string} id
   */
  discard = async (id) => {
    if (!this.items.some((item) => item.id === id)) return;
    this.#show(this.items.filter((item) => item.id !== id));
    await this.#save().catch(() => {}); // the server stores it once, also if the next start sends it again
  };

  /** @internal Removes all messages: for a logout. */
  async clear() {
    this.#show([]);
    await this.#save();
  }

  /** Sends the messages one after the other, while there is a connection. */
  async #sendAll() {
    if (this.#isSending) return;
    this.#isSending = true;
    while (this.#messenger.state.state === "online") {
      const next = this.items.find(({ failed }) => !failed);
      if (!next) break;
      await this.#send(next);
    }
    this.#isSending = false;
  }

  /** @param {Unsent} item */
  async #send({ id, to, text, more }) {
    try {
      await this.#messenger.send(to, text, { ...more, clientMsgID: id });
      await this.discard(id);
    } catch (error) {
      const isTooLarge = error instanceof Closed && error.code === TOO_LARGE;
      const isRefused = error instanceof CommandRefused || error instanceof TypeError || isTooLarge;
      if (!isRefused) return; // there was no answer: it is sent again, with the same id
      const { message, reason } = /** @type {CommandRefused} */ (error);
      await this.#update(id, { failed: true, reason: reason || message });
    }
  }

  /**
   * Changes a message, and stores that on the phone.
   *
   * @param {string} id
   * @param {Partial<Unsent>} changes
   */
  async #update(id, changes) {
    this.#show(this.items.map((item) => (item.id === id ? { ...item, ...changes } : item)));
    await this.#save().catch(() => {}); // the next start tries it again
  }

  /**
   * Changes `items`, and tells the listeners.
   *
   * @param {readonly Unsent[]} items
   */
  #show(items) {
    this.items = items;
    for (const changed of [...this.#listeners]) changed();
  }

  #save() {
    return this.#stored.set(this.items.length ? this.items : null);
  }
}
