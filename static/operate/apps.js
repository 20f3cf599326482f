// @ts-check
/** Apps with their settings, and API keys with what they did. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { acts } from "./audit.js";
import { erase, erasureNote, exportCard } from "./data.js";
import { deprecatedCard } from "./deprecated.js";
import { settingsOf } from "./settings.js";
import {
  absoluteTime, ask, badge, button, card, code, facts, filters, heading, link, list, name, number, place, showSecret, table, time, toast, words,
} from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

/** Rows. */
const PAGE = 100;
const RECENT = 20;
/** In seconds. */
const HOUR = 3_600;
const DAY = 86_400;
/** What the names of the fields for scopes begin with. */
const SCOPE = "scope-";
/** Days that are asked for: a month, and some before it. */
const MOST_DAYS = 35;
/** Shares of a quota from which the meter is amber, then red. */
const AMBER = 0.75;
const RED = 0.9;
/** A lower bar of a chart would not be seen. */
const LOWEST_BAR_PERCENT = 4;

/**
 * The list of all apps, and that of all keys.
 *
 * @param {Place} at
 */
export function drawApps({ api }) {
  const columns = [words.admin_app, words.admin_state, words.admin_logins, words.admin_webhook];
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("apps", { cursor, limit: PAGE });
    return { rows: listOf(answer.apps), next: textOf(answer.next) };
  }, (apps) => table(words.admin_apps, columns, apps.map(recordOf).map((app) => {
    const { url } = recordOf(app.webhook);
    return [link(name(app.app), "app", textOf(app.app)), stateOf(app), loginOf(app), url ? code(url) : name("")];
  }), words.admin_no_apps));
  const parts = [heading(words.admin_apps_and_keys, words.admin_apps_hint), card(words.admin_apps, rows)];
  if (api.may("GET keys")) {
    const keys = card(words.admin_keys, keyList(api, ""));
    keys.id = "keys";
    parts.push(keys, ...deprecatedCard(api, ""));
  }
  return parts;
}

/** @param {Record<string, any>} app */
function stateOf(app) {
  if (app.locked) return badge(words.admin_app_locked, "bad");
  return badge(app.configured ? words.admin_configured : words.admin_stored);
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
    const again = () => made.again();
    if (shown.locked) {
      const erasure = erasureNote(api, app, "", again);
      return [heading(name(app), words.admin_app_hint), ...(erasure ? [erasure] : [])];
    }
    const webhook = api.may("GET webhooks") ? [link(words.admin_webhook, "webhook", app)] : [];
    const usage = api.may("GET apps/usage") ? usageOf(api, app) : null;
    const parts = [heading(name(app), words.admin_app_hint, ...webhook)];
    if (usage) parts.push(usage);
    if (api.may("GET keys")) parts.push(card(words.admin_keys, keyList(api, app)), ...deprecatedCard(api, app));
    parts.push(...exportCard(api, app), settingsOf(api, app, () => usage?.again())); // quotas are settings, too
    if (api.may("POST apps/delete") && !shown.configured) {
      parts.push(card("", button(words.admin_app_delete, () => erase(api, app, "", app, again), "quiet danger")));
    }
    return parts;
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
      api.get("apps/usage", { app, days: MOST_DAYS, stored: true }),
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
    const counts = numbers.filter(([, value]) => typeof value === "number"); // what this node does not count is missing
    const shown = facts(counts.map(([label, value]) => [label, make("b", "figure", number.format(value))]));
    /** @type {Counted[]} */
    const counted = [
      { key: "pushes", label: words.admin_pushes, limit: numberOf(used.pushes_per_day), days: listOf(used.days) },
      { key: "messages", label: words.admin_messages_today, limit: numberOf(used.messages_per_day), days: listOf(used.days) },
    ];
    const isChangeable = api.may("POST apps/set") && api.rights.kind !== "staff" && !settings.configured;
    const change = isChangeable ? [button(words.admin_quotas_change, () => changeQuotas(counted))] : [];
    const quotas = counted.map((each) => quotaOf(each, numberOf(used.ends)));
    const hint = make("p", "muted", words.admin_quotas_hint);
    return [card(words.admin_app_usage, shown), card(words.admin_quotas, make("div", "quotas", ...quotas), hint, ...change)];
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
 * What was used today and this month, and how much of the quota that is. Days are those of UTC.
 *
 * @param {Counted} counted  `limit` 0: unlimited
 * @param {number} ends  when the day ends
 */
function quotaOf({ key, label, limit, days }, ends) {
  const today = new Date().toISOString().slice(0, "2000-01-01".length);
  const month = today.slice(0, "2000-01".length);
  const used = numberOf(days.find(({ day }) => day === today)?.[key]);
  const daysOfMonth = days.filter(({ day }) => textOf(day).startsWith(month));
  const usedInMonth = daysOfMonth.reduce((sum, each) => sum + numberOf(each[key]), 0);
  const made = make("div", "quota", make("h3", "", label));
  if (!limit && !days.length) {
    made.append(make("p", "muted", words.admin_quota_unlimited));
    return made;
  }
  const count = number.format(used);
  const text = limit ? fill(words.admin_quota_used, { count, limit: number.format(limit) }) : fill(words.admin_quota_today, { count });
  made.append(make("p", "figure", text));
  if (limit) {
    const meter = /** @type {HTMLMeterElement} */ (make("meter", ""));
    meter.max = limit;
    meter.low = limit * AMBER;
    meter.high = limit * RED;
    meter.optimum = 0;
    meter.value = used;
    meter.setAttribute("aria-label", `${label}: ${text}`);
    made.append(meter);
  }
  made.append(make("p", "muted", fill(words.admin_quota_month, { count: number.format(usedInMonth) })));
  if (limit && used >= limit) made.append(badge(fill(words.admin_quota_spent, { time: absoluteTime(ends) }), "bad"));
  if (days.length > 1) made.append(sparkline([...days].reverse().map((each) => numberOf(each[key]))));
  return made;
}

/** @param {number[]} values  of days, the oldest first */
function sparkline(values) {
  const most = Math.max(1, ...values);
  const bars = values.map((value) => {
    const bar = make("span", "");
    bar.style.blockSize = `${Math.max(LOWEST_BAR_PERCENT, (value / most) * 100)}%`;
    return bar;
  });
  const made = make("div", "spark", ...bars);
  made.setAttribute("aria-hidden", "true"); // its numbers stand above
  return made;
}

// --- keys -----------------------------------------------------------------------------------------------------------

/**
 * The keys, with a box that shows the ended ones, too, and a button that creates one.
 *
 * @param {import("./api.js").Api} api
 * @param {string} app  empty: of all apps
 */
function keyList(api, app) {
  const columns = [words.admin_note, words.admin_id, words.admin_state, words.admin_scopes, words.admin_apps, words.admin_last_used];
  let ended = false;
  /** Scopes that a new key may have. @type {string[]} */
  let scopes = [];
  /** @type {Filled} */
  const rows = place(async () => {
    const answer = await api.get("keys", { app, ended });
    scopes = listOf(answer.scopes);
    return answer;
  }, (answer) => [
    table(words.admin_keys, columns, listOf(answer.keys).map(recordOf).map((key) => [
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
 * Asks what a new key may do, creates it, and shows its secret once.
 *
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {string[]} scopes  that a key may have
 * @param {() => unknown} changed
 */
async function createKey(api, app, scopes, changed) {
  /** @type {import("./ui.js").Field[]} */
  const boxes = scopes.map((scope) => ({ name: SCOPE + scope, label: words[`admin_scope_${scope}`] ?? scope, type: "checkbox" }));
  let secret = "";
  const isDone = await ask({
    title: words.admin_create_key,
    fields: [
      { name: "note", label: words.admin_note, hint: words.admin_key_note_hint, most: 100 },
      ...boxes,
      { name: "apps", label: words.admin_apps, value: app || (api.rights.apps ?? []).join(", "), hint: words.admin_key_apps_hint },
      { name: "expires", label: words.admin_expires, type: "select", value: String(90 * DAY), options: expiries() },
    ],
    yes: words.admin_create_key,
    act: async ({ note, apps, expires, ...boxValues }) => {
      const checked = Object.keys(boxValues).filter((box) => boxValues[box]);
      if (!checked.length) throw new Error(words.admin_no_scope);
      const made = await api.post("keys/create", {
        scopes: checked.map((box) => box.slice(SCOPE.length)),
        apps: apps.split(",").map((each) => each.trim()).filter(Boolean),
        note,
        expires_seconds: Number(expires),
      });
      secret = textOf(made.secret);
    },
  });
  if (!isDone) return;
  await changed();
  await showSecret(words.admin_new_key, words.admin_new_key_text, secret);
}

/**
 * @param {number} days
 * @returns {[string, string]} the seconds and the label of an option of a select
 */
function daysOption(days) {
  return [String(days * DAY), fill(words.admin_days, { count: days })];
}

/** @returns {[string, string][]} */
function expiries() {
  return [...[30, 90, 365].map(daysOption), ["0", words.admin_never_expires]];
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
    sums.set(key, {
      ...use,
      answered: answered + numberOf(use.answered),
      refused: refused + numberOf(use.refused),
      first: Math.min(first, use.time),
      last: Math.max(last, use.time),
    });
  }
  const columns = [
    words.admin_route, words.admin_app, words.admin_address, words.admin_answered, words.admin_refused, words.admin_from, words.admin_to,
  ];
  return table(words.admin_usage, columns, [...sums.values()].map((use) => [
    code(use.route), name(use.app), code(use.address), number.format(use.answered), number.format(use.refused), time(use.first), time(use.last),
  ]), words.admin_no_usage);
}

/** @param {Record<string, any>[]} uses  each of one minute */
function minuteTable(uses) {
  const columns = [words.admin_minute, words.admin_route, words.admin_app, words.admin_address, words.admin_answered, words.admin_refused];
  return table(words.admin_minutes, columns, uses.map((use) => [
    time(use.time),
    code(use.route),
    name(use.app),
    code(use.address),
    number.format(numberOf(use.answered)),
    number.format(numberOf(use.refused)),
  ]), "");
}

/** @param {Record<string, any>} key */
function keyCard(key) {
  const lastUse = make("span", "", time(key.last_used, words.admin_never), " ", key.last_used_from ? code(key.last_used_from) : "");
  return card("", facts([
    [words.admin_state, keyState(key)],
    [words.admin_scopes, name(listOf(key.scopes).join(", "))],
    [words.admin_apps, name(listOf(key.apps).join(", ") || words.admin_all_apps)],
    [words.admin_created, time(key.created)],
    [words.admin_expires, time(key.expires, words.admin_never_expires)],
    [words.admin_last_used, lastUse],
  ]));
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
  }, (key) => [heading(name(key.note || id), code(id), ...actions(key)), key.id ? keyCard(key) : card("", words.admin_no_key)]);
  /** @type {Filled} */
  const uses = list(async (cursor) => {
    const answer = await api.get("keys/usage", { id, cursor, limit: PAGE });
    return { rows: listOf(answer.uses).map(recordOf), next: textOf(answer.next) };
  }, (rows) => {
    const made = make("div", "place", sumTable(rows));
    if (rows.length) made.append(make("details", "", make("summary", "muted", words.admin_minutes), minuteTable(rows)));
    return made;
  });
  /** @type {HTMLElement[]} */
  const parts = [shown];
  if (api.may("GET keys/usage")) parts.push(card(words.admin_usage, uses));
  if (api.may("GET audit")) {
    const ofKey = acts(api, { by: `key:${id}`, limit: RECENT }, words.admin_no_acts_of_key);
    const onKey = acts(api, { about: `key:${id}`, limit: RECENT });
    parts.push(card(words.admin_of_key, ofKey), card(words.admin_on_key, onKey));
  }
  return parts;

  /** @param {Record<string, any>} key */
  function actions(key) {
    if (!key.id || key.configured || key.state !== "valid") return [];
    const found = [];
    if (api.may("POST keys/rotate")) found.push(button(words.admin_rotate, rotate));
    if (api.may("POST keys/revoke")) found.push(button(words.admin_revoke, revoke, "quiet danger"));
    return found;
  }

  /** Replaces the secret of the key. The old one stays valid for a while, if that is chosen. */
  async function rotate() {
    /** @type {[string, string][]} */
    const graces = [["0", words.admin_at_once], [String(HOUR), fill(words.admin_hours, { count: 1 })], daysOption(1), daysOption(7)];
    let secret = "";
    const isDone = await ask({
      title: words.admin_rotate,
      text: words.admin_rotate_text,
      fields: [{ name: "grace", label: words.admin_grace, type: "select", value: "0", options: graces }],
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
