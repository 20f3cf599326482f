// @ts-check
/** For people without an account: guests, who come by an invitation, and the owner, who opens the link of `imserver chat`. */

import { make } from "../../text.js";
import { LEAST_PASSWORD, NAME_LENGTH, PASSWORD_LENGTH, deviceName, houseRules, identifierInput } from "../parts/account-fields.js";
import { callApi } from "../parts/api.js";
import { SavedLogin } from "../session/saved-login.js";
import { attempt, field, input, noteLine, section, show } from "../parts/form.js";
import { invitationPicture, invitationText, membersText } from "../people/invitations.js";
import { button, toast, whenLeft } from "../parts/panel.js";


/** @typedef {import("../session/session.js").Login} Login */
/** @typedef {import("../session/session.js").Page} Page */
/** @typedef {import("../session/session.js").Session} Session */

/**
 * The form with which a guest comes in: a name is enough.
 *
 * @param {Page} page
 * @param {import("../people/invitations.js").Preview} preview
 * @param {string} code
 * @param {(login: Login) => void} onLogin
 * @param {() => void} toLogin  for those who have an account
 */
export function guestForm({ app, text: words }, preview, code, onLogin, toLogin) {
  const name = nameInput();
  const have = button(words.messages_have_account, "link");
  have.addEventListener("click", toLogin);
  const members = preview.group ? `${membersText(preview.members, words)} · ` : "";
  const intro = [invitationPicture(preview), heading(invitationText(preview, words)), make("p", "muted", members + words.messages_guest_hint)];
  const fields = [field(words.messages_your_name, name, words.messages_name_hint), houseRules(app, words)];
  return card("guest", intro, fields, words.messages_join, [have], words, async () => {
    const nickname = required(name, words.messages_fault_nickname);
    const device = deviceName();
    const { session, group } = await callApi(app, "", "POST", "invitations/join", { code, nickname, device });
    history.replaceState(null, "", group ? `#c/${group}` : `#u/${preview.user}`);
    onLogin({ token: session.token, user: session.account.user, nickname: session.account.nickname, device, guest: true, isNew: true });
  });
}

/**
 * What a link that does not work any more shows: why, and what to do.
 *
 * @param {Record<string, string>} words
 * @param {string} title
 * @param {string} text
 * @param {() => void} toLogin
 */
export function deadLink(words, title, text, toLogin) {
  const login = button(words.messages_login, "wide");
  login.id = "dead-login";
  login.addEventListener("click", () => {
    history.replaceState(null, "", location.pathname + location.search);
    toLogin();
  });
  const made = make("section", "card dead-link", heading(title), make("p", "muted", text), login);
  made.setAttribute("aria-labelledby", "login-title");
  return made;
}

/**
 * The form of the owner, whose link has the user name, a code that is valid once, and a group.
 *
 * @param {Page} page
 * @param {string} link  `name.code.group`
 * @param {(login: Login) => void} onLogin
 */
export function ownerForm({ app, text: words }, link, onLogin) {
  const [login, code, group] = link.split(".");
  const name = nameInput();
  const identifier = input({ value: login, autocomplete: "username", readOnly: true, hidden: true }); // for password managers
  const password = input({ name: "password", type: "password", autocomplete: "new-password", maxLength: PASSWORD_LENGTH, required: true });
  const intro = [heading(words.messages_owner_title), make("p", "muted", words.messages_owner_hint)];
  const fields = [
    field(words.messages_your_name, name, words.messages_name_hint),
    field(words.messages_login_name, make("span", "", make("bdi", "", login)), words.messages_owner_login_hint), identifier,
    field(words.messages_password, password, words.messages_password_hint),
  ];
  return card("welcome", intro, fields, words.messages_owner_go, [], words, async () => {
    const nickname = required(name, words.messages_fault_nickname);
    if (password.value.length < LEAST_PASSWORD) throw new Fault(password, words.messages_fault_password);
    const device = deviceName();
    await callApi(app, "", "POST", "accounts/reset/finish", { code, password: password.value });
    const { token, account } = await callApi(app, "", "POST", "accounts/login", { login, password: password.value, device });
    await callApi(app, token, "POST", "accounts/set", { nickname });
    history.replaceState(null, "", group ? `#c/${group}` : location.pathname + location.search);
    onLogin({ token, user: account.user, nickname, device, isNew: true });
  });
}

/**
 * The part of a guest's profile in which the guest becomes a member.
 *
 * @param {Session} session
 * @param {string[]} identifiers  that accounts of the app may have
 */
export function memberSection(session, identifiers) {
  const { words } = session;
  const kinds = identifiers.join("_");
  const identifier = identifierInput(identifiers);
  identifier.id = "member-login";
  const password = input({ type: "password", autocomplete: "new-password", maxLength: PASSWORD_LENGTH, required: true });
  const label = words[`messages_login_${kinds}`] ?? words.messages_login_phone_email_name;
  const hint = identifiers.includes("name") ? words.messages_login_name_hint : "";
  const fields = [field(label, identifier, hint), field(words.messages_password, password, words.messages_password_hint)];
  const form = formOf("member", fields, words.messages_member_go, words, async () => {
    const login = required(identifier, words.messages_fault_identifier);
    if (password.value.length < LEAST_PASSWORD) throw new Fault(password, words.messages_fault_password);
    const device = deviceName();
    await session.endBy(async () => {
      const { token, account } = await session.api("POST", "accounts/promote", { login, password: password.value, device });
      new SavedLogin(session.app).set({ token, user: account.user, nickname: account.nickname, device });
    }, "", false); // the token of the guest has ended: the page goes on with the new one
    await whenLeft(); // the profile is closed
    toast(words.messages_member_done);
  });
  return section(words.messages_member_title, make("p", "muted", words.messages_member_hint), form);
}

/** A field is wrong: the form shows the reason beside it. */
class Fault extends Error {
  /**
   * @param {HTMLInputElement} wrong
   * @param {string} reason
   */
  constructor(wrong, reason) {
    super(reason);
    this.wrong = wrong;
  }
}

/**
 * @param {HTMLInputElement} box
 * @param {string} reason  of the Fault that is thrown if the box is empty
 * @returns {string} what is typed
 */
function required(box, reason) {
  const text = box.value.trim();
  if (!text) throw new Fault(box, reason);
  return text;
}

function nameInput() {
  return input({ name: "nickname", id: "nickname", maxLength: NAME_LENGTH, autocomplete: "name", required: true });
}

/** @param {string} text */
function heading(text) {
  const title = make("h1", "", text);
  title.id = "login-title";
  return title;
}

/**
 * A form in a card, in place of the form to log in.
 *
 * @param {string} name
 * @param {HTMLElement[]} intro  above the fields
 * @param {HTMLElement[]} fields
 * @param {string} label  of the button
 * @param {HTMLElement[]} more  below the button
 * @param {Record<string, string>} words
 * @param {() => Promise<void>} act
 */
function card(name, intro, fields, label, more, words, act) {
  const form = formOf(name, fields, label, words, act);
  form.className = "card";
  form.prepend(...intro);
  form.append(...more);
  form.setAttribute("aria-labelledby", "login-title");
  return form;
}

/**
 * A form with a button and a line that says what is wrong.
 *
 * @param {string} name  begins the ids of its parts
 * @param {HTMLElement[]} fields
 * @param {string} label  of the button
 * @param {Record<string, string>} words
 * @param {() => Promise<void>} act  throws a Fault if a field is wrong
 */
function formOf(name, fields, label, words, act) {
  const note = noteLine();
  note.id = `${name}-note`;
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide", label));
  go.id = `${name}-go`;
  const form = /** @type {HTMLFormElement} */ (make("form", "panel-form", ...fields, note, go));
  form.id = `${name}-form`;
  form.noValidate = true;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const each of form.querySelectorAll("input")) each.removeAttribute("aria-invalid");
    /** @type {Fault | null} */
    let fault = null;
    await attempt(go, note, words, () => act().catch((error) => {
      if (!(error instanceof Fault)) throw error;
      fault = error;
    }));
    if (fault) mark(fault, note);
  });
  return form;
}

/**
 * @param {Fault} fault
 * @param {HTMLElement} note
 */
function mark({ wrong, message }, note) {
  show(note, message);
  wrong.setAttribute("aria-invalid", "true");
  wrong.setAttribute("aria-errormessage", note.id);
  wrong.focus();
}
