// @ts-check
/** The forms of whoever asks. */

const MOST_OPTIONS = 8;
const OPTION_CHARACTERS = 64;
const TEXT_CHARACTERS = 2000;
/** Seconds; 0: no deadline. */
const DEADLINES = [0, 900, 3600, 14_400, 86_400, 604_800];

/**
 * Opens the form for a new question.
 *
 * @param {any} page  the additions
 * @param {any} session
 * @param {any} conversation
 * @param {string} begun  what is written already
 * @param {{ thread?: number, also?: boolean }} [place]  in a thread
 */
export function openWriting(page, session, conversation, begun, { thread = 0, also = false } = {}) {
  const { button, make, openDialog, words } = page;
  const text = make("textarea", "");
  Object.assign(text, { id: "ask-text", rows: 2, maxLength: TEXT_CHARACTERS, value: begun, required: true, dir: "auto" });
  const options = make("div", "ask-choices");
  const drawOptions = () => {
    const fields = [...options.querySelectorAll("input")];
    if (fields.length < MOST_OPTIONS && fields.every(({ value }) => value.trim())) options.append(optionField(fields.length + 1));
  };
  const optionField = (/** @type {number} */ number) => {
    const option = make("input", "");
    const label = page.fill(words.ask_option, { number });
    Object.assign(option, { type: "text", maxLength: OPTION_CHARACTERS, placeholder: label, autocomplete: "off", dir: "auto" });
    option.setAttribute("aria-label", label);
    option.addEventListener("input", drawOptions);
    return option;
  };
  options.append(optionField(1), optionField(2));
  const free = checkbox(page, words.ask_free, false);
  const until = make("select", "");
  until.id = "ask-until";
  until.append(...DEADLINES.map((seconds) => new Option(words[`ask_for_${seconds}`], String(seconds))));
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  note.hidden = true;
  const who = conversation.group ? whoOf(page, session, conversation) : null;
  const no = button(words.messages_cancel);
  const go = button(words.ask_go, "wide");
  go.type = "submit";
  const form = make("form", "panel-form ask-form", field(page, words.ask_what, text),
    group(page, words.ask_options, options, make("small", "field-hint", words.ask_options_hint), free.root),
    ...(who ? [who.root] : []), field(page, words.ask_deadline, until), note, make("p", "card-row", no, go));
  const dialog = openDialog(words.ask_new, form);
  no.addEventListener("click", () => dialog.close());
  text.focus();
  const id = crypto.randomUUID?.() ?? String(Math.random()); // a repeated request asks no second question
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const written = text.value.trim();
    const given = [...new Set([...options.querySelectorAll("input")].map(({ value }) => value.trim()).filter(Boolean))];
    const fault = !written ? words.ask_fault : who?.isMissing() ? words.ask_fault_who : "";
    say(note, fault);
    if (fault) return void (!written && text.focus());
    if (go.disabled) return;
    go.disabled = true;
    try {
      await page.api("POST", "asks/create", {
        ...(conversation.id ? { conversation: conversation.id } : { to: conversation.peer }), ...(thread && { thread, also }), text: written, client_msg_id: id,
        ...(given.length && { options: given.map((each, index) => ({ text: each, value: String(index + 1) })) }), ...((free.box.checked || !given.length) && { free_text: true }),
        ...who?.fields(), ...(Number(until.value) && { seconds: Number(until.value) }),
      });
      dialog.close();
    } catch (error) {
      say(note, page.reason(error));
      go.disabled = false;
    }
  });
}

/**
 * Lets the user choose members of a group, besides those who may answer already.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} conversation
 * @param {string[]} before
 * @param {(users: string[]) => unknown} done
 */
export function choosePeople(page, session, conversation, before, done) {
  const { words } = page;
  page.choosePeople(session, { title: words.ask_others, go: () => words.ask_others_go, group: String(conversation.id), without: before, act: done });
}

/**
 * Who may answer in a group, and how many of them have to.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} conversation
 */
function whoOf(page, session, conversation) {
  const { button, make, words } = page;
  const some = checkbox(page, words.ask_some, false);
  const choose = button(words.ask_choose);
  const names = make("small", "field-hint");
  /** @type {string[]} */
  let chosen = [];
  choose.hidden = true;
  choose.addEventListener("click", () => page.choosePeople(session, {
    title: words.ask_who, go: (/** @type {number} */ count) => `${words.messages_add} · ${count}`, group: String(conversation.id), chosen,
    act: (/** @type {string[]} */ users) => {
      chosen = users;
      names.textContent = users.map((user) => session.people.nameOf(user)).join(words.messages_and);
    },
  }));
  some.box.addEventListener("change", () => {
    choose.hidden = names.hidden = !some.box.checked;
    if (some.box.checked && !chosen.length) choose.click();
  });
  const need = make("input", "");
  Object.assign(need, { id: "ask-need", type: "number", min: "1", max: "100", value: String(Math.min(Math.max(conversation.members - 1, 1), 100)), inputMode: "numeric" });
  return {
    root: make("div", "ask-who", group(page, words.ask_who, some.root, names, choose), field(page, words.ask_needed, need)),
    isMissing: () => some.box.checked && !chosen.length,
    fields: () => {
      const of = some.box.checked ? chosen : null;
      const answers = Math.min(Number(need.value), of?.length ?? Infinity);
      return { ...(of && { of }), ...(answers > 1 && { need: answers }) };
    },
  };
}

/**
 * @param {any} page
 * @param {string} word
 * @param {boolean} checked
 */
function checkbox({ make }, word, checked) {
  const box = make("input", "");
  Object.assign(box, { type: "checkbox", checked });
  return { root: make("label", "ask-box", box, make("bdi", "", word)), box };
}

/**
 * @param {any} page
 * @param {string} word
 * @param {HTMLElement} control
 */
function field({ make }, word, control) {
  return make("label", "field-label", make("span", "", word), control);
}

/**
 * @param {any} page
 * @param {string} word
 * @param {...HTMLElement} parts
 */
function group({ make }, word, ...parts) {
  return make("fieldset", "ask-group", make("legend", "", word), ...parts);
}

/**
 * @param {HTMLElement} note
 * @param {string} text  empty: hide it
 */
function say(note, text) {
  note.textContent = text;
  note.hidden = !text;
}
