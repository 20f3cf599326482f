// @ts-check
/** Bans and mutes as lines of text, and the button that ends one. */

import { end } from "../acts.js";

/** @typedef {import("./manage.js").Desk} Desk */

/**
 * @param {Desk} desk
 * @param {any} hold
 * @param {Record<string, string>} names
 * @returns {string} until when, why and by whom
 */
export function lineOf({ page, words, time }, { kind, until, reason, by }, names) {
  const isForGood = kind === "ban" && until === null;
  const template = kind === "ban" ? words.manage_banned_until : words.manage_muted_until;
  let line = isForGood ? words.manage_banned : page.fill(template, { when: time(until) });
  if (reason) line += `${words.messages_locked_colon}${reason}`;
  const maker = names[by.split("/").pop()] ?? (by ? words.manage_back_end : "");
  if (maker) line += ` · ${page.fill(words.manage_done_by, { name: maker })}`;
  return line;
}

/**
 * @param {Desk} desk
 * @param {any} hold
 * @param {string} name
 * @param {() => unknown} done  what follows
 * @param {string} [classes]
 */
export function endButton(desk, { user, kind }, name, done, classes = "quiet") {
  const label = desk.words[`safety_un${kind}`];
  const made = desk.page.button(label, classes);
  made.setAttribute("aria-label", `${label} ${name}`);
  made.addEventListener("click", () => desk.attempt(() => end(kind, { user, name }, done)));
  return made;
}
