// @ts-check
/** What conversations of groups add: where one only reads, and which entries one row says: people who came or went in the same way. */

import { fill, listOf } from "../../text.js";
import { withModule } from "../parts/loading.js";
import { button } from "../parts/panel.js";
import { MOST_NAMED, noticeText } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** A row names so many of more people than `MOST_NAMED`. */
const FEW_NAMED = 3;

/**
 * @param {Conversation | null} conversation
 * @param {boolean} [inThread]
 * @returns {boolean} whether only its owner and admins write there, or reply in threads
 */
export function readsOnly(conversation, inThread) {
  return conversation?.write === "admin" && conversation.role === "member" && (!inThread || conversation.reply === "admin");
}

/**
 * @param {Conversation | null} conversation
 * @returns {boolean} whether we may not write there, but reply in threads
 */
export function repliesInThread(conversation) {
  return readsOnly(conversation) && !readsOnly(conversation, true);
}

/**
 * @param {Conversation | null} conversation
 * @param {unknown} inThread  whether it would be in a thread: anything is true
 * @param {Record<string, string>} words
 * @returns {string} why one only reads there; empty: one may write
 */
export function readOnlyReason(conversation, inThread, words) {
  if (!readsOnly(conversation, Boolean(inThread))) return "";
  const threads = repliesInThread(conversation) ? words.messages_read_only_threads : "";
  return words.messages_read_only + threads;
}

/**
 * Lets a notice that names some of many people show all of them.
 *
 * @param {HTMLElement} notice
 * @param {Entry} entry
 * @param {Session} session
 */
export function showsAll(notice, entry, session) {
  const users = entry.named ?? listOf(entry.meta?.users);
  if (users.length <= MOST_NAMED) return;
  const text = notice.textContent ?? "";
  const all = button(text, "");
  all.setAttribute("aria-haspopup", "dialog");
  all.addEventListener("click", () => withModule(import("./named.js"), session.words, ({ openNamed }) => openNamed(session, text, users)));
  notice.replaceChildren(all);
}

/**
 * Makes one entry of a run of entries, in which people came or went in the same way on one day.
 *
 * @param {Session} session
 * @param {Entry[]} entries
 * @param {number} index  of the first entry of the run
 * @param {number} end    id of an entry that begins another run
 * @returns {{ entry: Entry, index: number } | undefined} that entry, and the index of the last entry of the run; undefined: there is no run
 */
export function runFrom(session, entries, index, end) {
  const way = wayOf(entries[index]);
  if (!way) return undefined;
  const day = dayOf(entries[index]);
  const belongs = (/** @type {Entry} */ entry) => wayOf(entry) === way && entry.id !== end && dayOf(entry) === day;
  let next = index + 1;
  while (next < entries.length && belongs(entries[next])) next += 1;
  return { entry: merged(session, entries.slice(index, next)), index: next - 1 };
}

/** @param {Entry} entry */
function dayOf({ time }) {
  return new Date(time).toDateString();
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether its sender alone has come or gone
 */
function isOwnWay({ from, meta }) {
  return listOf(meta?.users).every((user) => user === from);
}

/**
 * @param {Entry} entry
 * @returns {string} how people came or went; empty: it says something else
 */
function wayOf(entry) {
  if (entry.kind !== "join" && entry.kind !== "leave") return "";
  if (!isOwnWay(entry)) return `${entry.kind} ${entry.from}`;
  return `${entry.kind} ${Boolean(entry.meta?.invited_by)}`;
}

/**
 * Merges a run. If it names only some of many people, we are the first of them.
 *
 * @param {Session} session
 * @param {Entry[]} run  of entries that say the same of several people
 * @returns {Entry} one that says it of all
 */
function merged(session, run) {
  const { words, people, user: self } = session;
  const last = run[run.length - 1];
  const users = [...new Set(run.flatMap(({ from, meta }) => (meta?.users ? listOf(meta.users) : [from])))];
  const isLong = users.length > MOST_NAMED;
  if (isLong) users.sort((one, other) => Number(other === self) - Number(one === self));
  if (!isOwnWay(last)) {
    const entry = { ...last, meta: { ...last.meta, users } };
    return { ...entry, line: noticeText(entry, session) };
  }
  if (users.length < 2) return last;
  const named = isLong ? users.slice(0, FEW_NAMED) : users;
  const names = named.map((user) => (user === self ? words.messages_you : people.nameOf(user))).join(words.messages_and);
  const more = isLong ? fill(words.messages_and_more, { count: users.length - FEW_NAMED }) : "";
  const everybody = names + more;
  // With the count 1, the text has the form for other people.
  const line = fill(textOf(last, words), { name: everybody, names: everybody, count: 1 });
  return { ...last, line, named: users };
}

/**
 * @param {Entry} entry
 * @param {Record<string, string>} words
 * @returns {string} the text that says how people came or went by themselves
 */
function textOf({ kind, meta }, words) {
  if (kind === "leave") return words.messages_left;
  return meta?.invited_by ? words.messages_joined_by_link : words.messages_joined;
}
