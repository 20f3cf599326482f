// @ts-check
/** Dialogs: when something is to be sent, and what waits. */

import { scheduledOf } from "./scheduled.js";

/** @typedef {import("./scheduled.js").Scheduled} Scheduled */
/** When: by the clock of the server, at a time, or when the receiver comes online. @typedef {{ seconds: number } | { at: number } | { awaits: true }} When */

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const MORNING = 9;
const EVENING = 18;
const MOST_DAYS = 365;
const PREVIEW = 120;
const TEXT_CHARACTERS = 4000;

/**
 * Sends what is written later.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} conversation
 * @param {any} content
 * @param {() => void} clear  empties the text box
 */
export function openSchedule(page, session, conversation, content, clear) {
  const { words } = page;
  const { peer, id } = conversation;
  const count = scheduledOf(page).of(conversation).length;
  const list = count ? { word: page.fill(words.later_waiting, { count }), act: () => openList(page, session, conversation) } : null;
  openTimes(page, session, words.later_send, { awaited: awaitedOf(page, session, peer), list }, async (when, own) => {
    const { text, mentions, replyTo, thread, also } = content;
    const where = peer ? { to: peer } : { conversation: id };
    const more = { ...(mentions?.length && { mentions }), ...(replyTo && { reply_to: replyTo }), ...(thread && { thread, ...(also && { also }) }) };
    const row = await page.api("POST", "scheduled/create", { ...where, text, ...more, ...when, client_msg_id: own });
    clear();
    page.toast(page.fill(words.later_scheduled, { when: whenOf(page, session, row) }), { label: words.later_show, act: () => openList(page, session, conversation) });
  });
}

/**
 * @param {any} page
 * @param {any} session
 * @param {any} entry  of which the user wants to be reminded
 */
export function openRemind(page, session, { id }) {
  const { words } = page;
  openTimes(page, session, words.later_remind, { isSoon: true }, async (when, own) => {
    const row = await page.api("POST", "scheduled/remind", { message: id, ...when, client_msg_id: own });
    page.toast(page.fill(words.later_reminding, { when: whenOf(page, session, row) }));
  });
}

/**
 * @param {any} page
 * @param {any} session
 * @param {string} peer
 * @returns {string} the name of whose coming can be awaited; empty: nobody's
 */
function awaitedOf(page, session, peer) {
  const card = session.people.card(peer);
  return peer && peer !== session.user && !card?.bot && card?.presence === "offline" ? session.people.nameOf(peer) : "";
}

/**
 * Lets the user choose a time.
 *
 * @param {any} page
 * @param {any} session
 * @param {string} title
 * @param {{ isSoon?: boolean, awaited?: string, list?: { word: string, act: () => void } | null }} more
 * @param {(when: When, own: string) => Promise<void>} choose  `own`: an id, so that nothing is scheduled twice
 */
function openTimes(page, session, title, { isSoon = false, awaited = "", list = null }, choose) {
  const { button, make, words } = page;
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  note.hidden = true;
  const own = crypto.randomUUID?.() ?? String(Math.random());
  const go = async (/** @type {When} */ when) => {
    try {
      await choose(when, own);
      dialog.close();
    } catch (error) {
      note.textContent = page.reason(error);
      note.hidden = false;
    }
  };
  const row = (/** @type {string} */ word, /** @type {string} */ detail, /** @type {() => void} */ act) => {
    const made = button("", "later-row");
    made.append(make("span", "", word), make("small", "", detail));
    made.addEventListener("click", act);
    return made;
  };
  const times = timesOf(words, session.language, isSoon).map(({ word, detail, when }) => row(word, detail, () => go(when)));
  const field = make("input", "");
  const now = new Date();
  const latest = new Date(now);
  latest.setDate(latest.getDate() + MOST_DAYS);
  Object.assign(field, { type: "datetime-local", min: localOf(now), max: localOf(latest), value: localOf(new Date(now.getTime() + HOUR * 1000)), required: true });
  field.setAttribute("aria-label", words.later_at);
  const set = button(words.later_set, "wide");
  set.type = "submit";
  const form = make("form", "later-at", field, set);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const at = new Date(field.value).getTime();
    if (at) go({ at });
  });
  const open = list ? [row(list.word, "", () => {
    dialog.close();
    list.act();
  })] : [];
  const awaits = awaited ? [row(page.fill(words.later_online, { name: awaited }), "", () => go({ awaits: true }))] : [];
  const dialog = page.openDialog(title, make("div", "later-times", ...times, ...awaits, form, note, ...open));
  times[0].focus();
}

/**
 * @param {Record<string, string>} words
 * @param {string} language
 * @param {boolean} isSoon
 * @returns {{ word: string, detail: string, when: When }[]}
 */
function timesOf(words, language, isSoon) {
  const now = new Date();
  const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(language, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const after = (/** @type {string} */ word, /** @type {number} */ seconds) => ({ word, detail: clock.format(new Date(now.getTime() + seconds * 1000)), when: { seconds } });
  const on = (/** @type {string} */ word, /** @type {number} */ days, /** @type {number} */ hour) => {
    const time = new Date(now.getFullYear(), now.getMonth(), now.getDate() + days, hour);
    return { word, detail: (days > 1 ? day : clock).format(time), when: { at: time.getTime() } };
  };
  const monday = ((8 - now.getDay()) % 7) || 7;
  return [
    ...(isSoon ? [after(words.later_20, 20 * MINUTE), after(words.later_180, 3 * HOUR)] : [after(words.later_60, HOUR)]),
    ...(now.getHours() < EVENING - 1 && !isSoon ? [on(words.later_evening, 0, EVENING)] : []),
    on(words.later_tomorrow, 1, MORNING),
    ...(monday > 1 ? [on(words.later_monday, monday, MORNING)] : []),
  ];
}

/** @param {Date} time @returns {string} as a field for local times has it */
function localOf(time) {
  return new Date(time.getTime() - time.getTimezoneOffset() * MINUTE * 1000).toISOString().slice(0, 16);
}

/**
 * @param {any} page
 * @param {any} session
 * @param {Scheduled} row
 * @returns {string}
 */
function whenOf({ fill, words }, session, { due, awaits, to }) {
  if (awaits) return fill(words.later_online, { name: session.people.nameOf(to ?? "") });
  const isThisYear = new Date(due).getFullYear() === new Date().getFullYear();
  return new Intl.DateTimeFormat(session.language, { weekday: "short", day: "numeric", month: "short", ...(isThisYear ? {} : { year: "numeric" }), hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(due);
}

/**
 * Shows what waits in a conversation.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} conversation
 */
export function openList(page, session, conversation) {
  const { make, words } = page;
  const scheduled = scheduledOf(page);
  const list = make("ul", "later-list");
  const draw = () => {
    const rows = scheduled.of(conversation);
    list.replaceChildren(...(rows.length ? rows.map((row) => make("li", "", ...rowOf(page, session, row, act))) : [make("li", "muted", words.later_none)]));
  };
  const act = async (/** @type {() => Promise<unknown>} */ work) => {
    try {
      await work();
    } catch (error) {
      page.toast(page.reason(error));
    }
    await scheduled.load().catch(() => {});
  };
  draw();
  scheduled.watchers.add(draw);
  page.openDialog(words.later_list, list).closed.then(() => scheduled.watchers.delete(draw));
  scheduled.load().catch(() => {});
}

/**
 * @param {any} page
 * @param {any} session
 * @param {Scheduled} row
 * @param {(work: () => Promise<unknown>) => Promise<void>} act
 * @returns {HTMLElement[]}
 */
function rowOf(page, session, row, act) {
  const { button, make, words } = page;
  const { id, reason, reminds, text, type } = row;
  const change = (/** @type {object} */ fields) => page.api("POST", "scheduled/change", { id, ...fields });
  const key = (/** @type {string} */ word, /** @type {() => unknown} */ press, danger = false) => {
    const made = button(word, danger ? "link danger" : "link");
    made.addEventListener("click", press);
    return made;
  };
  const state = make("small", reason ? "later-refused" : "muted", reason ? words[`later_refused_${reason}`] ?? words[`messages_refused_${reason}`] ?? words.later_refused : whenOf(page, session, row));
  const content = make("bdi", "", reminds ? words.later_a_reminder : (text ?? "").slice(0, PREVIEW) || words[`messages_${type}`] || words.messages_custom);
  const retime = () => openTimes(page, session, words.later_time, { isSoon: Boolean(reminds), awaited: reminds ? "" : awaitedOf(page, session, row.to ?? "") }, (when) => act(() => change(when)));
  return [content, state, make("p", "later-keys",
    ...(reminds ? [] : [key(words.later_now, () => act(() => change({ seconds: 0 })))]),
    key(words.later_time, retime),
    ...(type === "text" && !reminds ? [key(words.messages_edit, () => openText(page, text ?? "", (written) => act(() => changeText(page, session, row, written))))] : []),
    key(words.later_delete, () => act(() => page.api("POST", "scheduled/cancel", { id })), true))];
}

/**
 * Changes a text, which mentions those whom it names still.
 *
 * @param {any} page
 * @param {any} session
 * @param {Pick<Scheduled, "id" | "mentions">} row
 * @param {string} text
 */
export async function changeText(page, { people }, { id, mentions = [] }, text) {
  await people.load(mentions);
  const isNamed = (/** @type {string} */ user) => text.includes(user === "all" ? "@" : `@${people.nameOf(user).replace(/^@/, "")}`);
  await page.api("POST", "scheduled/change", { id, text, mentions: mentions.filter(isNamed) });
}

/**
 * @param {any} page
 * @param {string} text
 * @param {(text: string) => Promise<void>} done
 */
function openText({ button, make, openDialog, words }, text, done) {
  const field = make("textarea", "");
  Object.assign(field, { rows: 4, maxLength: TEXT_CHARACTERS, value: text, dir: "auto", required: true });
  field.setAttribute("aria-label", words.messages_edit);
  const save = button(words.later_set, "wide");
  save.type = "submit";
  const form = make("form", "panel-form later-text", field, make("p", "card-row", save));
  const dialog = openDialog(words.messages_edit, form);
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const written = field.value.trim();
    if (!written) return field.focus();
    await done(written);
    dialog.close();
  });
  field.focus();
}
