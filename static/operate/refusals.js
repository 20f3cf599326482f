// @ts-check
/** Why logins, commands and requests were refused, and lifting what refuses. */

import { fill, listOf, numberOf, recordOf, textOf } from "../text.js";
import { badge, button, card, code, filters, heading, link, missing, name, number, page, place, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 100;

/**
 * @param {Place} at
 * @param {string} [request]  the id of a request that is looked for
 */
export function drawRefusals({ api, app }, request = "") {
  /** @type {Record<string, string>} */
  let wanted = { user: "", address: "", request };
  /** @type {Filled} */
  const rows = place(() => api.get("refusals", { app, ...wanted, limit: PAGE }), (answer) => {
    const holds = listOf(answer.holds).map(recordOf);
    const lift = holds.length && api.may("POST limits/lift") ? [button(words.admin_lift, async () => {
      const { lifted } = await api.post("limits/lift", { app, user: wanted.user, address: wanted.address });
      toast(fill(words.admin_lifted, { count: listOf(lifted).length }));
      await rows.again();
    }, "primary")] : [];
    return [...missing(answer), ...(holds.length ? [holdTable(holds)] : []), ...lift, refusalTable(listOf(answer.refusals), true)];
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

/** @param {Record<string, any>[]} holds */
export function holdTable(holds) {
  return table(words.admin_holds, [words.admin_holds, words.admin_who, words.admin_until, words.admin_detail], holds.map((hold) => [
    badge(words[`admin_hold_${textOf(hold.kind)}`] ?? textOf(hold.kind), "bad"), name(hold.who), time(hold.until, words.admin_for_good), name(hold.detail),
  ]), "");
}

/**
 * @param {any[]} refusals
 * @param {boolean} hasUsers  whether they concern several users
 */
export function refusalTable(refusals, hasUsers) {
  const columns = [
    words.admin_why_reason, ...(hasUsers ? [words.admin_user] : []), words.admin_address, words.admin_times, words.admin_last, words.admin_until, words.admin_detail,
  ];
  return table(words.admin_refusals, columns, refusals.map(recordOf).map((each) => [
    reason(each),
    ...(hasUsers ? [each.user || each.account ? link(name(each.user || each.account), "person", textOf(each.app), textOf(each.account || each.user)) : name("")] : []),
    code(each.address), number.format(numberOf(each.count)), time(each.last), time(each.until), name([each.detail, each.limit].map(textOf).filter(Boolean).join(" · ")),
  ]), words.admin_no_refusals);
}

/** @param {Record<string, any>} each */
function reason(each) {
  const made = document.createElement("span");
  const kind = words[`admin_refused_${textOf(each.kind)}`] ?? textOf(each.kind);
  const meaning = document.createElement("small");
  meaning.className = "muted";
  const text = textOf(each.meaning);
  meaning.textContent = page.meanings[text] ?? text;
  made.append(kind, " ", code(each.reason), meaning);
  return made;
}
