// @ts-check
/**
 * One sitting in one room: who we are there and what was said, kept by this tab until it is closed.
 *
 * The server gives every page a new name. A page that is loaded again in the same tab takes back the name it had,
 * unless the tab was duplicated: then the other one still bears it.
 */

import { cut } from "./text.js";

const MAX_ENTRIES = 200;
const MAX_TEXT = 4_000;
const MAX_SAVED = 400_000; // characters; browsers allow about five million a site
const SAVE_AFTER_MS = 400;
const NOTICES = new Set(["enter", "exit"]);

/** So many notices of one kind in a row are shown one by one; the rest share a line. */
export const CROWD = 3;

/**
 * @typedef {object} Entry
 * @property {"msg" | "own" | "enter" | "exit" | "reconnected" | "note"} kind
 * @property {string} from
 * @property {string} text
 * @property {number} at  milliseconds since 1970
 * @property {string} [type]  of the message, where it is not words
 * @property {string} [id]    of the message
 */

/** @typedef {{ user: string, token: string, until: number, left: boolean, entries: Entry[] }} Saved */

/**
 * What the server gave the page. Without a tokenUrl the token came with the page's address: it says who one is, and
 * the server renews it for nobody.
 *
 * @typedef {{ app: number | string, user: string, token: string, tokenSeconds: number, tokenUrl: string }} Pass
 */

/**
 * Whether this notice is one of many in a row, of which only the first and the last are worth their place.
 *
 * @param {Entry[]} before
 * @param {Entry} entry
 */
function isCrowd(before, entry) {
  const last = before.slice(-CROWD);
  return NOTICES.has(entry.kind) && last.length === CROWD && last.every(({ kind }) => kind === entry.kind);
}

export class Sitting {
  /** @type {Entry[]} */
  entries = [];
  /** Whether this goes on where an earlier page of the tab stopped. */
  resumed = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;
  #left = false;

  /**
   * @param {Pass} pass       what the server gave this page
   * @param {Storage | null} storage
   */
  constructor(pass, storage) {
    this.pass = pass;
    this.storage = storage;
    this.key = `imserver:${pass.app}`;
    this.user = pass.user;
    this.token = pass.token;
    this.until = Date.now() + pass.tokenSeconds * 1000;
    this.#resume();
    this.#save();
  }

  /** @param {Entry} entry */
  remember(entry) {
    if (isCrowd(this.entries, entry)) this.entries.pop();
    this.entries.push({ ...entry, text: cut(entry.text, MAX_TEXT) });
    if (this.entries.length > MAX_ENTRIES) this.entries.shift();
    this.#saving ??= setTimeout(() => this.#save(), SAVE_AFTER_MS);
  }

  /** The page goes away; the next one in this tab may go on from here. */
  leave() {
    this.#left = true;
    this.#save();
  }

  /** The next page in this tab starts anew, under the name the server then gives. Nothing is kept from here on. */
  forget() {
    try {
      this.storage?.removeItem(this.key);
    } catch {
      // as in #save
    }
    this.storage = null;
  }

  /** Our name and token did not get us in: take those that came with this page. Says whether that changed anything. */
  startOver() {
    if (!this.resumed) return false;
    this.resumed = false;
    this.user = this.pass.user;
    this.token = this.pass.token;
    this.until = Date.now() + this.pass.tokenSeconds * 1000;
    this.entries = [];
    this.#save();
    return true;
  }

  /**
   * Gets a fresh token for the same name while the present one is valid.
   *
   * @returns {Promise<boolean>} whether it did
   */
  async renew() {
    if (!this.pass.tokenUrl) return false;
    const response = await fetch(this.pass.tokenUrl, {
      method: "POST",
      body: new URLSearchParams({ appID: String(this.pass.app), userID: this.user }),
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

  #resume() {
    try {
      /** @type {Saved} */
      const saved = JSON.parse(this.storage?.getItem(this.key) ?? "null");
      if (!saved?.left || saved.until < Date.now() + 5_000 || !Array.isArray(saved.entries)) return;
      if (this.pass.tokenUrl) {
        this.user = String(saved.user);
        this.token = String(saved.token);
        this.until = saved.until;
      } else if (saved.user !== this.user) {
        return;
      }
      this.entries = saved.entries;
      this.resumed = true;
    } catch {
      // what does not read as ours is not ours
    }
  }

  #save() {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    const { user, token, until } = this;
    const text = () => JSON.stringify({ user, token, until, left: this.#left, entries: this.entries });
    while (this.entries.length && text().length > MAX_SAVED) this.entries.splice(0, Math.ceil(this.entries.length / 4));
    try {
      this.storage?.setItem(this.key, text());
    } catch {
      // a full or forbidden store costs the history of a reload, nothing else
    }
  }
}

/** @returns {Storage | null} this tab's store, if the browser lets us have it */
export function tabStorage() {
  try {
    return globalThis.sessionStorage;
  } catch {
    return null;
  }
}
