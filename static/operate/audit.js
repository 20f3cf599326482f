// @ts-check
/** Who has changed what, to whom, when and from where: each act in a sentence. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { absoluteTime, badge, button, card, code, duration, filters, heading, link, list, name, number, table, time, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {Record<string, any>} Act  an act, with the names of its users */

const PAGE = 50;
const MOST_CHARACTERS = 300;
const MOST_USERS = 20;
/** Where the acts are found by the id of a message. */
const OF_MESSAGES = "messages.";

/**
 * @param {Place} at
 * @param {string} [request]  the id of a request that is looked for
 */
export function drawAudit({ api, app }, request = "") {
  /** @type {Record<string, string>} */
  let wanted = { request };
  const place = document.createElement("div");
  const draw = () => place.replaceChildren(acts(api, { app, limit: PAGE, ...wanted }));
  const known = Object.keys(words).filter((key) => key.startsWith("admin_did_") && key !== "admin_did_what");
  const choose = filters([
    ...(app ? [{ name: "user", label: words.admin_user }] : []),
    { name: "message", label: words.admin_message, hint: words.admin_message_hint },
    { name: "name", label: words.admin_act, hint: words.admin_act_hint, options: known.map((key) => [key.slice("admin_did_".length).replaceAll("_", "."), ""]) },
    { name: "by", label: words.admin_by, hint: words.admin_by_hint, isRare: true },
    { name: "since", label: words.admin_from, type: "datetime-local", isRare: true },
    { name: "until", label: words.admin_to, type: "datetime-local", isRare: true },
    { name: "request", label: words.admin_request, value: request, isRare: true },
  ], ({ message, since, until, ...values }) => {
    wanted = { ...values, about: message && `message:${message}`, since: momentOf(since), until: momentOf(until) };
    draw();
  });
  draw();
  const checked = make("div", "");
  checked.setAttribute("role", "status");
  const check = button(words.admin_audit_check, async () => checked.replaceChildren(...stateOf(recordOf((await api.get("audit", { app, check: "true", limit: 1 })).check))));
  return [heading(words.admin_audit, words.admin_audit_hint, check), checked, choose, card("", place)];
}

/**
 * Whether somebody has changed the log.
 *
 * @param {Record<string, any>} check
 */
function stateOf(check) {
  const wrong = listOf(check.wrong);
  const [first, last] = [check.since, check.until].map((each) => (each ? absoluteTime(each / 1000) : "–"));
  const state = wrong.length ? badge(words.admin_audit_broken, "bad") : badge(words.admin_audit_unbroken, "good");
  const said = check.acts ? fill(words.admin_audit_checked, { acts: number.format(numberOf(check.acts)), first, last }) : "";
  // A key of one app gets neither a head nor what is wrong: only whether it is.
  const head = wrong.length || !check.head ? [] : [make("p", "muted", words.admin_audit_head, " ", code(check.head))];
  return [card("", make("p", "", state, " ", said), ...(check.head ? wrong : []).map((each) => make("p", "", code(each))), ...head)];
}

/** @param {string} text  a time as fields have it; empty: none */
function momentOf(text) {
  return text && String(Date.parse(text));
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
  }, (rows) => table(words.admin_audit, [words.admin_last, words.admin_did_what, words.admin_app, words.admin_address], rows.map(recordOf).map((act) => [
    time(numberOf(act.time) / 1000), make("div", "act", ...sentenceOf(act)), name(act.app), code(act.address),
  ]), none));
}

// --- a sentence -----------------------------------------------------------------------------------------------------

/**
 * What was done, in words, and below it what the words leave out.
 *
 * @param {Act} act
 * @returns {HTMLElement[]}
 */
function sentenceOf(act) {
  const { users: _, reason, ...facts } = recordOf(act.facts); // users are named in the sentence
  const blanks = blanksOf(act, facts);
  const template = words[`admin_did_${textOf(act.name).replaceAll(".", "_")}`] ?? words.admin_did;
  const said = make("p", "", ...filled(template, blanks), ...(reason ? [": ", make("q", "", textOf(reason))] : []));
  const isSaid = (/** @type {string} */ fact) => (template.includes(`{${fact}}`) && blanks[fact] !== null) || (fact === "id" && /\{(key|messages)\}/.test(template));
  const rest = Object.entries(facts).filter(([fact]) => !isSaid(fact)).map(([fact, value]) => `${fact}: ${valueOf(value)}`);
  const request = textOf(act.request);
  return [said, make("p", "muted", code(act.name), ...(rest.length ? [" · ", name(rest.join(" · ").slice(0, MOST_CHARACTERS))] : []), ...(request ? [" · ", link(code(request), "request", request)] : []))];
}

/**
 * What stands in the places of a sentence; null: the act does not say it.
 *
 * @param {Act} act
 * @param {Record<string, any>} facts
 * @returns {Record<string, Node | string | null>}
 */
function blanksOf(act, facts) {
  const app = textOf(act.app);
  const ids = listOf(facts.messages).length ? facts.messages : textOf(act.name).startsWith(OF_MESSAGES) && facts.id ? [facts.id] : [];
  const key = valueOf(facts.key ?? facts.id ?? "");
  const text = (/** @type {unknown} */ value) => (value === undefined || value === "" || (Array.isArray(value) && !value.length) ? null : name(valueOf(value)));
  return {
    by: by(recordOf(act.by), act),
    user: whom(act),
    act: code(act.name),
    app: app ? link(name(app), "app", app) : null,
    group: facts.group ? link(name(valueOf(facts.group)), "group", app, valueOf(facts.group)) : null,
    key: key ? link(code(key), "key", key) : null,
    messages: text(ids),
    seconds: numberOf(facts.seconds) ? duration(numberOf(facts.seconds)) : null,
    handle: facts.handle ? name(`@${facts.handle}`) : null,
    role: facts.role ? words[`admin_role_${textOf(facts.role)}`] ?? name(facts.role) : null,
    ...Object.fromEntries(["id", "fields", "settings", "scopes", "node", "channel"].map((fact) => [fact, text(facts[fact])])),
  };
}

/**
 * A text with its blanks filled. What stands in brackets is left out if a blank in it is.
 *
 * @param {string} template
 * @param {Record<string, Node | string | null>} blanks
 * @returns {(Node | string)[]}
 */
function filled(template, blanks) {
  return template.split(/(\[[^\]]*\]|\{\w+\})/).flatMap((part) => {
    if (part.startsWith("{")) return [blanks[part.slice(1, -1)] ?? "–"];
    if (!part.startsWith("[")) return [part];
    const inner = part.slice(1, -1);
    return (inner.match(/\w+(?=\})/g) ?? []).some((blank) => blanks[blank] === null) ? [] : filled(inner, blanks);
  });
}

/**
 * @param {Act} act
 * @param {unknown} app
 * @param {unknown} user
 * @returns {string} the name, or else the id
 */
function nameOf(act, app, user) {
  return textOf(recordOf(recordOf(act.names)[textOf(app)])[textOf(user)]) || textOf(user);
}

/**
 * @param {Record<string, any>} actor
 * @param {Act} act  of it, only its names are needed
 * @returns {HTMLElement}
 */
export function by({ kind, id, app }, act) {
  if (id === null) return name(words.admin_erased);
  const who = app ? nameOf(act, app, id) : textOf(id);
  const text = make("span", "", ...filled(words[`admin_kind_${textOf(kind)}`] ?? "{id}", { id: name(who || kind) }));
  if (kind === "key" && id) return link(text, "key", textOf(id));
  return app && id ? link(text, "person", textOf(app), textOf(id)) : text;
}

/**
 * @param {Act} act
 * @returns {Node | null} the people whom the act concerns
 */
function whom(act) {
  const app = textOf(act.app);
  if (act.user === null) return name(words.admin_erased);
  const isOwn = act.user === recordOf(act.by).id; // who invites others, for example: those others are concerned
  const others = listOf(recordOf(act.facts).users).map((each) => (each === null ? words.admin_erased : textOf(each))).filter(Boolean);
  const users = [...(act.user && !(isOwn && others.length) ? [textOf(act.user)] : []), ...others];
  if (!users.length) return null;
  const links = users.slice(0, MOST_USERS).map((user) => link(name(nameOf(act, app, user)), "person", app, user));
  return make("span", "", ...links.flatMap((each, index) => (index ? [", ", each] : [each])), ...(users.length > MOST_USERS ? [" …"] : []));
}

/**
 * @param {any} value
 * @returns {string} a value as people write it
 */
function valueOf(value) {
  if (Array.isArray(value)) return value.map(valueOf).join(", ") || "–";
  if (value === null || typeof value !== "object") return value === null || value === "" ? "–" : String(value);
  return Object.entries(value).map(([key, each]) => `${key} ${valueOf(each)}`).join(", ") || "–";
}
