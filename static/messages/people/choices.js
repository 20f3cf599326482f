// @ts-check
/** From whom one chooses: contacts and the directory, or the members of a group. Contacts are listed so, too. */

import { cut } from "../../text.js";
import { reasonOf, rowsOf } from "../parts/api.js";
import { toast } from "../parts/panel.js";
import { byName, Directory, fittingOf, FoundPeople, letterOf, SEARCH_AFTER_MS } from "./directory.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {"friends" | "incoming" | "outgoing" | "blocked"} ListName */
/** @typedef {{ key: string, heading: string } | { key: string, user: string }} Entry  a heading, or a person below it */

/**
 * @typedef {object} People  whom one may choose
 * @property {(text: string) => Entry[]} list  for what is typed
 * @property {(text: string) => void} find     looks for more of them
 * @property {() => void} more                 loads what comes after them
 * @property {(text: string) => boolean} isLoading
 * @property {() => void} stop
 */

const PAGE = 200;
const MEMBERS_PAGE = 500;
const TEXT_LENGTH = 64;
/** List → what its people are to us. */
const RELATIONS = /** @type {const} */ ({ friends: "friend", incoming: "incoming", outgoing: "outgoing", blocked: "blocked" });
/** An id of an account. */
const NUMBER = /^\d+$/;

/** Contacts, people with whom one has a conversation, and everybody of the directory. @implements {People} */
export class Everybody {
  /** @type {string[]} */
  #contacts = [];
  #isDone = false;
  #found;
  #directory;
  /** User, behind the language that orders names → the letter of their name. @type {Map<string, string>} */
  #letters = new Map();

  /**
   * @param {Session} session
   * @param {() => void} changed
   * @param {Set<string>} [without]  who is not listed
   * @param {number} [recent]        so many with whom the user has talked lately stand at the top
   */
  constructor(session, changed, without = new Set(), recent = 0) {
    this.session = session;
    this.without = without;
    this.recent = recent;
    this.#found = new FoundPeople(session, changed);
    this.#directory = new Directory(session, changed);
    const contacts = loadContacts(session, "friends").then((users) => { this.#contacts = users; }, () => {});
    Promise.all([contacts, this.#directory.load()]).then(() => {
      this.#isDone = true;
      changed();
    });
  }

  /** @returns {string[]} with whom the user has a conversation, the last one first */
  get #peers() {
    const { store, people } = this.session;
    const peers = store.sorted.filter(({ group, peer }) => !group && NUMBER.test(peer)).map(({ peer }) => peer);
    return peers.filter((user) => {
      const card = people.card(user);
      return card?.nickname && !card.bot && card.relation !== "blocked";
    });
  }

  /**
   * @param {string} text
   * @returns {Entry[]} for what is typed; without it: recent people, those online, and all by their letters
   */
  list(text) {
    const { people, words, language } = this.session;
    const { users, online, isOrdered } = this.#directory;
    const peers = this.#peers;
    if (text) {
      const known = this.#listed([...peers, ...this.#contacts, ...users]);
      return this.#listed([...fittingOf(this.session, known, text), ...this.#found.users]).map((user) => ({ key: user, user }));
    }
    const hasDirectory = users.length > 0;
    const all = hasDirectory ? users : byName(this.session, [...new Set([...peers, ...this.#contacts])]);
    const recent = users.length > this.recent ? peers.slice(0, this.recent) : [];
    const present = this.#listed([...online, ...all]).filter((user) => people.card(user)?.presence === "online");
    return [
      ...this.#section("recent", words.messages_section_recent, recent),
      ...this.#section("online", words.messages_online, byName(this.session, present)),
      ...this.#lettered(this.#listed(all), isOrdered || !hasDirectory ? language : ""),
    ];
  }

  /** @param {string[]} users @returns {string[]} each once, without the user and those who are not offered */
  #listed(users) {
    return [...new Set(users)].filter((user) => user !== this.session.user && !this.without.has(user));
  }

  /**
   * @param {string} key
   * @param {string} heading
   * @param {string[]} users
   * @returns {Entry[]} a heading and the people below it; none if there are no people
   */
  #section(key, heading, users) {
    const listed = this.#listed(users);
    if (!listed.length) return [];
    return [{ key, heading: `${heading} · ${listed.length}` }, ...listed.map((user) => ({ key: `${key}:${user}`, user }))];
  }

  /**
   * @param {string[]} users  by their names
   * @param {string} language  that orders them; empty: the server has
   * @returns {Entry[]} with a heading where another letter begins
   */
  #lettered(users, language) {
    /** @type {Entry[]} */
    const entries = [];
    let last = "";
    for (const user of users) {
      const key = language + user;
      const letter = this.#letters.get(key) ?? letterOf(this.session.people.nameOf(user), language);
      this.#letters.set(key, letter);
      if (letter !== last) entries.push({ key: `letter:${letter}:${user}`, heading: letter });
      entries.push({ key: user, user });
      last = letter;
    }
    return entries;
  }

  /** @param {string} text */
  find(text) {
    this.#found.find(text);
  }

  /** Of what is found, or of everybody. */
  more() {
    if (this.#found.isDone) this.#found.more();
    else if (this.#isDone) this.#directory.more();
  }

  /** @param {string} text */
  isLoading(text) {
    return text ? !this.#found.isDone : !this.#isDone;
  }

  stop() {
    this.#found.stop();
  }
}

/** The members of a group. @implements {People} */
export class Members {
  /** @type {string[]} */
  #users = [];
  #isWhole = false;
  #isDone = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {Session} session
   * @param {string} group
   * @param {() => void} changed
   * @param {Set<string>} without
   */
  constructor(session, group, changed, without) {
    this.session = session;
    this.group = group;
    this.changed = changed;
    this.without = without;
    const loaded = rowsOf("members", (cursor) => this.#page({ cursor, limit: MEMBERS_PAGE }));
    loaded.catch((error) => toast(reasonOf(error, session.words))).finally(() => {
      this.#isDone = true;
      changed();
    });
  }

  /**
   * Loads members, and adds them to the others.
   *
   * @param {Record<string, any>} query
   * @returns {Promise<any>} the answer of the server
   */
  async #page(query) {
    const { session, group } = this;
    const page = await session.api("GET", "groups/members", { group, ...query });
    const users = page.members.map((/** @type {{ user: string }} */ { user }) => user);
    await session.people.load(users);
    this.#users = byName(session, [...new Set([...this.#users, ...users])]);
    this.#isWhole ||= this.#users.length >= page.count;
    return page;
  }

  /**
   * @param {string} text
   * @returns {Entry[]}
   */
  list(text) {
    const users = this.#users.filter((user) => user !== this.session.user && !this.without.has(user));
    return (text ? fittingOf(this.session, users, text) : users).map((user) => ({ key: user, user }));
  }

  /** @param {string} text  of a large group not all members are loaded: the server searches the others */
  find(text) {
    this.stop();
    this.changed();
    if (!text || this.#isWhole) return;
    this.#timer = setTimeout(() => {
      this.#page({ text: cut(text, TEXT_LENGTH) }).then(this.changed, (error) => toast(reasonOf(error, this.session.words)));
    }, SEARCH_AFTER_MS);
  }

  more() {}

  isLoading() {
    return !this.#isDone;
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

/**
 * @param {Session} session
 * @param {ListName} list
 * @returns {Promise<string[]>} users, whose cards are loaded then
 */
export async function loadContacts(session, list) {
  const friends = await rowsOf("friends", (cursor) => session.api("GET", "friends", { list, cursor, limit: PAGE }));
  session.people.add(friends.map(({ user, nickname, avatar }) => ({ user, nickname, avatar, relation: RELATIONS[list] })));
  return friends.map(({ user }) => String(user));
}
