// @ts-check
/** Requests to `/api/v1` as the principal who has logged in, and what this principal may do. */

import { fill, listOf, recordOf, ROOT, textOf } from "../text.js";

const TIMEOUT_MS = 20_000;
/** When a browser has begun to save a file, its address is not needed any more. */
const SAVE_MS = 60_000;
/** Where the tab keeps the key or token. It is never in an address. */
const CREDENTIAL_ITEM = "imserver:admin-page";
/** In the tab after a log-out: the login of the chat is not taken by itself. */
const LEFT_ITEM = "imserver:admin-left";

/** A request that was refused. `code` is that of the problem, or `no_answer`. */
export class Refused extends Error {
  /**
   * @param {string} code
   * @param {string} message  of the server, in English
   * @param {number} status
   */
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }

  /** @returns {boolean} whether another key or login is needed */
  get isOfLogin() {
    return this.status === 401;
  }
}

/**
 * @typedef {object} Rights  who asks, and what they may do
 * @property {string} kind
 * @property {string} id
 * @property {string} name  of an account
 * @property {string[] | null} apps  null: all
 * @property {string[]} rights
 * @property {string} version
 */

export class Api {
  constructor() {
    this.credential = stored(CREDENTIAL_ITEM);
    /** @type {Rights} */
    this.rights = { kind: "", id: "", name: "", apps: [], rights: [], version: "" };
    /** @type {Set<string>} */
    this.routes = new Set();
    /** Called when a request needs another login. */
    this.onLoginNeeded = () => {};
    /** Called when something was changed. */
    this.onAct = () => {};
  }

  /**
   * Asks who this is. Rejected with {@link Refused} if the server takes the credential for nobody.
   *
   * @param {string} credential  an API key, or the token of an account; empty: none
   */
  async enter(credential) {
    await this.#become(credential);
    keep(CREDENTIAL_ITEM, credential);
  }

  /**
   * Asks who this is with the login of the chat, which stays where the chat keeps it.
   *
   * @param {string} token
   */
  async enterWithChat(token) {
    await this.#become(token);
    keep(LEFT_ITEM, "");
  }

  /**
   * @param {string} credential
   * @returns {this} asks with this credential
   */
  as(credential) {
    this.credential = credential;
    return this;
  }

  /** @returns {boolean} whether somebody has logged out in this tab */
  get hasLeft() {
    return stored(LEFT_ITEM) !== "";
  }

  /** @param {string} credential */
  async #become(credential) {
    this.credential = credential;
    const rights = await this.ask("GET", "admin/rights", {});
    const { kind, id, apps, rights: named, version } = rights;
    const app = textOf(listOf(apps)[0]);
    const account = kind === "staff" ? await this.ask("GET", "accounts/show", { app }).catch(() => ({})) : {};
    this.rights = {
      kind: textOf(kind),
      id: textOf(id),
      name: textOf(recordOf(account).nickname),
      apps: apps === null ? null : listOf(apps),
      rights: listOf(named),
      version: textOf(version),
    };
    this.routes = new Set(listOf(rights.routes));
  }

  leave() {
    this.credential = "";
    this.routes.clear();
    keep(CREDENTIAL_ITEM, "");
    keep(LEFT_ITEM, "yes");
  }

  /**
   * @param {...string} routes  such as `GET accounts/list`
   * @returns {boolean} whether the node has all of them, and the principal may use them
   */
  may(...routes) {
    return routes.every((route) => this.routes.has(route));
  }

  /**
   * @param {string} path
   * @param {Record<string, string | number | boolean>} [query]  empty texts are left out
   * @returns {Promise<Record<string, any>>}
   */
  async get(path, query = {}) {
    return this.checked("GET", path, query);
  }

  /**
   * @param {string} path
   * @param {Record<string, any>} body
   * @returns {Promise<Record<string, any>>}
   */
  async post(path, body) {
    const answer = await this.checked("POST", path, body);
    this.onAct();
    return answer;
  }

  /**
   * Asks, and tells the page if another login is needed.
   *
   * @param {"GET" | "POST"} method
   * @param {string} path
   * @param {Record<string, any>} fields
   */
  async checked(method, path, fields) {
    try {
      return await this.ask(method, path, fields);
    } catch (error) {
      if (error instanceof Refused && error.isOfLogin) this.onLoginNeeded();
      throw error;
    }
  }

  /**
   * Lets the browser save the file that is the answer.
   *
   * @param {string} path
   * @param {Record<string, string>} query
   * @param {string} name  for the file
   */
  async download(path, query, name) {
    const headers = this.credential ? { Authorization: `Bearer ${this.credential}` } : undefined;
    const response = await fetch(`${ROOT}/api/v1/${path}?${new URLSearchParams(query)}`, { headers, cache: "no-store", credentials: "omit" });
    if (!response.ok) throw refusalOf(response, recordOf(await response.json().catch(() => null)));
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await response.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), SAVE_MS);
  }

  /**
   * @param {"GET" | "POST"} method
   * @param {string} path
   * @param {Record<string, any>} fields  of a GET, empty texts are left out
   * @returns {Promise<Record<string, any>>} the answer; rejected with {@link Refused}
   */
  async ask(method, path, fields) {
    const isPost = method === "POST";
    const given = Object.entries(fields).filter(([, value]) => value !== "").map(([name, value]) => [name, String(value)]);
    const query = isPost || !given.length ? "" : `?${new URLSearchParams(given)}`;
    let response;
    try {
      response = await fetch(`${ROOT}/api/v1/${path}${query}`, {
        method,
        body: isPost ? JSON.stringify(fields) : undefined,
        headers: {
          ...(isPost && { "Content-Type": "application/json" }),
          ...(this.credential && { Authorization: `Bearer ${this.credential}` }),
        },
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch (error) {
      throw new Refused("no_answer", String(error), 0);
    }
    const answer = recordOf(await response.json().catch(() => null));
    if (!response.ok) throw refusalOf(response, answer);
    return answer;
  }
}

/**
 * @param {Response} response
 * @param {Record<string, any>} answer
 */
function refusalOf({ status }, { code, message }) {
  return new Refused(textOf(code) || `http_${status}`, textOf(message), status);
}

/**
 * @param {unknown} error
 * @param {Record<string, string>} words
 * @returns {string} what went wrong, in the language of the page where it has words for it
 */
export function reasonOf(error, words) {
  if (!(error instanceof Refused)) return error instanceof Error ? error.message : String(error);
  const known = words[`admin_fault_${error.code}`];
  if (known) return known;
  return error.message ? fill(words.admin_fault, { message: error.message }) : fill(words.admin_fault_code, { code: error.code });
}

/**
 * @param {string} item
 * @returns {string}
 */
function stored(item) {
  try {
    return sessionStorage.getItem(item) ?? "";
  } catch {
    return ""; // no storage: the page asks at each load
  }
}

/**
 * @param {string} item
 * @param {string} value  empty: remove it
 */
function keep(item, value) {
  try {
    if (value) sessionStorage.setItem(item, value);
    else sessionStorage.removeItem(item);
  } catch {
    // no storage
  }
}
