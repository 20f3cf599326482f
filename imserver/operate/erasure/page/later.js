// @ts-check
/** The end of the user's own account, in the settings of the messages page. */

/** @type {any} */
let page;

/** @param {any} additions */
export function start(additions) {
  page = additions;
  page.addSettings(() => {
    const { words, make, button } = page;
    const open = button(words.erasure_start, "quiet danger");
    open.dataset.key = "erase";
    open.addEventListener("click", () => ask(open));
    return { title: words.erasure_title, content: make("div", "", make("p", "muted", words.erasure_what), make("p", "panel-buttons", open)) };
  });
}

/**
 * Asks whether the account goes, and for what proves that its owner wants it.
 *
 * @param {HTMLButtonElement} open
 */
async function ask(open) {
  const { api, words, make, button, toast } = page;
  open.disabled = true;
  /** @type {any} */
  let account;
  /** @type {any} */
  let rules;
  try {
    [account, rules] = await Promise.all([api("GET", "accounts/show", {}), api("GET", "accounts/rules", {})]);
  } catch (error) {
    return toast(page.reason(error));
  } finally {
    open.disabled = false;
  }
  const password = input("password", "current-password");
  const code = input("text", "one-time-code");
  const fields = [];
  if (rules.passwords && !account.guest) {
    const name = input("text", "username"); // for password managers
    Object.assign(name, { value: account.name || account.email || account.phone, readOnly: true, hidden: true });
    fields.push(name, field(words.messages_password_old, password, words.messages_password_if_any));
  }
  if (account.second_factor) fields.push(field(words.messages_factor_code, code, words.messages_factor_code_hint));
  const cancel = button(words.messages_cancel);
  const submit = button(words.erasure_start, "wide danger");
  submit.type = "submit";
  const note = make("p", "note");
  note.setAttribute("role", "alert");
  const form = make("form", "panel-form", make("p", "", words.erasure_question), ...fields, note, make("p", "card-row", cancel, submit));
  const layer = page.openDialog(words.erasure_ask, form);
  (fields.length ? form.querySelector("input:not([hidden])") : cancel).focus();
  cancel.addEventListener("click", () => layer.close());
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    note.textContent = "";
    const erase = () => api("POST", "users/erase/self", { password: password.value, code: code.value.trim() });
    try {
      await page.endLogin(erase, words.erasure_done);
    } catch (error) {
      const isWrong = /** @type {any} */ (error).code === "not_allowed";
      note.textContent = isWrong ? words.erasure_wrong : page.reason(error);
      submit.disabled = false;
    }
  });
}

/**
 * @param {string} type
 * @param {string} autocomplete
 * @returns {HTMLInputElement}
 */
function input(type, autocomplete) {
  return Object.assign(page.make("input", ""), { type, autocomplete, maxLength: type === "password" ? 250 : 40, spellcheck: false });
}

/**
 * @param {string} label
 * @param {HTMLInputElement} control
 * @param {string} hint
 * @returns {HTMLElement}
 */
function field(label, control, hint) {
  const { make } = page;
  const text = make("small", "field-hint", hint);
  text.id = `erasure-${control.autocomplete}-hint`;
  control.setAttribute("aria-describedby", text.id);
  return make("div", "field-group", make("label", "field-label", make("span", "", label), control), text);
}
