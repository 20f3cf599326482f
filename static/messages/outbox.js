// @ts-check
/** Messages of ours that are not stored yet. They wait while there is no connection, and are sent once, in order. */

import { Closed, NotConnected } from "../../sdk/errors.js";
import { reasonOf } from "./api.js";
import { keyOf } from "./store.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */

/**
 * @typedef {object} Content
 * @property {string} [type]        default: `text`
 * @property {string} [text]
 * @property {any} [data]           instead of a text
 * @property {number} [replyTo]
 * @property {string[]} [mentions]
 * @property {{ from: string, id: number }} [forward]  the content is that of this message
 */

/**
 * A file that must be uploaded before its message is sent.
 *
 * @typedef {object} Upload
 * @property {(progress: (share: number) => void) => Promise<any>} start  resolves to the `data` of the message; called again for a retry
 * @property {() => void} cancel
 */

/**
 * @typedef {object} PendingExtra
 * @property {string} id            the `clientMsgID`
 * @property {string} key           of the conversation
 * @property {number} conversation  0: `peer`
 * @property {string} peer
 * @property {number} time
 * @property {"waiting" | "uploading" | "sending" | "failed"} state
 * @property {string} reason        why it failed
 * @property {number} share         of the upload that is done, 0 to 1
 * @property {Upload} [upload]
 */

/** @typedef {Content & PendingExtra} Pending */

/** Owns the waiting messages of one login. */
export class Outbox {
  /** @type {Map<string, Pending>} */
  #items = new Map();
  /** Time of the newest message. Each one is later than the one before, so that they can be sorted. */
  #lastTime = 0;
  /** Conversations for which a message is under way. @type {Set<string>} */
  #busy = new Set();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    session.on("state", ({ state }) => state === "online" && this.#sendAll());
    session.on("entry", ({ from, clientMsgID }) => {
      if (from === session.user && clientMsgID && this.#items.has(clientMsgID)) this.#remove(clientMsgID); // sent by another tab
    });
  }

  /** Takes the messages that an earlier load of the page has left. */
  async restore() {
    for (const item of await this.session.database.all("outbox")) if (!this.#items.has(item.id)) this.#items.set(item.id, { ...item, state: item.state === "failed" ? "failed" : "waiting" });
    this.#items = new Map([...this.#items].sort(([, one], [, other]) => one.time - other.time)); // the database sorts them by their random ids
    this.#lastTime = Math.max(this.#lastTime, ...[...this.#items.values()].map(({ time }) => time));
    if (this.session.isOnline) this.#sendAll();
  }

  /**
   * @param {Conversation} conversation
   * @returns {Pending[]} its waiting messages, in order
   */
  of(conversation) {
    const key = keyOf(conversation);
    return [...this.#items.values()].filter((item) => item.key === key);
  }

  /**
   * Sends a message as soon as possible.
   *
   * @param {Conversation} conversation
   * @param {Content} content  with an upload: `data` is what the bubble shows meanwhile
   * @param {Upload} [upload]
   * @returns {Pending}
   */
  add(conversation, content, upload) {
    this.#lastTime = Math.max(Date.now(), this.#lastTime + 1);
    const item = /** @type {Pending} */ ({
      ...content, id: newId(), key: keyOf(conversation), conversation: conversation.id, peer: conversation.peer, time: this.#lastTime,
      state: upload ? "uploading" : "waiting", reason: "", share: 0, ...(upload && { upload }),
    });
    this.#items.set(item.id, item);
    if (upload) this.#upload(item, upload);
    else this.#save(item);
    this.session.changed();
    this.#sendAll();
    return item;
  }

  /**
   * Gives up a message. If it is under way, it is recalled when it was stored.
   *
   * @param {string} id
   */
  cancel(id) {
    this.#items.get(id)?.upload?.cancel();
    this.#remove(id);
  }

  /** @param {string} id  of a message that has failed */
  retry(id) {
    const item = this.#items.get(id);
    if (item?.state !== "failed") return;
    this.#update(item, { state: item.upload ? "uploading" : "waiting", reason: "" });
    if (item.upload) this.#upload(item, item.upload);
    this.#sendAll();
  }

  #sendAll() {
    for (const key of new Set([...this.#items.values()].map((item) => item.key))) this.#sendTo(key);
  }

  /** @param {string} key  of the conversation */
  async #sendTo(key) {
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    for (;;) {
      const item = [...this.#items.values()].find((each) => each.key === key && each.state === "waiting");
      if (!item || !this.session.isOnline || !(await this.#send(item))) break;
    }
    this.#busy.delete(key);
  }

  /**
   * @param {Pending} item
   * @returns {Promise<boolean>} false: there is no connection
   */
  async #send(item) {
    const { messenger, user } = this.session;
    const { id, conversation, peer, text, data, replyTo, mentions, forward } = item;
    const type = item.type ?? "text";
    this.#update(item, { state: "sending" });
    try {
      const more = {
        clientMsgID: id, ...(conversation && { conversation }), ...(replyTo && { replyTo }), ...(mentions?.length && { mentions }),
        ...(data !== undefined && { data, type }),
      };
      const sent = forward
        ? await messenger.forward(forward.id, conversation ? { conversation } : peer, { clientMsgID: id })
        : await messenger.send(conversation ? "" : peer, data === undefined ? text : undefined, more);
      if (!this.#items.has(id)) {
        messenger.recall(sent.id).catch(() => {}); // cancelled meanwhile
        return true;
      }
      this.#remove(id);
      const to = peer || undefined;
      const meta = { ...(mentions?.length && { mentions }), ...(forward && { forwarded: forward }) };
      this.session.added({
        ...sent, kind: "message", from: user, to, time: Date.now(), clientMsgID: id, about: replyTo, meta, ...(sent.replaced ?? { type, text, data }),
      });
    } catch (error) {
      if (!this.#items.has(id)) return true;
      if (error instanceof NotConnected || (error instanceof Closed && this.session.messenger.state.state === "closed")) {
        this.#update(item, { state: "waiting" });
        return false;
      }
      this.#update(item, { state: "failed", reason: reasonOf(error, this.session.words) });
    }
    return true;
  }

  /**
   * @param {Pending} item
   * @param {Upload} upload
   */
  async #upload(item, upload) {
    try {
      const data = await upload.start((share) => this.#update(item, { share }));
      delete item.upload;
      this.#update(item, { data, state: "waiting" });
      this.#sendAll();
    } catch (error) {
      this.#update(item, { state: "failed", reason: reasonOf(error, this.session.words) });
    }
  }

  /**
   * @param {Pending} item
   * @param {Partial<Pending>} change
   */
  #update(item, change) {
    if (!this.#items.has(item.id)) return;
    Object.assign(item, change);
    if (!item.upload && change.share === undefined) this.#save(item);
    this.session.changed();
  }

  /** @param {Pending} item */
  #save(item) {
    this.session.database.put("outbox", [{ ...item }]);
  }

  /** @param {string} id */
  #remove(id) {
    this.#items.delete(id);
    this.session.database.delete("outbox", [id]);
    this.session.changed();
  }
}

/** @returns {string} */
function newId() {
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
}
