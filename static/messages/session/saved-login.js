// @ts-check
/** The login that the browser has stored, and how it stores other things. */

/**
 * @typedef {object} Login
 * @property {string} token
 * @property {string} user
 * @property {string} nickname
 * @property {string} [device]  its name in the list of devices
 * @property {boolean} [guest]
 * @property {boolean} [isNew]  the user has just come in, and has not seen to the first things
 */

/** Where logins are; null: in the browser. @type {Pick<Storage, "getItem" | "setItem" | "removeItem"> | null} */
let place = null;

/** @param {typeof place} other  where logins are from now on */
export function keepLogins(other) {
  place = other;
}

/**
 * What the browser stores under a key, as JSON. Without storage it ends with this page.
 *
 * @template [T=any]
 */
export class Stored {
  /** @param {string} key */
  constructor(key) {
    this.key = key;
  }

  /** @returns {T | null} null: nothing, or nothing that this page has written */
  get() {
    try {
      return JSON.parse(localStorage.getItem(this.key) ?? "null");
    } catch {
      return null;
    }
  }

  /**
   * @param {T} value
   * @returns {boolean} false: storage is full or forbidden, and has what it had
   */
  set(value) {
    try {
      localStorage.setItem(this.key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  /** Deletes it. */
  forget() {
    try {
      localStorage.removeItem(this.key);
    } catch {
      // no storage: there is nothing to forget
    }
  }
}

/** The login that the browser remembers, so that a reload needs no password. */
export class SavedLogin {
  /** @param {string} app */
  constructor(app) {
    this.key = `imserver:account:${app}`;
  }

  #read() {
    try {
      return JSON.parse((place ?? localStorage).getItem(this.key) ?? "null");
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

  /** The server has ended the login: only its token is kept, as {@link earlier}. */
  retire() {
    const login = this.get();
    if (login) this.set({ earlier: login.token });
  }

  /** @param {Login | { earlier: string } | null} login  null: forget it */
  set(login) {
    try {
      if (login) (place ?? localStorage).setItem(this.key, JSON.stringify(login));
      else (place ?? localStorage).removeItem(this.key);
    } catch {
      // no storage: the login ends with this page
    }
  }
}
