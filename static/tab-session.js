// @ts-check
/**
 * The name, the token and the lines of one room, saved by this tab until it is closed.
 *
 * The server gives each page a new name. After a reload, the tab uses its earlier name again, unless the tab was
 * duplicated: then the other tab still uses that name.
 */

import { OFFLINE_PROBE_MS } from "./connection-view.js";
import { cut } from "./text.js";

const MAX_LINES = 200;
const MAX_TEXT = 4_000;
/** Characters. Browsers allow about five million per site. */
const MAX_SAVED = 400_000;
const SAVE_AFTER_MS = 400;
/** A saved token must be valid for at least this time, so that the login does not come too late. */
const SHORTEST_MS = 5_000;
const NOTICES = new Set(["enter", "exit"]);

/** The first notices of one kind in a row have a line each; the rest share one line. */
export const MAX_SINGLE_NOTICES = 3;

/**
 * @typedef {object} Line  a message or notice on the page
 * @property {"msg" | "own" | "enter" | "exit" | "reconnected" | "note"} kind
 * @property {string} from
 * @property {string} text
 * @property {number} at  milliseconds since 1970
 * @property {string} [type]  of the message, unless it is text
 * @property {string} [id]    of the message
 */

/** @typedef {{ user: string, token: string, until: number, left: boolean, lines: Line[] }} Saved */

/**
 * Identity from the server. Without a tokenUrl, the user and the token are part of the page's address, and the token
 * is not renewed.
 *
 * @typedef {{ app: number | string, user: string, token: string, tokenSeconds: number, tokenUrl: string }} Identity
 */

/**
 * Whether a notice replaces the one before it, because both would share a line.
 *
 * @param {Line[]} before
 * @param {Line} line
 */
function replacesLast(before, line) {
  const last = before.slice(-MAX_SINGLE_NOTICES);
  return NOTICES.has(line.kind) && last.length === MAX_SINGLE_NOTICES && last.every(({ kind }) => kind === line.kind);
}

/** Owns what the tab has saved for one app. */
export class TabSession {
  /** @type {Line[]} */
  lines = [];
  /** Whether the state of an earlier load was restored. */
  resumed = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;
  #unloaded = false;

  /**
   * @param {Identity} identity
   * @param {Storage | null} storage
   */
  constructor(identity, storage) {
    this.identity = identity;
    this.storage = storage;
    this.key = `imserver:${identity.app}`;
    this.user = identity.user;
    this.token = identity.token;
    this.until = Date.now() + identity.tokenSeconds * 1000;
    this.#resume();
    this.#save();
  }

  /** @param {Line} line */
  add(line) {
    if (replacesLast(this.lines, line)) this.lines.pop();
    this.lines.push({ ...line, text: cut(line.text, MAX_TEXT) });
    if (this.lines.length > MAX_LINES) this.lines.shift();
    this.#saving ??= setTimeout(() => this.#save(), SAVE_AFTER_MS);
  }

  /** The page is unloaded. After this, the next page of the tab may restore the state. */
  unload() {
    this.#unloaded = true;
    this.#save();
  }

  /** Deletes the saved state and saves nothing more: the next page of the tab uses the name that the server gives it. */
  forget() {
    try {
      this.storage?.removeItem(this.key);
    } catch {
      // as in #save
    }
    this.storage = null;
  }

  /**
   * Goes back to the identity from the server, after a login with the restored one was refused.
   *
   * @returns {boolean} false: it was in use already
   */
  startOver() {
    if (!this.resumed) return false;
    this.resumed = false;
    this.user = this.identity.user;
    this.token = this.identity.token;
    this.until = Date.now() + this.identity.tokenSeconds * 1000;
    this.lines = [];
    this.#save();
    return true;
  }

  /**
   * Renews the token. The present one must still be valid.
   *
   * @returns {Promise<boolean>} whether it was renewed
   */
  async renew() {
    if (!this.identity.tokenUrl) return false;
    const response = await fetch(this.identity.tokenUrl, {
      method: "POST",
      body: new URLSearchParams({ appID: String(this.identity.app), userID: this.user }),
      headers: { Authorization: `Bearer ${this.token}` },
      cache: "no-store",
    }).catch(() => null);
    if (!response?.ok) return false;
    const { token, seconds } = await response.json();
    this.token = token;
    this.until = Date.now() + seconds * 1000;
    this.#save();
    return true;
  }

  /** Restores what an earlier page of this tab has saved when it was unloaded. */
  #resume() {
    try {
      /** @type {Saved} */
      const saved = JSON.parse(this.storage?.getItem(this.key) ?? "null");
      if (!saved?.left || saved.until < Date.now() + SHORTEST_MS || !Array.isArray(saved.lines)) return;
      if (this.identity.tokenUrl) {
        this.user = String(saved.user);
        this.token = String(saved.token);
        this.until = saved.until;
      } else if (saved.user !== this.user) {
        return;
      }
      this.lines = saved.lines.filter(isLine);
      this.resumed = true;
    } catch {
      // not written by this page
    }
  }

  /** Saves the state. If it is too long, the oldest lines are dropped. */
  #save() {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    const { user, token, until } = this;
    const text = () => JSON.stringify({ user, token, until, left: this.#unloaded, lines: this.lines });
    while (this.lines.length && text().length > MAX_SAVED) this.lines.splice(0, Math.ceil(this.lines.length / 4));
    try {
      this.storage?.setItem(this.key, text());
    } catch {
      // storage is full or forbidden: a reload shows no earlier lines
    }
  }
}

/** @param {any} line @returns {boolean} whether it can be shown */
function isLine(line) {
  return typeof line?.from === "string" && typeof line.text === "string" && !Number.isNaN(new Date(line.at).getTime());
}

/** @returns {Storage | null} null: the browser forbids it */
export function tabStorage() {
  try {
    return globalThis.sessionStorage;
  } catch {
    return null;
  }
}

/**
 * @typedef {object} Client
 * @property {import("../sdk/imserver.js").StateChange} state
 * @property {() => void} retryNow
 * @property {(timeoutMs?: number) => void} probe
 * @property {() => void} close
 */

/**
 * Keeps the connection of a page in step with its tab: with the network, and with the tab's visibility and end.
 *
 * @param {TabSession} session
 * @param {import("./connection-view.js").ConnectionView} view
 * @param {() => Client} client  the present one
 * @param {() => void} [onVisible]
 * @returns {() => void}  counts an unread message in the title if the tab is hidden
 */
export function followTab(session, view, client, onVisible = () => {}) {
  const title = document.title;
  let unread = 0;
  addEventListener("online", () => client().retryNow());
  addEventListener("offline", () => {
    view.show(client().state);
    client().probe(OFFLINE_PROBE_MS); // a server on this machine still answers
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    unread = 0;
    document.title = title;
    client().retryNow(); // timers of hidden pages are slow
    client().probe(); // the device may have slept, or changed its network
    onVisible();
  });
  addEventListener("pagehide", () => {
    session.unload();
    client().close();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload(); // the browser's cache brought back a page whose connection is closed
  });
  return () => {
    if (!document.hidden) return;
    unread += 1;
    document.title = `(${unread}) ${title}`;
  };
}
