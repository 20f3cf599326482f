// @ts-check
/** Bans and mutes as lines of text, and the button that ends one. */

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
  const { page, words } = desk;
  const isBan = kind === "ban";
  const made = page.button(isBan ? words.manage_lift : words.manage_unmute, classes);
  made.setAttribute("aria-label", `${isBan ? words.manage_lift : words.manage_unmute} ${name}`);
  made.addEventListener("click", () => desk.attempt(async () => {
    await page.api("POST", isBan ? "moderation/unban" : "moderation/unmute", { user });
    await done();
    page.toast(page.fill(isBan ? words.manage_lifted : words.manage_unmuted, { name }));
  }));
  return made;
}
