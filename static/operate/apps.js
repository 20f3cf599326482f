// @ts-check
/** Apps with their settings, and API keys with what they did. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { acts } from "./audit.js";
import { erase, erasureNote, exportCard } from "./data.js";
import { deprecatedCard } from "./deprecated.js";
import { settingsOf } from "./settings.js";
import { absoluteTime, ask, badge, button, card, code, facts, filters, heading, link, list, name, number, place, showSecret, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 100;
const DAY = 86_400;
const SCOPE = "scope-";
/** Days that are asked for: a month, and what was before. */
const MONTH = 35;

/** @param {Place} at */
export function drawApps({ api }) {
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("apps", { cursor, limit: PAGE });
    return { rows: listOf(answer.apps), next: textOf(answer.next) };
  }, (apps) => table(words.admin_apps, [words.admin_app, words.admin_state, words.admin_logins, words.admin_webhook], apps.map(recordOf).map((each) => [
    link(name(each.app), "app", textOf(each.app)),
    each.locked ? badge(words.admin_app_locked, "bad") : badge(each.configured ? words.admin_configured : words.admin_stored),
    loginOf(each),
    recordOf(each.webhook).url ? code(recordOf(each.webhook).url) : name(""),
  ]), words.admin_no_apps));
  const keys = api.may("GET keys") ? [Object.assign(card(words.admin_keys, keyList(api, "")), { id: "keys" }), ...deprecatedCard(api, "")] : [];
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
 * One app: what it uses, its keys, its settings.
 *
 * @param {Place} at
 * @param {string} app
 */
export function drawApp({ api }, app) {
  /** @type {Filled} */
  const made = place(() => api.get("apps/show", { app }), (shown) => {
    if (shown.locked) return [heading(name(app), words.admin_app_hint), ...[erasureNote(api, app, "", () => made.again())].flatMap((note) => note ?? [])];
    const usage = api.may("GET apps/usage") ? [usageOf(api, app)] : [];
    const keys = api.may("GET keys") ? [card(words.admin_keys, keyList(api, app)), ...deprecatedCard(api, app)] : [];
    const hook = api.may("GET webhooks") ? [link(words.admin_webhook, "webhook", app)] : [];
    const again = async () => {
      await Promise.all(usage.map((each) => each.again()));
    };
    const end = api.may("POST apps/delete") && !shown.configured ? [card("", button(words.admin_app_delete, () => erase(api, app, "", app, () => made.again()), "quiet danger"))] : [];
    return [heading(name(app), words.admin_app_hint, ...hook), ...usage, ...keys, ...exportCard(api, app), settingsOf(api, app, again), ...end];
  });
  return [made];
}

// --- usage ----------------------------------------------------------------------------------------------------------

/** @typedef {{ key: "pushes" | "messages", label: string, limit: number, days: Record<string, any>[] }} Counted */

/**
 * What an app uses now, has stored, and may send in a day.
 *
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @returns {Filled}
 */
function usageOf(api, app) {
  /** @type {Filled} */
  const made = place(async () => {
    const [used, settings, counts] = await Promise.all([
      api.get("apps/usage", { app, days: MONTH, stored: true }),
      api.get("apps/show", { app }),
      api.may("GET counts") ? api.get("counts", { app }) : {},
    ]);
    return { used, settings, now: recordOf(listOf(recordOf(counts).apps)[0]) };
  }, ({ used, settings, now }) => {
    const stored = recordOf(used.stored);
    /** @type {[string, number][]} */
    const numbers = [
      [words.admin_users_online, now.users], [words.admin_connections, now.sessions], [words.admin_channels, now.channels],
      [words.admin_login_accounts, stored.accounts], [words.admin_groups, stored.groups],
      [words.admin_messages_stored, stored.messages], [words.admin_files_stored, stored.uploads],
    ];
    const shown = facts(numbers.filter(([, value]) => typeof value === "number").map(([label, value]) => [label, make("b", "figure", number.format(value))]));
    /** @type {Counted[]} */
    const counted = [
      { key: "pushes", label: words.admin_pushes, limit: numberOf(used.pushes_per_day), days: listOf(used.days) },
      { key: "messages", label: words.admin_messages_today, limit: numberOf(used.messages_per_day), days: listOf(used.days) },
    ];
    const isChangeable = api.may("POST apps/set") && api.rights.kind !== "staff" && !settings.configured;
    const change = isChangeable ? [button(words.admin_quotas_change, () => changeQuotas(counted))] : [];
    const quotas = counted.map((each) => quotaOf(each, numberOf(used.ends)));
    return [card(words.admin_app_usage, shown), card(words.admin_quotas, make("div", "quotas", ...quotas), make("p", "muted", words.admin_quotas_hint), ...change)];
  });

  /** @param {Counted[]} counted */
  async function changeQuotas(counted) {
    await ask({
      title: words.admin_quotas_change,
      fields: counted.map(({ key, label, limit }) => ({ name: `${key}_per_day`, label, value: String(limit), hint: words.admin_quota_none })),
      yes: words.admin_save,
      act: async (values) => {
        const quotas = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, Number(value || 0)]));
        await api.post("apps/set", { app, merge: true, settings: { quotas } });
        toast(words.admin_saved);
        await made.again();
      },
    });
  }
  return made;
}

/**
 * @param {Counted} counted
 * @param {number} ends  when the day ends
 */
function quotaOf({ key, label, limit, days }, ends) {
  const today = new Date().toISOString().slice(0, 10);
  const used = numberOf(days.find(({ day }) => day === today)?.[key]);
  const month = days.filter(({ day }) => textOf(day).startsWith(today.slice(0, 7))).reduce((sum, each) => sum + numberOf(each[key]), 0);
  const made = make("div", "quota", make("h3", "", label));
  if (!limit && !days.length) {
    made.append(make("p", "muted", words.admin_quota_unlimited));
    return made;
  }
  const text = limit ? fill(words.admin_quota_used, { count: number.format(used), limit: number.format(limit) }) : fill(words.admin_quota_today, { count: number.format(used) });
  made.append(make("p", "figure", text));
  if (limit) {
    const meter = /** @type {HTMLMeterElement} */ (make("meter", ""));
    meter.max = limit;
    meter.low = limit * 0.75; // from there amber, then red
    meter.high = limit * 0.9;
    meter.optimum = 0;
    meter.value = used;
    meter.setAttribute("aria-label", `${label}: ${text}`);
    made.append(meter);
  }
  made.append(make("p", "muted", fill(words.admin_quota_month, { count: number.format(month) })));
  if (limit && used >= limit) made.append(badge(fill(words.admin_quota_spent, { time: absoluteTime(ends) }), "bad"));
  if (days.length > 1) made.append(sparkline([...days].reverse().map((each) => numberOf(each[key]))));
  return made;
}

/** @param {number[]} values  of days, the oldest first */
function sparkline(values) {
  const most = Math.max(1, ...values);
  const bars = values.map((value) => {
    const bar = make("span", "");
    bar.style.blockSize = `${Math.max(4, (value / most) * 100)}%`;
    return bar;
  });
  const made = make("div", "spark", ...bars);
  made.setAttribute("aria-hidden", "true"); // its numbers stand above
  return made;
}

// --- keys -----------------------------------------------------------------------------------------------------------

/**
 * @param {import("./api.js").Api} api
 * @param {string} app  empty: of all apps
 */
function keyList(api, app) {
  let ended = false;
  /** @type {string[]} */
  let scopes = [];
  /** @type {Filled} */
  const rows = place(async () => {
    const answer = await api.get("keys", { app, ended });
    scopes = listOf(answer.scopes);
    return answer;
  }, (answer) => [
    table(words.admin_keys, [words.admin_note, words.admin_id, words.admin_state, words.admin_scopes, words.admin_apps, words.admin_last_used], listOf(answer.keys).map(recordOf).map((key) => [
      link(name(key.note || key.id), "key", textOf(key.id)), code(key.id), keyState(key), name(listOf(key.scopes).join(", ")),
      name(listOf(key.apps).join(", ") || words.admin_all_apps), time(key.last_used, words.admin_never),
    ]), words.admin_no_keys),
  ]);
  const choose = filters([{ name: "ended", label: words.admin_ended_keys, type: "checkbox" }], (values) => {
    ended = values.ended === "true";
    return rows.again();
  });
  const create = button(words.admin_create_key, () => createKey(api, app, scopes, () => rows.again()), "primary");
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
 * @param {string[]} scopes  that a key may have
 * @param {() => unknown} changed
 */
async function createKey(api, app, scopes, changed) {
  let secret = "";
  const isDone = await ask({
    title: words.admin_create_key,
    fields: [
      { name: "note", label: words.admin_note, hint: words.admin_key_note_hint, most: 100 },
      ...scopes.map((each) => /** @type {import("./ui.js").Field} */ ({ name: `${SCOPE}${each}`, label: words[`admin_scope_${each}`] ?? each, type: "checkbox" })),
      { name: "apps", label: words.admin_apps, value: app || (api.rights.apps ?? []).join(", "), hint: words.admin_key_apps_hint },
      { name: "expires", label: words.admin_expires, type: "select", value: String(90 * DAY), options: expiries() },
    ],
    yes: words.admin_create_key,
    act: async ({ note, apps, expires, ...chosen }) => {
      const wanted = Object.keys(chosen).filter((each) => chosen[each]).map((each) => each.slice(SCOPE.length));
      if (!wanted.length) throw new Error(words.admin_no_scope);
      const named = apps.split(",").map((each) => each.trim()).filter(Boolean);
      const made = await api.post("keys/create", { scopes: wanted, apps: named, note, expires_seconds: Number(expires) });
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
 * What a key did, summed for each route, app and address.
 *
 * @param {Record<string, any>[]} uses
 */
function sumTable(uses) {
  /** @type {Map<string, Record<string, any>>} */
  const sums = new Map();
  for (const use of uses) {
    const key = JSON.stringify([use.route, use.app, use.address]);
    const { answered = 0, refused = 0, first = use.time, last = use.time } = sums.get(key) ?? {};
    sums.set(key, { ...use, answered: answered + numberOf(use.answered), refused: refused + numberOf(use.refused), first: Math.min(first, use.time), last: Math.max(last, use.time) });
  }
  return table(words.admin_usage, [words.admin_route, words.admin_app, words.admin_address, words.admin_answered, words.admin_refused, words.admin_from, words.admin_to], [...sums.values()].map((use) => [
    code(use.route), name(use.app), code(use.address), number.format(use.answered), number.format(use.refused), time(use.first), time(use.last),
  ]), words.admin_no_usage);
}

/** @param {Record<string, any>[]} uses */
function minuteTable(uses) {
  return table(words.admin_minutes, [words.admin_minute, words.admin_route, words.admin_app, words.admin_address, words.admin_answered, words.admin_refused], uses.map((use) => [
    time(use.time), code(use.route), name(use.app), code(use.address), number.format(numberOf(use.answered)), number.format(numberOf(use.refused)),
  ]), "");
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
  }, (rows) => make("div", "place", sumTable(rows.map(recordOf)), ...(rows.length ? [make("details", "", make("summary", "muted", words.admin_minutes), minuteTable(rows.map(recordOf)))] : [])));
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
