// @ts-check
/** What is shown first: how the server is, what waits for somebody, and what one may want to do. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { isFailed } from "./notifications.js";
import { addressOf, countOf, heading, keepFresh, link, number, place, size, time, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./app.js").Section} Section */
/** @typedef {import("./api.js").Api} Api */
/** @typedef {import("./ui.js").Filled} Filled */

/**
 * What one may want to do in a section.
 *
 * @typedef {object} Task
 * @property {string} key
 * @property {string} label
 * @property {string} route  that it needs
 * @property {string[]} steps  what to press there, or a sentence that says what to do
 * @property {string} [at]  selector of the control or heading where it begins
 */

/** Section → its tasks. @type {Record<string, Task[]>} */
const TASKS = {
  people: [
    { key: "spam", label: words.admin_task_spam, route: "POST moderation/clear", at: "#field-text", steps: [words.admin_open_person, words.admin_clear, words.admin_ban] },
    { key: "held", label: words.admin_task_held, route: "GET moderation/holds", steps: [words.admin_held, words.admin_unban] },
    { key: "factor", label: words.admin_task_factor, route: "POST accounts/factor/remove", at: "#field-text", steps: [words.admin_open_person, words.admin_more_actions, words.admin_factor_off] },
    { key: "role", label: words.admin_task_role, route: "POST accounts/role", at: "#field-text", steps: [words.admin_open_person, words.admin_more_actions, words.admin_set_role] },
    { key: "export", label: words.admin_task_export, route: "POST exports/start", at: "#field-text", steps: [words.admin_open_person, words.admin_export] },
    { key: "erase", label: words.admin_task_erase, route: "POST users/erase", at: "#field-text", steps: [words.admin_open_person, words.admin_more_actions, words.admin_erase] },
  ],
  refusals: [{ key: "login", label: words.admin_task_login, route: "GET refusals", at: "#field-user", steps: [words.admin_task_login_user, words.admin_lift] }],
  apps: [
    { key: "stolen", label: words.admin_task_stolen, route: "POST keys/rotate", at: "#keys h2", steps: [words.admin_open_key, words.admin_rotate] },
    { key: "quota", label: words.admin_task_quota, route: "GET apps/usage", steps: [words.admin_open_app, words.admin_quotas_change] },
    { key: "all", label: words.admin_export_app, route: "POST exports/start", steps: [words.admin_open_app, words.admin_export_app] },
    { key: "deprecated", label: words.admin_task_deprecated, route: "GET keys/deprecated", at: "#deprecated h2", steps: [words.admin_task_deprecated_text] },
  ],
  webhooks: [{ key: "again", label: words.admin_task_webhook, route: "POST events/replay", steps: [words.admin_open_app, words.admin_send_again] }],
  notifications: [{ key: "failed", label: words.admin_task_notifications, route: "GET notifications/recent", at: "#field-user", steps: [words.admin_task_notifications_text] }],
  nodes: [
    { key: "drain", label: words.admin_task_drain, route: "POST nodes/drain", steps: [words.admin_task_drain_text] },
    { key: "slow", label: words.admin_task_slow, route: "GET nodes/timings", at: "#field-order", steps: [words.admin_task_slow_text] },
    { key: "log", label: words.admin_task_log, route: "POST nodes/log", at: "#log > button", steps: [words.admin_task_log_text] },
  ],
  audit: [{ key: "deleted", label: words.admin_task_deleted, route: "GET audit", at: "#field-message", steps: [words.admin_task_deleted_text] }],
};
const RECENT = 100;
/** Apps whose figures are added up. */
const MOST_ASKED = 20;
const LOOK_MS = 30_000;
/** Shares of a disk that should be free. */
const FEW = 0.05;
const SOME = 0.15;
/** A daily backup that is later has failed. */
const BACKUP_SECONDS = 93_600;

/**
 * @param {Place} at
 * @param {Section[]} sections  that are there
 */
export function drawOverview(at, sections) {
  const { api } = at;
  const has = new Set(sections.map((each) => each.key));
  const parts = [...(has.has("nodes") ? [stateOf(at)] : []), waitingOf(at, has)];
  const places = sections.map(({ key, label }) => {
    const tasks = tasksOf(api, key).map((task) => make("li", "", link(task.label, key, task.key)));
    return make("li", "card", make("h3", "", link(label, key)), make("p", "muted", words[`admin_${key}_hint`] ?? ""), ...(tasks.length ? [make("ul", "tasks", ...tasks)] : []));
  });
  return [heading(words.admin_overview, words.admin_overview_hint), ...parts, make("h2", "part-head", words.admin_start), make("ul", "start", ...places)];
}

/**
 * @param {Api} api
 * @param {string} section
 * @returns {Task[]} what this principal may do there
 */
export function tasksOf(api, section) {
  return (TASKS[section] ?? []).filter((task) => api.may(task.route));
}

/** @param {Task} task */
export function stepsOf(task) {
  return task.steps.join(" \u203a ");
}

/**
 * A figure that leads to its section.
 *
 * @param {string} section
 * @param {string} label
 * @param {Node | string} value
 * @param {string | Node} detail
 * @param {"good" | "warn" | "bad" | ""} [state]  what one should think of it
 */
function tile(section, label, value, detail, state = "") {
  const made = make("a", `tile ${state}`, make("span", "muted", label), make("b", "figure", value), make("small", "muted", detail));
  made.setAttribute("href", addressOf(section));
  return made;
}

// --- the server -----------------------------------------------------------------------------------------------------

/** @param {Place} at */
function stateOf({ api, isShown }) {
  /** Node → what it has read and delivered since its start, and when that was asked. @type {Map<string, [number, number, number]>} */
  const before = new Map();
  /** @type {Filled} */
  const shown = place(() => api.get("nodes"), (answer) => {
    const nodes = listOf(answer.nodes).map(recordOf);
    return [make("div", "tiles", nodesTile(nodes), connectionsTile(nodes), messagesTile(nodes), diskTile(nodes), backupTile(nodes))];
  });
  keepFresh(shown, isShown);
  return shown;

  /** @param {Record<string, any>[]} nodes */
  function messagesTile(nodes) {
    const now = Date.now() / 1000;
    let [read, delivered, asked] = [0, 0, 0];
    for (const node of nodes.filter((each) => each.answers)) {
      const is = /** @type {[number, number, number]} */ ([numberOf(node.messages_in), numberOf(node.deliveries), now]);
      const was = before.get(textOf(node.node)) ?? [0, 0, numberOf(node.started)];
      before.set(textOf(node.node), is);
      const seconds = Math.max(1, now - was[2]);
      read += Math.max(0, is[0] - was[0]) / seconds;
      delivered += Math.max(0, is[1] - was[1]) / seconds;
      asked = Math.max(asked, seconds);
    }
    return tile("nodes", words.admin_messages_second, rate(delivered), fill(words.admin_messages_read, { count: rate(read) }));
  }
}

/**
 * @param {string} text
 * @returns {string} the same, whose direction does not change that of what is around it
 */
function apart(text) {
  return `\u2068${text}\u2069`;
}

/** @param {number} count */
function rate(count) {
  return number.format(count < 10 ? Math.round(count * 10) / 10 : Math.round(count));
}

/** @param {Record<string, any>[]} nodes */
function nodesTile(nodes) {
  const bad = nodes.filter((each) => !each.answers || !each.ready);
  const [first = {}] = bad;
  const why = !first.answers ? words.admin_silent : first.drained ? words.admin_drained : textOf(first.reason);
  const isBroken = bad.some((each) => !each.drained);
  return tile("nodes", words.admin_nodes, fill(words.admin_nodes_ready, { ready: nodes.length - bad.length, count: nodes.length }),
    bad.length ? `${apart(textOf(first.node))}: ${why}` : words.admin_all_ready, bad.length ? (isBroken ? "bad" : "warn") : "good");
}

/** @param {Record<string, any>[]} nodes */
function connectionsTile(nodes) {
  const sum = (/** @type {string} */ field) => nodes.reduce((all, each) => all + numberOf(each[field]), 0);
  const most = nodes.every((each) => each.most) ? sum("most") : 0;
  const isFull = most && sum("connections") > most * (1 - SOME);
  return tile("connections", words.admin_connections, number.format(sum("connections")),
    [fill(words.admin_online, { count: number.format(sum("users")) }), ...(most ? [fill(words.admin_at_most, { count: number.format(most) })] : [])].join(" · "), isFull ? "warn" : "");
}

/** @param {Record<string, any>[]} nodes */
function diskTile(nodes) {
  const share = (/** @type {Record<string, any>} */ each) => numberOf(each.disk_free) / numberOf(each.disk);
  const [least] = nodes.filter((each) => numberOf(each.disk)).sort((one, other) => share(one) - share(other));
  if (!least) return "";
  const free = share(least);
  return tile("nodes", words.admin_disk, fill(words.admin_free, { size: size(numberOf(least.disk_free)) }),
    fill(words.admin_of_disk, { size: apart(size(numberOf(least.disk))), node: apart(textOf(least.node)) }), free < FEW ? "bad" : free < SOME ? "warn" : "");
}

/** @param {Record<string, any>[]} nodes */
function backupTile(nodes) {
  const scheduled = nodes.filter((each) => typeof each.last_backup === "number");
  const last = Math.max(0, ...scheduled.map((each) => each.last_backup));
  const isLate = Date.now() / 1000 - last > BACKUP_SECONDS;
  if (!scheduled.length) return tile("nodes", words.admin_backup, words.admin_never, words.admin_backup_none, "warn");
  return tile("nodes", words.admin_backup, time(last, words.admin_never), last ? words.admin_backup_proven : words.admin_backup_no_proof, last ? (isLate ? "warn" : "good") : "bad");
}

// --- what waits -----------------------------------------------------------------------------------------------------

/**
 * @param {Place} at
 * @param {Set<string>} has  the sections that are there
 */
function waitingOf({ api, app, apps, isShown }, has) {
  const isCut = !app && apps.length > MOST_ASKED;
  /** @param {string} path @param {Record<string, any>} query */
  const asked = (path, query) => api.get(path, query).catch(() => null);
  /** What a route says of each app that is looked at. @param {string} path @param {Record<string, any>} query */
  const ofEach = async (path, query) => {
    const answers = await Promise.all((app ? [app] : apps.slice(0, MOST_ASKED)).map((each) => asked(path, { ...query, app: each })));
    return answers.filter((each) => each !== null);
  };
  const shown = place(() => Promise.all([
    has.has("webhooks") ? asked("webhooks", { app }) : null,
    has.has("refusals") ? asked("refusals", { app, limit: RECENT }) : null,
    has.has("reports") ? ofEach("reports", { state: "open", limit: RECENT }) : null,
    has.has("notifications") ? ofEach("notifications/recent", { limit: RECENT }) : null,
  ]), ([webhooks, refusals, reports, notifications]) => [make("div", "tiles",
    ...(webhooks ? [webhooksTile(listOf(webhooks.webhooks).map(recordOf))] : []),
    ...(refusals ? [refusalsTile(listOf(refusals.refusals).map(recordOf))] : []),
    ...(reports?.length ? [reportsTile(reports.flatMap((each) => listOf(each.reports)).length, isCut || reports.some((each) => each.next))] : []),
    ...(notifications?.length ? [notificationsTile(notifications.flatMap((each) => listOf(each.deliveries)).map(recordOf))] : []),
  )]);
  keepFresh(shown, isShown, LOOK_MS);
  return shown;
}

/** @param {Record<string, any>[]} webhooks */
function webhooksTile(webhooks) {
  const failing = webhooks.filter((each) => each.failing).length;
  const sum = (/** @type {string[]} */ ...fields) => webhooks.reduce((all, each) => all + fields.reduce((of, field) => of + numberOf(each[field]), 0), 0);
  return tile("webhooks", words.admin_webhooks, failing ? fill(words.admin_failing_of, { failing, count: webhooks.length }) : number.format(webhooks.length),
    `${words.admin_waiting}: ${number.format(sum("waiting", "stored"))} · ${words.admin_aside}: ${countOf(...webhooks.map((each) => each.aside))} · ${words.admin_dead}: ${countOf(...webhooks.map((each) => each.dead))}`, failing || sum("dead") ? "bad" : webhooks.length ? "good" : "");
}

/** @param {Record<string, any>[]} refusals */
function refusalsTile(refusals) {
  return tile("refusals", words.admin_refusals, number.format(refusals.reduce((all, each) => all + numberOf(each.count), 0)), words.admin_last_hour);
}

/**
 * @param {number} count
 * @param {boolean} hasMore
 */
function reportsTile(count, hasMore) {
  return tile("reports", words.admin_reports, number.format(count) + (hasMore ? "+" : ""), words.admin_open, count ? "warn" : "good");
}

/** @param {Record<string, any>[]} deliveries  the last ones */
function notificationsTile(deliveries) {
  const failed = deliveries.filter(isFailed).length;
  return tile("notifications", words.admin_notifications, number.format(failed), fill(words.admin_failed_of, { count: number.format(deliveries.length) }), failed ? "warn" : "");
}
