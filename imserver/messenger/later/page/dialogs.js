// @ts-check
/** Dialogs: when something is to be sent, and what waits. */

import { scheduledOf } from "./scheduled.js";

/** @typedef {import("./scheduled.js").Scheduled} Scheduled */
/** @typedef {{ seconds: number } | { at: number } | { awaits: true }} When  from now, at a time, or when the receiver comes online */

/** In seconds. */
const MINUTE = 60;
const HOUR = 60 * MINUTE;
/** Hours of the day. */
const MORNING = 9;
const EVENING = 18;
const MOST_DAYS = 365;
const PREVIEW_CHARACTERS = 120;
const TEXT_CHARACTERS = 4000;
const CLOCK = /** @type {const} */ ({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = /** @type {const} */ ({ weekday: "short", day: "numeric", month: "short" });

/**
 * Lets the user choose when a message is sent.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} conversation
 * @param {any} content  of the text box
 * @param {() => void} clear  empties the text box
 */
export function openSchedule(page, session, conversation, content, clear) {
  const { words } = page;
  const { peer, id } = conversation;
  const count = scheduledOf(page).of(conversation).length;
  const list = count ? { word: page.fill(words.later_waiting, { count }), act: () => openList(page, session, conversation) } : null;
  openTimes(page, session, words.later_send, { awaited: awaitedOf(session, peer), list }, async (when, requestId) => {
    const { text, mentions, replyTo, thread, also } = content;
    const row = await page.api("POST", "scheduled/create", {
      ...(peer ? { to: peer } : { conversation: id }),
      text,
      ...(mentions?.length && { mentions }),
      ...(replyTo && { reply_to: replyTo }),
      ...(thread && { thread }),
      ...(thread && also && { also }),
      ...when,
      client_msg_id: requestId,
    });
    clear();
    const notice = page.fill(words.later_scheduled, { when: whenOf(page, session, row) });
    page.toast(notice, { label: words.later_show, act: () => openList(page, session, conversation) });
  });
}

/**
 * Lets the user choose when they are reminded of a message.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} entry  of which the user wants to be reminded
 */
export function openRemind(page, session, { id }) {
  const { words } = page;
  openTimes(page, session, words.later_remind, { isSoon: true }, async (when, requestId) => {
    const row = await page.api("POST", "scheduled/remind", { message: id, ...when, client_msg_id: requestId });
    page.toast(page.fill(words.later_reminding, { when: whenOf(page, session, row) }));
  });
}

/**
 * @param {any} session
 * @param {string} peer
 * @returns {string} the name of the peer if a message can wait until they come online; empty: it cannot
 */
function awaitedOf(session, peer) {
  const card = session.people.card(peer);
  const isAway = card?.presence === "offline" && !card.bot;
  return peer && peer !== session.user && isAway ? session.people.nameOf(peer) : "";
}

/**
 * Lets the user choose a time: one of the usual ones, any other, or when somebody comes online.
 *
 * @param {any} page
 * @param {any} session
 * @param {string} title
 * @param {{ isSoon?: boolean, awaited?: string, list?: { word: string, act: () => void } | null }} options
 *   `isSoon`: the usual times are those of reminders; `awaited`: the name of somebody; `list`: a row that opens something else
 * @param {(when: When, requestId: string) => Promise<void>} choose  `requestId`: so that nothing is scheduled twice
 */
function openTimes(page, session, title, { isSoon = false, awaited = "", list = null }, choose) {
  const { button, make, words } = page;
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  note.hidden = true;
  const requestId = crypto.randomUUID?.() ?? String(Math.random());
  const chooseAndClose = async (/** @type {When} */ when) => {
    try {
      await choose(when, requestId);
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
  const times = isSoon ? soonTimes(words, session.language) : laterTimes(words, session.language);
  const rows = times.map(({ word, detail, when }) => row(word, detail, () => chooseAndClose(when)));
  if (awaited) rows.push(row(page.fill(words.later_online, { name: awaited }), "", () => chooseAndClose({ awaits: true })));

  const field = make("input", "");
  const now = new Date();
  const inAnHour = new Date(now.getTime() + HOUR * 1000);
  const latest = new Date(now);
  latest.setDate(latest.getDate() + MOST_DAYS);
  Object.assign(field, { type: "datetime-local", min: localOf(now), max: localOf(latest), value: localOf(inAnHour), required: true });
  field.setAttribute("aria-label", words.later_at);
  const set = button(words.later_set, "wide");
  set.type = "submit";
  const form = make("form", "later-at", field, set);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const at = new Date(field.value).getTime();
    if (at) chooseAndClose({ at });
  });
  const content = make("div", "later-times", ...rows, form, note);
  if (list) {
    content.append(row(list.word, "", () => {
      dialog.close();
      list.act();
    }));
  }
  const dialog = page.openDialog(title, content);
  rows[0].focus();
}

/** @typedef {{ word: string, detail: string, when: When }} Time  a usual time, with the clock or the date as detail */

/**
 * @param {Record<string, string>} words
 * @param {string} language
 * @returns {Time[]} the usual times of a reminder
 */
function soonTimes(words, language) {
  return [timeAfter(words.later_20, 20 * MINUTE, language), timeAfter(words.later_180, 3 * HOUR, language), ...mornings(words, language)];
}

/**
 * @param {Record<string, string>} words
 * @param {string} language
 * @returns {Time[]} the usual times of a message
 */
function laterTimes(words, language) {
  const isEveningFar = new Date().getHours() < EVENING - 1;
  const evening = isEveningFar ? [timeOn(words.later_evening, 0, EVENING, language)] : [];
  return [timeAfter(words.later_60, HOUR, language), ...evening, ...mornings(words, language)];
}

/**
 * @param {Record<string, string>} words
 * @param {string} language
 * @returns {Time[]} tomorrow, and next Monday unless that is tomorrow
 */
function mornings(words, language) {
  const daysToMonday = ((8 - new Date().getDay()) % 7) || 7;
  const monday = daysToMonday > 1 ? [timeOn(words.later_monday, daysToMonday, MORNING, language)] : [];
  return [timeOn(words.later_tomorrow, 1, MORNING, language), ...monday];
}

/**
 * @param {string} word
 * @param {number} seconds  from now
 * @param {string} language
 * @returns {Time}
 */
function timeAfter(word, seconds, language) {
  const detail = new Intl.DateTimeFormat(language, CLOCK).format(Date.now() + seconds * 1000);
  return { word, detail, when: { seconds } };
}

/**
 * @param {string} word
 * @param {number} days  from today
 * @param {number} hour
 * @param {string} language
 * @returns {Time}
 */
function timeOn(word, days, hour, language) {
  const now = new Date();
  const time = new Date(now.getFullYear(), now.getMonth(), now.getDate() + days, hour);
  const format = days > 1 ? { ...DAY, ...CLOCK } : CLOCK; // the word says which day the others are
  return { word, detail: new Intl.DateTimeFormat(language, format).format(time), when: { at: time.getTime() } };
}

/** @param {Date} time @returns {string} as a field for local times has it */
function localOf(time) {
  return new Date(time.getTime() - time.getTimezoneOffset() * MINUTE * 1000).toISOString().slice(0, 16);
}

/**
 * @param {any} page
 * @param {any} session
 * @param {Scheduled} row
 * @returns {string} when it is sent
 */
function whenOf({ fill, words }, session, { due, awaits, to }) {
  if (awaits) return fill(words.later_online, { name: session.people.nameOf(to ?? "") });
  const isThisYear = new Date(due).getFullYear() === new Date().getFullYear();
  /** @type {Intl.DateTimeFormatOptions} */
  const year = isThisYear ? {} : { year: "numeric" };
  return new Intl.DateTimeFormat(session.language, { ...DAY, ...year, ...CLOCK }).format(due);
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
    const rows = scheduled.of(conversation).map((row) => make("li", "", ...rowOf(page, session, row, actAndLoad)));
    list.replaceChildren(...(rows.length ? rows : [make("li", "muted", words.later_none)]));
  };
  const actAndLoad = async (/** @type {() => Promise<unknown>} */ act) => {
    try {
      await act();
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
 * A scheduled message or a reminder, when it is sent or why it was not, and buttons that change it.
 *
 * @param {any} page
 * @param {any} session
 * @param {Scheduled} row
 * @param {(act: () => Promise<unknown>) => Promise<void>} actAndLoad  acts, tells why it fails, and loads the list again
 * @returns {HTMLElement[]}
 */
function rowOf(page, session, row, actAndLoad) {
  const { button, make, words } = page;
  const { id, reason, reminds, text = "", type, to = "" } = row;
  const change = (/** @type {object} */ fields) => actAndLoad(() => page.api("POST", "scheduled/change", { id, ...fields }));
  const key = (/** @type {string} */ word, /** @type {() => unknown} */ press, classes = "link") => {
    const made = button(word, classes);
    made.addEventListener("click", press);
    return made;
  };
  const retime = () => {
    const options = reminds ? { isSoon: true } : { awaited: awaitedOf(session, to) };
    openTimes(page, session, words.later_time, options, change);
  };
  const edit = () => openText(page, text, (written) => actAndLoad(() => changeText(page, session, row, written)));
  const cancel = () => actAndLoad(() => page.api("POST", "scheduled/cancel", { id }));

  const keys = make("p", "later-keys");
  if (!reminds) keys.append(key(words.later_now, () => change({ seconds: 0 })));
  keys.append(key(words.later_time, retime));
  if (type === "text" && !reminds) keys.append(key(words.messages_edit, edit));
  keys.append(key(words.later_delete, cancel, "link danger"));
  const state = reason ? make("small", "later-refused", whyRefused(words, reason)) : make("small", "muted", whenOf(page, session, row));
  return [make("bdi", "", previewOf(words, row)), state, keys];
}

/**
 * @param {Record<string, string>} words
 * @param {string} reason
 */
function whyRefused(words, reason) {
  return words[`later_refused_${reason}`] ?? words[`messages_refused_${reason}`] ?? words.later_refused;
}

/**
 * @param {Record<string, string>} words
 * @param {Scheduled} row
 */
function previewOf(words, { reminds, text = "", type }) {
  if (reminds) return words.later_a_reminder;
  return text.slice(0, PREVIEW_CHARACTERS) || words[`messages_${type}`] || words.messages_custom;
}

/**
 * Changes a text. Of its mentions, those stay that the new text still names.
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
 * @param {(text: string) => Promise<void>} change  called with the text that the user has written
 */
function openText({ button, make, openDialog, words }, text, change) {
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
    await change(written);
    dialog.close();
  });
  field.focus();
}
