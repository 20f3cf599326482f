// @ts-check
/** Whether somebody is here, in words. */

import { fill, timeOf } from "../../text.js";

/** @typedef {import("./session.js").Session} Session */

/** In seconds, as the others. */
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/**
 * @param {Session} session
 * @param {string} user
 * @returns {string} what they say of themselves, and whether they are online, or when they were; empty: hidden from us, or not known
 */
export function presenceOf({ people, words, language }, user) {
  const card = people.card(user);
  if (!card || card.bot) return "";
  const isOver = card.status_until && timeOf(card.status_until) < Date.now();
  const status = isOver ? "" : [card.away && words.messages_away, card.status].filter(Boolean).join(" · ");
  if (card.presence === "online") return status ? `${status} · ${words.messages_online}` : words.messages_online;
  if (status || !card.presence) return status;
  return card.last_seen ? fill(words.messages_last_seen, { when: ago(card.last_seen, language) }) : words.messages_offline;
}

/**
 * @param {number} time  Unix seconds
 * @param {string} language
 * @returns {string} "3 minutes ago", or a date
 */
function ago(time, language) {
  const seconds = Math.max(0, (Date.now() - timeOf(time)) / 1000);
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  if (seconds < MINUTE) return relative.format(0, "second");
  if (seconds < HOUR) return relative.format(-Math.floor(seconds / MINUTE), "minute");
  if (seconds < DAY) return relative.format(-Math.floor(seconds / HOUR), "hour");
  if (seconds < 7 * DAY) return relative.format(-Math.floor(seconds / DAY), "day");
  return new Intl.DateTimeFormat(language, { dateStyle: "medium" }).format(timeOf(time));
}
