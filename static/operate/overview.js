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
    {
      key: "spam", label: words.admin_task_spam, route: "POST moderation/clear",
      at: "#field-text", steps: [words.admin_open_person, words.admin_clear, words.admin_ban],
    },
    { key: "held", label: words.admin_task_held, route: "GET moderation/holds", steps: [words.admin_held, words.admin_unban] },
    {
      key: "factor", label: words.admin_task_factor, route: "POST accounts/factor/remove",
      at: "#field-text", steps: [words.admin_open_person, words.admin_more_actions, words.admin_factor_off],
    },
    {
      key: "role", label: words.admin_task_role, route: "POST accounts/role",
      at: "#field-text", steps: [words.admin_open_person, words.admin_more_actions, words.admin_set_role],
    },
    {
      key: "export", label: words.admin_task_export, route: "POST exports/start",
      at: "#field-text", steps: [words.admin_open_person, words.admin_export],
    },
    {
      key: "erase", label: words.admin_task_erase, route: "POST users/erase",
      at: "#field-text", steps: [words.admin_open_person, words.admin_more_actions, words.admin_erase],
    },
  ],
  refusals: [{
    key: "login", label: words.admin_task_login, route: "GET refusals",
    at: "#field-user", steps: [words.admin_task_login_user, words.admin_lift],
  }],
  apps: [
    { key: "stolen", label: words.admin_task_stolen, route: "POST keys/rotate", at: "#keys h2", steps: [words.admin_open_key, words.admin_rotate] },
    { key: "quota", label: words.admin_task_quota, route: "GET apps/usage", steps: [words.admin_open_app, words.admin_quotas_change] },
    { key: "all", label: words.admin_export_app, route: "POST exports/start", steps: [words.admin_open_app, words.admin_export_app] },
    {
      key: "deprecated", label: words.admin_task_deprecated, route: "GET keys/deprecated",
      at: "#deprecated h2", steps: [words.admin_task_deprecated_text],
    },
  ],
  webhooks: [{
    key: "again", label: words.admin_task_webhook, route: "POST events/replay",
    steps: [words.admin_open_app, words.admin_send_again],
  }],
  notifications: [{
    key: "failed", label: words.admin_task_notifications, route: "GET notifications/recent",
    at: "#field-user", steps: [words.admin_task_notifications_text],
  }],
  nodes: [
    { key: "drain", label: words.admin_task_drain, route: "POST nodes/drain", steps: [words.admin_task_drain_text] },
    { key: "slow", label: words.admin_task_slow, route: "GET nodes/timings", at: "#field-order", steps: [words.admin_task_slow_text] },
    { key: "log", label: words.admin_task_log, route: "POST nodes/log", at: "#log > button", steps: [words.admin_task_log_text] },
  ],
  audit: [{ key: "deleted", label: words.admin_task_deleted, route: "GET audit", at: "#field-message", steps: [words.admin_task_deleted_text] }],
};
/** Rows that are counted. */
const RECENT = 100;
/** Apps whose figures are added up. */
const MOST_ASKED = 20;
const LOOK_MS = 30_000;
/** A disk with a smaller free share is a problem, or gets a warning. */
const FEW_FREE = 0.05;
const SOME_FREE = 0.15;
/** From this share of the limit of connections on there is a warning. */
const FULL = 0.85;
/** A daily backup that is older than 26 hours has failed. */
const BACKUP_SECONDS = 93_600;

/** @typedef {"good" | "warn" | "bad" | ""} Judgement  what one should think of a figure */

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
    const made = make("li", "card", make("h3", "", link(label, key)), make("p", "muted", words[`admin_${key}_hint`] ?? ""));
    if (tasks.length) made.append(make("ul", "tasks", ...tasks));
    return made;
  });
  const start = [make("h2", "part-head", words.admin_start), make("ul", "start", ...places)];
  return [heading(words.admin_overview, words.admin_overview_hint), ...parts, ...start];
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
 * @param {Judgement} [judgement]
 */
function tile(section, label, value, detail, judgement = "") {
  const made = make("a", `tile ${judgement}`, make("span", "muted", label), make("b", "figure", value), make("small", "muted", detail));
  made.setAttribute("href", addressOf(section));
  return made;
}

// --- the server -----------------------------------------------------------------------------------------------------

/**
 * The figures of all nodes, which are loaded again while they are shown.
 *
 * @param {Place} at
 */
function stateOf({ api, isShown }) {
  /**
   * Node → the messages that it had read and delivered when it was asked last.
   *
   * @type {Map<string, { read: number, delivered: number, at: number }>}
   */
  const before = new Map();
  /** @type {Filled} */
  const shown = place(() => api.get("nodes"), (answer) => {
    const nodes = listOf(answer.nodes).map(recordOf);
    return [make("div", "tiles", nodesTile(nodes), connectionsTile(nodes), messagesTile(nodes), diskTile(nodes), backupTile(nodes))];
  });
  keepFresh(shown, isShown);
  return shown;

  /**
   * Messages per second since the last look; at the first look, since the start of each node.
   *
   * @param {Record<string, any>[]} nodes
   */
  function messagesTile(nodes) {
    const at = Date.now() / 1000;
    let readRate = 0;
    let deliveredRate = 0;
    for (const node of nodes.filter((each) => each.answers)) {
      const now = { read: numberOf(node.messages_in), delivered: numberOf(node.deliveries), at };
      const last = before.get(textOf(node.node)) ?? { read: 0, delivered: 0, at: numberOf(node.started) };
      before.set(textOf(node.node), now);
      const seconds = Math.max(1, now.at - last.at);
      readRate += Math.max(0, now.read - last.read) / seconds; // a node that has started again counts from 0
      deliveredRate += Math.max(0, now.delivered - last.delivered) / seconds;
    }
    return tile("nodes", words.admin_messages_second, rate(deliveredRate), fill(words.admin_messages_read, { count: rate(readRate) }));
  }
}

/**
 * @param {string} text
 * @returns {string} the text between marks that isolate its direction from the text around it
 */
function isolated(text) {
  return `\u2068${text}\u2069`;
}

/** @param {number} count  in a second; a small one is shown with one decimal */
function rate(count) {
  return number.format(count < 10 ? Math.round(count * 10) / 10 : Math.round(count));
}

/** @param {Record<string, any>[]} nodes */
function nodesTile(nodes) {
  const notReady = nodes.filter((each) => !each.answers || !each.ready);
  const figure = fill(words.admin_nodes_ready, { ready: nodes.length - notReady.length, count: nodes.length });
  if (!notReady.length) return tile("nodes", words.admin_nodes, figure, words.admin_all_ready, "good");
  const [first] = notReady;
  const isBroken = notReady.some((each) => !each.drained);
  return tile("nodes", words.admin_nodes, figure, `${isolated(textOf(first.node))}: ${whyNotReady(first)}`, isBroken ? "bad" : "warn");
}

/** @param {Record<string, any>} node */
function whyNotReady(node) {
  if (!node.answers) return words.admin_silent;
  return node.drained ? words.admin_drained : textOf(node.reason);
}

/** @param {Record<string, any>[]} nodes */
function connectionsTile(nodes) {
  const connections = sum(nodes, "connections");
  const hasLimit = nodes.every((each) => each.most);
  const most = hasLimit ? sum(nodes, "most") : 0;
  const details = [fill(words.admin_online, { count: number.format(sum(nodes, "users")) })];
  if (most) details.push(fill(words.admin_at_most, { count: number.format(most) }));
  const isFull = most && connections > most * FULL;
  return tile("connections", words.admin_connections, number.format(connections), details.join(" · "), isFull ? "warn" : "");
}

/**
 * @param {Record<string, any>[]} rows
 * @param {...string} fields
 */
function sum(rows, ...fields) {
  let total = 0;
  for (const row of rows) for (const field of fields) total += numberOf(row[field]);
  return total;
}

/**
 * The fullest disk.
 *
 * @param {Record<string, any>[]} nodes
 */
function diskTile(nodes) {
  const freeShare = (/** @type {Record<string, any>} */ node) => numberOf(node.disk_free) / numberOf(node.disk);
  const [fullest] = nodes.filter((each) => numberOf(each.disk)).sort((one, other) => freeShare(one) - freeShare(other));
  if (!fullest) return "";
  const figure = fill(words.admin_free, { size: size(numberOf(fullest.disk_free)) });
  const detail = fill(words.admin_of_disk, { size: isolated(size(numberOf(fullest.disk))), node: isolated(textOf(fullest.node)) });
  return tile("nodes", words.admin_disk, figure, detail, judgementOfDisk(freeShare(fullest)));
}

/**
 * @param {number} freeShare  0 to 1
 * @returns {Judgement}
 */
function judgementOfDisk(freeShare) {
  if (freeShare < FEW_FREE) return "bad";
  return freeShare < SOME_FREE ? "warn" : "";
}

/**
 * The newest proven backup of all nodes. A node without scheduled backups has no `last_backup`; without a proven backup it is 0.
 *
 * @param {Record<string, any>[]} nodes
 */
function backupTile(nodes) {
  const times = nodes.map((each) => each.last_backup).filter((each) => typeof each === "number");
  if (!times.length) return tile("nodes", words.admin_backup, words.admin_never, words.admin_backup_none, "warn");
  const last = Math.max(0, ...times);
  if (!last) return tile("nodes", words.admin_backup, time(last, words.admin_never), words.admin_backup_no_proof, "bad");
  const isLate = Date.now() / 1000 - last > BACKUP_SECONDS;
  return tile("nodes", words.admin_backup, time(last, words.admin_never), words.admin_backup_proven, isLate ? "warn" : "good");
}

// --- what waits -----------------------------------------------------------------------------------------------------

/**
 * Tiles of what waits for somebody, one of each section. A section whose route fails has none.
 *
 * @param {Place} at
 * @param {Set<string>} has  the sections that are there
 */
function waitingOf({ api, app, apps, isShown }, has) {
  const isCut = !app && apps.length > MOST_ASKED;
  const lookedAt = app ? [app] : apps.slice(0, MOST_ASKED);
  /** @param {string} path @param {Record<string, any>} query */
  const get = (path, query) => api.get(path, query).catch(() => null);
  /** @param {string} path @param {Record<string, any>} query */
  const getOfEachApp = async (path, query) => {
    const answers = await Promise.all(lookedAt.map((each) => get(path, { ...query, app: each })));
    return answers.filter((each) => each !== null);
  };
  const shown = place(() => Promise.all([
    has.has("webhooks") ? get("webhooks", { app }) : null,
    has.has("refusals") ? get("refusals", { app, limit: RECENT }) : null,
    has.has("reports") ? getOfEachApp("reports", { state: "open", limit: RECENT }) : null,
    has.has("notifications") ? getOfEachApp("notifications/recent", { limit: RECENT }) : null,
  ]), ([webhooks, refusals, reports, notifications]) => {
    const tiles = [];
    if (webhooks) tiles.push(webhooksTile(listOf(webhooks.webhooks).map(recordOf)));
    if (refusals) tiles.push(refusalsTile(listOf(refusals.refusals).map(recordOf)));
    if (reports?.length) {
      const count = reports.flatMap((each) => listOf(each.reports)).length;
      const hasMore = isCut || reports.some((each) => each.next);
      tiles.push(reportsTile(count, hasMore));
    }
    if (notifications?.length) {
      const deliveries = notifications.flatMap((each) => listOf(each.deliveries)).map(recordOf);
      tiles.push(notificationsTile(deliveries));
    }
    return [make("div", "tiles", ...tiles)];
  });
  keepFresh(shown, isShown, LOOK_MS);
  return shown;
}

/** @param {Record<string, any>[]} webhooks */
function webhooksTile(webhooks) {
  const count = webhooks.length;
  const failing = webhooks.filter((each) => each.failing).length;
  const figure = failing ? fill(words.admin_failing_of, { failing, count }) : number.format(count);
  const detail = [
    `${words.admin_waiting}: ${number.format(sum(webhooks, "waiting", "stored"))}`,
    `${words.admin_aside}: ${countOf(...webhooks.map((each) => each.aside))}`,
    `${words.admin_dead}: ${countOf(...webhooks.map((each) => each.dead))}`,
  ].join(" · ");
  const isBroken = failing || sum(webhooks, "dead");
  const judgement = count ? "good" : "";
  return tile("webhooks", words.admin_webhooks, figure, detail, isBroken ? "bad" : judgement);
}

/** @param {Record<string, any>[]} refusals */
function refusalsTile(refusals) {
  return tile("refusals", words.admin_refusals, number.format(sum(refusals, "count")), words.admin_last_hour);
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
  const detail = fill(words.admin_failed_of, { count: number.format(deliveries.length) });
  return tile("notifications", words.admin_notifications, number.format(failed), detail, failed ? "warn" : "");
}
