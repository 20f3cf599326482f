// @ts-check
/** The page of all nodes. */

import { Chart, Dashboard, bar, clock, duration, el, milliseconds, number, showApps, size, words } from "./dashboard.js";
import { fill, make } from "./text.js";

/** Share of the connection limit from which a node is shown as full. */
const FULL = 0.9;
/** A lag of the loop that users notice. */
const LATE_SECONDS = 0.1;
const MAX_GONE = 20;

/** @typedef {{ epoch: number, cpuSeconds: number, uptimeSeconds: number }} Sample */

const chart = new Chart();
/** The last sample of each node, from which its CPU usage is computed. @type {Map<string, Sample>} */
let before = new Map();
/** Nodes that were live since this page was opened, and are not any more. @type {Map<string, { host: string, since: Date }>} */
const gone = new Map();
/** Node → its host, at the last look. @type {Map<string, string>} */
let hosts = new Map();

/** @param {any} data  nodes by name, and the names of nodes without an answer */
function show(data) {
  /** @type {[string, any][]} */
  const nodes = Object.entries(data.nodes ?? {});
  nodes.sort(([name, node], [otherName, other]) => order(`${node.lease.host} ${name}`, `${other.lease.host} ${otherName}`));
  const silent = new Set(data.missingNodes ?? []);
  noteGone(nodes);
  el("nodes").replaceChildren(...nodes.map(([name, node]) => row(name, node, silent.has(name))), ...[...gone].map(goneRow));
  el("alone").hidden = nodes.some(([, node]) => node.clustered !== false);
  before = new Map(nodes.filter(([, node]) => node.cpuSeconds).map(([name, node]) => [name, sampleOf(node)]));
  showTotals(nodes.map(([, node]) => node), silent.size);
}

/**
 * @param {string} text
 * @param {string} other
 */
const order = (text, other) => text.localeCompare(other, undefined, { numeric: true });

/** @param {any} node @returns {Sample} */
const sampleOf = (node) => ({ epoch: node.lease.epoch, cpuSeconds: node.cpuSeconds, uptimeSeconds: node.uptimeSeconds });

/** @param {any} node  without an answer, its lease has the last known number */
const connectionsOf = (node) => node.managerInfo?.clientsLen ?? node.lease.connections;

/** Remembers the nodes that have gone since the last look. @param {[string, any][]} nodes */
function noteGone(nodes) {
  const live = new Map(nodes.map(([name, node]) => [name, node.lease.host]));
  for (const [name, host] of hosts) {
    if (!live.has(name)) gone.set(name, { host, since: new Date() });
  }
  for (const name of live.keys()) gone.delete(name);
  for (const name of [...gone.keys()].slice(0, Math.max(0, gone.size - MAX_GONE))) gone.delete(name);
  hosts = live;
}

/**
 * @param {any[]} nodes
 * @param {number} silent
 */
function showTotals(nodes, silent) {
  const sum = (/** @type {(node: any) => number | undefined} */ of) => nodes.reduce((total, node) => total + (of(node) ?? 0), 0);
  const connections = sum(connectionsOf);
  const limit = sum((node) => node.maxConnections);
  const memory = sum((node) => node.memoryBytes);
  /** @type {Record<string, number>} */
  const apps = {};
  for (const node of nodes) {
    for (const [app, count] of Object.entries(node.apps ?? node.lease.counts)) apps[app] = (apps[app] ?? 0) + Number(count);
  }
  const users = Object.values(apps).reduce((total, count) => total + count, 0);
  el("count").textContent = number.format(nodes.length);
  el("answering").textContent = silent ? fill(words.cluster_silent, { count: number.format(silent) }) : words.cluster_all_answer;
  el("answering").classList.toggle("bad", silent > 0);
  el("connections").textContent = number.format(connections);
  el("room").textContent = limit ? fill(words.cluster_of_limit, { limit: number.format(limit) }) : "";
  el("users").textContent = number.format(users);
  el("memory").textContent = memory ? size(memory) : "–";
  const machines = new Set(nodes.map((node) => node.lease.host)).size;
  el("machines").textContent = machines === 1 ? words.cluster_machine : fill(words.cluster_machines, { count: number.format(machines) });
  showApps(apps, users);
  chart.add(connections);
}

// --- the table of nodes -------------------------------------------------------------------------------------

/**
 * @param {string} name
 * @param {any} node
 * @param {boolean} silent
 * @returns {HTMLElement}
 */
function row(name, node, silent) {
  const connections = connectionsOf(node);
  const load = node.maxConnections ? connections / node.maxConnections : 0;
  const lag = node.metrics?.loop_lag_seconds;
  const about = [node.lease.host, fill(words.cluster_epoch, { epoch: node.lease.epoch }), node.version ?? ""].filter(Boolean);
  const full = load >= FULL ? " full" : "";
  return line(
    silent,
    heading(name, about.join(" · ")),
    cell(words.cluster_state, "", condition(node, silent)),
    cell(words.status_connections, `figure load${full}`, number.format(connections), node.maxConnections ? bar(load) : ""),
    cell(words.status_users, "figure", known(node.managerInfo?.usersLen, number.format)),
    cell(words.cluster_cpu, "figure", known(cpuUsage(name, node), percent)),
    cell(words.status_lag, lag >= LATE_SECONDS ? "figure bad" : "figure", known(lag, milliseconds)),
    cell(words.status_memory, "figure", known(node.memoryBytes, size)),
    cell(words.status_uptime, "figure", known(node.uptimeSeconds, duration)),
  );
}

/**
 * @param {[string, { host: string, since: Date }]} node
 * @returns {HTMLElement}
 */
function goneRow([name, { host, since }]) {
  const text = fill(words.cluster_gone, { time: clock.format(since) });
  const empty = [words.status_connections, words.status_users, words.cluster_cpu, words.status_lag, words.status_memory, words.status_uptime];
  return line(true, heading(name, host), cell(words.cluster_state, "", state("offline", text)), ...empty.map((label) => cell(label, "figure", "–")));
}

// CSS changes the display of these elements in narrow windows, which removes their implicit roles: set them explicitly.

/**
 * @param {boolean} silent
 * @param {...HTMLElement} cells
 * @returns {HTMLElement}
 */
function line(silent, ...cells) {
  const made = make("tr", silent ? "silent" : "", ...cells);
  made.setAttribute("role", "row");
  return made;
}

/**
 * @param {string} name
 * @param {string} about
 * @returns {HTMLElement}
 */
function heading(name, about) {
  const made = make("th", "", make("bdi", "", name), make("small", "muted", about));
  made.setAttribute("scope", "row");
  made.setAttribute("role", "rowheader");
  return made;
}

/**
 * A cell with the name of its column. Narrow windows show the name beside the value.
 *
 * @param {string} label
 * @param {string} classes
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
function cell(label, classes, ...children) {
  const made = make("td", classes, make("span", "value", ...children));
  made.dataset.label = label;
  made.setAttribute("role", "cell");
  return made;
}

/**
 * @param {any} node
 * @param {boolean} silent
 * @returns {HTMLElement}
 */
function condition(node, silent) {
  if (silent) return state("refused", words.cluster_no_answer);
  if (node.lease.draining) return state("waiting", words.cluster_draining);
  if (node.ready === false) return state("refused", words.cluster_not_ready);
  return state("online", words.cluster_up);
}

/**
 * @param {string} kind
 * @param {string} text
 * @returns {HTMLElement}
 */
function state(kind, text) {
  const made = make("span", "state", make("span", "dot"), text);
  made.dataset.state = kind;
  return made;
}

/** @param {number} share  0 to 1 */
function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/**
 * @template T
 * @param {T | undefined} value
 * @param {(value: T) => string} format
 * @returns {string}
 */
function known(value, format) {
  return value === undefined ? "–" : format(value);
}

/**
 * The share of one CPU core that a node has used since the last sample.
 *
 * @param {string} name
 * @param {any} node
 * @returns {number | undefined}
 */
function cpuUsage(name, node) {
  const last = before.get(name);
  if (!last || last.epoch !== node.lease.epoch || !(node.uptimeSeconds > last.uptimeSeconds)) return undefined;
  return Math.max(0, (node.cpuSeconds - last.cpuSeconds) / (node.uptimeSeconds - last.uptimeSeconds));
}

new Dashboard(show).refresh();
