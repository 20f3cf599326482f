// @ts-check
/** What is completed in a text: how people are mentioned, and commands of the page itself. */

import { fitOf } from "./names.js";

/** What a mention of all is called in a text, in each language of the page: who reads it may use another one. */
export const ALL_NAMES = ["all", "所有人", "alle", "الكل"];

/**
 * A command that the page carries out, `/question Tea?`. Where a bot has the same, it is the bot's.
 *
 * @typedef {object} PageCommand
 * @property {string} command
 * @property {string} word       what it does
 * @property {(session: import("./session.js").Session, conversation: import("./store.js").Conversation, text: string) => unknown} act  `text`: what is behind it
 */

/** @type {PageCommand[]} */
export const pageCommands = [];

/**
 * Who may be meant by what is typed after an `@`: first who has written lately, then those in whose names a word begins with it, then the
 * others whose names contain it; all of a group at the end.
 *
 * @param {string[]} members
 * @param {string} typed
 * @param {(user: string) => string} nameOf
 * @param {number} most
 * @param {string[]} [writers]  who has written lately, the last one first
 * @returns {string[]}
 */
export function mentionable(members, typed, nameOf, most, writers = []) {
  const fits = new Map(members.map((user) => [user, fitOf(nameOf(user), typed)]));
  const recent = writers.filter((user) => fits.has(user));
  const ordered = [...new Set([...recent, ...members.filter((user) => fits.get(user) === 0), ...members])].filter((user) => fits.get(user) !== 2);
  const all = fitOf(nameOf("all"), typed) < 2 ? ["all"] : [];
  return [...ordered.slice(0, most - all.length), ...all];
}
