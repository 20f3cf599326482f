// @ts-check
/** Reports of messages and people, and what moderators do, in the menus and the cards of the messages page. */

import { BANS, MUTES, actOn, beginActs, end, field, form, isHeld, look, remove, select } from "./acts.js";

/** @type {any} */
let page;
/** Whether the user moderates the app. */
let moderates = false;
/** The open view of what moderators manage. @type {{ changed: () => void } | null} */
let desk = null;
/** A shield. */
const SHIELD = "M12 3.5 5 6v5.2c0 4.3 2.8 7.6 7 9.3 4.2-1.7 7-5 7-9.3V6zM9 11.8l2.2 2.2L15.3 9.8";

/** @param {any} additions */
export function start(additions) {
  page = additions;
  beginActs(page);
  const { addAction, addMessageAction, addPersonAction, words } = page;
  const place = page.addPlace({ id: "manage", word: words.safety_manage, path: SHIELD, act: manage });
  const loadRights = async () => {
    try {
      const { moderates: isModerator, open } = await page.api("GET", "reports/reasons");
      moderates = isModerator;
      place.show(isModerator ? open : null);
      if (isModerator) await look();
    } catch {
      // then nobody moderates here
    }
  };
  page.hear("safety.reports", (/** @type {any} */ { open }) => {
    place.show(open);
    desk?.changed();
  });
  page.hear("online", loadRights);
  const rightsLoaded = loadRights();
  addMessageAction((/** @type {any} */ session, /** @type {any} */ conversation, /** @type {any} */ entry) => {
    if (!entry.from || entry.from === session.user) return [];
    const person = { user: entry.from, name: session.people.nameOf(entry.from), group: conversation.group ? conversation.id : 0 };
    const rows = [{ word: words.safety_report, sign: "flag", act: () => report({ message: entry.id }, words.safety_report_message) }];
    if (moderates) rows.push({ word: words.safety_delete, sign: "remove", act: () => remove(entry), danger: true }, ...actsOn(person));
    return rows;
  });
  /** Adds a row to the menus of people and of conversations with them. */
  const addRow = (/** @type {(person: any) => any} */ makeRow) => {
    const rowOf = (/** @type {any} */ session, /** @type {string} */ user) => {
      if (!user || user === session.user) return null;
      return makeRow({ user, name: session.people.nameOf(user), group: 0 });
    };
    addPersonAction(rowOf);
    addAction((/** @type {any} */ session, /** @type {any} */ { peer }) => {
      const row = rowOf(session, peer);
      return row && { key: "", ...row };
    });
  };
  addRow(({ user, name }) => {
    const title = page.fill(words.safety_report_person, { name });
    return { word: words.safety_report, sign: "flag", act: () => report({ person: user }, title) };
  });
  addRow((person) => (moderates ? actsOn(person)[0] : null)); // mute
  addRow((person) => (moderates ? actsOn(person).at(-1) : null)); // ban
  page.addSettings(() => ({ title: words.safety_rules, content: houseRules() }));
  return rightsLoaded; // the first menu needs them
}

/**
 * @param {any} session
 * @param {string} report  that is opened; empty: the queue
 */
async function manage(session, report) {
  try {
    const { openManage } = await import("./manage/manage.js");
    desk = await openManage(page, session, report, () => {
      desk = null;
    });
  } catch (error) {
    page.toast(page.reason(error));
  }
}

/** @returns {HTMLElement} the house rules, as soon as they are loaded */
export function houseRules() {
  const { api, make, words } = page;
  const made = make("p", "muted house-rules");
  made.dir = "auto";
  const load = async () => {
    try {
      const { text } = await api("GET", "moderation/rules");
      made.textContent = text || words.safety_no_rules;
    } catch (error) {
      made.textContent = page.reason(error);
    }
  };
  load();
  return made;
}

/**
 * The acts on a person as rows of a menu.
 *
 * @param {{ user: string, name: string, group: number }} person
 * @returns {{ word: string, sign: string, act: () => unknown, danger: boolean }[]} mute, remove from the group, ban; or what ends a mute or ban
 */
function actsOn(person) {
  const { toast, words } = page;
  look(); // for the next menu: others moderate, too
  const rowOf = (/** @type {"mute" | "ban"} */ kind, /** @type {number[]} */ spans) => {
    if (!isHeld(kind, person.user)) return { word: words[`safety_${kind}`], sign: kind, act: () => actOn(kind, person, spans), danger: true };
    const endHold = () => end(kind, person).catch((error) => toast(page.reason(error)));
    return { word: words[`safety_un${kind}`], sign: kind, act: endHold, danger: false };
  };
  const remove = { word: words.safety_remove, sign: "leave", act: () => actOn("remove", person, []), danger: true };
  return [rowOf("mute", MUTES), ...(person.group ? [remove] : []), rowOf("ban", BANS)];
}

/**
 * Asks for a reason, and reports a message or a person.
 *
 * @param {{ message?: number, person?: string }} target
 * @param {string} title
 */
async function report(target, title) {
  const { api, words, toast } = page;
  /** @type {string[]} */
  let reasons;
  try {
    ({ reasons } = await api("GET", "reports/reasons"));
  } catch (error) {
    return toast(page.reason(error));
  }
  const reason = select(reasons.map((each) => [each, words[`safety_reason_${each}`] ?? each]));
  const text = page.make("textarea", "");
  Object.assign(text, { rows: 3, maxLength: 1000 });
  form({ title, yes: words.safety_send, fields: [field(words.safety_why, reason), field(words.safety_more, text)] }, async () => {
    await api("POST", "reports/send", { ...target, reason: reason.value, text: text.value.trim() });
    return () => toast(words.safety_sent);
  });
}
