// @ts-check
/** The account of the user, and the HTTP requests that the page sends with its token. */

import { ImError, NotConnected } from "../sdk/imserver.js";

const TIMEOUT_MS = 15_000;

/** A failed request. `code` is the error code of the API, or `no_answer`. */
export class ApiError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * @typedef {object} Login
 * @property {string} token
 * @property {string} user
 * @property {string} nickname
 */

/** Owns the login of the page and the nicknames that it has loaded. */
export class Account {
  /** @type {Map<string, Promise<string>>} */
  #requests = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();

  /**
   * @param {string} app
   * @param {Storage | null} storage  saves the login, so that a reload needs no password
   */
  constructor(app, storage) {
    this.app = app;
    this.storage = storage;
    this.key = `imserver:account:${app}`;
    /** @type {Login | null} */
    this.login = this.#restore();
  }

  /** @returns {string} */
  get user() {
    return this.login?.user ?? "";
  }

  /**
   * @param {string} phone
   * @param {string} password
   */
  async logIn(phone, password) {
    this.#save(await this.#call("accounts/login", { phone, password }));
  }

  /**
   * @param {string} phone
   * @param {string} password
   * @param {string} nickname
   */
  async register(phone, password, nickname) {
    this.#save(await this.#call("accounts/register", { phone, password, nickname }));
  }

  /** Forgets the login at once, and logs this device out on the server if it answers. */
  async logOut() {
    const { token } = this.login ?? { token: "" };
    this.forget();
    try {
      const { devices } = await this.#call("accounts/devices", null, token);
      const here = devices.find((/** @type {any} */ each) => each.current);
      if (here) await this.#call("accounts/devices/logout", { device: here.device }, token);
    } catch {
      // the token expires anyway
    }
  }

  forget() {
    this.login = null;
    try {
      this.storage?.removeItem(this.key);
    } catch {
      // no storage: nothing was saved
    }
  }

  /**
   * The nickname of a user if it is loaded, else the id; see {@link loadNames}.
   *
   * @param {string} user
   */
  nameOf(user) {
    return this.#names.get(user) || user;
  }

  /**
   * Loads the nicknames of users. Unknown users are ignored.
   *
   * @param {Iterable<string>} users
   */
  async loadNames(users) {
    await Promise.all([...new Set(users)].filter(Boolean).map((user) => this.#loadName(user).catch(() => "")));
  }

  /**
   * Loads the nickname of a user. Rejected with {@link ApiError} if there is no such user.
   *
   * @param {string} user
   * @returns {Promise<string>}
   */
  #loadName(user) {
    const earlier = this.#requests.get(user);
    if (earlier) return earlier;
    const request = this.#call(`accounts/show?app=${encodeURIComponent(this.app)}&of=${encodeURIComponent(user)}`)
      .then(({ nickname }) => {
        this.#names.set(user, nickname);
        return nickname;
      });
    this.#requests.set(user, request);
    request.catch((error) => error.code !== "unknown_account" && this.#requests.delete(user)); // later, try again
    return request;
  }

  /**
   * Checks that these users exist. Rejected with {@link ApiError} if one does not.
   *
   * @param {string[]} users
   */
  async checkUsers(users) {
    await Promise.all(users.map((user) => this.#loadName(user)));
  }

  /**
   * @param {string} name
   * @param {string[]} members  the other members
   * @returns {Promise<number>} id of its conversation
   */
  async createGroup(name, members) {
    const { group } = await this.#call("groups/create", { name });
    await this.#call("groups/invite", { group, members });
    return Number(group);
  }

  /** @param {{ token: string, account: { user: string, nickname: string } }} answer */
  #save({ token, account: { user, nickname } }) {
    this.login = { token, user, nickname };
    this.#names.set(user, nickname);
    try {
      this.storage?.setItem(this.key, JSON.stringify(this.login));
    } catch {
      // no storage: the login ends with this page
    }
  }

  /** @returns {Login | null} */
  #restore() {
    try {
      const login = JSON.parse(this.storage?.getItem(this.key) ?? "null");
      if (typeof login?.token !== "string" || typeof login.user !== "string") return null;
      this.#names.set(login.user, String(login.nickname ?? ""));
      return login;
    } catch {
      return null;
    }
  }

  /**
   * @param {string} path  below /api/v1
   * @param {object | null} [body]  null: a GET
   * @param {string} [token]
   * @returns {Promise<any>}
   */
  async #call(path, body = null, token = this.login?.token ?? "") {
    /** @type {Response} */
    let response;
    let answer;
    try {
      response = await fetch(`/api/v1/${path}`, {
        method: body ? "POST" : "GET",
        body: body ? JSON.stringify({ app: this.app, ...body }) : undefined,
        headers: { ...(body && { "Content-Type": "application/json" }), ...(token && { Authorization: `Bearer ${token}` }) },
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      answer = await response.json();
    } catch (error) {
      throw new ApiError("no_answer", String(error));
    }
    if (!response.ok) throw new ApiError(String(answer.code), String(answer.message));
    return answer;
  }
}

/**
 * @param {unknown} error
 * @param {Record<string, string>} words
 * @returns {string} the reason, in the language of the page
 */
export function reasonOf(error, words) {
  if (error instanceof ApiError && error.code === "no_answer") return words.no_answer;
  if (error instanceof ApiError) return words[`messages_fault_${error.code}`] ?? `${error.message} (${error.code})`;
  if (error instanceof NotConnected) return words.no_answer;
  if (error instanceof ImError) return error.message;
  return String(error);
}
