// @ts-check
/** The directory of the app: people by parts of their names, where the app has one. Guests have none. */

import { cut, make } from "../../text.js";
import { loadRules } from "../parts/account-fields.js";
import { reasonOf } from "../parts/api.js";
import { attempt } from "../parts/form.js";
import { button, toast } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */

const TEXT_LENGTH = 64;
/** The server stops a search after a time. So many times it is continued without a result. */
const EMPTY_PAGES = 5;
/** Members of a group that one search adds. */
const MOST_MEMBERS = 20;
/** Typing pauses so long before the server searches. */
export const SEARCH_AFTER_MS = 250;
/** Session → whether it has a directory. @type {WeakMap<Session, Promise<boolean>>} */
const known = new WeakMap();
/** Members of a group, as a text box knows them → the last search for more of them. @type {WeakMap<string[], string>} */
const searches = new WeakMap();

/**
 * @param {Session} session
 * @returns {Promise<boolean>}
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
  /** A row that loads the next page. @type {HTMLElement | null} */
  more = null;
  /** Whether the server has answered. */
  isDone = false;
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
    this.more = null;
    this.isDone = false;
  }

  /** @param {string} text */
  find(text) {
    this.stop();
    this.changed();
    if (text.trim()) this.#timer = setTimeout(() => this.findNow(text).catch((error) => toast(reasonOf(error, this.session.words))), SEARCH_AFTER_MS);
  }

  /**
   * @param {string} text
   * @param {string} [after]  where the page begins
   */
  async findNow(text, after = "") {
    const run = ++this.#run;
    const { users, next } = await findPeople(this.session, text, after);
    if (run !== this.#run) return;
    this.users = [...new Set([...this.users, ...users])];
    this.isDone = true;
    this.more = null;
    if (next) {
      const more = button(this.session.words.messages_more_people, "link");
      more.addEventListener("click", () => attempt(more, null, this.session.words, () => this.findNow(text, next)));
      this.more = make("li", "", more);
    }
    this.changed();
  }
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
  const users = page.members.map((/** @type {{ user: string }} */ { user }) => user).filter((/** @type {string} */ user) => !members.includes(user));
  await session.people.load(users);
  members.push(...users);
  if (users.length) onLonger();
}
