// @ts-check
/** The page of one node. */

import { Chart, Dashboard, duration, el, milliseconds, number, page, showApps, size, words } from "./dashboard.js";
import { fill, make, moments } from "./text.js";

/** Below this number of connections, memory per connection is not meaningful. */
const MANY = 1_000;
const chart = new Chart();

/** @param {any} data  the state of the node */
function show(data) {
  const info = data.managerInfo ?? {};
  const connections = info.clientsLen ?? 0;
  const users = info.usersLen ?? 0;
  el("connections").textContent = number.format(connections);
  el("users").textContent = number.format(users);
  const anonymous = Math.max(0, connections - users);
  el("anonymous").textContent = anonymous ? fill(words.status_anonymous, { count: number.format(anonymous) }) : "";
  el("uptime-tile").hidden = !data.uptimeSeconds;
  if (data.uptimeSeconds) {
    el("uptime").textContent = duration(data.uptimeSeconds);
    const started = new Date(Date.now() - data.uptimeSeconds * 1000);
    el("started").textContent = moments(page.language).format(started);
  }
  el("memory-tile").hidden = !data.memoryBytes;
  if (data.memoryBytes) {
    el("memory").textContent = size(data.memoryBytes);
    const perConnection = connections >= MANY ? size(data.memoryBytes / connections) : "";
    el("per-connection").textContent = perConnection && fill(words.status_per_connection, { size: perConnection });
  }
  showApps(data.apps, users);
  showFacts(data, info);
  chart.add(connections);
}

/**
 * @param {any} data
 * @param {any} info
 */
function showFacts(data, info) {
  const waiting = ["Register", "Unregister", "Login", "Broadcast"].reduce((sum, name) => sum + (info[`chan${name}Len`] ?? 0), 0);
  /** @type {[string, unknown][]} */
  const facts = [
    [words.status_cpus, data.numCPU],
    [words.status_tasks, data.numGoroutine],
    [words.status_waiting, waiting],
    [words.status_deliveries, data.metrics?.deliveries],
    [words.status_lag, data.metrics?.loop_lag_seconds],
  ];
  const format = (/** @type {number} */ value) => (Number.isInteger(value) ? number.format(value) : milliseconds(value));
  const shown = facts.filter(([, value]) => typeof value === "number" && value !== 0);
  const pairs = shown.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", format(Number(value)))));
  const version = make("div", "", make("dt", "", words.status_version), make("dd", "", String(data.version ?? "–")));
  el("facts").replaceChildren(version, ...pairs);
}

new Dashboard(show).refresh();
