// @ts-check
/** What takes time on all nodes, and logs that say more for a while. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { ask, badge, button, card, code, duration, facts, filters, link, missing, name, number, place, table, time, toast, words } from "./ui.js";

/** @typedef {import("./ui.js").Filled} Filled */

const MOST_ROWS = 25;
const MINUTE_SECONDS = 60;
/** In minutes. */
const SPANS = [5, 10, 30, 60, 240];
const LEVELS = ["debug", "info", "warning", "error"];
/** Share of the requests that get a line, in percent. */
const SHARES = [100, 10, 1, 0];

/** @type {Record<string, string>} */
const KINDS = {
  requests: words.admin_timed_requests,
  commands: words.admin_timed_commands,
  transactions: words.admin_timed_transactions,
  jobs: words.admin_timed_jobs,
};

/**
 * The requests, commands, transactions and jobs that take the most time, with a field for their order.
 *
 * @param {import("./api.js").Api} api
 */
export function timingsCard(api) {
  let order = "slowest";
  /** @type {Filled} */
  const rows = place(() => api.get("nodes/timings", { order, limit: MOST_ROWS }), (answer) => {
    const timings = listOf(answer.timings).map(recordOf);
    const isOfMany = new Set(timings.map((each) => each.node)).size > 1;
    const columns = [
      words.admin_name, words.admin_kind, words.admin_slowest, words.admin_seconds_together, words.admin_times,
      ...(isOfMany ? [words.admin_node] : []),
      words.admin_by, words.admin_request,
    ];
    return [...missing(answer), table(words.admin_takes_time, columns, timings.map((each) => [
      code(each.name),
      badge(KINDS[textOf(each.kind)] ?? textOf(each.kind)),
      each.slowest ? make("span", "", milliseconds(numberOf(each.slowest)), " · ", time(each.time)) : "–",
      fill(words.unit_seconds, { count: number.format(numberOf(each.seconds)) }),
      number.format(numberOf(each.count)),
      ...(isOfMany ? [name(each.node)] : []),
      name(each.by),
      each.request ? link(code(each.request), "request", textOf(each.request)) : "–",
    ]), words.admin_nothing_timed)];
  });
  const choose = filters([{ name: "order", label: words.admin_sorted_by, type: "select", value: order, options: [
    ["slowest", words.admin_by_slowest], ["seconds", words.admin_seconds_together], ["count", words.admin_times],
  ] }], (values) => {
    ({ order } = values);
    return rows.again();
  });
  return card(words.admin_takes_time, make("p", "muted", words.admin_takes_time_hint), choose, rows);
}

/** @param {number} seconds */
function milliseconds(seconds) {
  return fill(words.admin_milliseconds, { count: number.format(Math.round(seconds * 1000)) });
}

/**
 * What the logs of all nodes say more for a while, with buttons that begin and end it.
 *
 * @param {import("./api.js").Api} api
 */
export function logCard(api) {
  /** @type {[string, string]} */
  const asSettings = ["", words.admin_log_as_settings];
  /** @type {[string, string][]} */
  const levels = [asSettings, ...LEVELS.map((level) => /** @type {[string, string]} */ ([level, level]))];
  /** @type {[string, string][]} */
  const shares = [asSettings, ...SHARES.map((share) => /** @type {[string, string]} */ ([String(share / 100), `${number.format(share)} %`]))];
  /** @type {[string, string][]} */
  const spans = SPANS.map((minutes) => [String(minutes), duration(minutes * MINUTE_SECONDS)]);
  const more = button(words.admin_log_more, () => ask({
    title: words.admin_log_more,
    text: words.admin_log_more_text,
    fields: [
      { name: "level", label: words.admin_log_level, type: "select", value: "debug", options: levels },
      { name: "part", label: words.admin_log_part, hint: words.admin_log_part_hint, most: 128 },
      { name: "name", label: words.admin_log_name, hint: words.admin_log_name_hint, most: 256 },
      { name: "share", label: words.admin_log_share, type: "select", value: "", options: shares },
      { name: "trace", label: words.admin_log_trace, hint: words.admin_log_trace_hint, type: "select", value: "", options: shares },
      { name: "minutes", label: words.admin_log_span, type: "select", value: "10", options: spans },
    ],
    yes: words.admin_log_more_yes,
    act: async ({ level, part, name: only, share, trace, minutes }) => {
      const seconds = Number(minutes) * MINUTE_SECONDS;
      const answer = await api.post("nodes/log", {
        level: level || null,
        part,
        name: only,
        seconds,
        share: share === "" ? null : Number(share),
        trace: trace === "" ? null : Number(trace),
      });
      showNotice(answer, fill(words.admin_log_begun, { span: duration(seconds) }));
      await state.again();
    },
  }));
  const end = button(words.admin_log_end, async () => {
    const answer = await api.post("nodes/log", { level: "info", seconds: 0 });
    showNotice(answer, words.admin_log_ended);
    await state.again();
  });
  /** @type {Filled} */
  const state = place(() => api.get("nodes/timings", { limit: 1 }), ({ log }) => {
    if (!log) return [make("p", "muted", words.admin_log_ended)];
    const { level, part, name: only, share, trace, until } = recordOf(log);
    /** @param {unknown} value  0 to 1 */
    const percent = (value) => (typeof value === "number" ? `${number.format(value * 100)} %` : "");
    /** @type {[string, string | Node][]} */
    const pairs = [
      [words.admin_log_level, textOf(level) || words.admin_log_as_settings],
      [words.admin_log_part, textOf(part)],
      [words.admin_log_name, textOf(only)],
      [words.admin_log_share, percent(share)],
      [words.admin_log_trace, percent(trace)],
      [words.admin_log_until, time(until)],
    ];
    return [facts(pairs.filter(([, value]) => value)), end];
  });
  return Object.assign(card(words.admin_log, state, more), { id: "log" });
}

/**
 * Says what was done, and which nodes did not answer.
 *
 * @param {Record<string, any>} answer
 * @param {string} text
 */
function showNotice(answer, text) {
  const [silent] = missing(answer);
  toast(silent ? `${text} ${silent.textContent}` : text, { isProblem: Boolean(silent) });
}
