// @ts-check
/** Who has changed what, to whom, when and from where: each act in a sentence. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { absoluteTime, badge, button, card, code, duration, filters, heading, link, list, name, number, table, time, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {Record<string, any>} Act  an act, with the names of its users */

const PAGE = 50;
const MOST_CHARACTERS = 300;
const MOST_USERS = 20;
/** Key of the sentence for an act is this and the name of the act. */
const SENTENCE = "admin_did_";
/** The fact `id` of acts whose names begin so is that of a message. */
const OF_MESSAGES = "messages.";
/** Facts that stand in sentences as they are. */
const PLAIN_FACTS = ["id", "fields", "settings", "scopes", "node", "channel"];

/**
 * The audit log, with fields that choose the acts, and a button that checks whether somebody has changed the log.
 *
 * @param {Place} at
 * @param {string} [request]  the id of a request that is looked for
 */
export function drawAudit({ api, app }, request = "") {
  /** @type {Record<string, string>} */
  let wanted = { request };
  const place = make("div", "");
  const draw = () => place.replaceChildren(acts(api, { app, limit: PAGE, ...wanted }));
  const sentences = Object.keys(words).filter((key) => key.startsWith(SENTENCE) && key !== "admin_did_what");
  /** @type {[string, string][]} */
  const names = sentences.map((key) => [key.slice(SENTENCE.length).replaceAll("_", "."), ""]);
  const choose = filters([
    ...(app ? [{ name: "user", label: words.admin_user }] : []),
    { name: "message", label: words.admin_message, hint: words.admin_message_hint },
    { name: "name", label: words.admin_act, hint: words.admin_act_hint, options: names },
    { name: "by", label: words.admin_by, hint: words.admin_by_hint, isRare: true },
    { name: "since", label: words.admin_from, type: "datetime-local", isRare: true },
    { name: "until", label: words.admin_to, type: "datetime-local", isRare: true },
    { name: "request", label: words.admin_request, value: request, isRare: true },
  ], ({ message, since, until, ...values }) => {
    wanted = { ...values, about: message && `message:${message}`, since: momentOf(since), until: momentOf(until) };
    draw();
  });
  draw();
  const result = make("div", "");
  result.setAttribute("role", "status");
  const check = button(words.admin_audit_check, async () => {
    const answer = await api.get("audit", { app, check: "true", limit: 1 });
    result.replaceChildren(checkCard(recordOf(answer.check)));
  });
  return [heading(words.admin_audit, words.admin_audit_hint, check), result, choose, card("", place)];
}

/**
 * Whether somebody has changed the log.
 *
 * @param {Record<string, any>} check
 */
function checkCard(check) {
  const wrong = listOf(check.wrong);
  const state = wrong.length ? badge(words.admin_audit_broken, "bad") : badge(words.admin_audit_unbroken, "good");
  const [first, last] = [check.since, check.until].map((each) => (each ? absoluteTime(each / 1000) : "–"));
  const range = check.acts ? fill(words.admin_audit_checked, { acts: number.format(numberOf(check.acts)), first, last }) : "";
  const made = card("", make("p", "", state, " ", range));
  if (!check.head) return made; // a key of one app only learns whether something is wrong
  made.append(...wrong.map((each) => make("p", "", code(each))));
  if (!wrong.length) made.append(make("p", "muted", words.admin_audit_head, " ", code(check.head)));
  return made;
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
  const columns = [words.admin_last, words.admin_did_what, words.admin_app, words.admin_address];
  return list(async (after) => {
    const answer = await api.get("audit", { ...wanted, after });
    const names = recordOf(answer.names);
    const rows = listOf(answer.acts).map((act) => ({ ...recordOf(act), names }));
    return { rows, next: numberOf(answer.next) ? String(answer.next) : "" };
  }, (rows) => table(words.admin_audit, columns, rows.map(recordOf).map((act) => [
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
  const template = words[SENTENCE + textOf(act.name).replaceAll(".", "_")] ?? words.admin_did;
  const sentence = make("p", "", ...filled(template, blanks));
  if (reason) sentence.append(": ", make("q", "", textOf(reason)));

  /** @param {string} fact */
  const isInSentence = (fact) => {
    if (fact === "id" && /\{(key|messages)\}/.test(template)) return true; // the blank is filled with the id
    return template.includes(`{${fact}}`) && blanks[fact] !== null;
  };
  const remaining = Object.entries(facts).filter(([fact]) => !isInSentence(fact)).map(([fact, value]) => `${fact}: ${valueOf(value)}`);
  const details = make("p", "muted", code(act.name));
  if (remaining.length) details.append(" · ", name(remaining.join(" · ").slice(0, MOST_CHARACTERS)));
  const request = textOf(act.request);
  if (request) details.append(" · ", link(code(request), "request", request));
  return [sentence, details];
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
  const key = valueOf(facts.key ?? facts.id ?? "");
  const text = (/** @type {unknown} */ value) => {
    const isMissing = value === undefined || value === "" || (Array.isArray(value) && !value.length);
    return isMissing ? null : name(valueOf(value));
  };
  return {
    by: by(recordOf(act.by), act),
    user: whom(act),
    act: code(act.name),
    app: app ? link(name(app), "app", app) : null,
    group: facts.group ? link(name(valueOf(facts.group)), "group", app, valueOf(facts.group)) : null,
    key: key ? link(code(key), "key", key) : null,
    messages: text(messagesOf(act, facts)),
    seconds: numberOf(facts.seconds) ? duration(numberOf(facts.seconds)) : null,
    handle: facts.handle ? name(`@${facts.handle}`) : null,
    role: facts.role ? words[`admin_role_${textOf(facts.role)}`] ?? name(facts.role) : null,
    ...Object.fromEntries(PLAIN_FACTS.map((fact) => [fact, text(facts[fact])])),
  };
}

/**
 * @param {Act} act
 * @param {Record<string, any>} facts
 * @returns {unknown[]} the ids of the messages that it concerns
 */
function messagesOf(act, facts) {
  if (listOf(facts.messages).length) return facts.messages;
  return textOf(act.name).startsWith(OF_MESSAGES) && facts.id ? [facts.id] : [];
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
    const names = inner.match(/\w+(?=\})/g) ?? [];
    return names.some((blank) => blanks[blank] === null) ? [] : filled(inner, blanks);
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
 * Who has acted, with a link to the key or the person.
 *
 * @param {Record<string, any>} actor  with the `id` null: it was erased
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
  const others = listOf(recordOf(act.facts).users).map((each) => (each === null ? words.admin_erased : textOf(each))).filter(Boolean);
  const isActor = act.user === recordOf(act.by).id;
  const isAboutOthers = isActor && others.length; // a user who invites others, for example
  const users = act.user && !isAboutOthers ? [textOf(act.user), ...others] : others;
  if (!users.length) return null;
  const made = make("span", "");
  for (const [index, user] of users.slice(0, MOST_USERS).entries()) {
    if (index) made.append(", ");
    made.append(link(name(nameOf(act, app, user)), "person", app, user));
  }
  if (users.length > MOST_USERS) made.append(" …");
  return made;
}

/**
 * @param {any} value
 * @returns {string} a value as people write it
 */
function valueOf(value) {
  if (Array.isArray(value)) return value.map(valueOf).join(", ") || "–";
  if (value === null || value === "") return "–";
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([key, each]) => `${key} ${valueOf(each)}`).join(", ") || "–";
}
