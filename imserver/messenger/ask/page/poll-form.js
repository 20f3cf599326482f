// @ts-check
/** The form of whoever begins a poll. Loaded when it is opened. */

import { STYLE } from "./poll.js";

const MOST_OPTIONS = 12;
const OPTION_CHARACTERS = 64;
const TEXT_CHARACTERS = 4000;
/** Seconds; 0: no deadline. */
const DEADLINES = [0, 3_600, 86_400, 604_800];
const FIRST_OPTIONS = 3;
const FEWEST_OPTIONS = 2;

/**
 * Opens the form for a new poll. Fields for options are added as long as all have a text.
 *
 * @param {any} page  the additions
 * @param {any} session
 * @param {any} conversation
 * @param {string} begun  what is written already
 * @param {{ thread?: number, also?: boolean }} [place]  in a thread
 */
export async function openPollForm(page, session, conversation, begun, { thread = 0, also = false } = {}) {
  const { button, fill, make, openDialog, words } = page;
  await page.loadStyle(STYLE);
  const text = make("textarea", "");
  Object.assign(text, { id: "poll-text", rows: 2, maxLength: TEXT_CHARACTERS, value: begun, required: true, dir: "auto" });
  text.placeholder = words.ask_poll_what;
  const list = make("div", "ask-choices");
  /** @returns {HTMLInputElement[]} */
  const fields = () => [...list.querySelectorAll("input")];
  const addField = () => {
    const option = make("input", "");
    const label = fill(words.ask_poll_option, { number: fields().length + 1 });
    Object.assign(option, { type: "text", maxLength: OPTION_CHARACTERS, placeholder: label, autocomplete: "off", dir: "auto", enterKeyHint: "next" });
    option.setAttribute("aria-label", label);
    option.addEventListener("input", addFieldIfFull);
    option.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.isComposing) return;
      const all = fields();
      const index = all.indexOf(option);
      if (event.key === "Enter" && option.value.trim() && index < all.length - 1) {
        event.preventDefault(); // it would send the form
        all[index + 1].focus();
      } else if (event.key === "Backspace" && !option.value && index > 0) {
        event.preventDefault();
        all[index - 1].focus();
      }
    });
    list.append(option);
  };
  const addFieldIfFull = () => {
    if (fields().length < MOST_OPTIONS && fields().every(({ value }) => value.trim())) addField();
  };
  for (let count = 0; count < FIRST_OPTIONS; count += 1) addField();
  const many = box(page, words.ask_poll_many, words.ask_poll_many_hint);
  const anonymous = box(page, words.ask_poll_anonymous, words.ask_poll_anonymous_hint);
  const until = make("select", "");
  until.id = "poll-until";
  until.append(...DEADLINES.map((seconds) => new Option(words[`ask_for_${seconds}`], String(seconds))));
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  note.hidden = true;
  const showFault = (/** @type {string} */ fault) => Object.assign(note, { textContent: fault, hidden: !fault });
  const cancel = button(words.messages_cancel);
  const submit = button(words.ask_poll_go, "wide");
  submit.type = "submit";
  const form = make(
    "form", "panel-form ask-form",
    make("label", "field-label", make("span", "", words.ask_what), text),
    make("fieldset", "ask-group", make("legend", "", words.ask_poll_options), list),
    make("div", "ask-group", many.root, anonymous.root),
    make("label", "field-label", make("span", "", words.ask_poll_deadline), until),
    note,
    make("p", "card-row", cancel, submit),
  );
  const dialog = openDialog(words.ask_poll_new, form);
  cancel.addEventListener("click", () => dialog.close());
  (begun ? fields()[0] : text).focus();

  const requestId = crypto.randomUUID?.() ?? String(Math.random()); // a repeated request makes no second poll
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const written = text.value.trim();
    const options = [...new Set(fields().map(({ value }) => value.trim()).filter(Boolean))];
    showFault("");
    if (!written) {
      showFault(words.ask_fault);
      return text.focus();
    }
    if (options.length < FEWEST_OPTIONS) {
      showFault(words.ask_poll_fault);
      const empty = fields().find(({ value }) => !value.trim());
      return (empty ?? list.querySelector("input"))?.focus();
    }
    if (submit.disabled) return;
    submit.disabled = true;
    try {
      await page.api("POST", "asks/create", {
        ...(conversation.id ? { conversation: conversation.id } : { to: conversation.peer }),
        ...(thread && { thread, also }),
        text: written,
        poll: true,
        client_msg_id: requestId,
        options: options.map((each, index) => ({ text: each, value: String(index + 1) })),
        ...(many.input.checked && { many: true }),
        ...(anonymous.input.checked && { anonymous: true }),
        ...(Number(until.value) && { seconds: Number(until.value) }),
      });
      dialog.close();
    } catch (error) {
      showFault(page.reason(error));
      submit.disabled = false;
    }
  });
}

/**
 * A switch with its word and a hint.
 *
 * @param {any} page
 * @param {string} word
 * @param {string} hint
 */
function box({ make }, word, hint) {
  const input = make("input", "");
  input.type = "checkbox";
  input.setAttribute("role", "switch");
  return { root: make("label", "switch", make("span", "", word, make("small", "field-hint", hint)), input), input };
}
