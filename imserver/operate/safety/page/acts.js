// @ts-check
/** What moderators do to messages and people: the dialogs that ask how, and the requests. */

const DAY = 86_400;
/** Seconds; 0: for good. */
export const MUTES = [600, 3600, DAY, 7 * DAY];
export const BANS = [DAY, 7 * DAY, 30 * DAY, 0];
/** How far back messages are deleted with an act on a person. */
const CLEARED_SECONDS = DAY;

/** @type {any} */
let page;
/** What held whom at the last look: `ban:USER`, `mute:USER`. @type {Set<string>} */
let held = new Set();

/** @param {any} additions  the page, before anything else here is called */
export function beginActs(additions) {
  page = additions;
}

/** Looks who is banned or muted: the menus of moderators offer what can be done. */
export async function look() {
  const { holds } = await page.api("GET", "moderation/holds", { limit: 200 }).catch(() => ({ holds: [] }));
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
export function select(options) {
  const made = page.make("select", "");
  made.append(...options.map(([value, label]) => new Option(label, value)));
  return made;
}
