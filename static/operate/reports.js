// @ts-check
/** The queue of reports, one report with its context, and what moderators do about it. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { endButton, holdTable, holdsIn } from "./holds.js";
import { ask, badge, button, card, facts, filters, heading, link, list, name, number, place, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 50;
/** In seconds. */
const DAY = 86_400;
/** Seconds of a ban that lasts until somebody ends it. */
const FOR_GOOD = 0;
/** Longest text of a message that is shown. */
const MOST_CHARACTERS = 2_000;

/**
 * The queue of reports of an app, those that are open at first.
 *
 * @param {Place} at
 */
export function drawReports({ api, app }) {
  const columns = [words.admin_reported, words.admin_group, words.admin_reasons, words.admin_reporters, words.admin_last, words.admin_outcome];
  let state = "open";
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("reports", { app, state, cursor, limit: PAGE });
    const { names, groups } = recordOf(answer);
    return { rows: listOf(answer.reports).map((each) => ({ ...recordOf(each), names, groups })), next: textOf(answer.next) };
  }, (reports) => table(words.admin_reports, columns, reports.map(recordOf).map((report) => [
    link(name(titleOf(report, "{user}")), "report", app, textOf(report.id)),
    name(groupOf(report)),
    name(reasonsOf(report)),
    number.format(numberOf(report.reporters)),
    time(report.changed),
    outcomeBadge(report),
  ]), state === "open" ? words.admin_no_reports : words.admin_no_closed));
  const choose = filters([{
    name: "state", label: words.admin_state, type: "select", value: state, options: [["open", words.admin_open], ["closed", words.admin_closed]],
  }], (values) => {
    ({ state } = values);
    return rows.again();
  });
  return [heading(words.admin_reports, words.admin_reports_hint), choose, card("", rows)];
}

/**
 * @param {Record<string, any>} report
 * @returns {string} the reasons with their counts; an appeal has none
 */
function reasonsOf(report) {
  if (report.appeal) return "";
  const reasons = Object.entries(recordOf(report.reasons));
  return reasons.map(([reason, count]) => (numberOf(count) > 1 ? `${reason} × ${count}` : reason)).join(", ");
}

/** @param {Record<string, any>} report */
function groupOf(report) {
  return recordOf(report.groups)[report.conversation];
}

/**
 * @param {Record<string, any>} report  with the names of its people
 * @param {unknown} user
 */
function nameIn(report, user) {
  return textOf(recordOf(report.names)[textOf(user)]) || textOf(user);
}

/**
 * @param {Record<string, any>} report
 * @param {string} ofPerson  the text for a report of a person: it is no appeal, and names no message
 */
function titleOf(report, ofPerson) {
  const user = nameIn(report, report.user);
  if (report.appeal) return fill(words.admin_report_appeal, { user });
  return fill(report.message ? words.admin_report_message : ofPerson, { user });
}

/** @param {Record<string, any>} report */
function outcomeBadge(report) {
  if (!report.closed) return badge(words.admin_open, "warn");
  return badge(words[`admin_outcome_${textOf(report.outcome)}`] ?? textOf(report.outcome));
}

/**
 * One report: what was reported, with the messages around it, who has reported it, and what moderators may do.
 *
 * @param {Place} at
 * @param {string} app
 * @param {string} id
 */
export function drawReport({ api }, app, id) {
  /** @type {Filled} */
  const shown = place(() => api.get("reports/show", { app, id }), (report) => {
    const user = textOf(report.user);
    const messages = listOf(report.messages).map(recordOf);
    const hint = [textOf(groupOf(report)), reasonsOf(report)].filter(Boolean).join(" · ");
    const actions = personActions(report, user);
    const context = [];
    if (messages.length) {
      const rows = messages.map((each) => messageRow(report, each));
      context.push(card(words.admin_context, make("ol", "talk", ...rows), make("div", "actions", ...messageActions(report))));
    } else {
      actions.unshift(...messageActions(report));
    }
    const title = titleOf(report, words.admin_report_person);
    return [heading(title, name(hint), ...actions), ...heldCard(report), ...context, ...reportCards(report)];
  });
  return [shown];

  /**
   * @param {Record<string, any>} report
   * @param {unknown} user
   * @returns {HTMLElement} the name of a user, with a link to their page
   */
  function personLink(report, user) {
    return link(name(nameIn(report, user)), "person", app, textOf(user));
  }

  /**
   * The cards of who has reported this, and of what became of it.
   *
   * @param {Record<string, any>} report
   */
  function reportCards(report) {
    const columns = [words.admin_user, words.admin_reasons, words.admin_text, words.admin_last];
    const reporters = listOf(report.people).map(recordOf).map((each) => [
      personLink(report, each.user), name(report.appeal ? "" : each.reason), name(each.text), time(each.time),
    ]);
    const group = textOf(groupOf(report));
    /** @type {[string, Node][]} */
    const pairs = [[words.admin_reported, personLink(report, report.user)]];
    if (group) pairs.push([words.admin_group, name(group)]);
    pairs.push([words.admin_state, outcomeBadge(report)]);
    if (report.closed) {
      const closer = textOf(report.closed_by).split("/").at(-1) ?? ""; // the user of `staff:APP/USER`
      pairs.push(
        [words.admin_closed_by, name(recordOf(report.names)[closer] ?? report.closed_by)],
        [words.admin_last, time(report.closed)],
        [words.admin_note, name(report.note)],
      );
    }
    return [card(words.admin_reporters, table(words.admin_reporters, columns, reporters, "")), card("", facts(pairs))];
  }

  /**
   * A message as text: moderators see what it says, and nothing of it is loaded or run.
   *
   * @param {Record<string, any>} report
   * @param {Record<string, any>} message
   */
  function messageRow(report, message) {
    const isReported = message.id === report.message;
    const evidence = textOf(report.evidence); // what the reported message said
    const head = make("p", "muted", personLink(report, message.sender), " · ", time(numberOf(message.time) / 1000));
    if (message.removed) head.append(" ", badge(words.admin_removed_message, "warn"));
    const made = make("li", isReported ? "reported" : "", head);

    const text = textIn(message);
    const type = textOf(message.type);
    const isGone = message.removed && !text && !type;
    if (!isGone) made.append(make("bdi", "said", text.slice(0, MOST_CHARACTERS) || `[${type || "?"}]`));
    else if (isReported && evidence) made.append(make("p", "muted", words.admin_evidence), make("bdi", "said", evidence));
    else made.append(make("p", "muted", words.admin_removed_gone));
    return made;
  }

  /** @returns {import("./ui.js").Field} */
  function reasonField() {
    return { name: "reason", label: words.admin_reason, hint: words.admin_reason_hint, most: 250 };
  }

  /**
   * What may be done with the reported message; nothing if it is gone.
   *
   * @param {Record<string, any>} report
   */
  function messageActions(report) {
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
    const isLocked = report.ban && !holds.some((each) => each.kind === "ban");
    const parts = [];
    if (isLocked) parts.push(make("p", "", badge(words.admin_locked, "bad"), " ", name(report.ban)));
    if (holds.length) parts.push(holdTable(app, holds));
    return parts.length ? [card(words.admin_held_now, ...parts)] : [];
  }

  /**
   * What may be done with the reported person, or with the report. An open appeal is granted or dismissed, nothing else.
   *
   * @param {Record<string, any>} report
   * @param {string} user
   */
  function personActions(report, user) {
    /** @type {HTMLElement[]} */
    const found = [];
    const holds = holdsIn(report);
    const isBanned = holds.some((each) => each.kind === "ban"); // perhaps from the page of the person
    const path = isBanned ? "moderation/unban" : "accounts/unlock"; // `report.ban` without a ban is a lock of the account
    if (report.ban && api.may(`POST ${path}`)) {
      found.push(button(isBanned ? words.admin_lift_ban : words.admin_unlock, async () => {
        await api.post(path, { app, user });
        if (!report.closed) await close("unbanned");
        else await shown.again();
      }, report.appeal ? "primary" : "quiet"));
    }
    if (report.appeal && !report.closed) {
      found.push(button(words.admin_dismiss, () => close("dismissed")));
      return found;
    }

    if (api.may("POST moderation/warn")) {
      const warning = { label: words.admin_warn, text: words.admin_warn_text, path: "moderation/warn" };
      found.push(actButton({ ...warning, outcome: "warned", user, needsReason: true }));
    }
    const mutes = holds.filter((each) => each.kind === "mute");
    found.push(...mutes.flatMap((each) => endButton(api, app, each, () => shown.again())));
    if (!mutes.length && api.may("POST moderation/mute")) {
      const mute = { label: words.admin_mute, text: words.admin_mute_day, path: "moderation/mute" };
      found.push(actButton({ ...mute, outcome: "muted", user, seconds: DAY }));
    }
    if (!report.ban && api.may("POST moderation/ban")) {
      const ban = { label: words.admin_ban, text: words.admin_ban_text, path: "moderation/ban" };
      found.push(actButton({ ...ban, outcome: "banned", user, seconds: FOR_GOOD }));
    }

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
   * A button that asks for a reason, acts on the user, and closes the report with the outcome.
   *
   * @param {object} options
   * @param {string} options.label
   * @param {string} options.text  of the dialog
   * @param {string} options.path
   * @param {"warned" | "muted" | "banned"} options.outcome
   * @param {string} options.user
   * @param {boolean} [options.needsReason]
   * @param {number} [options.seconds]  how long it lasts
   */
  function actButton({ label, text, path, outcome, user, needsReason = false, seconds }) {
    const isBan = outcome === "banned";
    return button(label, () => ask({
      title: label,
      text,
      fields: [{ ...reasonField(), required: needsReason }],
      yes: label,
      danger: isBan,
      act: async ({ reason }) => {
        await api.post(path, { app, user, reason, seconds }); // JSON leaves out `seconds` if it is undefined
        await close(outcome);
      },
    }), isBan ? "quiet danger" : "quiet");
  }

  /**
   * @param {string} outcome
   * @param {string} [note]
   */
  async function close(outcome, note = "") {
    if (api.may("POST reports/close")) await api.post("reports/close", { app, id, outcome, note });
    toast(words.admin_report_closed);
    await shown.again();
  }
}

/**
 * @param {Record<string, any>} message
 * @returns {string} its text, or its data as JSON; empty: it has neither
 */
function textIn({ text, data }) {
  if (typeof text === "string") return text;
  return data === undefined ? "" : JSON.stringify(data);
}
