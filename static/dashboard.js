// @ts-check
/** Shared by the operators' pages: reads the state every few seconds, asks for the API key, formats figures and charts. */

import { element, fill, make, pageData } from "./text.js";

const KEY_ITEM = "imserver:admin-key";
const TIMEOUT_MS = 5_000;
/** Codes of an answer. */
const OK = 200;
const UNAUTHORIZED = 1003;
const MAX_SAMPLES = 200;
const MAX_APPS = 100;
/** The coordinates of the chart in the page. */
const CHART_WIDTH = 600;
const CHART_HEIGHT = 120;
/** The line keeps this distance to the lower edge, so that its whole width is seen. */
const CHART_MARGIN = 2;

/** @typedef {{ stateUrl: string, seconds: number, language: string, text: Record<string, string> }} Page */

export const page = /** @type {Page} */ (pageData());
export const words = page.text;
export const number = new Intl.NumberFormat(page.language);
export const clock = new Intl.DateTimeFormat(page.language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
export const el = (/** @type {string} */ id) => element(id, HTMLElement);

/** The state could not be read. With `keyNeeded`, the server wants another key. */
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

/** Polls the state. Owns the API key, the pause and the messages about both. */
export class Dashboard {
  /** @param {(data: any) => void} show  called with the data of each answer */
  constructor(show) {
    this.show = show;
    this.keyField = element("key", HTMLInputElement);
    /** @type {Date | null} */
    this.lastGood = null;
    this.paused = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.key = "";
    try {
      this.key = sessionStorage.getItem(KEY_ITEM) ?? "";
    } catch {
      // no storage: the page asks for the key at each load
    }
    this.listen();
  }

  listen() {
    element("key-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.saveKey(this.keyField.value.trim());
      this.keyField.value = "";
      if (this.key) this.refresh();
    });
    el("forget").addEventListener("click", () => {
      this.saveKey("");
      this.refresh();
    });
    el("pause").addEventListener("click", () => {
      this.paused = !this.paused;
      el("pause").textContent = this.paused ? words.status_resume : words.status_pause;
      if (!this.paused) this.refresh();
      else this.schedule();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.schedule();
      else if (!this.paused && el("key-form").hidden) this.refresh();
    });
  }

  /** @param {string} next */
  saveKey(next) {
    this.key = next;
    try {
      if (next) sessionStorage.setItem(KEY_ITEM, next);
      else sessionStorage.removeItem(KEY_ITEM);
    } catch {
      // no storage
    }
  }

  /** @returns {Promise<any>} the answer's data */
  async read() {
    let response;
    try {
      response = await fetch(page.stateUrl, {
        headers: this.key ? { Authorization: `Bearer ${this.key}` } : {},
        cache: "no-store",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      throw new StateError(words.no_answer);
    }
    if (response.status === 401 || response.status === 403) throw new StateError(`HTTP ${response.status}`, true);
    const answer = await response.json().catch(() => null);
    if (answer?.code === UNAUTHORIZED) throw new StateError(`${answer.msg} (${answer.code})`, true);
    if (!response.ok || !answer) throw new StateError(`HTTP ${response.status}`);
    if (answer.code !== OK) throw new StateError(`${answer.msg} (${answer.code})`);
    return answer.data ?? {};
  }

  /** Reads the state now, and again after some seconds unless the page is hidden or paused. */
  async refresh() {
    clearTimeout(this.timer);
    try {
      const data = await this.read();
      this.lastGood = new Date();
      this.show(data);
      el("problem").hidden = true;
      el("key-form").hidden = true;
      el("figures").hidden = false;
      setState("online", fill(words.status_updated, { time: clock.format(this.lastGood) }));
    } catch (error) {
      this.fail(error instanceof StateError ? error : new StateError(String(error)));
    }
    el("forget").hidden = !this.key;
    this.schedule();
  }

  schedule() {
    clearTimeout(this.timer);
    if (this.paused || document.hidden || !el("key-form").hidden) return;
    this.timer = setTimeout(() => this.refresh(), page.seconds * 1000);
  }

  /** @param {StateError} error */
  fail(error) {
    if (error.keyNeeded) {
      el("key-problem").textContent = this.key ? words.status_key_wrong : "";
      this.saveKey("");
      el("figures").hidden = true;
      el("problem").hidden = true;
      el("key-form").hidden = false;
      setState("refused", words.status_key_title);
      this.keyField.focus();
      return;
    }
    el("problem").textContent = fill(words.status_failed, { reason: error.message });
    el("problem").hidden = false;
    setState("refused", this.lastGood ? fill(words.status_stale, { time: clock.format(this.lastGood) }) : words.no_answer);
  }
}

/**
 * @param {string} state
 * @param {string} text
 */
function setState(state, text) {
  el("state").dataset.state = state;
  el("state-text").textContent = text;
}

/** A line chart of one figure over the last minutes. Owns the samples. */
export class Chart {
  constructor() {
    /** @type {number[]} */
    this.samples = [];
  }

  /** @param {number} value */
  add(value) {
    this.samples.push(value);
    if (this.samples.length > MAX_SAMPLES) this.samples.shift();
    const { samples } = this;
    const minutes = Math.max(1, Math.round((samples.length * page.seconds) / 60));
    el("chart-title").textContent = fill(words.status_history, { count: minutes });
    const top = Math.max(4, ...samples) * 1.15; // some room above the line, also of a server that is hardly used
    const step = CHART_WIDTH / Math.max(1, samples.length - 1);
    const heights = samples.map((each) => (CHART_HEIGHT - CHART_MARGIN - (each / top) * (CHART_HEIGHT - 3 * CHART_MARGIN)).toFixed(1));
    const points = heights.map((height, index) => `${(index * step).toFixed(1)} ${height}`);
    if (points.length === 1) points.push(`${CHART_WIDTH} ${heights[0]}`); // one sample is a level line
    const line = `M${points.join("L")}`;
    document.getElementById("chart-line")?.setAttribute("d", line);
    document.getElementById("chart-area")?.setAttribute("d", `${line}L${CHART_WIDTH} ${CHART_HEIGHT}L0 ${CHART_HEIGHT}Z`);
  }
}

/**
 * Shows the table of apps with users, the largest first, and their number.
 *
 * @param {Record<string, number> | undefined} apps  users by app
 * @param {number} users
 */
export function showApps(apps, users) {
  el("apps-card").hidden = !apps;
  if (!apps) return;
  const used = Object.entries(apps).filter(([, count]) => count > 0);
  el("apps-count").textContent = used.length ? fill(words.status_in_apps, { count: number.format(used.length) }) : "";
  used.sort(([app, count], [otherApp, otherCount]) => otherCount - count || app.localeCompare(otherApp, undefined, { numeric: true }));
  const rows = used.slice(0, MAX_APPS).map(([app, count]) => {
    const name = make("th", "", make("bdi", "", app));
    name.setAttribute("scope", "row");
    const share = users ? count / users : 0;
    return make("tr", "", name, make("td", "figure", number.format(count)), make("td", "share", bar(share)));
  });
  el("apps").replaceChildren(...rows);
  el("apps-table").hidden = !used.length;
  el("no-apps").hidden = used.length > 0;
}

/**
 * @param {number} share  0 to 1
 * @returns {HTMLElement}
 */
export function bar(share) {
  const inner = make("span", "");
  inner.style.width = `${Math.min(100, 100 * share)}%`;
  return make("span", "bar", inner);
}

/**
 * @param {number} seconds
 * @returns {string} in its two largest units
 */
export function duration(seconds) {
  const units = /** @type {const} */ ([["days", 86_400], ["hours", 3_600], ["minutes", 60], ["seconds", 1]]);
  let remaining = Math.floor(seconds);
  const parts = [];
  for (const [name, length] of units) {
    const count = Math.floor(remaining / length);
    remaining -= count * length;
    if (count || parts.length || name === "seconds") parts.push(fill(words[`unit_${name}`], { count }));
  }
  return parts.slice(0, 2).join(" ");
}

/**
 * @param {number} bytes
 * @returns {string}
 */
export function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const format = new Intl.NumberFormat(page.language, { maximumFractionDigits: value < 10 ? 1 : 0 });
  return `${format.format(value)} ${units[unit]}`;
}

/**
 * @param {number} seconds
 * @returns {string}
 */
export function milliseconds(seconds) {
  return `${(seconds * 1000).toFixed(1)} ms`;
}
