// @ts-check
/** The second factor of the account: turn it on and off, new recovery codes. Loaded when it is opened. */

import { copyText } from "../../page-parts.js";
import { make } from "../../text.js";
import { CODE_LENGTH, PASSWORD_LENGTH } from "../parts/account-fields.js";
import { copyButton } from "../parts/copy-button.js";
import { attempt, field, input, loadStyle, noteLine } from "../parts/form.js";
import { asPassword } from "../login/log-in-with.js";
import { button, openDialog, toast } from "../parts/panel.js";
import { qrPicture } from "../parts/qr.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {{ session: Session, takesPassword: boolean, body: HTMLElement, layer: ReturnType<typeof openDialog>, changed: () => unknown }} Dialog */

/**
 * @param {Session} session
 * @param {{ second_factor: boolean }} account
 * @param {boolean} takesPassword  whether accounts of the app have passwords
 * @param {() => unknown} changed
 */
export async function openSecondFactor(session, account, takesPassword, changed) {
  await loadStyle(new URL("../later/second-factor.css", import.meta.url));
  const body = make("div", "factor");
  const layer = openDialog(session.words.messages_factor, body);
  const dialog = { session, takesPassword, body, layer, changed };
  if (account.second_factor) showOn(dialog);
  else showOff(dialog);
}

/** @param {Dialog} dialog  shows the way to turn the second factor on */
function showOff(dialog) {
  const { session, takesPassword, body } = dialog;
  const { words } = session;
  const password = passwordInput();
  const fields = takesPassword ? passwordFields(session, password) : [];
  const { form, go, note } = formOf(words.messages_factor_begin, make("p", "muted", words.messages_factor_about), ...fields);
  body.replaceChildren(form);
  if (takesPassword) password.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(go, note, words, async () => {
      const secret = await session.api("POST", "accounts/factor/begin", { password: password.value }).catch(asPassword);
      showSecret(dialog, secret);
    });
  });
}

/**
 * Shows the secret for an application that makes codes, and asks for the first code.
 *
 * @param {Dialog} dialog
 * @param {{ secret: string, address: string }} answer  of the server; `address`: the secret as a QR code has it
 */
function showSecret(dialog, { secret, address }) {
  const { session, body, changed } = dialog;
  const { words } = session;
  const text = input({ value: secret, readOnly: true, spellcheck: false });
  text.id = "factor-secret";
  const code = codeInput();
  const copy = copyButton(text, words.messages_factor_copy, words);
  copy.type = "button";
  copy.className = "quiet";
  const open = /** @type {HTMLAnchorElement} */ (make("a", "", words.messages_factor_open));
  open.href = address;
  const { form, go, note } = formOf(
    words.messages_factor_confirm, make("p", "", words.messages_factor_scan), make("div", "qr-frame", qrPicture(address, words.messages_qr)),
    make("div", "field-line", field(words.messages_factor_secret, text), copy), make("p", "muted", open),
    field(words.messages_factor_code, code, words.messages_factor_code_hint),
  );
  body.replaceChildren(form);
  code.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(go, note, words, async () => {
      const { codes } = await session.api("POST", "accounts/factor/confirm", { code: code.value.trim() });
      changed();
      showCodes(dialog, codes);
    });
  });
}

/**
 * Shows the recovery codes, once.
 *
 * @param {Dialog} dialog
 * @param {string[]} codes
 */
function showCodes({ session, body, layer }, codes) {
  const { words } = session;
  const list = make("ul", "factor-codes", ...codes.map((code) => make("li", "", code)));
  list.setAttribute("aria-label", words.messages_factor_codes);
  const copy = button(words.messages_factor_copy_codes, "wide");
  copy.addEventListener("click", async () => {
    const isCopied = await copyText(codes.join("\n"));
    toast(isCopied ? words.messages_copied : words.messages_copy_failed);
  });
  const close = button(words.messages_factor_done);
  close.addEventListener("click", () => layer.close());
  const about = make("p", "", words.messages_factor_codes_about);
  about.tabIndex = -1;
  body.replaceChildren(about, list, make("p", "card-actions", copy, close));
  about.focus();
}

/** @param {Dialog} dialog  shows the way to new recovery codes, and to turn the second factor off */
function showOn(dialog) {
  const { session, takesPassword, body, layer, changed } = dialog;
  const { words } = session;
  const code = codeInput();
  const password = passwordInput();
  const note = noteLine();
  const renew = button(words.messages_factor_renew);
  const off = button(words.messages_factor_off, "quiet danger");
  const lacksCode = () => !code.value.trim();
  renew.addEventListener("click", () => attempt(renew, note, words, async () => {
    if (lacksCode()) return code.focus();
    const { codes } = await session.api("POST", "accounts/factor/codes", { code: code.value.trim() });
    showCodes(dialog, codes);
  }));
  off.addEventListener("click", () => attempt(off, note, words, async () => {
    if (lacksCode()) return code.focus();
    await session.api("POST", "accounts/factor/remove", { password: password.value, code: code.value.trim() }).catch(asPassword);
    changed();
    layer.close();
    toast(words.messages_factor_is_off);
  }));
  const form = make(
    "form", "panel-form", make("p", "", words.messages_factor_is_on), field(words.messages_factor_code, code, words.messages_factor_code_hint),
    make("p", "panel-buttons", renew), ...(takesPassword ? passwordFields(session, password) : []), note, make("p", "panel-buttons", off),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  body.replaceChildren(form);
  code.focus();
}

/** @returns {HTMLInputElement} */
function codeInput() {
  return input({ name: "code", autocomplete: "one-time-code", maxLength: CODE_LENGTH, required: true, spellcheck: false });
}

/** @returns {HTMLInputElement} */
function passwordInput() {
  return input({ type: "password", autocomplete: "current-password", maxLength: PASSWORD_LENGTH });
}

/**
 * @param {Session} session
 * @param {HTMLInputElement} password
 */
function passwordFields({ words }, password) {
  const name = input({ autocomplete: "username", readOnly: true, hidden: true }); // browsers want one beside a password
  return [name, field(words.messages_password_old, password, words.messages_password_if_any)];
}

/**
 * @param {string} label  of the button
 * @param {HTMLElement[]} fields
 */
function formOf(label, ...fields) {
  const note = noteLine();
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide", label));
  const form = /** @type {HTMLFormElement} */ (make("form", "panel-form", ...fields, note, go));
  form.noValidate = true;
  return { form, go, note };
}
