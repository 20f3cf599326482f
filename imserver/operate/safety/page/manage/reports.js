// @ts-check
/** The queue of reports, and one report: its message among others, who has reported it, and what moderators do about it. */

import { BANS, MUTES, actOn, field, form, reasonField, remove } from "../acts.js";
import { endButton, lineOf } from "./holds.js";

/** @typedef {import("./manage.js").Desk} Desk */

const PAGE = 30;
const MOST_CHARACTERS = 2_000;
const QUOTE_CHARACTERS = 200;

/** Whether closed reports are shown. */
let showsClosed = false;

/**
 * The queue: the reports that are open, or those that are closed, with a button that changes between both.
 *
 * @param {Desk} desk
 * @param {(report: string) => void} open
 */
export async function drawReports(desk, open) {
  const { page, session, words } = desk;
  const { button, make } = page;
  const list = make("ul", "people-list manage-list");
  list.setAttribute("role", "list");
  list.setAttribute("aria-label", words.manage_reports);
  const more = button(words.manage_more, "link");
  let cursor = "";
  const load = async () => {
    const answer = await page.api("GET", "reports", { state: showsClosed ? "closed" : "open", cursor, limit: PAGE });
    await session.people.load(answer.reports.map((/** @type {any} */ each) => each.user));
    list.append(...answer.reports.map((/** @type {any} */ each) => row(desk, { ...each, names: answer.names, groups: answer.groups }, open)));
    cursor = answer.next;
    more.hidden = !cursor;
  };
  more.addEventListener("click", () => desk.attempt(load));
  await load();
  const toggle = button(showsClosed ? words.manage_show_open : words.manage_show_closed, "link");
  toggle.dataset.key = "closed";
  toggle.addEventListener("click", () => {
    showsClosed = !showsClosed;
    desk.open("reports");
  });
  const head = make("p", "manage-head", make("span", "muted", showsClosed ? words.manage_closed : words.manage_open), toggle);
  const none = list.childElementCount ? [] : [make("p", "muted manage-none", showsClosed ? words.manage_no_closed : words.manage_no_reports)];
  return [head, ...none, list, more];
}

/**
 * @param {Desk} desk
 * @param {any} report  with the names of its people and groups
 * @param {(report: string) => void} open
 */
function row({ page, session, words, time }, report, open) {
  const { make } = page;
  const heading = make("span", "person-name", make("bdi", "", titleOf({ page, words }, report)));
  if (report.reporters > 1) heading.append(make("span", "mark", `× ${report.reporters}`));
  if (report.closed) heading.append(make("span", "mark", words[`manage_outcome_${report.outcome}`] ?? report.outcome));
  const about = [reasonsOf(report, words), report.groups[report.conversation], time(report.changed)].filter(Boolean).join(" · ");
  const text = make("span", "person-words", heading);
  if (report.evidence) text.append(quoted(make, report.evidence));
  text.append(make("small", "", about));
  const made = make("button", "person", make("span", "person-picture", session.people.avatar(report.user)), text);
  made.type = "button";
  made.dataset.key = `report:${report.id}`;
  made.addEventListener("click", () => open(report.id));
  return make("li", "person-row", made);
}

/**
 * @param {any} make
 * @param {string} text
 */
function quoted(make, text) {
  return Object.assign(make("small", "manage-quote", text.slice(0, QUOTE_CHARACTERS)), { dir: "auto" });
}

/**
 * @param {any} report
 * @param {string} user
 */
const nameIn = (report, user) => report.names[user] || user;

/**
 * @param {{ page: any, words: Record<string, string> }} desk
 * @param {any} report
 * @returns {string}
 */
function titleOf({ page, words }, report) {
  const name = nameIn(report, report.user);
  if (report.appeal) return page.fill(words.manage_appeal, { name });
  return page.fill(report.message ? words.manage_message : words.manage_person, { name });
}

/**
 * @param {any} report
 * @param {Record<string, string>} words
 * @returns {string} an appeal has none
 */
function reasonsOf(report, words) {
  return report.appeal ? "" : Object.keys(report.reasons).map((each) => words[`safety_reason_${each}`] ?? each).join(", ");
}

/**
 * One report: who has reported it, its message among others, what moderators may do, and how it is closed.
 *
 * @param {Desk} desk
 * @param {string} id
 * @param {() => unknown} back  shows the queue
 */
export async function drawReport(desk, id, back) {
  const { page, session, words, time } = desk;
  const { button, make } = page;
  const report = await page.api("GET", "reports/show", { id });
  const { user } = report;
  const name = nameIn(report, user);
  const reporters = report.people.map((/** @type {any} */ each) => each.user);
  const senders = report.messages.map((/** @type {any} */ each) => each.sender);
  await session.people.load([user, ...reporters, ...senders]);
  const ban = report.holds.find((/** @type {any} */ each) => each.kind === "ban");

  const parts = [make("p", "manage-head", actButton(`‹ ${words.manage_reports}`, back, "link")), head()];
  if (report.closed) parts.push(outcome());
  const title = report.appeal ? words.manage_appeal_text : words.manage_reported_by;
  parts.push(part(make, title, make("ul", "manage-reporters", ...report.people.map(reporterRow))));
  if (report.message) parts.push(part(make, words.manage_the_message, talk(), make("p", "panel-buttons", ...messageActs())));
  parts.push(part(make, page.fill(words.manage_what_to_do, { name }), ...holdLines(), make("p", "panel-buttons", ...personActs())));
  if (!report.closed && !report.appeal) {
    const banned = ban ? [actButton(words.manage_close_banned, () => close("banned"), "link")] : []; // perhaps from their card
    parts.push(make("p", "manage-last", ...banned, actButton(words.manage_nothing, () => close("dismissed"), "link")));
  }
  return parts;

  /** @param {string} result  the outcome; a report that is closed keeps its own */
  async function close(result) {
    if (!report.closed) await page.api("POST", "reports/close", { id, outcome: result });
    await back();
  }

  /**
   * @param {string} label
   * @param {() => unknown} act
   * @param {string} [classes]
   */
  function actButton(label, act, classes = "quiet") {
    const made = button(label, classes);
    made.addEventListener("click", () => desk.attempt(async () => act()));
    return made;
  }

  function head() {
    const about = [reasonsOf(report, words), report.groups[report.conversation], time(report.opened)].filter(Boolean).join(" · ");
    const text = make("span", "person-words", make("h3", "", titleOf(desk, report)), make("small", "muted", about));
    return make("div", "manage-person", session.people.avatar(user), text);
  }

  function outcome() {
    const closer = nameIn(report, report.closed_by.split("/").pop()); // the user of `staff:APP/USER`
    const result = words[`manage_outcome_${report.outcome}`] ?? report.outcome;
    return make("p", "manage-done", page.fill(words.manage_closed_as, { outcome: result, when: time(report.closed), name: closer }));
  }

  /** @param {any} reporter */
  function reporterRow({ user: reporter, reason, text, time: at }) {
    const reasonWord = report.appeal ? "" : words[`safety_reason_${reason}`] ?? reason;
    const about = make("small", "muted", [reasonWord, time(at)].filter(Boolean).join(" · "));
    const content = make("span", "person-words", make("bdi", "", nameIn(report, reporter)), about);
    if (text) content.append(Object.assign(make("span", "said", text), { dir: "auto" }));
    return make("li", "manage-reporter", session.people.avatar(reporter), content);
  }

  /** The reported message and those around it. If the server has it no longer, an empty one stands in its place. */
  function talk() {
    const rows = report.messages.map((/** @type {any} */ each) => message(desk, report, each));
    const isThere = report.messages.some((/** @type {any} */ each) => each.id === report.message);
    if (!isThere) rows.push(message(desk, report, { id: report.message, sender: user, time: 0, type: "", removed: true }));
    return make("ol", "manage-talk", ...rows);
  }

  /** What may be done with the reported message. */
  function messageActs() {
    const reported = report.messages.find((/** @type {any} */ each) => each.id === report.message && !isErased(each));
    const conversation = session.store.conversations.get(report.conversation);
    const acts = [];
    if (reported && report.outcome !== "deleted") {
      acts.push(actButton(words.manage_delete, () => remove({ id: report.message }, () => close("deleted")), "quiet danger"));
    }
    if (reported && !reported.removed) acts.push(actButton(words.manage_hide, hide));
    if (conversation && !conversation.left) {
      acts.push(actButton(words.manage_in_chat, () => session.open({ conversation: report.conversation, message: report.message })));
    }
    return acts;
  }

  async function hide() {
    const { act } = await page.api("POST", "moderation/hide", { messages: [report.message] });
    const undo = () => desk.attempt(() => page.api("POST", "moderation/undo", { act }));
    page.toast(words.manage_hidden, { label: words.safety_undo, act: undo });
    await close("hidden");
  }

  /** The bans and mutes of the person; `report.ban` without a ban is the reason of a lock. */
  function holdLines() {
    const lines = report.holds.map((/** @type {any} */ each) => make("p", "manage-ban", lineOf(desk, each, report.names)));
    if (report.ban && !ban) lines.unshift(make("p", "manage-ban", report.ban));
    return lines;
  }

  /** What may be done with the reported person. An appeal is granted or dismissed, nothing else. */
  function personActs() {
    const acts = [];
    if (report.appeal) {
      if (report.ban) acts.push(actButton(words.safety_unban, lift, "wide"));
      if (!report.closed) acts.push(actButton(report.ban ? words.manage_keep : words.manage_nothing, () => close("dismissed")));
      return acts;
    }
    const person = { user, name, group: report.groups[report.conversation] ? report.conversation : 0 };
    const mute = report.holds.find((/** @type {any} */ each) => each.kind === "mute");
    acts.push(actButton(words.manage_warn, () => warn(desk, person, () => close("warned"))));
    if (mute) acts.push(endButton(desk, mute, name, back));
    else acts.push(actButton(words.safety_mute, () => actOn("mute", person, MUTES, () => close("muted"))));
    if (person.group) acts.push(actButton(words.safety_remove, () => actOn("remove", person, [], () => close("removed")), "quiet danger"));
    if (report.ban) acts.push(actButton(words.safety_unban, lift));
    else acts.push(actButton(words.safety_ban, () => actOn("ban", person, BANS, () => close("banned")), "quiet danger"));
    return acts;
  }

  /** Lifts a ban and, as owners may do, a lock. */
  async function lift() {
    await page.api("POST", "moderation/unban", { user });
    const locked = desk.isOwner ? await page.api("GET", "accounts/list", { text: user, locked: true }) : { accounts: [] };
    if (locked.accounts.some((/** @type {any} */ each) => each.user === user)) await page.api("POST", "accounts/unlock", { user });
    await close("unbanned");
    page.toast(page.fill(words.safety_unban_done, { name }));
  }
}

/** @param {any} message @returns {boolean} whether it was removed, and its content is gone, too */
function isErased({ removed, text, data }) {
  return removed && text === undefined && data === undefined;
}

/**
 * Asks for a reason, and warns the person.
 *
 * @param {Desk} desk
 * @param {{ user: string, name: string }} person
 * @param {() => Promise<unknown>} onWarned
 */
function warn({ page, words }, { user, name }, onWarned) {
  const reason = Object.assign(reasonField(), { required: true });
  const title = page.fill(words.manage_warn_ask, { name });
  form({ title, yes: words.manage_warn_go, fields: [field(words.safety_why_shown, reason)] }, async () => {
    await page.api("POST", "moderation/warn", { user, reason: reason.value.trim() });
    await onWarned();
    return () => page.toast(page.fill(words.manage_warned, { name }));
  });
}

/**
 * @param {any} make
 * @param {string} title
 * @param {...Node} content
 */
function part(make, title, ...content) {
  return make("section", "panel-section", make("h3", "label", title), ...content);
}

/**
 * A message as text: nothing of it is loaded or run. Of a reported message that is gone, the evidence is shown.
 *
 * @param {Desk} desk
 * @param {any} report
 * @param {any} row  the message
 */
function message({ page, session, words, time }, report, row) {
  const { make } = page;
  const isReported = row.id === report.message;
  const content = contentOf(row);
  const text = content || (isReported ? report.evidence : "");
  const about = make("small", "muted", nameIn(report, row.sender));
  if (row.time) about.append(` · ${time(row.time / 1000)}`);
  const head = make("span", "person-name", about);
  if (row.removed) head.append(make("span", "mark", content ? words.manage_is_hidden : words.manage_is_gone));
  const body = text ? make("span", "said", text.slice(0, MOST_CHARACTERS)) : make("span", "muted", words.manage_no_text);
  if (text) body.dir = "auto";
  return make("li", isReported ? "reported" : "", session.people.avatar(row.sender), make("span", "person-words", head, body));
}

/**
 * @param {any} message
 * @returns {string} its text, the name of its file, or its type; empty: it has no content
 */
function contentOf({ text, data, type }) {
  if (typeof text === "string" && text) return text;
  if (data === undefined) return "";
  const name = typeof data?.name === "string" ? data.name : "";
  return name || `[${type}]`;
}
