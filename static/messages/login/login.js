// @ts-check
/** The form to log in or to create an account, by phone number, e-mail address or user name. */

import { element, fill, make, moments } from "../../text.js";
import { CODE_LENGTH, IDENTIFIERS, LEAST_PASSWORD, NAME_LENGTH, PASSWORD_LENGTH, deviceName, houseRules, identifierInput, loadRules } from "../parts/account-fields.js";
import { ApiError, callApi, reasonOf } from "../parts/api.js";
import { attempt, field, input, noteLine, show, withModule } from "../parts/form.js";

/** @typedef {import("../session/session.js").Login} Login */
/** @typedef {import("../session/session.js").Page} Page */
/** @typedef {import("../session/saved-login.js").SavedLogin} SavedLogin */
/** @typedef {import("../parts/account-fields.js").Rules} Rules */

export class LoginView {
  #isNew = false;
  /** Whether the account has asked for a code of its second factor. */
  #takesCode = false;
  /** Whether another form is shown in place of ours. */
  #hasOther = false;
  /** @type {Rules} */
  #rules = { registration: true, identifiers: [...IDENTIFIERS], find: true, passwords: true, reset: false };
  #root = element("login-place", HTMLElement);
  #note = noteLine();
  /** What the user has done, which has ended the login before. */
  #done = make("p", "done");
  #invited = make("p", "invited");
  #providers = make("div", "providers");
  /** Once somebody registers. @type {HTMLElement | null} */
  #houseRules = null;

  /**
   * @param {Page} page
   * @param {SavedLogin} saved
   * @param {(login: Login) => void} onLogin
   */
  constructor(page, saved, onLogin) {
    this.page = page;
    this.saved = saved;
    this.app = page.app;
    this.words = page.text;
    this.onLogin = onLogin;
    this.#note.id = "login-note";
    this.#done.hidden = this.#invited.hidden = true;
    this.#done.setAttribute("role", "status");
    this.#providers.hidden = true;
    this.#draw();
    addEventListener("hashchange", () => this.#showInvitation());
  }

  /**
   * @param {string} reason  why a login is needed; may be empty
   * @param {boolean} isGood  it is what the user wanted
   */
  show(reason, isGood) {
    show(this.#note, isGood ? "" : reason);
    show(this.#done, isGood ? reason : "");
    if (this.#isNew || this.#hasOther) {
      this.#isNew = this.#hasOther = false; // whoever logs out has an account
      this.#draw();
    }
    this.#focus();
    this.#load();
    this.#showInvitation();
    import("./log-in-with.js").then(({ showProviders }) => showProviders(this.page, this.#providers, this.#note)).catch(() => {}); // then only passwords are offered
  }

  /**
   * The browser came back from a provider.
   *
   * @param {string} code
   * @param {boolean} isHere  whether somebody is logged in, and this view is hidden
   */
  async finish(code, isHere) {
    const note = isHere ? null : this.#note;
    await withModule(import("./log-in-with.js"), this.words, ({ finishLogin }) => attempt(this.#root, note, this.words, () => finishLogin(this.page, code, this.onLogin)), note);
  }

  /** What the app wants; without an answer all is offered, and the server decides. */
  async #load() {
    const view = element("login", HTMLElement);
    view.setAttribute("aria-busy", "true");
    try {
      const rules = await loadRules(this.app);
      if (JSON.stringify(rules) === JSON.stringify(this.#rules)) return;
      this.#rules = rules;
      this.#draw();
    } catch {
      // the next request says what is wrong
    } finally {
      view.removeAttribute("aria-busy");
    }
  }

  async #showInvitation() {
    if (!location.hash.startsWith("#invite=")) return show(this.#invited, "");
    const module = await import("../people/invitations.js").catch(() => null);
    if (!module) return;
    const { invitationCode, invitationText, showInvitation } = module;
    const code = invitationCode(location.hash);
    try {
      const preview = await showInvitation(this.app, code);
      const { registration } = preview.guests ? this.#rules : await loadRules(this.app);
      show(this.#invited, `${invitationText(preview, this.words)}${preview.guests || registration ? "" : fill(this.words.messages_invited_closed, { name: preview.nickname || this.words.messages_somebody })}`);
      if (preview.guests) await this.#showOther(({ guestForm }) => guestForm(this.page, preview, code, this.onLogin, () => this.#showOwn()));
    } catch (error) {
      if (!(error instanceof ApiError) || !/^(unknown_invitation|invitation_used)$/.test(error.code)) return show(this.#note, reasonOf(error, this.words));
      const { messages_dead_invitation: title, messages_dead_used: used, messages_dead_ended: ended } = this.words;
      await this.#showOther(({ deadLink }) => deadLink(this.words, title, error.code === "invitation_used" ? used : ended, () => this.#showOwn()));
    }
  }

  /**
   * The link of the owner was opened.
   *
   * @param {string} link
   */
  async showOwner(link) {
    const { words } = this;
    const { valid } = await callApi(this.app, "", "GET", "accounts/reset/show", { code: link.split(".")[1] ?? "" }).catch(() => ({ valid: true })); // then the form says it
    if (!valid) return this.#showOther(({ deadLink }) => deadLink(words, words.messages_dead_owner, words.messages_dead_owner_hint, () => this.#showOwn()));
    await this.#showOther(({ ownerForm }) => ownerForm(this.page, link, this.onLogin));
  }

  /** @param {(module: typeof import("./welcome.js")) => HTMLElement} make */
  async #showOther(make) {
    this.#hasOther = true;
    const module = await import("./welcome.js").catch(() => null);
    if (!module) return this.#showOwn(); // then people with an account can log in
    this.#root.replaceChildren(make(module));
    this.#focus();
  }

  #showOwn() {
    this.#hasOther = false;
    this.#draw();
    this.#focus();
  }

  #draw() {
    if (this.#hasOther) return;
    const { words } = this;
    const { identifiers, passwords, registration, reset, guests } = this.#rules;
    const isNew = this.#isNew && registration;
    const before = this.#root.querySelector("form");
    const values = before ? Object.fromEntries(new FormData(before)) : {};
    const hadFocus = document.activeElement instanceof HTMLInputElement ? document.activeElement.name : "";
    const title = isNew ? words.messages_register : words.messages_login;
    const nickname = input({ name: "nickname", id: "nickname", maxLength: NAME_LENGTH, required: true });
    const identifier = Object.assign(identifierInput(identifiers), { name: "identifier", id: "identifier" });
    const password = input({
      name: "password", id: "password", type: "password", autocomplete: isNew ? "new-password" : "current-password", maxLength: PASSWORD_LENGTH, required: true,
    });
    const code = input({ name: "code", id: "code", autocomplete: "one-time-code", maxLength: CODE_LENGTH, spellcheck: false });
    const takesCode = this.#takesCode && !isNew;
    const label = words[`messages_login_${IDENTIFIERS.filter((kind) => identifiers.includes(kind)).join("_")}`] ?? words.messages_login_phone_email_name;
    const reveal = /** @type {HTMLButtonElement} */ (make("button", "link reveal", words.messages_password_show));
    reveal.type = "button";
    reveal.setAttribute("aria-pressed", "false");
    reveal.addEventListener("click", () => {
      const shown = password.type === "password";
      password.type = shown ? "text" : "password";
      reveal.setAttribute("aria-pressed", String(shown));
    });
    const submit = /** @type {HTMLButtonElement} */ (make("button", "wide", title));
    submit.id = "login-submit";
    const heading = make("h1", "", title);
    heading.id = "login-title";
    if (!passwords) return this.#root.replaceChildren(make("div", "card", make("div", "panel-form", heading, this.#done, this.#invited, this.#note, this.#providers)));
    const form = /** @type {HTMLFormElement} */ (make(
      "form", "card", heading, this.#done, this.#invited,
      ...(isNew ? [field(words.messages_your_name, nickname, words.messages_name_hint)] : []),
      field(label, identifier, isNew && identifiers.includes("name") ? words.messages_login_name_hint : ""),
      make("div", "password-field", field(words.messages_password, password, isNew ? words.messages_password_hint : ""), reveal),
      ...(takesCode ? [field(words.messages_factor_code, code, words.messages_factor_code_hint)] : []),
      ...(isNew ? [(this.#houseRules ??= houseRules(this.app, words))] : []), this.#note, submit, ...(registration ? [this.#switch(isNew)] : guests ? [make("p", "muted", words.messages_invited_only)] : []), ...(reset && !isNew ? [this.#forgotten()] : []), this.#providers,
    ));
    form.id = "login-form";
    form.noValidate = true;
    form.setAttribute("aria-labelledby", heading.id);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(submit, isNew, nickname, identifier, password, code);
    });
    for (const each of form.querySelectorAll("input")) each.value = String(values[each.name] ?? "");
    this.#root.replaceChildren(form);
    const focus = hadFocus ? form.querySelector(`[name="${hadFocus}"]`) : null;
    if (focus instanceof HTMLElement) focus.focus();
  }

  #forgotten() {
    const forgotten = /** @type {HTMLButtonElement} */ (make("button", "link", this.words.messages_forgotten));
    forgotten.type = "button";
    forgotten.addEventListener("click", () => withModule(import("./log-in-with.js"), this.words, ({ openForgotten }) => openForgotten(this.page), this.#note));
    return forgotten;
  }

  /** @param {boolean} isNew */
  #switch(isNew) {
    const { words } = this;
    const other = /** @type {HTMLButtonElement} */ (make("button", "link", isNew ? words.messages_to_login : words.messages_to_register));
    other.type = "button";
    other.id = "login-switch";
    other.addEventListener("click", () => {
      this.#isNew = !isNew;
      show(this.#note, "");
      this.#draw();
      this.#focus();
    });
    return other;
  }

  #focus() {
    const empty = [...this.#root.querySelectorAll("input")].find(({ value }) => !value);
    if (matchMedia("(hover: hover)").matches) empty?.focus(); // on a phone this would open the keyboard
  }

  /**
   * @param {HTMLButtonElement} submit
   * @param {boolean} isNew
   * @param {HTMLInputElement} nickname
   * @param {HTMLInputElement} identifier
   * @param {HTMLInputElement} password
   * @param {HTMLInputElement} code
   */
  async #submit(submit, isNew, nickname, identifier, password, code) {
    const { words } = this;
    const name = nickname.value.trim();
    /** @type {[boolean, HTMLInputElement, string][]} */
    const faults = [
      [isNew && !name, nickname, words.messages_fault_nickname],
      [!identifier.value.trim(), identifier, words.messages_fault_identifier],
      [password.value.length < (isNew ? LEAST_PASSWORD : 1), password, isNew ? words.messages_fault_password : words.messages_fault_no_password],
    ];
    for (const each of [nickname, identifier, password, code]) each.removeAttribute("aria-invalid");
    show(this.#done, "");
    submit.before(this.#note);
    const fault = faults.find(([isWrong]) => isWrong);
    if (fault) {
      show(this.#note, fault[2]);
      return this.#mark(fault[1]);
    }
    const device = deviceName();
    const given = code.value.trim();
    const fields = { login: identifier.value.trim(), password: password.value, device, ...(this.#takesCode && !isNew && given && { code: given }) };
    /** @type {HTMLInputElement | null} */
    let wrong = null;
    let lock = "";
    await attempt(submit, this.#note, words, async () => {
      const route = isNew ? "accounts/register" : "accounts/login";
      const answer = await callApi(this.app, isNew ? "" : this.saved.earlier, "POST", route, isNew ? { ...fields, nickname: name } : fields).catch((error) => {
        if (error.code === "wrong_login") password.focus(); // it may be the other
        if (error.code === "login_taken") wrong = identifier;
        if (error.code === "wrong_code") wrong = code;
        if (error.code === "second_factor_required" && !this.#takesCode) return this.#askForCode();
        if (/^(account_locked|banned)$/.test(error.code)) lock = lockText(error, words);
        if (error.code !== "invalid_request") throw error;
        wrong = { nickname, password }[/** @type {string} */ (error.message).split(":")[0]] ?? identifier; // the message begins with the field
        throw wrong === identifier ? new ApiError("login_form", error.message) : error;
      });
      if (!answer) return; // the form asks for a code now
      const { token, account } = answer;
      password.value = "";
      this.#takesCode = false;
      this.onLogin({ token, user: account.user, nickname: account.nickname, device, ...(isNew && { isNew }) });
    });
    if (wrong) this.#mark(wrong);
    if (!lock) return;
    show(this.#note, lock);
    await withModule(import("./appeal.js"), words, ({ openAppeal, takesAppeals }) => {
      if (!takesAppeals(this.page)) return;
      const appeal = /** @type {HTMLButtonElement} */ (make("button", "link", words.messages_appeal));
      appeal.type = "button";
      appeal.addEventListener("click", () => openAppeal(this.page, this.saved.earlier, { login: fields.login, password: fields.password }));
      this.#note.append(" ", appeal);
    });
  }

  /** The password was right, and the account has a second factor. */
  #askForCode() {
    this.#takesCode = true;
    this.#draw();
    show(this.#note, this.words.messages_fault_second_factor_required);
    element("code", HTMLInputElement).focus();
  }

  /** @param {HTMLInputElement} wrong  the note beside it says why */
  #mark(wrong) {
    wrong.setAttribute("aria-invalid", "true");
    wrong.setAttribute("aria-errormessage", this.#note.id);
    [...(wrong.form?.children ?? [])].find((each) => each.contains(wrong))?.after(this.#note);
    wrong.focus();
  }
}

/**
 * @param {ApiError} error  the problem `account_locked` or `banned`: it says until when, and why
 * @param {Record<string, string>} words
 * @returns {string} the same in the language of the page
 */
function lockText({ code, message }, words) {
  const [, day, hour, reason] = /^(?:The account is locked|banned)(?: until (\S+) (\S+) UTC| for good)?(?:: (.*))?$/.exec(message) ?? [];
  const until = day ? moments(document.documentElement.lang).format(new Date(`${day}T${hour}Z`)) : "";
  const end = until ? fill(code === "banned" ? words.refused_until : words.messages_locked_until, { until, when: until }) : /^banned for good/.test(message) ? words.messages_banned_for_good : words[`messages_fault_${code}`];
  return reason ? `${end}${words.messages_locked_colon}${reason}` : end;
}
