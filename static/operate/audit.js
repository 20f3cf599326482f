// @ts-check
/** Who has changed what, to whom, when and from where. */

import { listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { card, code, filters, heading, link, list, name, table, time, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */

const PAGE = 50;
const MOST_CHARACTERS = 300;
const MOST_USERS = 20;

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
    const names = recordOf(answer.names);
    return { rows: listOf(answer.acts).map((act) => ({ ...recordOf(act), names })), next: numberOf(answer.next) ? String(answer.next) : "" };
  }, (rows) => table(words.admin_audit, [words.admin_last, words.admin_act, words.admin_by, words.admin_whom, words.admin_address, words.admin_detail], rows.map(recordOf).map((act) => [
    time(numberOf(act.time) / 1000), code(act.name), by(recordOf(act.by), act), whom(act), code(act.address), name(factsOf(act)),
  ]), none));
}

/**
 * @param {Record<string, any>} act  with the names of its users
 * @param {unknown} app
 * @param {unknown} user
 * @returns {string} the name, or else the id
 */
function nameOf(act, app, user) {
  return textOf(recordOf(recordOf(act.names)[textOf(app)])[textOf(user)]) || textOf(user);
}

/**
 * @param {Record<string, any>} actor
 * @param {Record<string, any>} act
 */
function by({ kind, id, app }, act) {
  const who = app ? nameOf(act, app, id) : textOf(id);
  const text = id === null ? words.admin_erased : [kind, who].map(textOf).filter(Boolean).join(" ");
  const made = kind === "key" && id ? link(name(text), "key", textOf(id)) : app && id ? link(name(text), "person", textOf(app), textOf(id)) : name(text);
  made.classList.add("by");
  return made;
}

/** @param {Record<string, any>} act */
function whom(act) {
  const app = textOf(act.app);
  if (act.user === null) return name(words.admin_erased);
  const isOwn = act.user === recordOf(act.by).id; // who invites others, for example: those others are concerned
  const others = listOf(recordOf(act.facts).users).map(textOf).filter(Boolean);
  const users = [...(act.user && !(isOwn && others.length) ? [textOf(act.user)] : []), ...others];
  if (!users.length) return name(app);
  const links = users.slice(0, MOST_USERS).map((user) => link(name(nameOf(act, app, user)), "person", app, user));
  return make("span", "whom", make("span", "muted", `${app} / `), ...links.flatMap((each, index) => (index ? [", ", each] : [each])), ...(users.length > MOST_USERS ? [" …"] : []));
}

/** @param {Record<string, any>} act */
function factsOf(act) {
  const { users: _, ...facts } = recordOf(act.facts); // they are in a column of their own
  const pairs = Object.entries(facts).map(([key, value]) => `${key}: ${said(value)}`);
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
