// @ts-check
/**
 * A client of imserver that loses no message: what it sends is stored once, what it missed it fetches.
 *
 *     import { Messenger } from "./messenger.js";
 *
 *     const messenger = new Messenger({ url: "ws://127.0.0.1:8089/acc", app: 101, user: "ann", cursor: 0 });
 *     messenger.on("entry", (entry) => console.log(entry.from, entry.text, messenger.cursor));
 *     await messenger.connect();
 *     const { id } = await messenger.send("bob", "hello");
 *
 * @module messenger
 */

import { CODE, ImClient, ImError } from "./imserver.js";

/** Entries of a page of what was missed, the most that the server gives. */
const PAGE = 200;
/** How long what has come may wait for its acknowledgement; the server waits for ten seconds. */
const ACK_MS = 1_000;
/** Entries after which one is sent at once. */
const ACK_ENTRIES = 500;
/** Pause before something is asked again that the database could not take. */
const AGAIN_MS = 500;
/** Close code, as listeners for `state` see it, when the database does not answer; nobody sends it. */
const CANNOT_CATCH_UP = 3000;
const SIGNALS = new Set(["typing", "receipt", "hidden"]);
/** Refusals that end by themselves: 1008, the database does not answer. */
const NOT_STORED = 1008;

/**
 * @typedef {object} Entry           what is stored
 * @property {number} id             its place in the log of the app
 * @property {number} conversation
 * @property {number} seq            its place in the conversation, without a gap
 * @property {string} kind           `message`; `edit` or `recall` of the one that it is `about`; `group`, `join`, `leave`
 * @property {string} from           empty when a back end speaks for nobody
 * @property {string} [to]           none in a group
 * @property {string} [type]         `text`, `picture`, …
 * @property {string} [text]         the words; else there is `data`
 * @property {any} [data]
 * @property {string} [base64]       what other dialects sent that is neither
 * @property {string} [clientMsgID]
 * @property {number} [about]        what it replies to, edits or recalls; its own `id`: a recalled message, read later
 * @property {{ mentions?: string[], edited?: number, users?: string[] }} [meta]
 * @property {number} time           milliseconds since 1970
 */

/**
 * @typedef {object} Sent            where a message of ours is stored
 * @property {number} id
 * @property {number} conversation
 * @property {number} seq
 * @property {boolean} repeated      it had been stored before, under the same `clientMsgID`
 */

/**
 * @typedef {object} More            what a message may have besides its text
 * @property {number} [conversation] where to say it, instead of a user
 * @property {any} [data]            JSON instead of text
 * @property {string} [type]
 * @property {number} [replyTo]
 * @property {string[]} [mentions]
 * @property {string} [clientMsgID]  who gives up and sends again gives the same; one is made otherwise
 */

/**
 * @typedef {object} MessengerExtra
 * @property {number | null} [cursor]  where this device stands: 0 (default) for all that is kept, null for what comes from now on
 * @property {number} [carryMs]        how long something is tried, over however many connections; default 30,000
 */

/**
 * @typedef {object} Asked           what waits for an answer
 * @property {string} cmd
 * @property {object} data
 * @property {number} life           the connection over which it is under way; 0: none
 * @property {(found: any) => void} settle
 */

/** @typedef {import("./imserver.js").Options & MessengerExtra} MessengerOptions */

/**
 * Events besides those of {@link ImClient}: `entry` ({@link Entry}), in order and once each; `anew`, when the server has
 * nothing left at the cursor: forget the entries that you have, the rest follows; `typing`, `receipt` and `hidden`.
 *
 * Keep {@link Messenger#cursor} with the entries, and hand it in at the next start.
 */
export class Messenger extends ImClient {
  #carryMs;
  /** Pages are being fetched: what is told beside them comes again. */
  #behind = true;
  /** The login said that we acknowledge. */
  #acks = false;
  #unacknowledged = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #ackTimer;
  /** Which connection this is: what an older one still has to say does not count. */
  #life = 0;
  /**
   * What is asked and not answered, in the order in which it was asked.
   *
   * @type {Set<Asked>}
   */
  #asked = new Set();

  /** @param {MessengerOptions} options */
  constructor(options) {
    super(options);
    /** @type {number | null} the greatest id that has come */
    this.cursor = options.cursor === undefined ? 0 : options.cursor;
    this.#carryMs = options.carryMs ?? 30_000;
    this.on("state", ({ state, code, reason }) => {
      if (state === "online") for (const each of [...this.#asked]) this.#try(each);
      if (state === "closed" || state === "refused") {
        clearTimeout(this.#ackTimer);
        for (const { settle } of [...this.#asked]) settle(new ImError(code, reason || state));
      }
    });
  }

  /**
   * Sends `text` to a user, or into `more.conversation`.
   *
   * @param {string} to       empty when `more` has a conversation
   * @param {string} [text]   unless `more` has data
   * @param {More} [more]
   * @returns {Promise<Sent>} where it is stored. Rejected with {@link ImError}: the server's code, or 0 when it took too
   *   long; then it may be stored or not, and may be sent again under the same `clientMsgID`
   */
  send(to, text, more = {}) {
    const data = { ...(to && { to }), ...(text !== undefined && { text }), clientMsgID: newMessageId(), ...more };
    return this.#store("send", data);
  }

  /**
   * Says what a message of ours says now.
   *
   * @param {number} id
   * @param {string} [text]
   * @param {{ data?: any, type?: string, mentions?: string[] }} [more]
   * @returns {Promise<Sent>}
   */
  edit(id, text, more = {}) {
    return this.#store("edit", { id, ...(text !== undefined && { text }), clientMsgID: newMessageId(), ...more });
  }

  /**
   * Takes a message of ours back.
   *
   * @param {number} id
   * @returns {Promise<Sent>}
   */
  recall(id) {
    return this.#store("recall", { id, clientMsgID: newMessageId() });
  }

  /**
   * Tells a user (`to`) or a `conversation` that we are writing; every 3 s or so. Nobody hears it when we are offline.
   *
   * @param {{ to: string } | { conversation: number }} where
   */
  typing(where) {
    this.request("typing", where).catch(() => {});
  }

  /**
   * We have read the conversation up to this entry; those who wrote are told.
   *
   * @param {number} conversation
   * @param {number} id
   */
  read(conversation, id) {
    return this.#carry("read", { conversation, id });
  }

  /**
   * This device has got the conversation up to this entry.
   *
   * @param {number} conversation
   * @param {number} id
   */
  received(conversation, id) {
    return this.#carry("received", { conversation, id });
  }

  /**
   * We do not want to see these entries any more, on no device.
   *
   * @param {number[]} ids
   */
  hide(ids) {
    return this.#carry("hide", { ids });
  }

  /**
   * What we have marked since that version, on whatever device.
   *
   * @param {number} [version]
   * @returns {Promise<{ version: number, read: { conversation: number, id: number }[], hidden: number[], receipts: object[] }>}
   */
  marks(version = 0) {
    return this.#carry("marks", { version });
  }

  /**
   * How far the others have read and received a conversation.
   *
   * @param {number} conversation
   * @param {{ after?: string, limit?: number }} [page]
   * @returns {Promise<{ receipts: { user: string, read: number, received: number }[], hasMore: boolean }>}
   */
  receipts(conversation, page = {}) {
    return this.#carry("receipts", { conversation, ...page });
  }

  /**
   * Our conversations, the liveliest first.
   *
   * @param {{ before?: number, limit?: number }} [page]  `before`: `place` of the last one known, or else the id of its `last`
   * @returns {Promise<{ conversations: any[], hasMore: boolean }>}
   */
  conversations(page = {}) {
    return this.#carry("conversations", page);
  }

  /**
   * What was said in a conversation before an entry, or at its end.
   *
   * @param {number} conversation
   * @param {{ before?: number, limit?: number }} [page]
   * @returns {Promise<{ messages: Entry[], hasMore: boolean }>}
   */
  history(conversation, page = {}) {
    return this.#carry("history", { conversation, ...page });
  }

  /**
   * Messages in which `text` is said.
   *
   * @param {string} text
   * @param {{ conversation?: number, before?: number, limit?: number }} [page]
   * @returns {Promise<{ messages: Entry[], hasMore: boolean, before: number }>}
   */
  search(text, page = {}) {
    return this.#carry("search", { text, ...page });
  }

  /** @override */
  loginData() {
    this.#acks = this.cursor !== null;
    return { ...super.loginData(), ...(this.#acks && { cursor: this.cursor, acks: true }) };
  }

  /**
   * @override
   * @param {any} frame
   * @returns {[string, any] | null}
   */
  eventIn(frame) {
    const data = frame?.response?.data;
    // `typing` is a command, too: its answer has no data.
    if (SIGNALS.has(frame?.cmd) && data) return [frame.cmd, data];
    if (frame?.cmd !== "message" || !data) return super.eventIn(frame);
    return !this.#behind && this.#isNew(data) ? ["entry", data] : null;
  }

  /**
   * @override
   * @param {import("./imserver.js").Answer} answer
   */
  loggedIn(answer) {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#unacknowledged = 0;
    this.#life += 1;
    this.#behind = !(this.cursor !== null && answer.data?.recovered === true);
    if (this.#behind) this.#catchUp(this.#life);
  }

  /**
   * Fetches what was missed, page by page.
   *
   * @param {number} life
   */
  #catchUp(life) {
    if (this.cursor !== null) return this.#ask(life, "sync", { cursor: this.cursor, limit: PAGE }, (page) => this.#take(life, page));
    this.#ask(life, "conversations", { limit: 1 }, ({ conversations: [newest] }) => {
      this.cursor = newest?.place || newest?.last?.id || 0;
      this.#catchUp(life);
    });
  }

  /**
   * @param {number} life
   * @param {{ messages: Entry[], hasMore: boolean, beginAnew?: boolean }} page
   */
  #take(life, page) {
    if (page.beginAnew && this.cursor) {
      this.cursor = 0;
      this.emit("anew", {});
      return this.#catchUp(life);
    }
    if (!page.hasMore || !page.messages.length) this.#behind = false;
    for (const entry of page.messages) if (this.#isNew(entry)) this.emit("entry", entry);
    if (this.#behind) this.#catchUp(life);
  }

  /**
   * Asks for something that has to be known before what comes behind its answer.
   *
   * @param {number} life
   * @param {string} cmd
   * @param {object} data
   * @param {(found: any) => void} heard
   */
  async #ask(life, cmd, data, heard) {
    try {
      const answer = await this.request(cmd, data, undefined, ({ code, data }) => {
        if (life === this.#life && code === CODE.OK) heard(data);
      });
      if (answer.code !== CODE.OK) throw new ImError(answer.code, answer.codeMsg);
    } catch (error) {
      const { message } = /** @type {ImError} */ (error);
      // Refused, or not answered in time; else the connection is gone anyway.
      if (life === this.#life && this.state.state === "online") this.comeBack(CANNOT_CATCH_UP, message);
    }
  }

  /** @param {Entry} entry */
  #isNew(entry) {
    // Told again, too: its acknowledgement did not come in time.
    this.#unacknowledged += 1;
    if (this.#unacknowledged >= ACK_ENTRIES) queueMicrotask(() => this.#acknowledge());
    else this.#ackTimer ??= setTimeout(() => this.#acknowledge(), ACK_MS);
    if (entry.id <= (this.cursor ?? 0)) return false;
    this.cursor = entry.id;
    return true;
  }

  #acknowledge() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    if (!this.#acks || !this.#unacknowledged) return;
    this.#unacknowledged = 0;
    this.request("ack", { id: this.cursor }).catch(() => {});
  }

  /**
   * @param {string} cmd
   * @param {object} data
   * @returns {Promise<Sent>}
   */
  #store(cmd, data) {
    return this.#carry(cmd, data, (/** @type {Sent} */ { id }) => {
      // Everything before it has come, unless pages are under way.
      if (!this.#behind) this.cursor = Math.max(this.cursor ?? 0, id);
    });
  }

  /**
   * Asks until there is an answer that lasts.
   *
   * @param {string} cmd
   * @param {object} data
   * @param {(found: any) => void} [answered]  called at once with what was found
   * @returns {Promise<any>}
   */
  #carry(cmd, data, answered = () => {}) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => asked.settle(new ImError(0, `${cmd}: no answer in time`)), this.#carryMs);
      const settle = (/** @type {any} */ found) => {
        clearTimeout(timer);
        if (!this.#asked.delete(asked)) return;
        if (found instanceof ImError) return reject(found);
        answered(found);
        resolve(found);
      };
      const asked = { cmd, data, life: 0, settle };
      this.#asked.add(asked);
      if (this.state.state === "closed" || this.state.state === "refused") settle(new ImError(0, this.state.state));
      else if (this.state.state === "online") this.#try(asked);
    });
  }

  /** @param {Asked} asked */
  async #try(asked) {
    const life = this.#life;
    if (asked.life === life || !this.#asked.has(asked)) return;
    asked.life = life;
    try {
      const answer = await this.request(asked.cmd, asked.data, undefined, ({ code, data }) => {
        if (code === CODE.OK) asked.settle(data);
      });
      if (answer.code !== CODE.OK) throw new ImError(answer.code, answer.codeMsg);
    } catch (error) {
      const { code } = /** @type {ImError} */ (error);
      if (asked.life === life) asked.life = 0; // else it is under way over the next connection already
      if (code && code !== NOT_STORED && code !== CODE.NOT_LOGGED_IN) return asked.settle(error);
      // Lost or late: again as soon as there is a connection, or in a while.
      setTimeout(() => this.state.state === "online" && this.#try(asked), AGAIN_MS);
    }
  }
}

/** @returns {string} an id of a message that nobody else gives */
function newMessageId() {
  return globalThis.crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
