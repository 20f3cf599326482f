// @ts-check
/** The queue of reports, and one report: its message among others, who has reported it, and what moderators do about it. */

import { BANS, MUTES, actOn, field, form, reasonField, remove } from "../acts.js";
import { endButton, lineOf } from "./holds.js";

/** @typedef {import("./manage.js").Desk} Desk */

const PAGE = 30;
const MOST_CHARACTERS = 2_000;

/** Whether closed reports are shown. */
let showsClosed = false;

/**
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
  const other = button(showsClosed ? words.manage_show_open : words.manage_show_closed, "link");
  other.dataset.key = "closed";
  other.addEventListener("click", () => {
    showsClosed = !showsClosed;
    desk.open("reports");
  });
  const none = list.childElementCount ? [] : [make("p", "muted manage-none", showsClosed ? words.manage_no_closed : words.manage_no_reports)];
  return [make("p", "manage-head", make("span", "muted", showsClosed ? words.manage_closed : words.manage_open), other), ...none, list, more];
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
  const text = make("span", "person-words", heading, ...(report.evidence ? [quoted(make, report.evidence)] : []), make("small", "", about));
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
  return Object.assign(make("small", "manage-quote", text.slice(0, 200)), { dir: "auto" });
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
  const title = report.appeal ? words.manage_appeal : report.message ? words.manage_message : words.manage_person;
  return page.fill(title, { name: nameIn(report, report.user) });
}

/**
 * @param {any} report
 * @param {Record<string, string>} words
 */
function reasonsOf(report, words) {
  return report.appeal ? "" : Object.keys(report.reasons).map((each) => words[`safety_reason_${each}`] ?? each).join(", ");
}

/**
 * @param {Desk} desk
 * @param {string} id
 * @param {() => unknown} back
 */
export async function drawReport(desk, id, back) {
  const { page, session, words, time } = desk;
  const { button, make } = page;
  const report = await page.api("GET", "reports/show", { id });
  const { user } = report;
  const name = nameIn(report, user);
  await session.people.load([user, ...report.people.map((/** @type {any} */ each) => each.user), ...report.messages.map((/** @type {any} */ each) => each.sender)]);
  const close = async (/** @type {string} */ outcome) => {
    if (!report.closed) await page.api("POST", "reports/close", { id, outcome });
    await back();
  };
  const act = (/** @type {string} */ label, /** @type {() => unknown} */ run, classes = "quiet") => {
    const made = button(label, classes);
    made.addEventListener("click", () => desk.attempt(async () => run()));
    return made;
  };
  const parts = [];
  const return_ = act(`‹ ${words.manage_reports}`, back, "link");
  const about = [reasonsOf(report, words), report.groups[report.conversation], time(report.opened)].filter(Boolean).join(" · ");
  const head = make("div", "manage-person", session.people.avatar(user), make("span", "person-words", make("h3", "", titleOf(desk, report)), make("small", "muted", about)));
  parts.push(make("p", "manage-head", return_), head);
  if (report.closed) parts.push(make("p", "manage-done", page.fill(words.manage_closed_as, { outcome: words[`manage_outcome_${report.outcome}`] ?? report.outcome, when: time(report.closed), name: nameIn(report, report.closed_by.split("/").pop()) })));

  const reporters = report.people.map((/** @type {any} */ each) => make(
    "li", "manage-reporter", session.people.avatar(each.user),
    make("span", "person-words", make("bdi", "", nameIn(report, each.user)), make("small", "muted", [report.appeal ? "" : words[`safety_reason_${each.reason}`] ?? each.reason, time(each.time)].filter(Boolean).join(" · ")), ...(each.text ? [Object.assign(make("span", "said", each.text), { dir: "auto" })] : [])),
  ));
  parts.push(part(make, report.appeal ? words.manage_appeal_text : words.manage_reported_by, make("ul", "manage-reporters", ...reporters)));

  if (report.message) {
    const shown = report.messages.map((/** @type {any} */ each) => message(desk, report, each));
    if (!report.messages.some((/** @type {any} */ each) => each.id === report.message)) shown.push(message(desk, report, { id: report.message, sender: user, time: 0, type: "", removed: true }));
    const own = session.store.conversations.get(report.conversation);
    const there = report.messages.find((/** @type {any} */ each) => each.id === report.message && !(each.removed && each.text === undefined && each.data === undefined));
    const acts = [];
    if (there && report.outcome !== "deleted") acts.push(act(words.manage_delete, () => remove({ id: report.message }, () => close("deleted")), "quiet danger"));
    if (there && !there.removed) {
      acts.push(act(words.manage_hide, async () => {
        const { act: removal } = await page.api("POST", "moderation/hide", { messages: [report.message] });
        page.toast(words.manage_hidden, { label: words.safety_undo, act: () => desk.attempt(() => page.api("POST", "moderation/undo", { act: removal })) });
        await close("hidden");
      }));
    }
    if (own && !own.left) acts.push(act(words.manage_in_chat, () => session.open({ conversation: report.conversation, message: report.message })));
    parts.push(part(make, words.manage_the_message, make("ol", "manage-talk", ...shown), make("p", "panel-buttons", ...acts)));
  }

  const person = { user, name, group: report.groups[report.conversation] ? report.conversation : 0 };
  const on = [];
  const ban = report.holds.find((/** @type {any} */ each) => each.kind === "ban");
  const mute = report.holds.find((/** @type {any} */ each) => each.kind === "mute");
  if (report.ban && !ban) on.push(make("p", "manage-ban", report.ban)); // of a lock
  on.push(...report.holds.map((/** @type {any} */ each) => make("p", "manage-ban", lineOf(desk, each, report.names))));
  const lift = () => act(words.safety_unban, async () => {
      await page.api("POST", "moderation/unban", { user });
      const locked = desk.isOwner ? await page.api("GET", "accounts/list", { text: user, locked: true }) : { accounts: [] };
      if (locked.accounts.some((/** @type {any} */ each) => each.user === user)) await page.api("POST", "accounts/unlock", { user });
      await close("unbanned");
      page.toast(page.fill(words.safety_unban_done, { name }));
    }, report.appeal ? "wide" : "quiet");
  if (report.appeal) {
    on.push(make("p", "panel-buttons", ...(report.ban ? [lift()] : []), ...(report.closed ? [] : [act(report.ban ? words.manage_keep : words.manage_nothing, () => close("dismissed"))])));
  } else {
    const acts = [
      act(words.manage_warn, () => warn(desk, person, () => close("warned"))),
      mute ? endButton(desk, mute, name, back) : act(words.safety_mute, () => actOn("mute", person, MUTES, () => close("muted"))),
      ...(person.group ? [act(words.safety_remove, () => actOn("remove", person, [], () => close("removed")), "quiet danger")] : []),
      report.ban ? lift() : act(words.safety_ban, () => actOn("ban", person, BANS, () => close("banned")), "quiet danger"),
    ];
    on.push(make("p", "panel-buttons", ...acts));
  }
  parts.push(part(make, page.fill(words.manage_what_to_do, { name }), ...on));
  if (!report.closed && !report.appeal) {
    const banned = ban ? [act(words.manage_close_banned, () => close("banned"), "link")] : []; // perhaps from their card
    parts.push(make("p", "manage-last", ...banned, act(words.manage_nothing, () => close("dismissed"), "link")));
  }
  return parts;
}

/**
 * @param {Desk} desk
 * @param {{ user: string, name: string }} person
 * @param {() => Promise<unknown>} done
 */
function warn({ page, words }, { user, name }, done) {
  const reason = Object.assign(reasonField(), { required: true });
  form(page.fill(words.manage_warn_ask, { name }), words.manage_warn_go, false, [field(words.safety_why_shown, reason)], async () => {
    await page.api("POST", "moderation/warn", { user, reason: reason.value.trim() });
    await done();
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
 * A message as text: nothing of it is loaded or run.
 *
 * @param {Desk} desk
 * @param {any} report
 * @param {any} each
 */
function message({ page, session, words, time }, report, each) {
  const { make } = page;
  const isReported = each.id === report.message;
  const said = typeof each.text === "string" ? each.text : "";
  const content = said || (each.data === undefined ? "" : nameOfFile(each.data) || `[${each.type}]`);
  const text = content || (isReported ? report.evidence : "");
  const marks = each.removed ? [make("span", "mark", content ? words.manage_is_hidden : words.manage_is_gone)] : [];
  const about = make("small", "muted", nameIn(report, each.sender), ...(each.time ? [` · ${time(each.time / 1000)}`] : []));
  const body = text ? Object.assign(make("span", "said", text.slice(0, MOST_CHARACTERS)), { dir: "auto" }) : make("span", "muted", words.manage_no_text);
  return make("li", isReported ? "reported" : "", session.people.avatar(each.sender), make("span", "person-words", make("span", "person-name", about, ...marks), body));
}

/** @param {any} data */
function nameOfFile(data) {
  return typeof data?.name === "string" ? data.name : "";
}
