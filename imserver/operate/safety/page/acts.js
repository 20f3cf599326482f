// @ts-check
/** What moderators do to messages and people: the dialogs that ask how, and the requests. */

const DAY = 86_400;
/** Seconds; 0: for good. */
export const MUTES = [600, 3600, DAY, 7 * DAY];
export const BANS = [DAY, 7 * DAY, 30 * DAY, 0];
/** How far back messages are deleted with an act on a person. */
const CLEARED_SECONDS = DAY;

const MOST_HOLDS = 200;
const REASON_CHARACTERS = 250;

/** @type {any} */
let page;
/** The bans and mutes at the last look, as `ban:USER` and `mute:USER`. @type {Set<string>} */
let held = new Set();

/** @param {any} additions  the page, before anything else here is called */
export function beginActs(additions) {
  page = additions;
}

/** Looks who is banned or muted: the menus of moderators offer what can be done. */
export async function look() {
  const { holds } = await page.api("GET", "moderation/holds", { limit: MOST_HOLDS }).catch(() => ({ holds: [] }));
  held = new Set(holds.map((/** @type {any} */ { kind, user }) => `${kind}:${user}`));
}

/**
 * @param {"mute" | "ban"} kind
 * @param {string} user
 * @returns {boolean} whether they were muted or banned at the last look
 */
export function isHeld(kind, user) {
  return held.has(`${kind}:${user}`);
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
 * Asks why, and deletes a message.
 *
 * @param {{ id: number }} entry
 * @param {() => Promise<unknown>} [done]  what follows
 */
export function remove(entry, done = async () => {}) {
  const { api, words } = page;
  const reason = reasonField();
  const fields = [field(words.safety_why_shown, reason)];
  form({ title: words.safety_delete_ask, yes: words.safety_delete, isDanger: true, fields }, async () => {
    const { act } = await api("POST", "moderation/delete", { messages: [entry.id], reason: reason.value.trim() });
    await done();
    return () => sayRemoved(1, act);
  });
}

/**
 * Asks how long and why, and mutes a person, removes them from a group, or bans them. On request their last messages go, too.
 *
 * @param {"mute" | "remove" | "ban"} kind
 * @param {{ user: string, name: string, group: number }} person
 * @param {number[]} spans  seconds among which one chooses; empty for a removal
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
  }, () => {}); // then the choice stands without a number
  const fields = [field(words.safety_why_shown, reason), page.make("label", "safety-check", clear, count)];
  if (spans.length) fields.unshift(field(words.safety_how_long, span));
  const title = page.fill(words[`safety_${kind}_ask`], { name });
  form({ title, yes: words[`safety_${kind}`].replace("…", ""), isDanger: true, fields }, async () => {
    const given = { user, reason: reason.value.trim() };
    const removal = clear.checked ? await api("POST", "moderation/clear", { user, reason: "", since }) : null;
    if (kind === "remove") await api("POST", "moderation/remove", { ...given, group: String(group) });
    else await api("POST", `moderation/${kind}`, { ...given, seconds: Number(span.value) });
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
  const undo = async () => {
    try {
      await api("POST", "moderation/undo", { act });
      toast(words.safety_undone);
    } catch (error) {
      toast(page.reason(error));
    }
  };
  toast(page.fill(words.safety_deleted, { count: messages }), { label: words.safety_undo, act: undo });
}

/**
 * Opens a dialog with fields, and runs `act` once. What `act` resolves to is called when the dialog is closed.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {string} options.yes  the word on the button
 * @param {boolean} [options.isDanger]
 * @param {HTMLElement[]} options.fields
 * @param {() => Promise<() => void>} act
 */
export function form({ title, yes, isDanger = false, fields }, act) {
  const { button, make, words } = page;
  const cancel = button(words.messages_cancel);
  const submit = button(yes, isDanger ? "wide danger" : "wide");
  submit.type = "submit";
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  const body = make("form", "panel-form safety-form", ...fields, note, make("p", "card-row", cancel, submit));
  const dialog = page.openDialog(title, body);
  cancel.addEventListener("click", () => dialog.close());
  body.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      const afterClose = await act();
      dialog.close();
      afterClose();
    } catch (error) {
      note.textContent = page.reason(error);
      submit.disabled = false;
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
  return Object.assign(made, { type: "text", maxLength: REASON_CHARACTERS, autocomplete: "off" });
}

/** @param {[value: string, label: string][]} options */
export function select(options) {
  const made = page.make("select", "");
  made.append(...options.map(([value, label]) => new Option(label, value)));
  return made;
}
