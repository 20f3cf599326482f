// @ts-check
/** One login: its token, its connection, and what the page knows through it. */

import { callApi } from "../parts/api.js";
import { connectionOf } from "./connection.js";
import { Database } from "./database.js";
import { Drafts } from "./drafts.js";
import { StoredRows } from "./first-view.js";
import { Inbox } from "./inbox.js";
import { Outbox } from "./outbox.js";
import { People } from "./people.js";
import { Store } from "./store.js";
import { Wishes } from "./wishes.js";

/** @typedef {import("../../../sdk/messenger.js").Entry} Entry */
/** @typedef {import("../../../sdk/messenger.js").Typing} Typing */
/** @typedef {import("../../../sdk/imserver.js").StateChange} StateChange */

/**
 * @typedef {object} Page  data from the server
 * @property {string} app
 * @property {string} websocketUrl
 * @property {string} seenHost
 * @property {string} language
 * @property {boolean} isEmbedded     whether the page is in a frame of another one, which gives the login
 * @property {[language: string, name: string][]} languages  that the page has, each with its name in itself
 * @property {boolean} notifications  whether this server has them
 * @property {{ module: string, style: string, later: boolean }[]} additions  addresses of modules and styles of features of the server, each empty
 *   if there is none; `later`: they add to menus and settings, and are loaded after the others
 * @property {Record<string, string>} text
 */

/** @typedef {import("./saved-login.js").Login} Login */

/**
 * Where to: a conversation, or the one with a user, which may be new.
 *
 * @typedef {{ conversation: number, message?: number } | { user: string }} Target
 */

/**
 * @typedef {object} Ended
 * @property {string} reason          the text that the page shows about it
 * @property {boolean} [isGood]       the user wanted it
 * @property {boolean} [isForgotten]  the browser stores nothing of the login any more
 */

/**
 * @typedef {object} SessionEvents
 * @property {StateChange} state    of the connection
 * @property {Entry} entry          a stored entry, of another user or of our own
 * @property {{}} changed           conversations, messages or the outbox have changed
 * @property {{}} anew              the server has deleted entries: the list must be loaded again, and the open conversation
 * @property {{}} people            cards of people have changed
 * @property {Typing} typing
 * @property {string} contact       what this user is to us has changed
 * @property {string} grown         a message that a bot is writing has more text: id of the stream
 * @property {import("../../../sdk/messenger.js").ThreadMark} threadMark  another device of ours has read a thread, followed or muted it
 * @property {string} draft         the draft of a conversation has come from another device: its key
 * @property {{ kind: string, data: any }} signal  of a feature of the server, or an answer to a command
 * @property {Target} open          open this conversation
 * @property {any} choose           let the user choose people: see `choosePeople` of `people/picker.js`
 * @property {Ended} ended  this login is over
 */

/** Owns the parts of a login, and tells the page what has changed. */
export class Session {
  /** @type {Map<string, Set<(detail: any) => void>>} */
  #listeners = new Map();
  #isOver = false;
  /** The act of the user that is about to end this login. @type {Promise<unknown> | null} */
  #ending = null;
  #connection;

  /**
   * @param {Page} page
   * @param {Login} login
   */
  constructor(page, login) {
    this.app = page.app;
    this.words = page.text;
    this.language = page.language;
    this.languages = page.languages;
    this.additions = page.additions;
    this.hasNotifications = page.notifications;
    this.login = login;
    this.user = login.user;
    this.token = login.token;
    this.database = new Database(`imserver:${page.app}:${login.user}`);
    this.#connection = connectionOf(page, login);
    this.messenger = this.#connection.messenger;
    this.people = new People(this);
    this.drafts = new Drafts(`imserver:drafts:${page.app}:${login.user}`);
    this.wishes = new Wishes(this);
    this.inbox = new Inbox(this);
    this.store = new Store(this);
    this.rows = new StoredRows(page.app, login.user);
    this.outbox = new Outbox(this);
  }

  /** Shows what the browser has stored, then connects. If the browser opens its database later, its content is shown then. */
  async start() {
    // Rows that an earlier version has stored may be wrong: they must not keep the page from connecting.
    const restore = () => Promise.allSettled([this.store.restore(), this.outbox.restore()]);
    await restore();
    if (this.#isOver) return;
    this.#listen();
    // The event `state` has the reason.
    if (this.messenger.state.state === "idle") this.messenger.connect().catch(() => {});
    this.database.isLate.then(async (isLate) => {
      if (!isLate || this.#isOver) return;
      await restore();
      this.changed();
    });
  }

  #listen() {
    this.#connection.listen({
      state: (change) => this.#onState(change),
      entry: (entry) => this.added(entry),
      anew: () => {
        this.store.clear();
        this.rows.forget();
        this.#emit("anew", {});
      },
      typing: (signal) => this.#emit("typing", signal),
      piece: (piece) => {
        const isListed = this.store.applyPiece(piece);
        if (!isListed) this.#emit("grown", piece.stream);
      },
      receipt: (receipt) => this.store.receipts.apply(receipt),
      contact: ({ from }) => {
        this.people.refresh([from]);
        this.#emit("contact", from);
      },
      hidden: ({ ids }) => this.store.applyHidden(ids),
      arrangement: (row) => this.inbox.receive(row),
      folders: (list) => this.inbox.receiveFolders(list),
      wish: (wish) => this.wishes.receive(wish),
      threadMark: (mark) => this.#emit("threadMark", mark),
    });
    this.messenger.onSignal = (kind, data) => this.#emit("signal", { kind, data });
  }

  /** @param {StateChange} change */
  #onState(change) {
    const { words } = this;
    // A logout in another tab or on another device kicks this session.
    const reason = { 1003: words.messages_expired, 4502: words.messages_logged_out, 4504: words.messages_expired }[change.code];
    if (change.state === "refused" && reason) {
      if (!this.#ending) return this.#end({ reason });
      // If the act succeeds, it ends the login with its own text.
      this.#ending.catch(() => this.#end({ reason }));
      return;
    }
    if (change.state === "online") {
      this.store.forgetStreams();
      this.store.receipts.send();
    }
    this.#emit("state", change);
  }

  /** Whether the user is a guest, who finds nobody and invites nobody. */
  get isGuest() {
    return this.people.card(this.user)?.guest ?? this.login.guest ?? false;
  }

  /** Whether requests reach the server now. */
  get isOnline() {
    return this.messenger.state.state === "online";
  }

  /**
   * Sends an HTTP request with our token. Rejected with ApiError.
   *
   * @param {"GET" | "POST"} method
   * @param {string} path  below /api/v1/
   * @param {Record<string, any>} [body]  of a GET: the query
   * @returns {Promise<any>}
   */
  api(method, path, body) {
    return callApi(this.app, this.token, method, path, body);
  }

  /**
   * @template {keyof SessionEvents} E
   * @param {E} event
   * @param {(detail: SessionEvents[E]) => void} listener
   * @returns {() => void} removes the listener
   */
  on(event, listener) {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /**
   * Opens a conversation on the page.
   *
   * @param {Target} target
   */
  open(target) {
    this.#emit("open", target);
  }

  /**
   * Lets the user choose people.
   *
   * @param {any} options  of `choosePeople` of `people/picker.js`
   */
  choosePeople(options) {
    this.#emit("choose", options);
  }

  /** Something that the page shows has changed. */
  changed() {
    this.#emit("changed", {});
  }

  /** @param {string} conversation  whose draft has come from another device */
  draftChanged(conversation) {
    this.#emit("draft", conversation);
  }

  /** Cards of people have changed. */
  peopleChanged() {
    this.#emit("people", {});
  }

  /**
   * An entry has arrived, or one of ours was stored.
   *
   * @param {Entry} entry
   */
  added(entry) {
    this.store.add(entry);
    this.#emit("entry", entry);
  }

  /** Logs this device out, forgets what the browser has stored, and ends the session. */
  async logOut() {
    const { token } = this;
    await this.#forget();
    try {
      const { devices } = await callApi(this.app, token, "GET", "accounts/devices");
      const here = devices.find((/** @type {any} */ device) => device.current);
      if (here) await callApi(this.app, token, "POST", "accounts/devices/logout", { device: here.device });
    } catch {
      // the token expires anyway
    }
  }

  /**
   * Does an act that ends this login. Rejected if the act fails: the login stays.
   *
   * @param {() => Promise<unknown>} act
   * @param {string} [reason]    the text that the page shows then
   * @param {boolean} [forgets]  whether the browser deletes the data that it has stored
   */
  async endBy(act, reason = "", forgets = true) {
    this.#ending = act(); // meanwhile the server may say that the login is over
    try {
      await this.#ending;
    } finally {
      this.#ending = null;
    }
    if (forgets) await this.#forget(reason);
    else this.#end({ reason, isGood: true });
  }

  /**
   * Ends the session, and deletes the data that the browser has stored of it.
   *
   * @param {string} [reason]  the text that the page shows
   */
  async #forget(reason = "") {
    this.#end({ reason, isGood: true, isForgotten: true });
    // If this fails, the push service ends the notifications.
    if (this.wishes.device.on) await import("./notices.js").then((module) => module.disable(this)).catch(() => {});
    for (const stored of [this.drafts, this.inbox, this.people, this.rows, this.wishes.stored]) stored.forget();
    await this.database.forget();
  }

  /** The page goes away. */
  close() {
    this.#isOver = true;
    this.outbox.stop();
    this.messenger.close();
  }

  /** @param {Ended} ended */
  #end(ended) {
    if (this.#isOver) return;
    this.#emit("ended", ended);
    this.close();
  }

  /**
   * Tells the listeners of an event. After the end of the session nobody hears of anything.
   *
   * @template {keyof SessionEvents} E
   * @param {E} event
   * @param {SessionEvents[E]} detail
   */
  #emit(event, detail) {
    if (this.#isOver) return;
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(detail);
      } catch (error) {
        reportError(error); // the other listeners must still be called
      }
    }
  }
}
