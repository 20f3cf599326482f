// @ts-check
/** Why logins, commands and requests were refused, and lifting what refuses. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { ask, badge, button, card, code, filters, heading, link, missing, name, number, page, place, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 100;

/**
 * The refusals of the last hour, and what refuses the user or the address that one asks for.
 *
 * @param {Place} at
 * @param {string} [request]  the id of a request that is looked for
 */
export function drawRefusals({ api, app }, request = "") {
  /** @type {Record<string, string>} */
  let wanted = { user: "", address: "", request };
  /** @type {Filled} */
  const rows = place(() => api.get("refusals", { app, ...wanted, limit: PAGE }), (answer) => {
    const holds = listOf(answer.holds).map(recordOf);
    const whom = { app, user: wanted.user, address: wanted.address };
    return [...missing(answer), ...holdParts(api, whom, holds, () => rows.again()), refusalTable(listOf(answer.refusals), recordOf(answer.names))];
  });
  const choose = filters([
    { name: "user", label: words.admin_user },
    { name: "address", label: words.admin_address },
    { name: "request", label: words.admin_request, value: request },
  ], (values) => {
    wanted = values;
    return rows.again();
  });
  return [heading(words.admin_refusals, words.admin_refusals_hint), choose, card("", rows)];
}

/**
 * What refuses somebody now, and the button that lifts it. An erasure that is to begin is not lifted: it is undone.
 * A mute in one group is lifted by the people who run the group.
 *
 * @param {import("./api.js").Api} api
 * @param {Record<string, string>} whom
 * @param {Record<string, any>[]} holds
 * @param {() => unknown} changed
 */
export function holdParts(api, whom, holds, changed) {
  const mayUnmute = api.may("POST moderation/unmute");
  const mutes = holds.filter((hold) => hold.kind === "mute" && !isOfGroup(hold) && mayUnmute);
  const liftable = holds.filter((hold) => !["erasure", "mute"].includes(hold.kind) || mutes.includes(hold));
  const lift = async () => {
    const { lifted } = await api.post("limits/lift", whom);
    for (const { who } of mutes) await api.post("moderation/unmute", { app: whom.app, user: who });
    toast(fill(words.admin_lifted, { count: listOf(lifted).length + mutes.length }));
    await changed();
  };
  const askAndLift = () => {
    const content = [holdTable(whom.app, liftable)];
    return ask({ title: words.admin_lift, text: words.admin_lift_text, content, yes: words.admin_lift, act: lift });
  };
  const parts = [];
  if (holds.length) parts.push(holdTable(whom.app, holds));
  if (holds.some(isOfGroup)) parts.push(make("p", "muted", words.admin_hold_group_text));
  if (liftable.length && api.may("POST limits/lift")) {
    const isBanned = liftable.some((hold) => hold.kind === "ban");
    parts.push(button(words.admin_lift, isBanned ? askAndLift : lift, "primary"));
  }
  return parts;
}

/** @param {Record<string, any>} hold @returns {boolean} whether it is a mute in one group */
function isOfGroup(hold) {
  return hold.name === "group";
}

/**
 * @param {string} app
 * @param {Record<string, any>[]} holds
 */
function holdTable(app, holds) {
  const columns = [words.admin_holds, words.admin_who, words.admin_until, words.admin_detail];
  return table(words.admin_holds, columns, holds.map((hold) => {
    const kind = isOfGroup(hold) ? "group" : textOf(hold.kind);
    return [
      badge(words[`admin_hold_${kind}`] ?? textOf(hold.kind), "bad"),
      name(hold.who),
      time(hold.until, words.admin_for_good),
      isOfGroup(hold) ? link(code(hold.detail), "group", app, textOf(hold.detail)) : name(hold.detail),
    ];
  }), "");
}

/**
 * @param {any[]} refusals
 * @param {Record<string, any> | null} names  app → user → name; null: all concern one user
 */
export function refusalTable(refusals, names) {
  const columns = [
    words.admin_why_reason,
    ...(names ? [words.admin_user] : []),
    words.admin_address, words.admin_times, words.admin_last, words.admin_until, words.admin_detail,
  ];
  return table(words.admin_refusals, columns, refusals.map(recordOf).map((refusal) => [
    reasonOf(refusal),
    ...(names ? [personOf(refusal, names)] : []),
    code(refusal.address),
    number.format(numberOf(refusal.count)),
    time(refusal.last),
    time(refusal.until),
    name([refusal.detail, refusal.limit].map(textOf).filter(Boolean).join(" · ")),
  ]), words.admin_no_refusals);
}

/**
 * The account or the user of a refusal by name, with a link; a refused login may have neither.
 *
 * @param {Record<string, any>} refusal
 * @param {Record<string, any>} names  app → user → name
 */
function personOf({ app, user, account }, names) {
  if (!user && !account) return name("");
  const namesOfApp = recordOf(names[app]);
  const text = namesOfApp[account] || namesOfApp[user] || user || account;
  return link(name(text), "person", textOf(app), textOf(account || user));
}

/**
 * What was refused and why, for programs and in the language of the page.
 *
 * @param {Record<string, any>} refusal
 */
function reasonOf(refusal) {
  const kind = words[`admin_refused_${textOf(refusal.kind)}`] ?? textOf(refusal.kind);
  const meaning = textOf(refusal.meaning);
  return make("span", "", kind, " ", code(refusal.reason), make("small", "muted", page.meanings[meaning] ?? meaning));
}
