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
  const end = kind === "ban" && until === null ? words.manage_banned : page.fill(kind === "ban" ? words.manage_banned_until : words.manage_muted_until, { when: time(until) });
  const maker = names[by.split("/").pop()] ?? (by ? words.manage_back_end : "");
  return `${end}${reason ? `${words.messages_locked_colon}${reason}` : ""}${maker ? ` · ${page.fill(words.manage_done_by, { name: maker })}` : ""}`;
}

/**
 * @param {Desk} desk
 * @param {any} hold
 * @param {string} name
 * @param {() => Promise<unknown>} done  what follows
 * @param {string} [classes]
 */
export function endButton(desk, { user, kind }, name, done, classes = "quiet") {
  const label = desk.words[`safety_un${kind}`];
  const made = desk.page.button(label, classes);
  made.setAttribute("aria-label", `${label} ${name}`);
  made.addEventListener("click", () => desk.attempt(() => end(kind, { user, name }, done)));
  return made;
}
