// @ts-check
/** The operators' page: reads /system/state every few seconds and shows it. */

import { element, fill, make, pageData } from "./text.js";

const KEY_ITEM = "imserver:admin-key";
const UNAUTHORIZED = 1003;
const MAX_SAMPLES = 200;
const MAX_APPS = 100;
const MANY = 1_000; // connections from which memory a connection says something

/** @typedef {{ stateUrl: string, seconds: number, language: string, text: Record<string, string> }} Page */

/** A refusal or a failure; `keyNeeded` when another key would help. */
class StateError extends Error {
  /**
   * @param {string} message
   * @param {boolean} [keyNeeded]
   */
  constructor(message, keyNeeded = false) {
    super(message);
    this.keyNeeded = keyNeeded;
  }
}

const page = /** @type {Page} */ (pageData());
const words = page.text;
const number = new Intl.NumberFormat(page.language);
const clock = new Intl.DateTimeFormat(page.language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const el = (/** @type {string} */ id) => element(id, HTMLElement);
const keyField = element("key", HTMLInputElement);

/** @type {number[]} */
const samples = [];
/** @type {Date | null} */
let lastGood = null;
let paused = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let key = "";
try {
  key = sessionStorage.getItem(KEY_ITEM) ?? "";
} catch {
  // a browser that keeps nothing asks for the key at each load
}

/** @param {string} next */
function keepKey(next) {
  key = next;
  try {
    if (next) sessionStorage.setItem(KEY_ITEM, next);
    else sessionStorage.removeItem(KEY_ITEM);
  } catch {
    // as above
  }
}

/** @returns {Promise<any>} the answer's data */
async function read() {
  let response;
  try {
    response = await fetch(page.stateUrl, {
      headers: key ? { Authorization: `Bearer ${key}` } : {},
      cache: "no-store",
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new StateError(words.no_answer);
  }
  if (response.status === 401 || response.status === 403) throw new StateError(`HTTP ${response.status}`, true);
  const answer = await response.json().catch(() => null);
  if (answer?.code === UNAUTHORIZED) throw new StateError(`${answer.msg} (${answer.code})`, true);
  if (!response.ok || !answer) throw new StateError(`HTTP ${response.status}`);
  if (answer.code !== 200) throw new StateError(`${answer.msg} (${answer.code})`);
  return answer.data ?? {};
}

async function refresh() {
  clearTimeout(timer);
  try {
    const data = await read();
    lastGood = new Date();
    show(data);
    el("problem").hidden = true;
    el("key-form").hidden = true;
    el("figures").hidden = false;
    setState("online", fill(words.status_updated, { time: clock.format(lastGood) }));
  } catch (error) {
    fail(error instanceof StateError ? error : new StateError(String(error)));
  }
  el("forget").hidden = !key;
  plan();
}

function plan() {
  clearTimeout(timer);
  if (!paused && !document.hidden && el("key-form").hidden) timer = setTimeout(refresh, page.seconds * 1000);
}

/** @param {StateError} error */
function fail(error) {
  if (error.keyNeeded) {
    el("key-problem").textContent = key ? words.status_key_wrong : "";
    keepKey("");
    el("figures").hidden = true;
    el("problem").hidden = true;
    el("key-form").hidden = false;
    setState("refused", words.status_key_title);
    keyField.focus();
    return;
  }
  el("problem").textContent = fill(words.status_failed, { reason: error.message });
  el("problem").hidden = false;
  setState("refused", lastGood ? fill(words.status_stale, { time: clock.format(lastGood) }) : words.no_answer);
}

/**
 * @param {string} state
 * @param {string} text
 */
function setState(state, text) {
  el("state").dataset.state = state;
  el("state-text").textContent = text;
}

/** @param {any} data */
function show(data) {
  const info = data.managerInfo ?? {};
  const connections = info.clientsLen ?? 0;
  const users = info.usersLen ?? 0;
  el("connections").textContent = number.format(connections);
  el("users").textContent = number.format(users);
  el("anonymous").textContent = fill(words.status_anonymous, { count: number.format(Math.max(0, connections - users)) });
  el("uptime-tile").hidden = !data.uptimeSeconds;
  if (data.uptimeSeconds) {
    el("uptime").textContent = duration(data.uptimeSeconds);
    const started = new Date(Date.now() - data.uptimeSeconds * 1000);
    el("started").textContent = started.toLocaleString(page.language, { dateStyle: "medium", timeStyle: "short" });
  }
  el("memory-tile").hidden = !data.memoryBytes;
  if (data.memoryBytes) {
    el("memory").textContent = size(data.memoryBytes);
    el("per-connection").textContent = connections >= MANY
      ? fill(words.status_per_connection, { size: size(data.memoryBytes / connections) }) : "";
  }
  showApps(data.apps, users);
  showFacts(data, info);
  samples.push(connections);
  if (samples.length > MAX_SAMPLES) samples.shift();
  drawChart();
}

/**
 * @param {Record<string, number> | undefined} apps  users by app
 * @param {number} users
 */
function showApps(apps, users) {
  el("apps-card").hidden = !apps;
  if (!apps) return;
  const used = Object.values(apps).filter((count) => count > 0).length;
  el("apps-count").textContent = used ? fill(words.status_in_apps, { count: number.format(used) }) : "";
  const sorted = Object.entries(apps).sort(([a, m], [b, n]) => n - m || a.localeCompare(b, undefined, { numeric: true }));
  const rows = sorted.slice(0, MAX_APPS).map(([app, count]) => {
    const bar = make("span", "bar", make("span", ""));
    /** @type {HTMLElement} */ (bar.firstChild).style.width = `${users ? (100 * count) / users : 0}%`;
    const name = make("th", "", make("bdi", "", app));
    name.setAttribute("scope", "row");
    return make("tr", "", name, make("td", "figure", number.format(count)), make("td", "share", bar));
  });
  el("apps").replaceChildren(...rows);
  el("no-apps").hidden = sorted.some(([, count]) => count > 0);
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
  const format = (/** @type {number} */ value) => (Number.isInteger(value) ? number.format(value) : `${(value * 1000).toFixed(1)} ms`);
  const shown = facts.filter(([, value]) => typeof value === "number");
  const pairs = shown.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", format(Number(value)))));
  el("facts").replaceChildren(...pairs);
}

function drawChart() {
  const minutes = Math.max(1, Math.round((samples.length * page.seconds) / 60));
  el("chart-title").textContent = fill(words.status_history, { minutes });
  const top = Math.max(4, ...samples) * 1.15;
  const step = 600 / Math.max(1, samples.length - 1);
  const points = samples.map((value, index) => `${(index * step).toFixed(1)} ${(118 - (value / top) * 114).toFixed(1)}`);
  if (points.length === 1) points.push(`600 ${points[0].split(" ")[1]}`);
  const line = `M${points.join("L")}`;
  document.getElementById("chart-line")?.setAttribute("d", line);
  document.getElementById("chart-area")?.setAttribute("d", `${line}L600 120L0 120Z`);
}

/**
 * @param {number} seconds
 * @returns {string} its two greatest units
 */
function duration(seconds) {
  const units = /** @type {const} */ ([["days", 86_400], ["hours", 3_600], ["minutes", 60], ["seconds", 1]]);
  let rest = Math.floor(seconds);
  const parts = [];
  for (const [name, length] of units) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count || parts.length || length === 1) parts.push(fill(words[`unit_${name}`], { count }));
  }
  return parts.slice(0, 2).join(" ");
}

/**
 * @param {number} bytes
 * @returns {string}
 */
function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${new Intl.NumberFormat(page.language, { maximumFractionDigits: value < 10 ? 1 : 0 }).format(value)} ${units[unit]}`;
}

element("key-form", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(keyField.value.trim());
  keyField.value = "";
  if (key) refresh();
});
el("forget").addEventListener("click", () => {
  keepKey("");
  refresh();
});
el("pause").addEventListener("click", () => {
  paused = !paused;
  el("pause").textContent = paused ? words.status_resume : words.status_pause;
  if (!paused) refresh();
  else plan();
});
document.addEventListener("visibilitychange", () => (document.hidden ? plan() : !paused && el("key-form").hidden && refresh()));
refresh();
