// @ts-check
/** Cards of people: names, avatars, presence, and what they are to us. Nobody sees the number of a user. */

import { fieldsLike, hashOf, listOf, make, textOf } from "../../text.js";
import { icon, ownAddress } from "../parts/file.js";
import { Stored } from "./saved-login.js";
import { seal } from "./seal.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * @typedef {object} Card
 * @property {string} user
 * @property {string} nickname
 * @property {string} avatar        address of the picture; empty: none
 * @property {string} name          user name; empty: none, or hidden from us
 * @property {"" | "self" | "friend" | "incoming" | "outgoing" | "blocked"} relation  `incoming`: they have asked us
 * @property {"online" | "offline" | ""} presence  empty: hidden from us, or not known
 * @property {number} last_seen     Unix seconds; 0: hidden, not known, or online
 * @property {string} status        what they say of themselves; empty: nothing, or hidden from us
 * @property {boolean} away         as they say
 * @property {number} status_until  when both end, in Unix seconds; 0: they do not
 * @property {string} title         what they do in the organisation; empty: they do not say
 * @property {string} email         empty: none, or hidden from us
 * @property {boolean} [bot]        a program
 * @property {boolean} [guest]      somebody without a password
 * @property {boolean} [deleted]    there is no such account any more
 * @property {string} [role]        our own one alone
 */

/** The number of hues of names in people.css. */
const HUES = 16;
/** Ids that follow each other have hues that are far from each other. */
const HUE_STEP = 7;
/** Cards per request: the server's maximum. */
const BATCH = 100;
/** Cards that the browser stores for the time without a connection. */
const MAX_STORED = 500;
/** Cards are stored so long after the first of several changes. */
const STORE_AFTER_MS = 1_000;
/** Presence of the people on the screen is loaded again this often. */
const FRESH_MS = 45_000;
/** An id of an account. Ids that a back end chose are names. */
const NUMBER = /^\d+$/;
/** Fields of a card that the browser stores. Presence, for example, would be out of date at the next visit. */
const STORED_FIELDS = /** @type {const} */ (["user", "nickname", "avatar", "name", "bot", "guest", "deleted"]);

export class People {
  /** @type {Map<string, Card>} */
  #cards = new Map();
  /** User → the request that loads the card. @type {Map<string, Promise<void>>} */
  #requests = new Map();
  /** Users whose cards the next request loads. @type {Set<string>} */
  #queue = new Set();
  /** @type {Promise<void> | null} */
  #batch = null;
  /** Functions that return the users on the screen. @type {Set<() => Iterable<string>>} */
  #shown = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #storing;
  #isForgotten = false;
  #stored;

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.#stored = new Stored(`imserver:people:${session.app}:${session.user}`);
    this.#cards.set(session.user, emptyCard(session.user, session.login.nickname));
    this.#restore();
    // The stored card may say that the user is a guest, who has become a member since.
    this.add([{ user: session.user, guest: Boolean(session.login.guest) }]);
    const refreshing = setInterval(() => {
      if (!document.hidden && session.isOnline) this.refresh([...this.#shown].flatMap((users) => [...users()]));
    }, FRESH_MS);
    session.on("ended", () => clearInterval(refreshing));
    addEventListener("pagehide", () => {
      if (this.#storing) this.#store();
    });
  }

  /** @returns {string[]} users whose cards are loaded */
  get users() {
    return [...this.#cards.keys()];
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
    const card = this.#cards.get(user);
    const { words } = this.session;
    if (card?.deleted || user.startsWith("deleted:")) return words.messages_deleted_user;
    return card?.nickname || card?.name || (NUMBER.test(user) ? words.messages_somebody : user);
  }

  /**
   * @param {string} user
   * @returns {HTMLElement[]} the mark of a bot or guest; empty: neither
   */
  marks(user) {
    const card = this.#cards.get(user);
    const { words } = this.session;
    if (card?.bot) return [make("span", "mark", words.messages_bot)];
    return card?.guest ? [make("span", "mark", words.messages_guest)] : [];
  }

  /**
   * @param {string} user
   * @param {string} [classes]
   * @returns {HTMLElement} the picture of a user, or the seal of the name
   */
  avatar(user, classes = "") {
    return avatarOf(this.nameOf(user), this.#cards.get(user)?.avatar ?? "", `${hueOf(user)} ${classes}`);
  }

  /**
   * @param {Pick<import("./store.js").Conversation, "id" | "group" | "peer" | "name" | "avatar">} conversation
   * @returns {HTMLElement} the picture of a group, or of the other user
   */
  face({ id, group, peer, name, avatar }) {
    const { words } = this.session;
    if (!group && peer === this.session.user) return avatarOf(words.messages_to_oneself, "", "saved");
    if (!group) return peer ? this.avatar(peer) : avatarOf(words.messages_server, "");
    return avatarOf(name || words.messages_group, avatar, `group ${hueOf(`#${id}`)}`);
  }

  /**
   * Loads the cards of these users, unless they are loaded. The session then emits `people`. It never fails: unknown users are
   * ignored, and after a failure the next call tries again.
   *
   * @param {Iterable<string>} users
   * @returns {Promise<void>}
   */
  async load(users) {
    const wanted = [...new Set(users)].filter(Boolean);
    const missing = wanted.filter((user) => !this.#requests.has(user));
    if (missing.length) this.refresh(missing);
    await Promise.all(wanted.map((user) => this.#requests.get(user)));
  }

  /**
   * Loads the cards of these users again. Calls of the same moment share a request.
   *
   * @param {Iterable<string>} users
   * @returns {Promise<void>}
   */
  async refresh(users) {
    const wanted = [...new Set(users)].filter(Boolean);
    if (!wanted.length) return;
    for (const user of wanted) this.#queue.add(user);
    this.#batch ??= Promise.resolve().then(() => this.#loadQueue());
    const batch = this.#batch;
    for (const user of wanted) this.#requests.set(user, batch);
    await batch;
  }

  /**
   * Takes cards that a request has loaded. The fields that a card does not have stay as they were.
   *
   * @param {Partial<Card>[]} cards  each has `user`
   */
  add(cards) {
    let changed = false;
    for (const card of cards) {
      const user = textOf(card.user);
      const before = this.#cards.get(user) ?? emptyCard(user);
      const fields = fieldsLike(card, PATTERN);
      // A name that we have found stays known.
      const after = { ...before, ...fields, name: fields.name || before.name };
      if (JSON.stringify(before) === JSON.stringify(after) && this.#cards.has(user)) continue;
      this.#cards.set(user, after);
      changed = true;
    }
    if (changed) this.#changed();
  }

  /** @param {string} user  whose account was deleted: the card goes */
  erase(user) {
    this.#cards.set(user, { ...emptyCard(user), deleted: true });
    this.#changed();
  }

  #changed() {
    this.session.peopleChanged();
    if (!this.#isForgotten) this.#storing ??= setTimeout(() => this.#store(), STORE_AFTER_MS);
  }

  /**
   * Keeps the presence of people fresh while they are on the screen.
   *
   * @param {() => Iterable<string>} users
   * @returns {() => void} ends it
   */
  watch(users) {
    this.#shown.add(users);
    return () => void this.#shown.delete(users);
  }

  /** Deletes what the browser has stored. From then on nothing is stored. */
  forget() {
    clearTimeout(this.#storing);
    this.#storing = undefined;
    this.#isForgotten = true;
    this.#stored.forget();
  }

  /** Loads the cards of the queue. Users of a request that fails can be loaded again. */
  async #loadQueue() {
    const users = [...this.#queue];
    this.#queue.clear();
    this.#batch = null;
    for (let at = 0; at < users.length; at += BATCH) {
      const part = users.slice(at, at + BATCH);
      try {
        const { cards } = await this.session.api("POST", "accounts/cards", { users: part });
        this.add(cards);
        const existing = new Set(cards.map((/** @type {Card} */ card) => card.user));
        const missing = part.filter((user) => !existing.has(user) && this.#cards.get(user)?.nickname);
        // The account was deleted while this device was away.
        for (const user of missing) this.erase(user);
      } catch {
        for (const user of part) this.#requests.delete(user);
      }
    }
  }

  #store() {
    clearTimeout(this.#storing);
    this.#storing = undefined;
    const cards = [...this.#cards.values()].slice(-MAX_STORED);
    this.#stored.set(cards.map((card) => Object.fromEntries(STORED_FIELDS.map((field) => [field, card[field]]))));
  }

  #restore() {
    for (const card of listOf(this.#stored.get())) {
      const user = textOf(card?.user);
      this.#cards.set(user, { ...emptyCard(user), ...fieldsLike(card, PATTERN) });
    }
  }
}

/** The types of the fields of a card. */
const PATTERN = { ...emptyCard(""), bot: false, guest: false, deleted: false, role: "" };

/**
 * @param {string} user
 * @param {string} [nickname]
 * @returns {Card}
 */
function emptyCard(user, nickname = "") {
  return {
    user, nickname, avatar: "", name: "", relation: "", presence: "", last_seen: 0,
    status: "", away: false, status_until: 0, title: "", email: "",
  };
}

/**
 * @param {string} user  or `#` and the id of a group
 * @returns {string} a class: the hue of their name in groups, and of their seal
 */
export function hueOf(user) {
  return `tint-${((hashOf(user) >>> 8) * HUE_STEP) % HUES}`;
}

/**
 * The picture of somebody or something. Without a picture, and until it is loaded, it is a seal with the name.
 *
 * @param {string} name
 * @param {string} url      empty: none. Not shown unless it is of a file on this server
 * @param {string} [classes]  `saved`: of saved messages
 * @returns {HTMLElement}
 */
export function avatarOf(name, url, classes = "") {
  const sign = classes === "saved" ? icon("saved") : seal(name);
  const avatar = make("span", `avatar ${classes}`.trim(), sign);
  avatar.setAttribute("aria-hidden", "true");
  const src = ownAddress(url);
  if (!src) return avatar;
  const picture = /** @type {HTMLImageElement} */ (make("img", ""));
  Object.assign(picture, { alt: "", decoding: "async", loading: "lazy", src });
  picture.addEventListener("load", () => avatar.replaceChildren(picture));
  picture.addEventListener("error", () => picture.remove());
  avatar.append(picture);
  return avatar;
}
