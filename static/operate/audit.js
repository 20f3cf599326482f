// @ts-check
/** Who has changed what, to whom, when and from where. */

import { listOf, numberOf, recordOf, textOf } from "../text.js";
import { card, code, filters, heading, link, list, name, table, time, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */

const PAGE = 50;
const MOST_CHARACTERS = 300;

/**
 * @param {Place} at
 * @param {string} [request]  the id of a request that is looked for
 */
export function drawAudit({ api, app }, request = "") {
  /** @type {Record<string, string>} */
  let wanted = { request };
  const place = document.createElement("div");
  const draw = () => place.replaceChildren(acts(api, { app, limit: PAGE, ...wanted }));
  const choose = filters([
    ...(app ? [{ name: "user", label: words.admin_user }] : []),
    { name: "by", label: words.admin_by, hint: words.admin_by_hint },
    { name: "name", label: words.admin_act, hint: words.admin_act_hint },
    { name: "request", label: words.admin_request, value: request },
  ], (values) => {
    wanted = values;
    draw();
  });
  draw();
  return [heading(words.admin_audit, words.admin_audit_hint), choose, card("", place)];
}

/**
 * A list of acts.
 *
 * @param {import("./api.js").Api} api
 * @param {Record<string, string | number>} wanted
 * @param {string} [none]  what is shown if there are none
 */
export function acts(api, wanted, none = words.admin_no_acts) {
  return list(async (after) => {
    const answer = await api.get("audit", { ...wanted, after });
    return { rows: listOf(answer.acts), next: numberOf(answer.next) ? String(answer.next) : "" };
  }, (rows) => table(words.admin_audit, [words.admin_last, words.admin_act, words.admin_by, words.admin_whom, words.admin_address, words.admin_detail], rows.map(recordOf).map((act) => [
    time(numberOf(act.time) / 1000), code(act.name), by(recordOf(act.by)), whom(act), code(act.address), name(factsOf(act)),
  ]), none));
}

/** @param {Record<string, any>} actor */
function by({ kind, id, app }) {
  const text = id === null ? words.admin_erased : [kind, id].map(textOf).filter(Boolean).join(" ");
  const made = kind === "key" && id ? link(name(text), "key", textOf(id)) : app && id ? link(name(text), "person", textOf(app), textOf(id)) : name(text);
  made.classList.add("by");
  return made;
}

/** @param {Record<string, any>} act */
function whom({ app, user }) {
  if (user === null) return name(words.admin_erased);
  return user ? link(name(`${textOf(app)} / ${textOf(user)}`), "person", textOf(app), textOf(user)) : name(app);
}

/** @param {Record<string, any>} act */
function factsOf(act) {
  const pairs = Object.entries(recordOf(act.facts)).map(([key, value]) => `${key}: ${said(value)}`);
  return pairs.join(" · ").slice(0, MOST_CHARACTERS);
}

/**
 * @param {any} value
 * @returns {string} a value as people write it
 */
function said(value) {
  if (Array.isArray(value)) return value.map(said).join(", ") || "–";
  if (value === null || typeof value !== "object") return value === null || value === "" ? "–" : String(value);
  return Object.entries(value).map(([key, each]) => `${key} ${said(each)}`).join(", ") || "–";
}
