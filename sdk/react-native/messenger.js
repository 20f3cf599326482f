// @ts-check
/**
 * A messenger whose outbox and position stay on the phone when the phone ends the app.
 *
 * @module messenger
 */

import { newId } from "imserver-client";
import { Closed } from "imserver-client/errors";
import { Messenger } from "imserver-client/messenger";
import { storedEntry } from "imserver-react";

import { Outbox } from "./outbox.js";
import { StoredValue } from "./storage.js";

/** @typedef {import("imserver-client/messenger").Entry} Entry */
/** @typedef {import("imserver-client/messenger").MessengerOptions} MessengerOptions */
/** @typedef {import("imserver-client/messenger").More} More */
/** @typedef {import("imserver-client/messenger").Sent} Sent */
/** @typedef {import("./storage.js").PhoneStorage} PhoneStorage */

/**
 * The entries that the app keeps, such as in a database.
 *
 * @typedef {object} EntryStore
 * @property {(entry: Entry) => unknown} put  stores an entry by its `id`. Called for one entry after the other, in order. It is called
 *   again a second later if it is rejected, and perhaps at the next start if the app ends meanwhile
 * @property {() => unknown} clear            deletes all entries: the server has begun anew, and sends what it still has
 */

/**
 * @typedef {object} PhoneExtra
 * @property {PhoneStorage} storage   such as AsyncStorage
 * @property {EntryStore} [entries]   keeps the entries. With it the messenger goes on at a start after the last one that was stored;
 *   without it a start begins at the newest entry, and conversations load what they show
 */

/** @typedef {Omit<MessengerOptions, "cursor"> & PhoneExtra} PhoneOptions */

/** The close code after `close()`. */
const CLOSED = 1000;
/** Pause before an entry is stored again. */
const RETRY_MS = 1_000;
/** The position after all entries were deleted. */
const NOTHING_KEPT = 0;
/** How many ids of our entries are remembered. This is more than the requests that wait for an answer at a time. */
const MOST_OWN = 1_000;

/**
 * A {@link Messenger} with an outbox. It emits `entry` also for messages that we send, edit and recall here. After `close()` it goes
 * on with the next `connect()`.
 */
export class PhoneMessenger extends Messenger {
  /** Our messages that the server has not stored yet. */
  outbox;
  #entries;
  /** @type {StoredValue<number>} */
  #savedCursor;
  /** Id of the last entry that `entries` has. */
  #position = 0;
  /** Ends when `entries` has everything that was emitted. @type {Promise<void>} */
  #kept = Promise.resolve();
  /** Ends when the cursor and the outbox are read from the storage; null: not begun, or failed. @type {Promise<void> | null} */
  #restored = null;
  /** How often `close()` was called. */
  #closings = 0;
  /** Ids of entries of ours that were emitted. The server sends them, too, if it has not answered in time. @type {Set<number>} */
  #ownIds = new Set();

  /** @param {PhoneOptions} options */
  constructor({ storage, entries, ...options }) {
    super({ ...options, cursor: entries ? 0 : null });
    const key = /** @type {const} */ ([this.httpUrl, String(this.app), this.user]);
    this.#entries = entries;
    this.#savedCursor = new StoredValue(storage, "cursor", ...key);
    this.outbox = new Outbox(this, new StoredValue(storage, "outbox", ...key));
    if (!entries) return;
    this.on("entry", (entry) => this.#keepInTurn(() => entries.put(entry), entry.id));
    this.on("anew", () => this.#keepInTurn(() => entries.clear(), NOTHING_KEPT));
  }

  /**
   * Connects, with the cursor and the outbox that the last start has left on the phone.
   *
   * @override
   */
  async connect() {
    const closings = this.#closings;
    this.#restored ??= this.#restore();
    try {
      await this.#restored;
    } catch (error) {
      this.#restored = null;
      throw error;
    }
    if (closings !== this.#closings) throw new Closed(CLOSED); // closed while the phone was reading
    await super.connect();
  }

  /** @override */
  close() {
    this.#closings += 1;
    super.close();
  }

  /** Closes the messenger, and removes what it has stored on the phone: for a logout. */
  async forget() {
    this.close();
    await this.#kept;
    await Promise.all([this.outbox.clear(), this.#savedCursor.set(null)]);
  }

  /**
   * @override
   * @param {string} to
   * @param {string} [text]
   * @param {More} [more]
   */
  async send(to, text, { clientMsgID = newId(), ...more } = {}) {
    const sent = await super.send(to, text, { clientMsgID, ...more });
    const { data, type, replyTo, mentions, thread, also } = more;
    const meta = { ...(mentions && { mentions }), ...(thread && { thread }), ...(also && { also }) };
    const hasMeta = Object.keys(meta).length > 0;
    return this.#emitOwn("message", sent, {
      text, data, type, clientMsgID, ...(to && { to }), ...(replyTo && { about: replyTo }), ...(hasMeta && { meta }),
    });
  }

  /**
   * @override
   * @param {number} id
   * @param {string} [text]
   * @param {Parameters<Messenger["edit"]>[2]} [more]
   */
  async edit(id, text, more = {}) {
    const sent = await super.edit(id, text, more);
    const { data, type } = more;
    return this.#emitOwn("edit", sent, { about: id, text, data, type });
  }

  /**
   * @override
   * @param {number} id
   */
  async recall(id) {
    const sent = await super.recall(id);
    return this.#emitOwn("recall", sent, { about: id });
  }

  /**
   * Emits an entry of ours once.
   *
   * @override
   * @protected
   * @param {string} kind
   * @param {any} detail
   */
  emit(kind, detail) {
    if (kind === "entry" && detail.from === this.user) {
      if (this.#ownIds.has(detail.id)) return;
      this.#ownIds.add(detail.id);
      const oldest = /** @type {number} */ (this.#ownIds.values().next().value);
      if (this.#ownIds.size > MOST_OWN) this.#ownIds.delete(oldest);
    }
    super.emit(kind, detail);
  }

  /**
   * Emits an entry of ours, which the server does not send to its own connection.
   *
   * @param {string} kind
   * @param {Sent} sent
   * @param {Partial<Entry>} content
   * @returns {Promise<Sent>} when `entries` has it
   */
  async #emitOwn(kind, sent, content) {
    this.emit("entry", storedEntry(this, kind, sent, content));
    await this.#kept;
    return sent;
  }

  async #restore() {
    if (this.#entries) {
      this.#position = (await this.#savedCursor.get()) || NOTHING_KEPT;
      this.cursor = this.#position;
    }
    await this.outbox.restore();
  }

  /**
   * Runs a task of `entries` after the tasks before it, and saves the position. A task that fails is tried again.
   *
   * @param {() => unknown} task
   * @param {number} position  id of the entry that the task puts, or {@link NOTHING_KEPT}
   */
  #keepInTurn(task, position) {
    this.#kept = this.#kept.then(async () => {
      for (;;) {
        try {
          await task();
          break;
        } catch {
          await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        }
      }
      const isCleared = position === NOTHING_KEPT;
      this.#position = isCleared ? NOTHING_KEPT : Math.max(position, this.#position);
      // If it fails, the next entry saves it. If the app ends before, the next start puts the entry again.
      this.#savedCursor.set(this.#position).catch(() => {});
    });
  }
}
