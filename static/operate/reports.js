// @ts-check
/** The queue of reports, one report with its context, and what moderators do about it. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { endButton, holdTable, holdsIn } from "./holds.js";
import { ask, badge, button, card, facts, filters, heading, link, list, name, number, place, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 50;
const DAY = 86_400;
/** Longest text of a message that is shown. */
const MOST_CHARACTERS = 2_000;

/** @param {Place} at */
export function drawReports({ api, app }) {
  let state = "open";
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("reports", { app, state, cursor, limit: PAGE });
    const { names, groups } = recordOf(answer);
    return { rows: listOf(answer.reports).map((each) => ({ ...recordOf(each), names, groups })), next: textOf(answer.next) };
  }, (reports) => table(words.admin_reports, [words.admin_reported, words.admin_group, words.admin_reasons, words.admin_reporters, words.admin_last, words.admin_outcome], reports.map(recordOf).map((each) => [
    link(titleOf(each), "report", app, textOf(each.id)), name(recordOf(each.groups)[each.conversation]), name(reasonsOf(each)), number.format(numberOf(each.reporters)), time(each.changed), outcome(each),
  ]), state === "open" ? words.admin_no_reports : words.admin_no_closed));
  const choose = filters([{ name: "state", label: words.admin_state, type: "select", value: state, options: [["open", words.admin_open], ["closed", words.admin_closed]] }], (values) => {
    ({ state } = values);
    return rows.again();
  });
  return [heading(words.admin_reports, words.admin_reports_hint), choose, card("", rows)];
}

/** @param {Record<string, any>} report */
function reasonsOf(report) {
  return report.appeal ? "" : Object.entries(recordOf(report.reasons)).map(([reason, count]) => (numberOf(count) > 1 ? `${reason} × ${count}` : reason)).join(", ");
}

/**
 * @param {Record<string, any>} report  with the names of its people
 * @param {unknown} user
 */
function nameIn(report, user) {
  return textOf(recordOf(report.names)[textOf(user)]) || textOf(user);
}

/** @param {Record<string, any>} report */
function titleOf(report) {
  return name(fill(report.appeal ? words.admin_report_appeal : report.message ? words.admin_report_message : "{user}", { user: nameIn(report, report.user) }));
}

/** @param {Record<string, any>} report */
function outcome(report) {
  if (!report.closed) return badge(words.admin_open, "warn");
  return badge(words[`admin_outcome_${textOf(report.outcome)}`] ?? textOf(report.outcome));
}

/**
 * @param {Place} at
 * @param {string} app
 * @param {string} id
 */
export function drawReport({ api }, app, id) {
  /** @type {Filled} */
  const shown = place(() => api.get("reports/show", { app, id }), (report) => {
    const user = textOf(report.user);
    const messages = listOf(report.messages).map(recordOf);
    /** @param {unknown} each */
    const person = (each) => link(name(nameIn(report, each)), "person", app, textOf(each));
    const group = textOf(recordOf(report.groups)[report.conversation]);
    const title = report.appeal ? words.admin_report_appeal : report.message ? words.admin_report_message : words.admin_report_person;
    return [
      heading(fill(title, { user: nameIn(report, user) }), name([group, reasonsOf(report)].filter(Boolean).join(" · ")), ...(messages.length ? [] : onMessage(report)), ...onPerson(report, user)),
      ...heldCard(report),
      ...(messages.length ? [card(words.admin_context, make("ol", "talk", ...messages.map((each) => message(each, each.id === report.message, person, textOf(report.evidence)))), make("div", "actions", ...onMessage(report)))] : []),
      card(words.admin_reporters, table(words.admin_reporters, [words.admin_user, words.admin_reasons, words.admin_text, words.admin_last], listOf(report.people).map(recordOf).map((each) => [
        person(each.user), name(report.appeal ? "" : each.reason), name(each.text), time(each.time),
      ]), "")),
      card("", facts([
        [words.admin_reported, person(user)],
        ...(group ? /** @type {[string, Node][]} */ ([[words.admin_group, name(group)]]) : []),
        [words.admin_state, outcome(report)],
        ...(report.closed ? /** @type {[string, Node][]} */ ([[words.admin_closed_by, name(recordOf(report.names)[textOf(report.closed_by).split("/").at(-1) ?? ""] ?? report.closed_by)], [words.admin_last, time(report.closed)], [words.admin_note, name(report.note)]]) : []),
      ])),
    ];
  });
  return [shown];

  /** @returns {import("./ui.js").Field} */
  function reasonField() {
    return { name: "reason", label: words.admin_reason, hint: words.admin_reason_hint, most: 250 };
  }

  /** @param {Record<string, any>} report */
  function onMessage(report) {
    /** @type {HTMLElement[]} */
    const found = [];
    const { removed, text, data } = recordOf(listOf(report.messages).map(recordOf).find((each) => each.id === report.message));
    const isGone = report.outcome === "deleted" || (removed && text === undefined && data === undefined);
    if (!report.message || isGone) return found;
    if (api.may("POST moderation/delete")) {
      found.push(button(words.admin_delete_message, () => ask({
        title: words.admin_delete_message,
        text: words.admin_delete_text,
        fields: [reasonField()],
        yes: words.admin_delete,
        danger: true,
        act: async (values) => {
          const { act } = await api.post("moderation/delete", { app, messages: [report.message], reason: values.reason });
          await close("deleted");
          toast(words.admin_deleted, { label: words.admin_undo, act: async () => {
            await api.post("moderation/undo", { app, act });
            toast(words.admin_undone);
          } });
        },
      }), "quiet danger"));
    }
    if (!removed && api.may("POST moderation/hide")) {
      found.push(button(words.admin_hide, async () => {
        const { act } = await api.post("moderation/hide", { app, messages: [report.message] });
        toast(words.admin_hidden, { label: words.admin_undo, act: () => api.post("moderation/undo", { app, act }) });
        await shown.again();
      }));
    }
    return found;
  }

  /**
   * What holds for the person now: an appeal is about it.
   *
   * @param {Record<string, any>} report
   */
  function heldCard(report) {
    const holds = holdsIn(report);
    const lock = report.ban && !holds.some((each) => each.kind === "ban") ? [make("p", "", badge(words.admin_locked, "bad"), " ", name(report.ban))] : [];
    return holds.length || lock.length ? [card(words.admin_held_now, ...lock, ...(holds.length ? [holdTable(app, holds)] : []))] : [];
  }

  /**
   * @param {Record<string, any>} report
   * @param {string} user
   */
  function onPerson(report, user) {
    const found = [];
    const reason = reasonField();
    const holds = holdsIn(report);
    const path = holds.some((each) => each.kind === "ban") ? "moderation/unban" : "accounts/unlock";
    if (report.ban && api.may(`POST ${path}`)) {
      found.push(button(path === "accounts/unlock" ? words.admin_unlock : words.admin_lift_ban, async () => {
        await api.post(path, { app, user });
        if (!report.closed) await close("unbanned");
        else await shown.again();
      }, report.appeal ? "primary" : "quiet"));
    }
    if (report.appeal && !report.closed) {
      found.push(button(words.admin_dismiss, () => close("dismissed")));
      return found;
    }
    if (api.may("POST moderation/warn")) found.push(act(words.admin_warn, words.admin_warn_text, "warned", "moderation/warn", user, { ...reason, required: true }));
    const mutes = holds.filter((each) => each.kind === "mute");
    found.push(...mutes.flatMap((each) => endButton(api, app, each, () => shown.again())));
    if (!mutes.length && api.may("POST moderation/mute")) found.push(act(words.admin_mute, words.admin_mute_day, "muted", "moderation/mute", user, reason, { seconds: DAY }));
    if (!report.ban && api.may("POST moderation/ban")) found.push(act(words.admin_ban, words.admin_ban_text, "banned", "moderation/ban", user, reason, { seconds: 0 }));
    const isBanned = path === "moderation/unban"; // perhaps from the page of the person
    if (!report.closed && api.may("POST reports/close")) {
      if (isBanned) found.push(button(words.admin_close_banned, () => close("banned"), "primary"));
      found.push(button(words.admin_dismiss, () => ask({
        title: words.admin_dismiss,
        text: words.admin_dismiss_text,
        fields: [{ name: "note", label: words.admin_note, hint: words.admin_note_hint, type: "textarea", most: 500 }],
        yes: words.admin_dismiss,
        act: ({ note }) => close("dismissed", note),
      }), isBanned ? "quiet" : "primary"));
    }
    return found;
  }

  /**
   * @param {string} label
   * @param {string} text
   * @param {string} result  what is written into the report
   * @param {string} path
   * @param {string} user
   * @param {import("./ui.js").Field} reason
   * @param {Record<string, any>} [more]
   */
  function act(label, text, result, path, user, reason, more = {}) {
    return button(label, () => ask({
      title: label,
      text,
      fields: [reason],
      yes: label,
      danger: result === "banned",
      act: async (values) => {
        await api.post(path, { app, user, reason: values.reason, ...more });
        await close(result);
      },
    }), result === "banned" ? "quiet danger" : "quiet");
  }

  /**
   * @param {string} result
   * @param {string} [note]
   */
  async function close(result, note = "") {
    if (api.may("POST reports/close")) await api.post("reports/close", { app, id, outcome: result, note });
    toast(words.admin_report_closed);
    await shown.again();
  }
}

/**
 * A message as text: moderators see what it says, and nothing of it is loaded or run.
 *
 * @param {Record<string, any>} each
 * @param {boolean} isReported
 * @param {(user: unknown) => Node} person  makes the name of a user, with a link to them
 * @param {string} evidence  what the reported message said
 */
function message(each, isReported, person, evidence) {
  const text = typeof each.text === "string" ? each.text : each.data === undefined ? "" : JSON.stringify(each.data);
  const type = textOf(each.type);
  const isGone = each.removed && !text && !type;
  if (isGone && isReported && evidence) return make("li", "reported", make("p", "muted", person(each.sender), " · ", time(numberOf(each.time) / 1000), " ", badge(words.admin_removed_message, "warn")), make("p", "muted", words.admin_evidence), make("bdi", "said", evidence));
  const body = isGone ? make("p", "muted", words.admin_removed_gone) : make("bdi", "said", text.slice(0, MOST_CHARACTERS) || `[${type || "?"}]`);
  const sign = each.removed ? [" ", badge(words.admin_removed_message, "warn")] : [];
  return make("li", isReported ? "reported" : "", make("p", "muted", person(each.sender), " · ", time(numberOf(each.time) / 1000), ...sign), body);
}
