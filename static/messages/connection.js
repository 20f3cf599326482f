// @ts-check
/** The login that the browser has stored, and the connection with it, which begins while the page is still loading. */

import { Messenger } from "../../sdk/messenger.js";
import { websocketUrl } from "../address.js";

/** @typedef {import("../address.js").PageAddress & { app: string }} Page */
/** @typedef {{ token: string, user: string, nickname: string, device?: string, guest?: boolean }} Login  `device`: the name that it has in the list of devices */
/** @typedef {import("../../sdk/messenger.js").MessengerEvents & { state: import("../../sdk/imserver.js").StateChange }} Events */

const KINDS = /** @type {(keyof Events)[]} */ (["state", "entry", "anew", "typing", "receipt", "hidden", "contact", "piece", "arrangement"]);

/** A messenger whose events wait until the page listens. */
export class Connection {
  /** Events that nobody has heard; null: somebody listens. @type {[kind: keyof Events, detail: any][] | null} */
  #waiting = [];

  /**
   * @param {Page} page
   * @param {Login} login
   */
  constructor(page, login) {
    this.login = login;
    this.messenger = new Messenger({
      url: websocketUrl(page, "/acc"),
      app: page.app,
      user: login.user,
      token: login.token,
      device: `${login.device || "web"}/${Math.random().toString(36).slice(2, 6)}`, // each tab is a part of the device
      cursor: null, // a conversation loads its history when it is opened
    });
    for (const kind of KINDS) this.messenger.on(kind, (detail) => void this.#waiting?.push([kind, detail]));
  }

  /**
   * Called once. The listeners first hear, in order, what has happened before.
   *
   * @param {{ [K in keyof Events]: (detail: Events[K]) => void }} listeners
   */
  listen(listeners) {
    const before = this.#waiting ?? [];
    this.#waiting = null;
    for (const kind of KINDS) this.messenger.on(kind, /** @type {(detail: any) => void} */ (listeners[kind]));
    for (const [kind, detail] of before) /** @type {(detail: any) => void} */ (listeners[kind])(detail);
  }
}

/** The connection that waits for the page. @type {Connection | null} */
let early = null;

/**
 * Connects with the stored login, if there is one.
 *
 * @param {Page} page
 */
export function connectEarly(page) {
  const login = location.hash.startsWith("#owner=") ? null : new SavedLogin(page.app).get(); // the owner logs in anew
  if (!login) return;
  early = new Connection(page, login);
  early.messenger.connect().catch(() => {}); // the event `state` has the reason
}

/**
 * @param {Page} page
 * @param {Login} login
 * @returns {Connection} the one that was begun with this login, else a new one, which is not connected
 */
export function connectionOf(page, login) {
  const begun = early;
  early = null;
  if (begun?.login.token === login.token) return begun;
  begun?.messenger.close();
  return new Connection(page, login);
}

/** The login that the browser remembers, so that a reload needs no password. */
export class SavedLogin {
  /** @param {string} app */
  constructor(app) {
    this.key = `imserver:account:${app}`;
  }

  #read() {
    try {
      return JSON.parse(localStorage.getItem(this.key) ?? "null");
    } catch {
      return null;
    }
  }

  /** @returns {Login | null} */
  get() {
    const login = this.#read();
    return typeof login?.token === "string" && typeof login.user === "string" ? login : null;
  }

  /** The token of a login that the server has ended, or empty. It proves that the device is known. */
  get earlier() {
    return String(this.#read()?.earlier ?? "");
  }

  /** The server has ended the login. */
  retire() {
    const login = this.get();
    if (login) this.set({ earlier: login.token });
  }

  /** @param {Login | { earlier: string } | null} login  null: forget it */
  set(login) {
    try {
      if (login) localStorage.setItem(this.key, JSON.stringify(login));
      else localStorage.removeItem(this.key);
    } catch {
      // no storage: the login ends with this page
    }
  }
}
