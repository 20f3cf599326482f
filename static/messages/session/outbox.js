// @ts-check
/**
 * Messages of ours that are not stored yet, and edits. They wait while there is no connection, and are sent once. In a conversation they are
 * sent in order: a message waits for the files before it, unless they have failed.
 */

import { Closed, NotConnected } from "../../../sdk/errors.js";
import { ApiError, reasonOf } from "../parts/api.js";
import { sizeOf } from "../parts/file.js";
import { keyOf } from "./store.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */
/** @typedef {import("./upload.js").Unsent} Unsent */
/** @typedef {import("./upload.js").Upload} Upload */

/**
 * @typedef {object} Content
 * @property {string} [type]        default: `text`
 * @property {string} [text]
 * @property {any} [data]           instead of a text
 * @property {number} [replyTo]
 * @property {number} [edit]        id of the message that this text replaces
 * @property {string[]} [mentions]
 * @property {number} [thread]      the first message of the thread in which it is a reply
 * @property {boolean} [also]       the conversation shows the reply, too
 * @property {{ from: string, id: number }} [forward]  the content is that of this message
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
 * @property {Unsent} [file]       that must be uploaded before the message is sent
 * @property {Upload} [upload]      of the file
 * @property {boolean} [isSaved]    the browser has stored the message
 * @property {boolean} [isCancelled]
 */

/** @typedef {Content & PendingExtra} Pending */

/** The browser stores no larger files: they do not outlive the login on this page. */
const MOST_SAVED_BYTES = 200e6;

/** Owns the waiting messages of one login. */
export class Outbox {
  /** @type {Map<string, Pending>} */
  #items = new Map();
  /** Time of the newest message. Each one is later than the one before, so that they can be sorted. */
  #lastTime = 0;
  /** Conversations for which a message is under way. @type {Set<string>} */
  #busy = new Set();
  /** Messages with a file that no other tab may take: what releases them, by id. @type {Map<string, (value?: unknown) => void>} */
  #held = new Map();
  #ends = new AbortController();

  /**
   * @param {Session} session
   * @param {(file: Unsent) => Upload} [makeUpload]
   */
  constructor(session, makeUpload = (file) => uploadOf(session, file)) {
    this.session = session;
    this.makeUpload = makeUpload;
    session.on("state", ({ state }) => {
      if (state === "online") this.#sendAll();
    });
    session.on("entry", ({ from, clientMsgID }) => {
      // It is sent, perhaps by another tab.
      if (from === session.user && clientMsgID && this.#items.has(clientMsgID)) this.#remove(clientMsgID);
    });
  }

  /** Takes the messages that an earlier load of the page has left. */
  async restore() {
    for (const item of await this.session.database.all("outbox")) {
      // An earlier version of the page has stored it.
      if (typeof item.id !== "string" || typeof item.key !== "string" || !Number.isSafeInteger(item.time)) continue;
      if (item.file) this.#takeFile(item.id);
      else this.#take(item);
    }
    if (this.session.isOnline) this.#sendAll();
  }

  /** Leaves the waiting messages to the next login, or to another tab. The browser has stored them. */
  stop() {
    const items = [...this.#items.values()];
    this.#items.clear();
    this.#ends.abort();
    for (const { upload } of items) upload?.cancel();
    for (const release of this.#held.values()) release();
  }

  /** @param {Pending} item  that an earlier load of the page, or another tab, has left */
  #take(item) {
    if (this.#items.has(item.id)) return;
    const upload = item.file && this.makeUpload(item.file);
    const begins = upload ? "uploading" : "waiting";
    const state = item.state === "failed" ? "failed" : begins;
    const taken = /** @type {Pending} */ ({ ...item, share: 0, isSaved: true, state, ...(upload && { upload }) });
    this.#items.set(item.id, taken);
    // The database sorts them by their random ids.
    this.#items = new Map([...this.#items].sort(([, one], [, other]) => one.time - other.time));
    this.#lastTime = Math.max(this.#lastTime, item.time);
    if (upload && state === "uploading") this.#upload(taken, upload);
  }

  /**
   * Takes a message with a file as soon as no other tab has it.
   *
   * @param {string} id
   */
  async #takeFile(id) {
    if (!(await this.#hold(id))) return;
    const item = await this.session.database.get("outbox", id);
    if (!item) return this.#release(id); // the other tab has sent it
    if (this.#ends.signal.aborted) return;
    this.#take(item);
    this.session.changed();
    this.#sendAll();
  }

  /**
   * Waits until no other tab has a message with a file, and locks it until it is sent or this login ends.
   *
   * Without HTTPS, pages have no locks: another tab could send a file that is cancelled here. There, files do not outlive the page.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false: there are no locks, or this login has ended
   */
  async #hold(id) {
    if (!hasLocks()) return false;
    return new Promise((resolve) => {
      // The browser unlocks it when this promise resolves.
      const onLock = () => new Promise((release) => {
        this.#held.set(id, release);
        resolve(true);
      });
      navigator.locks.request(`imserver:outbox:${id}`, { signal: this.#ends.signal }, onLock).catch(() => resolve(false));
    });
  }

  /** @param {string} id */
  #release(id) {
    this.#held.get(id)?.();
    this.#held.delete(id);
  }

  /** Whether a message would be lost if the page ended now. */
  get isUnsaved() {
    return [...this.#items.values()].some(({ upload, isSaved }) => upload && !isSaved);
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
   * @param {string} user
   * @returns {boolean} whether messages to them wait
   */
  waitsFor(user) {
    return [...this.#items.values()].some(({ peer }) => peer === user);
  }

  /**
   * @param {number} id  of a message
   * @returns {Pending | undefined} the edit of it that waits
   */
  editOf(id) {
    return [...this.#items.values()].findLast(({ edit }) => edit === id);
  }

  /**
   * Sends a message as soon as possible. An edit replaces a waiting edit of the same message.
   *
   * @param {Conversation} conversation
   * @param {Content} content  with a file: `data` is what the bubble shows meanwhile
   * @param {Unsent} [file]
   * @returns {Pending}
   */
  add(conversation, content, file) {
    const upload = file && this.makeUpload(file);
    const before = content.edit && this.editOf(content.edit);
    if (before && before.state !== "sending") this.#remove(before.id);
    this.#lastTime = Math.max(Date.now(), this.#lastTime + 1);
    const item = /** @type {Pending} */ ({
      ...content, id: newId(), key: keyOf(conversation), conversation: conversation.id, peer: conversation.peer, time: this.#lastTime,
      state: upload ? "uploading" : "waiting", reason: "", share: 0, ...(file && { file, upload }),
    });
    this.#items.set(item.id, item);
    // It is locked before it is stored, so that no other tab takes it.
    if (upload) this.#hold(item.id);
    this.#save(item);
    if (upload) this.#upload(item, upload);
    this.session.changed();
    this.#sendAll();
    return item;
  }

  /**
   * Gives up a message. If it is being sent, it is recalled once the server has stored it. An edit that is being sent cannot be given up.
   *
   * @param {string} id
   */
  cancel(id) {
    const item = this.#items.get(id);
    if (item?.edit && item.state === "sending") return;
    item?.upload?.cancel();
    if (item) item.isCancelled = true;
    this.#remove(id);
    this.#sendAll(); // messages have waited for it
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
    const keys = new Set([...this.#items.values()].map(({ key }) => key));
    for (const key of keys) this.#sendTo(key);
  }

  /**
   * Sends the messages of a conversation one after another, until one must wait.
   *
   * @param {string} key  of the conversation
   */
  async #sendTo(key) {
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    for (;;) {
      // Only a message that has failed is overtaken by later ones.
      const next = [...this.#items.values()].find((each) => each.key === key && each.state !== "failed");
      if (next?.state !== "waiting" || !this.session.isOnline || !(await this.#send(next))) break;
    }
    this.#busy.delete(key);
  }

  /**
   * Sends a message, and adds it to its conversation when the server has stored it.
   *
   * @param {Pending} item
   * @returns {Promise<boolean>} false: there is no connection
   */
  async #send(item) {
    const { messenger, user, words } = this.session;
    const { id, peer, text, data, type = "text", replyTo, mentions, thread, also, forward, edit } = item;
    this.#update(item, { state: "sending" });
    try {
      const sent = await this.#request(item);
      if (!this.#items.has(id)) {
        // If it is not cancelled, another tab has sent it.
        if (item.isCancelled) messenger.recall(sent.id).catch(() => {});
        return true;
      }
      this.#remove(id);
      const meta = {
        ...(mentions?.length && { mentions }), ...(thread && { thread }), ...(also && { also }), ...(forward && { forwarded: forward }),
      };
      this.session.added({
        ...sent, kind: edit ? "edit" : "message", from: user, to: peer || undefined, time: Date.now(), clientMsgID: id,
        about: edit ?? replyTo ?? thread, meta, ...(sent.replaced ?? { type, text, data }),
      });
    } catch (error) {
      if (!this.#items.has(id)) return true;
      if (error instanceof NotConnected || (error instanceof Closed && messenger.state.state === "closed")) {
        this.#update(item, { state: "waiting" });
        return false;
      }
      this.#update(item, { state: "failed", reason: reasonOf(error, words) });
    }
    return true;
  }

  /**
   * Sends the command of a message: an edit, a forward, or a new message.
   *
   * @param {Pending} item
   */
  #request({ id, conversation, peer, text, data, type = "text", replyTo, mentions, thread, also, forward, edit }) {
    const { messenger } = this.session;
    if (forward && !edit) return messenger.forward(forward.id, conversation ? { conversation } : peer, { clientMsgID: id });
    const more = {
      clientMsgID: id, ...(conversation && !edit && { conversation }), ...(replyTo && { replyTo }), ...(mentions?.length && { mentions }),
      ...(data !== undefined && { data, type }), ...(thread && { thread }), ...(also && { also }),
    };
    if (edit) return messenger.edit(edit, text, more);
    return messenger.send(conversation ? "" : peer, data === undefined ? text : undefined, more);
  }

  /**
   * Uploads the file of a message, which is sent afterwards.
   *
   * @param {Pending} item
   * @param {Upload} upload
   */
  async #upload(item, upload) {
    try {
      const data = await upload.start((share) => this.#update(item, { share }), () => void this.#save(item));
      delete item.upload;
      delete item.file;
      this.#update(item, { data, state: "waiting" });
    } catch (error) {
      this.#update(item, { state: "failed", reason: reasonOf(error, this.session.words) });
    }
    this.#sendAll(); // also messages that have waited for it
  }

  /**
   * @param {Pending} item  nothing happens if it is sent or given up
   * @param {Partial<Pending>} change  stored by the browser, unless it is the progress of the upload
   */
  #update(item, change) {
    if (!this.#items.has(item.id)) return;
    Object.assign(item, change);
    if (change.share === undefined) this.#save(item);
    this.session.changed();
  }

  /** @param {Pending} item  stored by the browser, unless its file is too large */
  async #save(item) {
    const { upload, ...row } = item;
    if (row.file && (!hasLocks() || sizeOf(row.file) > MOST_SAVED_BYTES)) return;
    // A canvas cannot be stored.
    const withoutPreview = (/** @type {any} */ data) => (data?.preview ? { ...data, preview: null } : data);
    row.data = withoutPreview(row.data);
    if (Array.isArray(row.data?.items)) row.data = { ...row.data, items: row.data.items.map(withoutPreview) };
    item.isSaved = await this.session.database.put("outbox", [row]);
    if (upload) this.session.changed(); // `isUnsaved` may have changed
  }

  /** @param {string} id */
  #remove(id) {
    this.#items.delete(id);
    // The lock is released after the deletion: no other tab may find the message.
    this.session.database.delete("outbox", [id]).then(() => this.#release(id));
    this.session.changed();
  }
}

/**
 * The upload of a file, whose module is loaded when it starts.
 *
 * @param {Session} session
 * @param {Unsent} file
 * @returns {Upload}
 */
function uploadOf(session, file) {
  /** @type {Upload | null} */
  let upload = null;
  let isCancelled = false;
  return {
    async start(progress, saved) {
      isCancelled = false;
      const module = await import("./upload.js").catch(() => {
        throw new ApiError("no_answer", "the module cannot be loaded");
      });
      if (isCancelled) throw new ApiError("cancelled", "the upload was cancelled");
      upload ??= module.uploadOf(session, file);
      return upload.start(progress, saved);
    },
    cancel() {
      isCancelled = true;
      upload?.cancel();
    },
  };
}

function hasLocks() {
  return Boolean(globalThis.navigator?.locks);
}

/** @returns {string} */
function newId() {
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
}
