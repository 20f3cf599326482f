// @ts-check
/** Apps with their settings, and API keys with what they did. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { acts } from "./audit.js";
import { exportCard } from "./data.js";
import { deprecatedCard } from "./deprecated.js";
import { ask, badge, button, card, code, facts, filters, heading, link, list, name, number, place, showSecret, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 100;
const DAY = 86_400;

/** @param {Place} at */
export function drawApps({ api }) {
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("apps", { cursor, limit: PAGE });
    return { rows: listOf(answer.apps), next: textOf(answer.next) };
  }, (apps) => table(words.admin_apps, [words.admin_app, words.admin_state, words.admin_logins, words.admin_webhook], apps.map(recordOf).map((each) => [
    link(name(each.app), "app", textOf(each.app)),
    each.configured ? badge(words.admin_configured) : badge(words.admin_stored),
    loginOf(each),
    recordOf(each.webhook).url ? code(recordOf(each.webhook).url) : name(""),
  ]), words.admin_no_apps));
  const keys = api.may("GET keys") ? [card(words.admin_keys, keyList(api, "")), ...deprecatedCard(api, "")] : [];
  return [heading(words.admin_apps_and_keys, words.admin_apps_hint), card(words.admin_apps, rows), ...keys];
}

/** @param {Record<string, any>} app */
function loginOf(app) {
  if (app.same_as) return fill(words.admin_alias, { app: textOf(app.same_as) });
  if (app.account_tokens === "required") return words.admin_login_accounts;
  if (listOf(app.jwt).length) return words.admin_login_tokens;
  return app.open ? words.admin_login_open : words.admin_login_none;
}

/**
 * @param {Place} at
 * @param {string} app
 */
export function drawApp({ api }, app) {
  /** @type {Filled} */
  const shown = place(() => api.get("apps/show", { app }), (settings) => [
    card(words.admin_settings, facts(Object.entries(settings).filter(([key, value]) => key !== "app" && !isEmpty(value)).map(([key, value]) => [key, valueOf(value)]))),
  ]);
  const keys = api.may("GET keys") ? [card(words.admin_keys, keyList(api, app)), ...deprecatedCard(api, app)] : [];
  const hook = api.may("GET webhooks") ? [link(words.admin_webhook, "webhook", app)] : [];
  return [heading(name(app), words.admin_app_hint, ...hook), ...keys, shown, ...exportCard(api, app)];
}

/** @param {unknown} value */
function isEmpty(value) {
  return value === null || value === "" || (Array.isArray(value) && !value.length) || (typeof value === "object" && value !== null && !Object.keys(value).length);
}

/** @param {unknown} value */
function valueOf(value) {
  if (typeof value === "object") return make("pre", "", JSON.stringify(value, null, 1));
  return code(String(value));
}

/**
 * @param {import("./api.js").Api} api
 * @param {string} app  empty: of all apps
 */
function keyList(api, app) {
  let ended = false;
  /** @type {Filled} */
  const rows = place(() => api.get("keys", { app, ended }), (answer) => [
    table(words.admin_keys, [words.admin_note, words.admin_id, words.admin_state, words.admin_scopes, words.admin_apps, words.admin_last_used], listOf(answer.keys).map(recordOf).map((key) => [
      link(name(key.note || key.id), "key", textOf(key.id)), code(key.id), keyState(key), name(listOf(key.scopes).join(", ")),
      name(listOf(key.apps).join(", ") || words.admin_all_apps), time(key.last_used, words.admin_never),
    ]), words.admin_no_keys),
  ]);
  const choose = filters([{ name: "ended", label: words.admin_ended_keys, type: "checkbox" }], (values) => {
    ended = values.ended === "true";
    return rows.again();
  });
  const create = button(words.admin_create_key, () => createKey(api, app, () => rows.again()), "primary");
  return make("div", "", choose, rows, ...(api.may("POST keys/create") ? [make("p", "dialog-row", create)] : []));
}

/** @param {Record<string, any>} key */
function keyState(key) {
  if (key.state === "valid") return badge(words.admin_key_valid, "good");
  return badge(key.state === "revoked" ? words.admin_key_revoked : words.admin_key_expired, "bad");
}

/**
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {() => unknown} changed
 */
async function createKey(api, app, changed) {
  let secret = "";
  const isDone = await ask({
    title: words.admin_create_key,
    fields: [
      { name: "note", label: words.admin_note, hint: words.admin_key_note_hint, most: 100 },
      { name: "scope", label: words.admin_scopes, type: "select", value: "push", options: [["push", words.admin_scope_push], ["read", words.admin_scope_read], ["metrics", words.admin_scope_metrics], ["admin", words.admin_scope_admin]] },
      { name: "apps", label: words.admin_apps, value: app || (api.rights.apps ?? []).join(", "), hint: words.admin_key_apps_hint },
      { name: "expires", label: words.admin_expires, type: "select", value: String(90 * DAY), options: expiries() },
    ],
    yes: words.admin_create_key,
    act: async ({ note, scope, apps, expires }) => {
      const named = apps.split(",").map((each) => each.trim()).filter(Boolean);
      const made = await api.post("keys/create", { scopes: [scope], apps: named, note, expires_seconds: Number(expires) });
      secret = textOf(made.secret);
    },
  });
  if (!isDone) return;
  await changed();
  await showSecret(words.admin_new_key, words.admin_new_key_text, secret);
}

/** @returns {[string, string][]} */
function expiries() {
  return [[String(30 * DAY), fill(words.admin_days, { count: 30 })], [String(90 * DAY), fill(words.admin_days, { count: 90 })], [String(365 * DAY), fill(words.admin_days, { count: 365 })], ["0", words.admin_never_expires]];
}

/**
 * One key: what it did, and its end.
 *
 * @param {Place} at
 * @param {string} id
 */
export function drawKey({ api }, id) {
  /** @type {Filled} */
  const shown = place(async () => {
    const answer = await api.get("keys", { ended: true });
    return listOf(answer.keys).map(recordOf).find((key) => key.id === id) ?? {};
  }, (key) => [
    heading(name(key.note || id), code(id), ...actions(key)),
    ...(key.id ? [card("", facts([
      [words.admin_state, keyState(key)],
      [words.admin_scopes, name(listOf(key.scopes).join(", "))],
      [words.admin_apps, name(listOf(key.apps).join(", ") || words.admin_all_apps)],
      [words.admin_created, time(key.created)],
      [words.admin_expires, time(key.expires, words.admin_never_expires)],
      [words.admin_last_used, make("span", "", time(key.last_used, words.admin_never), " ", key.last_used_from ? code(key.last_used_from) : "")],
    ]))] : [card("", words.admin_no_key)]),
  ]);
  /** @type {Filled} */
  const uses = list(async (cursor) => {
    const answer = await api.get("keys/usage", { id, cursor, limit: PAGE });
    return { rows: listOf(answer.uses), next: textOf(answer.next) };
  }, (rows) => table(words.admin_usage, [words.admin_minute, words.admin_route, words.admin_app, words.admin_address, words.admin_answered, words.admin_refused], rows.map(recordOf).map((use) => [
    time(use.time), code(use.route), name(use.app), code(use.address), number.format(numberOf(use.answered)), number.format(numberOf(use.refused)),
  ]), words.admin_no_usage));
  /** @type {HTMLElement[]} */
  const parts = [shown];
  if (api.may("GET keys/usage")) parts.push(card(words.admin_usage, uses));
  if (api.may("GET audit")) parts.push(card(words.admin_of_key, acts(api, { by: `key:${id}`, limit: 20 }, words.admin_no_acts_of_key)), card(words.admin_on_key, acts(api, { about: `key:${id}`, limit: 20 })));
  return parts;

  /** @param {Record<string, any>} key */
  function actions(key) {
    if (!key.id || key.configured || key.state !== "valid") return [];
    const found = [];
    if (api.may("POST keys/rotate")) found.push(button(words.admin_rotate, rotate));
    if (api.may("POST keys/revoke")) found.push(button(words.admin_revoke, revoke, "quiet danger"));
    return found;
  }

  async function rotate() {
    let secret = "";
    const isDone = await ask({
      title: words.admin_rotate,
      text: words.admin_rotate_text,
      fields: [{ name: "grace", label: words.admin_grace, type: "select", value: "0", options: [["0", words.admin_at_once], ["3600", fill(words.admin_hours, { count: 1 })], [String(DAY), fill(words.admin_days, { count: 1 })], [String(7 * DAY), fill(words.admin_days, { count: 7 })]] }],
      yes: words.admin_rotate,
      act: async ({ grace }) => {
        const made = await api.post("keys/rotate", { id, grace_seconds: Number(grace) });
        secret = textOf(made.secret);
      },
    });
    if (!isDone) return;
    await shown.again();
    await showSecret(words.admin_new_key, words.admin_new_key_text, secret);
  }

  function revoke() {
    return ask({
      title: words.admin_revoke,
      text: words.admin_revoke_text,
      yes: words.admin_revoke,
      danger: true,
      act: async () => {
        await api.post("keys/revoke", { id });
        toast(words.admin_revoked);
        await shown.again();
      },
    });
  }
}
