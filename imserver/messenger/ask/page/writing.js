// @ts-check
/** The forms of whoever asks. */

const MOST_OPTIONS = 8;
const OPTION_CHARACTERS = 64;
const TEXT_CHARACTERS = 2000;
/** Answers that a question may need. */
const MOST_NEEDED = 100;
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
  const addFieldIfFull = () => {
    const fields = [...options.querySelectorAll("input")];
    if (fields.length < MOST_OPTIONS && fields.every(({ value }) => value.trim())) options.append(optionField(fields.length + 1));
  };
  const optionField = (/** @type {number} */ number) => {
    const option = make("input", "");
    const label = page.fill(words.ask_option, { number });
    Object.assign(option, { type: "text", maxLength: OPTION_CHARACTERS, placeholder: label, autocomplete: "off", dir: "auto" });
    option.setAttribute("aria-label", label);
    option.addEventListener("input", addFieldIfFull);
    return option;
  };
  options.append(optionField(1), optionField(2));
  const free = checkbox(page, words.ask_free);
  const until = make("select", "");
  until.id = "ask-until";
  until.append(...DEADLINES.map((seconds) => new Option(words[`ask_for_${seconds}`], String(seconds))));
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  note.hidden = true;
  const who = conversation.group ? whoOf(page, session, conversation) : null;
  const cancel = button(words.messages_cancel);
  const submit = button(words.ask_go, "wide");
  submit.type = "submit";
  const form = make(
    "form", "panel-form ask-form",
    field(page, words.ask_what, text),
    group(page, words.ask_options, options, make("small", "field-hint", words.ask_options_hint), free.root),
    ...(who ? [who.root] : []),
    field(page, words.ask_deadline, until),
    note,
    make("p", "card-row", cancel, submit),
  );
  const dialog = openDialog(words.ask_new, form);
  cancel.addEventListener("click", () => dialog.close());
  text.focus();

  const requestId = crypto.randomUUID?.() ?? String(Math.random()); // a repeated request asks no second question
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const written = text.value.trim();
    showFault(note, "");
    if (!written) {
      showFault(note, words.ask_fault);
      return text.focus();
    }
    if (who?.isMissing()) return showFault(note, words.ask_fault_who);
    if (submit.disabled) return;
    submit.disabled = true;
    const given = [...new Set([...options.querySelectorAll("input")].map(({ value }) => value.trim()).filter(Boolean))];
    try {
      await page.api("POST", "asks/create", {
        ...(conversation.id ? { conversation: conversation.id } : { to: conversation.peer }),
        ...(thread && { thread, also }),
        text: written,
        client_msg_id: requestId,
        ...(given.length && { options: given.map((each, index) => ({ text: each, value: String(index + 1) })) }),
        ...((free.box.checked || !given.length) && { free_text: true }),
        ...who?.fields(),
        ...(Number(until.value) && { seconds: Number(until.value) }),
      });
      dialog.close();
    } catch (error) {
      showFault(note, page.reason(error));
      submit.disabled = false;
    }
  });
}

/**
 * Lets the user choose members of a group, besides those who may answer already.
 *
 * @param {any} page
 * @param {any} session
 * @param {any} conversation
 * @param {string[]} before  who may answer already
 * @param {(users: string[]) => unknown} act  called with the users who were chosen
 */
export function choosePeople(page, session, conversation, before, act) {
  const { words } = page;
  page.choosePeople(session, { title: words.ask_others, go: () => words.ask_others_go, group: String(conversation.id), without: before, act });
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
  const some = checkbox(page, words.ask_some);
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
    choose.hidden = !some.box.checked;
    names.hidden = !some.box.checked;
    if (some.box.checked && !chosen.length) choose.click();
  });
  const others = Math.min(Math.max(conversation.members - 1, 1), MOST_NEEDED);
  const need = make("input", "");
  Object.assign(need, { id: "ask-need", type: "number", min: "1", max: String(MOST_NEEDED), value: String(others), inputMode: "numeric" });
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
 */
function checkbox({ make }, word) {
  const box = make("input", "");
  box.type = "checkbox";
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
function showFault(note, text) {
  note.textContent = text;
  note.hidden = !text;
}
