// @ts-check
/** Reports of messages and people, and what moderators do, in the menus and the cards of the messages page. */

const DAY = 86_400;
/** Seconds; 0: for good. */
export const MUTES = [600, 3600, DAY, 7 * DAY];
export const BANS = [DAY, 7 * DAY, 30 * DAY, 0];
/** How far back messages are deleted with an act on a person. */
const CLEARED_SECONDS = DAY;

/** @type {any} */
let page;
/** Whether the user moderates the app. */
let moderates = false;
/** What held whom at the last look: `ban:USER`, `mute:USER`. @type {Set<string>} */
let held = new Set();
/** The open view of what moderators manage. @type {{ changed: () => void } | null} */
let desk = null;
/** A shield. */
const SHIELD = "M12 3.5 5 6v5.2c0 4.3 2.8 7.6 7 9.3 4.2-1.7 7-5 7-9.3V6zM9 11.8l2.2 2.2L15.3 9.8";

/** @param {any} additions */
export function start(additions) {
  page = additions;
  const { addAction, addMessageAction, addPersonAction, words } = page;
  const place = page.addPlace({ id: "manage", word: words.safety_manage, path: SHIELD, act: manage });
  const ask = async () => {
    try {
      const { moderates: does, open } = await page.api("GET", "reports/reasons");
      moderates = does;
      place.show(does ? open : null);
      if (does) await look();
    } catch {
      // then nobody moderates here
    }
  };
  page.hear("safety.reports", (/** @type {any} */ { open }) => {
    place.show(open);
    desk?.changed();
  });
  page.hear("online", ask);
  const asked = ask();
  addMessageAction((/** @type {any} */ session, /** @type {any} */ conversation, /** @type {any} */ entry) => {
    if (!entry.from || entry.from === session.user) return [];
    const person = { user: entry.from, name: session.people.nameOf(entry.from), group: conversation.group ? conversation.id : 0 };
    const rows = [{ word: words.safety_report, sign: "flag", act: () => report({ message: entry.id }, words.safety_report_message) }];
    if (moderates) rows.push({ word: words.safety_delete, sign: "remove", act: () => remove(entry), danger: true }, ...actsOn(person));
    return rows;
  });
  const onPerson = (/** @type {(person: any) => any} */ makeRow) => {
    const rowOf = (/** @type {any} */ session, /** @type {string} */ user) => (user && user !== session.user ? makeRow({ user, name: session.people.nameOf(user), group: 0 }) : null);
    addPersonAction(rowOf);
    addAction((/** @type {any} */ session, /** @type {any} */ { peer }) => {
      const row = rowOf(session, peer);
      return row && { key: "", ...row };
    });
  };
  onPerson(({ user, name }) => ({ word: words.safety_report, sign: "flag", act: () => report({ person: user }, page.fill(words.safety_report_person, { name })) }));
  onPerson((person) => (moderates ? actsOn(person)[0] : null));
  onPerson((person) => (moderates ? actsOn(person).at(-1) : null));
  page.addSettings(() => ({ title: words.safety_rules, content: houseRules() }));
  return asked; // the first menu needs it
}

/**
 * @param {any} session
 * @param {string} report  that is opened; empty: the queue
 */
async function manage(session, report) {
  try {
    const { openManage } = await import("./manage/manage.js");
    desk = await openManage(page, session, report, () => void (desk = null));
  } catch (error) {
    page.toast(page.reason(error));
  }
}

/** @returns {HTMLElement} the house rules, as soon as they are loaded */
export function houseRules() {
  const { api, make, words } = page;
  const made = make("p", "muted house-rules");
  made.dir = "auto";
  api("GET", "moderation/rules").then((/** @type {any} */ { text }) => void (made.textContent = text || words.safety_no_rules), (/** @type {unknown} */ error) => void (made.textContent = page.reason(error)));
  return made;
}

/** Looks who is banned or muted: the menus of moderators offer what can be done. */
async function look() {
  const { holds } = await page.api("GET", "moderation/holds", { limit: 200 }).catch(() => ({ holds: [] }));
  held = new Set(holds.map((/** @type {any} */ { kind, user }) => `${kind}:${user}`));
}

/**
 * @param {{ user: string, name: string, group: number }} person
 * @returns {{ word: string, sign: string, act: () => unknown, danger: boolean }[]} mute, remove from the group, ban; or what ends a mute or ban
 */
function actsOn(person) {
  const { toast, words } = page;
  look(); // for the next menu: others moderate, too
  const act = (/** @type {"mute" | "ban"} */ kind, /** @type {number[]} */ spans) => (held.has(`${kind}:${person.user}`)
    ? { word: words[`safety_un${kind}`], sign: kind, act: () => end(kind, person).catch((error) => toast(page.reason(error))), danger: false }
    : { word: words[`safety_${kind}`], sign: kind, act: () => actOn(kind, person, spans), danger: true });
  const remove = { word: words.safety_remove, sign: "leave", act: () => actOn("remove", person, []), danger: true };
  return [act("mute", MUTES), ...(person.group ? [remove] : []), act("ban", BANS)];
}

/**
 * Ends a mute or a ban.
 *
 * @param {"mute" | "ban"} kind
 * @param {{ user: string, name: string }} person
 * @param {() => unknown} [done]  what follows
 */
export async function end(kind, { user, name }, done = look) {
  const { api, fill, toast, words } = page;
  await api("POST", `moderation/un${kind}`, { user });
  await done();
  toast(fill(words[`safety_un${kind}_done`], { name }));
}

/**
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
  form(title, words.safety_send, false, [field(words.safety_why, reason), field(words.safety_more, text)], async () => {
    await api("POST", "reports/send", { ...target, reason: reason.value, text: text.value.trim() });
    return () => toast(words.safety_sent);
  });
}

/**
 * @param {{ id: number }} entry
 * @param {() => Promise<unknown>} [done]  what follows
 */
export function remove(entry, done = async () => {}) {
  const { api, words } = page;
  const reason = reasonField();
  form(words.safety_delete_ask, words.safety_delete, true, [field(words.safety_why_shown, reason)], async () => {
    const { act } = await api("POST", "moderation/delete", { messages: [entry.id], reason: reason.value.trim() });
    await done();
    return () => sayRemoved(1, act);
  });
}

/**
 * @param {"mute" | "remove" | "ban"} kind
 * @param {{ user: string, name: string, group: number }} person
 * @param {number[]} spans  seconds among which one chooses
 * @param {() => Promise<unknown>} [done]  what follows
 */
export async function actOn(kind, person, spans, done = async () => {}) {
  const { api, words, toast } = page;
  const { user, name, group } = person;
  const span = select(spans.map((each) => [String(each), words[`safety_for_${each}`]]));
  const reason = reasonField();
  const clear = page.make("input", "");
  clear.type = "checkbox";
  const since = Math.floor(Date.now() / 1000) - CLEARED_SECONDS;
  const count = page.make("span", "", words.safety_clear);
  api("GET", "moderation/count", { user, since }).then((/** @type {any} */ found) => {
    count.textContent = `${words.safety_clear} (${found.count})`;
  }, () => {});
  const rows = [field(words.safety_why_shown, reason), page.make("label", "safety-check", clear, count)];
  if (spans.length) rows.unshift(field(words.safety_how_long, span));
  form(page.fill(words[`safety_${kind}_ask`], { name }), words[`safety_${kind}`].replace("…", ""), true, rows, async () => {
    const fields = { user, reason: reason.value.trim() };
    const removal = clear.checked ? await api("POST", "moderation/clear", { ...fields, reason: "", since }) : null;
    if (kind === "remove") await api("POST", "moderation/remove", { ...fields, group: String(group) });
    else await api("POST", `moderation/${kind}`, { ...fields, seconds: Number(span.value) });
    await Promise.all([look(), done()]);
    return () => {
      if (removal) sayRemoved(removal.messages, removal.act);
      toast(page.fill(words[`safety_${kind}_done`], { name }));
    };
  });
}

/**
 * @param {number} messages
 * @param {string} act
 */
function sayRemoved(messages, act) {
  const { api, words, toast } = page;
  const undo = () => api("POST", "moderation/undo", { act }).then(() => toast(words.safety_undone), (/** @type {unknown} */ error) => toast(page.reason(error)));
  toast(page.fill(words.safety_deleted, { count: messages }), { label: words.safety_undo, act: undo });
}

/**
 * Opens a dialog with fields, and runs `act` once. What `act` resolves to is called when the dialog is closed.
 *
 * @param {string} title
 * @param {string} yes     the word on the button
 * @param {boolean} danger
 * @param {HTMLElement[]} fields
 * @param {() => Promise<() => void>} act
 */
export function form(title, yes, danger, fields, act) {
  const { button, make, words } = page;
  const no = button(words.messages_cancel);
  const go = button(yes, danger ? "wide danger" : "wide");
  go.type = "submit";
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  const body = make("form", "panel-form safety-form", ...fields, note, make("p", "card-row", no, go));
  const dialog = page.openDialog(title, body);
  no.addEventListener("click", () => dialog.close());
  body.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      const say = await act();
      dialog.close();
      say();
    } catch (error) {
      note.textContent = page.reason(error);
      go.disabled = false;
    }
  });
}

/**
 * @param {string} label
 * @param {HTMLElement} control
 */
export function field(label, control) {
  return page.make("label", "field-label", page.make("span", "", label), control);
}

export function reasonField() {
  const made = page.make("input", "");
  return Object.assign(made, { type: "text", maxLength: 250, autocomplete: "off" });
}

/** @param {[value: string, label: string][]} options */
function select(options) {
  const made = page.make("select", "");
  made.append(...options.map(([value, label]) => new Option(label, value)));
  return made;
}
