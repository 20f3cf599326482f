// @ts-check
/** What the page shows first: the login or the list of conversations, with its rows as they were at the last visit. */

import { drawn, element, fill, make } from "../../text.js";
import { icon } from "../parts/file.js";
import { avatarOf, hueOf } from "./people.js";
import { Stored } from "./saved-login.js";

/** How many rows the browser stores: they fill the screen of a phone. */
export const MOST_STORED = 12;
/** A date of an earlier year has its year if it is longer ago. */
const OLD_DAYS = 180;
const DAY_MS = 86_400_000;

/**
 * What a row of the list shows.
 *
 * @typedef {object} Row
 * @property {number} id         of the conversation
 * @property {boolean} isOpen
 * @property {boolean} isPinned
 * @property {boolean} isMarked  as unread
 * @property {boolean} isQuiet
 * @property {boolean} isGroup
 * @property {number} unread
 * @property {boolean} unreadMore  there are more
 * @property {number} mentions
 * @property {string} name
 * @property {string} avatar     address of the picture; empty: none
 * @property {string} hue        class of the seal
 * @property {"" | "bot" | "guest"} mark
 * @property {number} time       of the newest message, in Unix milliseconds; 0: none
 * @property {string} preview
 * @property {string} [by]  who has sent it, in a group
 * @property {string} draft
 * @property {boolean} [isOnline]
 * @property {string} [typing]   who is typing
 */

/** @typedef {{ count: number, unread: number }} Archive  number of archived conversations, and of their unread messages */

/**
 * The list, as the browser stores it.
 *
 * @typedef {object} Shown
 * @property {string} language
 * @property {{ name: string, avatar: string, isGuest: boolean }} me
 * @property {Archive} archive
 * @property {Row[]} rows
 * @property {string} [filter]  the filter that was chosen above the list
 */

/** Stores the first rows of the list of a login, for the next visit. @extends {Stored<Shown>} */
export class StoredRows extends Stored {
  /**
   * @param {string} app
   * @param {string} user
   */
  constructor(app, user) {
    super(`imserver:rows:${app}:${user}`);
  }

  /**
   * @param {Shown} shown
   * @returns {boolean} false: the next visit waits for the list
   */
  set(shown) {
    const isStored = super.set(shown);
    if (!isStored) this.forget(); // rather than older rows
    return isStored;
  }
}

/**
 * Shows the rows of the last visit, until the list replaces them.
 *
 * @param {{ app: string, language: string, text: Record<string, string> }} page
 * @param {string} user
 * @returns {boolean} false: there are none
 */
export function showStored(page, user) {
  const stored = new StoredRows(page.app, user);
  const shown = stored.get();
  // Previews have words of the page.
  if (shown?.language !== page.language) return false;
  const { me, archive, rows, filter } = shown;
  const when = shortTimes(page.language);
  const draw = () => {
    const list = element("conversations", HTMLElement);
    // The list is not there yet: it reads this attribute when it starts, and the page then reads the address.
    const openArchive = () => { list.dataset.early = "archive"; };
    const openRow = (/** @type {Row} */ { id }) => { location.hash = `#c/${id}`; };
    const drawnRows = rows.map((row) => conversationRow(row, page.text, when, () => openRow(row)));
    if (archive.count) drawnRows.unshift(archiveRow(archive, page.text, false, openArchive));
    showMe(me.name, avatarOf(me.name, me.avatar, hueOf(user)), me.isGuest);
    list.replaceChildren(...drawnRows);
    // The rows must not move when the filters come.
    element("list-filters", HTMLElement).hidden = !filter;
    showView("list");
    return true;
  };
  return drawn(draw, () => {
    // An earlier version of the page has stored something else.
    stored.forget();
    return false;
  });
}

/**
 * A narrow window shows one view at a time; a wide one shows the list and the conversation side by side.
 *
 * @param {"login" | "list" | "conversation"} view
 */
export function showView(view) {
  document.body.dataset.view = view;
  element("login", HTMLElement).hidden = view !== "login";
  element("inbox", HTMLElement).hidden = view === "login";
}

/**
 * @param {string} name
 * @param {HTMLElement} avatar
 * @param {boolean} isGuest
 */
export function showMe(name, avatar, isGuest) {
  element("me-name", HTMLElement).textContent = name;
  element("me-avatar", HTMLElement).replaceChildren(avatar);
  document.body.toggleAttribute("data-guest", isGuest);
}

/**
 * @param {number} count  of unread messages
 * @param {boolean} [isMore]  there are more: the server counts at most 1,000 of a conversation
 * @returns {string}
 */
export function upTo(count, isMore) {
  const number = count > 999 ? count.toLocaleString(document.documentElement.lang) : String(count);
  return isMore ? `${number}+` : number;
}

/**
 * A row of the list: the picture, and beside it two lines with the name, marks and time, and with the newest message and counts.
 *
 * @param {Row} row
 * @param {Record<string, string>} words
 * @param {(time: number) => string} when
 * @param {() => void} open
 * @returns {HTMLElement}
 */
export function conversationRow(row, words, when, open) {
  const { id, isOpen, isPinned, isMarked, unread, unreadMore, mentions, isGroup, avatar, hue, mark, isQuiet, name, time, isOnline } = row;
  const title = make("b", "", make("bdi", "", name));
  if (mark) title.append(make("span", "mark", mark === "bot" ? words.messages_bot : words.messages_guest));
  const heading = make("span", "row-line", title);
  if (isQuiet) heading.append(bell(words));
  heading.append(make("time", "", time ? when(time) : ""));

  const below = make("span", "row-line", make("span", "preview", ...previewOf(row, words)));
  if (mentions) below.append(counter("count at", "@", fill(words.messages_mentions, { count: mentions })));
  const count = upTo(unread, unreadMore);
  if (unread) below.append(counter("count", count, fill(words.messages_unread, { count })));
  else if (isMarked) below.append(counter("count dot", "", words.messages_is_marked));
  else if (isPinned) below.append(counter("pin-mark", icon("pin"), words.messages_is_pinned));

  const face = avatarOf(name, avatar, isGroup ? `group ${hue}` : hue);
  const picture = isOnline ? make("span", "person-picture is-online", face, counter("", "", words.messages_online)) : face;
  const button = make("button", "conversation", picture, make("span", "row-words", heading, below));
  button.setAttribute("type", "button");
  button.dataset.conversation = String(id);
  if (isOpen) button.setAttribute("aria-current", "true");
  button.addEventListener("click", open);
  return make("li", "", button);
}

/**
 * @param {Row} row
 * @param {Record<string, string>} words
 * @returns {(Node | string)[]} who is typing, else the draft, else the newest message with its sender
 */
function previewOf({ typing, draft, by, preview }, words) {
  if (typing) return [make("i", "typing", typing)];
  if (draft) return [make("i", "draft", words.messages_draft), make("bdi", "", draft)];
  const text = make("bdi", "", preview);
  return by ? [make("bdi", "by", by), ": ", text] : [text];
}

/**
 * The way to the archived conversations, or back.
 *
 * @param {Archive} archive
 * @param {Record<string, string>} words
 * @param {boolean} inArchive  whether they are shown
 * @param {() => void} turn
 * @returns {HTMLElement}
 */
export function archiveRow({ count, unread }, words, inArchive, turn) {
  const name = make("b", "", inArchive ? words.messages_archived : `${words.messages_archived} · ${count}`);
  const button = make("button", "conversation archive", icon(inArchive ? "previous" : "archive"), name);
  button.setAttribute("type", "button");
  if (inArchive) button.setAttribute("aria-label", `${words.messages_back}: ${words.messages_archived}`);
  else if (unread) button.append(counter("count quiet-count", upTo(unread), fill(words.messages_unread, { count: upTo(unread) })));
  button.addEventListener("click", turn);
  return make("li", "", button, ...(inArchive ? [make("p", "people-note", words.messages_archive_hint)] : []));
}

/**
 * @param {Record<string, string>} words
 * @returns {HTMLElement} says that the conversation is quiet
 */
function bell(words) {
  const made = counter("quiet-mark", "", words.messages_notify_is_quiet);
  made.append(...[...document.querySelectorAll("#notices-here .icon")].map((icon) => icon.cloneNode(true)));
  return made;
}

/** How lists show times. @type {Record<"hour" | "weekday" | "date" | "old", Intl.DateTimeFormatOptions>} */
const TIMES = {
  hour: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  weekday: { weekday: "short" },
  date: { month: "short", day: "numeric" },
  old: { dateStyle: "medium" },
};

/**
 * Times for lists: the hour today, the weekday in the last days, else the date; its year if it is long ago.
 *
 * @param {string} language
 * @returns {(time: number) => string}
 */
export function shortTimes(language) {
  /** Made when they are needed: each takes a slow phone 20 ms. @type {{ [kind: string]: Intl.DateTimeFormat }} */
  const formats = {};
  return (time) => {
    const kind = kindOf(new Date(time));
    formats[kind] ??= new Intl.DateTimeFormat(language, TIMES[kind]);
    return formats[kind].format(time);
  };
}

/**
 * @param {Date} date
 * @returns {keyof typeof TIMES} how lists show it
 */
function kindOf(date) {
  const now = new Date();
  const isEarlierYear = date.getFullYear() < now.getFullYear();
  // Midnights: a day of 23 or 25 hours, when clocks change, makes a fraction.
  const days = (now.setHours(0, 0, 0, 0) - date.setHours(0, 0, 0, 0)) / DAY_MS;
  if (days <= 0) return "hour";
  if (days < 6.5) return "weekday";
  return isEarlierYear && days > OLD_DAYS ? "old" : "date";
}

/**
 * @param {string} classes
 * @param {string | Node} content
 * @param {string} label  for screen readers
 */
function counter(classes, content, label) {
  const made = make("span", classes, content);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  return made;
}
