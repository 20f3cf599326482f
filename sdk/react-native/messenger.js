// @ts-check
/**
 * A messenger that outlives the app: what it has sent and received goes on where it was when the phone ended the app.
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

const CLOSED = 1000;
/** Pause before an entry is stored again. */
const RETRY_MS = 1_000;
/** Entries of ours that are remembered: more than wait for an answer at the same time. */
const MOST_OWN = 1_000;

/**
 * A {@link Messenger} with an outbox. The event `entry` has also what we send, edit and recall. After `close()` it goes on with the next
 * `connect()`.
 */
export class PhoneMessenger extends Messenger {
  /** What waits to be sent. */
  outbox;
  #entries;
  /** @type {StoredValue<number>} */
  #savedCursor;
  /** The last entry that `entries` has. */
  #position = 0;
  /** Ends when `entries` has everything that was emitted. @type {Promise<void>} */
  #kept = Promise.resolve();
  /** @type {Promise<void> | null} */
  #restored = null;
  #closings = 0;
  /** Entries of ours that were emitted: they come from the server, too, if it has not answered in time. @type {Set<number>} */
  #own = new Set();

  /** @param {PhoneOptions} options */
  constructor({ storage, entries, ...options }) {
    super({ ...options, cursor: entries ? 0 : null });
    const key = /** @type {const} */ ([this.httpUrl, String(this.app), this.user]);
    this.#entries = entries;
    this.#savedCursor = new StoredValue(storage, "cursor", ...key);
    this.outbox = new Outbox(this, new StoredValue(storage, "outbox", ...key));
    if (!entries) return;
    this.on("entry", (entry) => this.#inTurn(() => entries.put(entry), entry.id));
    this.on("anew", () => this.#inTurn(() => entries.clear(), 0));
  }

  /**
   * Connects, with the cursor and the outbox of the start before.
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
    if (closings !== this.#closings) throw new Closed(CLOSED);
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
    return this.#emitOwn("message", sent, {
      text, data, type, clientMsgID, ...(to && { to }), ...(replyTo && { about: replyTo }), ...(Object.keys(meta).length && { meta }),
    });
  }

  /**
   * @override
   * @param {number} id
   * @param {string} [text]
   * @param {Parameters<Messenger["edit"]>[2]} [more]
   */
  async edit(id, text, more = {}) {
    const { data, type } = more;
    return this.#emitOwn("edit", await super.edit(id, text, more), { about: id, text, data, type });
  }

  /**
   * @override
   * @param {number} id
   */
  async recall(id) {
    return this.#emitOwn("recall", await super.recall(id), { about: id });
  }

  /**
   * @override
   * @protected
   * @param {string} kind
   * @param {any} detail
   */
  emit(kind, detail) {
    if (kind === "entry" && detail.from === this.user) {
      if (this.#own.has(detail.id)) return;
      this.#own.add(detail.id);
      if (this.#own.size > MOST_OWN) this.#own.delete(/** @type {number} */ (this.#own.values().next().value));
    }
    super.emit(kind, detail);
  }

  /**
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
    this.#position = (this.#entries && (await this.#savedCursor.get())) || 0;
    if (this.#entries) this.cursor = this.#position;
    await this.outbox.restore();
  }

  /**
   * @param {() => unknown} task
   * @param {number} position  the entry that is stored then; 0: the task has deleted all
   */
  #inTurn(task, position) {
    this.#kept = this.#kept.then(async () => {
      for (;;) {
        try {
          await task();
          break;
        } catch {
          await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        }
      }
      this.#position = position ? Math.max(position, this.#position) : 0;
      this.#savedCursor.set(this.#position).catch(() => {}); // with the next entry, or the entry is put again
    });
  }
}
