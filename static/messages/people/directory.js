// @ts-check
/** The directory of the app: everybody, and people by parts of their names, where the app has one. Guests have none. */

import { cut } from "../../text.js";
import { loadRules } from "../parts/account-fields.js";
import { reasonOf } from "../parts/api.js";
import { fitOf, wordsOf } from "../parts/names.js";
import { toast } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */

const TEXT_LENGTH = 64;
/** The server stops a search after a time. So many times it is continued without a result. */
const EMPTY_PAGES = 5;
/** Members of a group that one search adds. */
const MOST_MEMBERS = 20;
/** People on a page of the directory: the server's maximum. */
const PAGE = 200;
/** So many people are loaded at once, and ordered as the language of the page orders names. */
const MOST_ORDERED = 600;
/** The first sign of each letter in the order of pinyin, and the letter; from the last one on. */
const PINYIN = "帀Z 丫Y 夕X 穵W 他T 仨S 呥R 七Q 妑P 噢O 拏N 妈M 垃L 咔K 讥J 哈H 旮G 发F 妸E 哒D 嚓C 八B 阿A".split(" ");
const pinyin = new Intl.Collator("zh-u-co-pinyin");
/** After a failure the next page is loaded so much later. */
const AGAIN_MS = 5_000;
/** Typing pauses so long before the server searches. */
export const SEARCH_AFTER_MS = 250;
/** Session → whether it has a directory. @type {WeakMap<Session, Promise<boolean>>} */
const known = new WeakMap();
/** Members of a group, as a text box knows them → the last search for more of them. @type {WeakMap<string[], string>} */
const searches = new WeakMap();

/**
 * @param {Session} session
 * @returns {Promise<boolean>} whether the user can search the people of the app; asked once in a session
 */
export function hasDirectory(session) {
  if (session.isGuest) return Promise.resolve(false);
  const asked = known.get(session) ?? loadRules(session.app).then((rules) => Boolean(rules.search), () => {
    known.delete(session); // the next one tries again
    return false;
  });
  known.set(session, asked);
  return asked;
}

/**
 * A page of the people whose names have all words of a text. Their cards are loaded then. Rejected with ApiError.
 *
 * @param {Session} session
 * @param {string} text
 * @param {string} [after]  where it begins: `next` of the page before
 * @returns {Promise<{ users: string[], next: string }>}
 */
export async function findPeople(session, text, after = "") {
  const wanted = cut(text.trim(), TEXT_LENGTH);
  if (!wanted || !(await hasDirectory(session))) return { users: [], next: "" };
  let cards;
  let next = after;
  for (let pages = 0; pages < EMPTY_PAGES; pages++) {
    ({ cards, next } = await session.api("POST", "accounts/search", { text: wanted, after: next }));
    if (cards.length || !next) break;
  }
  session.people.add(cards);
  return { users: cards.map((/** @type {{ user: string }} */ { user }) => user), next };
}

/** The people of the directory who are found for what is typed. */
export class FoundPeople {
  /** @type {string[]} */
  users = [];
  /** Whether the server has answered. */
  isDone = false;
  #text = "";
  /** Where the next page begins; empty: there is none. */
  #next = "";
  /** Number of the last request: the answer to an earlier one is ignored. */
  #run = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {Session} session
   * @param {() => void} changed
   */
  constructor(session, changed) {
    this.session = session;
    this.changed = changed;
  }

  stop() {
    this.#run += 1;
    clearTimeout(this.#timer);
    this.users = [];
    this.#next = "";
    this.isDone = false;
  }

  /** @param {string} text */
  find(text) {
    this.stop();
    this.#text = text.trim();
    this.changed();
    if (this.#text) this.#timer = setTimeout(() => this.#page(""), SEARCH_AFTER_MS);
  }

  /** Loads the next page, if there is one. */
  more() {
    const next = this.#next;
    this.#next = ""; // once
    if (next) this.#page(next);
  }

  /** @param {string} after  where the page that is loaded begins */
  async #page(after) {
    const run = ++this.#run;
    const { users, next } = await findPeople(this.session, this.#text, after).catch((error) => {
      toast(reasonOf(error, this.session.words));
      return { users: [], next: "" };
    });
    if (run !== this.#run) return;
    this.users = [...new Set([...this.users, ...users])];
    this.#next = next;
    this.isDone = true;
    this.changed();
  }
}

/** The whole directory, as far as it is loaded: from A to Z, and who of it is online. Owns both lists. */
export class Directory {
  /** @type {string[]} */
  users = [];
  /** @type {string[]} */
  online = [];
  /** Whether the server has answered. */
  isDone = false;
  /** Whether the language of the page has ordered them; else the server has. */
  isOrdered = false;
  /** Where the next page begins; null: there is none. @type {string | null} */
  #next = "";
  #isLoading = false;

  /**
   * @param {Session} session
   * @param {() => void} changed
   */
  constructor(session, changed) {
    this.session = session;
    this.changed = changed;
  }

  /** Loads who is online, and the first pages. */
  async load() {
    if (!(await hasDirectory(this.session))) return;
    const online = this.#list({ online: true }).then(({ users }) => { this.online = users; }, () => {});
    let before = -1;
    while (before < this.users.length && this.users.length < MOST_ORDERED) {
      before = this.users.length;
      await this.more(); // at the end, or after a failure, it adds nobody
    }
    await online;
    this.changed();
  }

  /** Loads the next page, if there is one, unless that is under way. */
  async more() {
    if (this.#isLoading || this.#next === null) return;
    this.#isLoading = true;
    const { session } = this;
    try {
      if (!(await hasDirectory(session))) return;
      const { users, next } = await this.#list({ cursor: this.#next, limit: PAGE });
      this.users.push(...users);
      this.#next = next || null;
      this.isOrdered = !next && this.users.length <= MOST_ORDERED;
      if (this.isOrdered) this.users = byName(session, this.users);
    } catch (error) {
      toast(reasonOf(error, session.words));
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
    this.#isLoading = false;
    this.isDone = true;
    this.changed();
  }

  /**
   * @param {Record<string, any>} query
   * @returns {Promise<{ users: string[], next: string }>}
   */
  async #list(query) {
    const { cards, next } = await this.session.api("GET", "accounts/directory", query);
    this.session.people.add(cards);
    return { users: cards.map((/** @type {{ user: string }} */ { user }) => user), next };
  }
}

/**
 * @param {Session} session
 * @param {string[]} users
 * @returns {string[]} in the order of their names, as the language of the page orders them
 */
export function byName({ language, people }, users) {
  const collator = new Intl.Collator(language);
  const isChinese = language.startsWith("zh"); // then 安 and Anna stand together
  const entries = users.map((user) => {
    const name = people.nameOf(user);
    return { user, name, letter: isChinese ? letterOf(name, language) : "" };
  });
  entries.sort((a, b) => collator.compare(a.letter, b.letter) || collator.compare(a.name, b.name));
  return entries.map(({ user }) => user);
}

/**
 * @param {Session} session
 * @param {string[]} users
 * @param {string} typed
 * @returns {string[]} those whose names have it, first those in whose names a word begins with it
 */
export function fittingOf({ people }, users, typed) {
  const fits = new Map(users.map((user) => [user, fitOf(`${people.nameOf(user)} ${people.card(user)?.name ?? ""}`, typed)]));
  return [0, 1].flatMap((fit) => users.filter((user) => fits.get(user) === fit)); // see `fitOf`; 2 is left out
}

/**
 * @param {string} name
 * @param {string} [language]  that orders the names
 * @returns {string} the letter under which it stands, in Chinese by its pinyin; one sign for all of a script with very many
 */
export function letterOf(name, language = "") {
  const [first] = wordsOf(name)[0] ?? "#"; // a whole character, not half of a pair
  if (language.startsWith("zh") && /\p{Script=Han}/u.test(first)) {
    const found = PINYIN.find(([sign]) => pinyin.compare(sign, first) <= 0);
    return found?.[1] ?? "A";
  }
  if (/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u.test(first)) return "文";
  if (/\p{Script=Hangul}/u.test(first.normalize("NFC"))) return "가";
  return /\p{L}/u.test(first) ? first.toUpperCase() : "#";
}

/**
 * Not all members of a large group are loaded: the server searches for those whose names have all words of a text. Rejected with ApiError.
 *
 * @param {Session} session
 * @param {number} group
 * @param {string} text
 * @param {string[]} members  is made longer
 * @param {() => void} onLonger
 */
export async function findMembers(session, group, text, members, onLonger) {
  if (text === searches.get(members)) return;
  searches.set(members, text);
  await new Promise((resolve) => setTimeout(resolve, SEARCH_AFTER_MS));
  if (text !== searches.get(members)) return; // more was typed
  const page = await session.api("GET", "groups/members", { group: String(group), text: cut(text, TEXT_LENGTH), limit: MOST_MEMBERS });
  /** @type {string[]} */
  const found = page.members.map((/** @type {{ user: string }} */ { user }) => user);
  const users = found.filter((user) => !members.includes(user));
  await session.people.load(users);
  members.push(...users);
  if (users.length) onLonger();
}
