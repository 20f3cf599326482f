// @ts-check
/** Cards of people: names and avatars, loaded once. */

import { avatar } from "../text.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * @typedef {object} Card
 * @property {string} user
 * @property {string} name
 * @property {string} avatar        address of the picture; empty: none
 * @property {boolean} [online]     missing: hidden or not known
 * @property {number} [lastSeen]    Unix seconds
 */

export class People {
  /** @type {Map<string, Card>} */
  #cards = new Map();
  /** @type {Map<string, Promise<void>>} */
  #requests = new Map();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.#cards.set(session.user, { user: session.user, name: session.login.nickname, avatar: "" });
  }

  /**
   * @param {string} user
   * @returns {Card | undefined} undefined: not loaded
   */
  card(user) {
    return this.#cards.get(user);
  }

  /**
   * @param {string} user
   * @returns {string} the name, or a word for somebody whose name is not known
   */
  nameOf(user) {
    return this.#cards.get(user)?.name || this.session.words.messages_somebody;
  }

  /**
   * @param {string} user
   * @returns {HTMLElement}
   */
  avatar(user) {
    return avatar(this.nameOf(user));
  }

  /**
   * @param {string} _user
   * @returns {string} whether they are online, or when they were; empty: hidden from us, or not known
   */
  presenceOf(_user) {
    return "";
  }

  /**
   * Loads the cards of these users, unless they are loaded. The session then emits `people`. Unknown users are ignored.
   *
   * @param {Iterable<string>} users
   * @returns {Promise<void>}
   */
  async load(users) {
    await Promise.all([...new Set(users)].filter(Boolean).map((user) => this.#load(user).catch(() => {})));
  }

  /**
   * Whether an account has this number. Rejected with ApiError if none has.
   *
   * @param {string} user
   * @returns {Promise<void>}
   */
  check(user) {
    return this.#load(user);
  }

  /**
   * @param {string} user
   * @returns {Promise<void>}
   */
  #load(user) {
    const earlier = this.#requests.get(user);
    if (earlier) return earlier;
    const request = this.session.api("GET", "accounts/show", { of: user }).then(({ nickname }) => {
      this.#cards.set(user, { user, name: nickname, avatar: "" });
      this.session.peopleChanged();
    });
    this.#requests.set(user, request);
    request.catch((error) => error.code !== "unknown_account" && this.#requests.delete(user)); // later, try again
    return request;
  }
}
