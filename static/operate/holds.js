// @ts-check
/** Who is banned or muted in an app: as badges, with the end, the reason and who did it. */

import { listOf, make, recordOf, textOf } from "../text.js";
import { by } from "./audit.js";
import { badge, button, card, heading, link, list, name, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./api.js").Api} Api */
/** @typedef {Record<string, any>} Hold  a ban or a mute, with the names of its users */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 50;
/** Who has banned or muted, as `KIND:ID` or `KIND:APP/ID`. */
const MAKER = /^(\w+):(?:(.*)\/)?(.*)$/s;

/**
 * @param {Api} api
 * @param {string} app
 * @param {string[]} users
 * @returns {Promise<Hold[]>} their bans and mutes, as far as the principal may see them
 */
export async function holdsOf(api, app, users) {
  if (!users.length || !api.may("GET moderation/holds")) return [];
  return holdsIn(await api.get("moderation/holds", { app, users: users.join(), limit: users.length }));
}

/**
 * @param {Record<string, any>} answer
 * @returns {Hold[]}
 */
export function holdsIn(answer) {
  return listOf(answer.holds).map((each) => ({ ...recordOf(each), names: recordOf(answer.names) }));
}

/** @param {Hold[]} holds */
export function holdBadges(holds) {
  return holds.map((hold) => badge(hold.kind === "ban" ? words.admin_outcome_banned : words.admin_outcome_muted, "bad"));
}

/**
 * @param {string} app
 * @param {Hold[]} holds
 * @param {boolean} [hasUsers]  whether they concern several users
 * @param {(hold: Hold) => HTMLElement[]} [actions]
 */
export function holdTable(app, holds, hasUsers = false, actions = () => []) {
  const columns = [...(hasUsers ? [words.admin_user] : []), words.admin_state, words.admin_until, words.admin_reason, words.admin_by, ""];
  return table(words.admin_held, columns, holds.map((hold) => [
    ...(hasUsers ? [link(name(hold.names[hold.user] ?? hold.user), "person", app, textOf(hold.user))] : []),
    make("span", "badges", ...holdBadges([hold])),
    time(hold.until, words.admin_for_good),
    name(hold.reason),
    makerOf(app, hold),
    make("div", "actions", ...actions(hold)),
  ]), words.admin_no_held);
}

/**
 * @param {string} app
 * @param {Hold} hold
 */
function makerOf(app, hold) {
  const [, kind, ofApp = "", id] = MAKER.exec(textOf(hold.by)) ?? [];
  if (!kind) return name(hold.by);
  return by({ kind, id, app: ofApp }, { names: { [app]: hold.names } });
}

/**
 * The button that ends a ban or a mute; nothing if the principal may not end it.
 *
 * @param {Api} api
 * @param {string} app
 * @param {Hold} hold
 * @param {() => unknown} changed
 */
export function endButton(api, app, { user, kind }, changed) {
  const isBan = kind === "ban";
  const path = isBan ? "moderation/unban" : "moderation/unmute";
  if (!api.may(`POST ${path}`)) return [];
  return [button(isBan ? words.admin_unban : words.admin_unmute, async () => {
    await api.post(path, { app, user });
    toast(isBan ? words.admin_unbanned : words.admin_unmuted);
    await changed();
  })];
}

/**
 * All who are banned or muted in an app.
 *
 * @param {Place} at
 * @param {string} app
 */
export function drawHeld({ api }, app) {
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("moderation/holds", { app, cursor, limit: PAGE });
    return { rows: holdsIn(answer), next: textOf(answer.next) };
  }, (holds) => holdTable(app, holds, true, (hold) => endButton(api, app, hold, () => rows.again())));
  return [heading(words.admin_held, words.admin_held_hint), card("", rows)];
}
