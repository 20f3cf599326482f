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
  /** Says what has ended the login before, if it is what the user wanted. */
  #done = make("p", "done");
  #invited = make("p", "invited");
  #providers = make("div", "providers");
  /** Loaded when somebody registers for the first time. @type {HTMLElement | null} */
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
    // If it fails, only passwords are offered.
    import("./log-in-with.js").then(({ showProviders }) => showProviders(this.page, this.#providers, this.#note)).catch(() => {});
  }

  /**
   * The browser came back from a provider.
   *
   * @param {string} code
   * @param {boolean} isHere  whether somebody is logged in, and this view is hidden
   */
  async finish(code, isHere) {
    const note = isHere ? null : this.#note;
    await withModule(import("./log-in-with.js"), this.words, ({ finishLogin }) => (
      attempt(this.#root, note, this.words, () => finishLogin(this.page, code, this.onLogin))
    ), note);
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

  /** Shows the invitation of the address: what it is for, the form for guests, or why its link does not work. */
  async #showInvitation() {
    if (!location.hash.startsWith("#invite=")) return show(this.#invited, "");
    const module = await import("../people/invitations.js").catch(() => null);
    if (!module) return;
    const { words } = this;
    const { invitationCode, invitationText, showInvitation } = module;
    const code = invitationCode(location.hash);
    try {
      const preview = await showInvitation(this.app, code);
      const mayJoin = preview.guests || (await loadRules(this.app)).registration;
      const closed = fill(words.messages_invited_closed, { name: preview.nickname || words.messages_somebody });
      show(this.#invited, invitationText(preview, words) + (mayJoin ? "" : closed));
      if (preview.guests) await this.#showOther(({ guestForm }) => guestForm(this.page, preview, code, this.onLogin, () => this.#showOwn()));
    } catch (error) {
      const isDead = error instanceof ApiError && ["unknown_invitation", "invitation_used"].includes(error.code);
      if (!isDead) return show(this.#note, reasonOf(error, words));
      const why = error.code === "invitation_used" ? words.messages_dead_used : words.messages_dead_ended;
      await this.#showOther(({ deadLink }) => deadLink(words, words.messages_dead_invitation, why, () => this.#showOwn()));
    }
  }

  /**
   * The link of the owner was opened.
   *
   * @param {string} link
   */
  async showOwner(link) {
    const { words } = this;
    const [, code = ""] = link.split(".");
    const { valid } = await callApi(this.app, "", "GET", "accounts/reset/show", { code }).catch(() => ({ valid: true })); // then the form says it
    if (!valid) {
      return this.#showOther(({ deadLink }) => deadLink(words, words.messages_dead_owner, words.messages_dead_owner_hint, () => this.#showOwn()));
    }
    await this.#showOther(({ ownerForm }) => ownerForm(this.page, link, this.onLogin));
  }

  /** @param {(module: typeof import("./welcome.js")) => HTMLElement} makeForm  what is shown in place of the form to log in */
  async #showOther(makeForm) {
    this.#hasOther = true;
    const module = await import("./welcome.js").catch(() => null);
    if (!module) return this.#showOwn(); // then people with an account can log in
    this.#root.replaceChildren(makeForm(module));
    this.#focus();
  }

  #showOwn() {
    this.#hasOther = false;
    this.#draw();
    this.#focus();
  }

  /** Draws the form for what the app allows. What is typed stays, and so does the focus. */
  #draw() {
    if (this.#hasOther) return;
    const { words } = this;
    const { identifiers, passwords, registration } = this.#rules;
    const isNew = this.#isNew && registration;
    const before = this.#root.querySelector("form");
    const values = before ? Object.fromEntries(new FormData(before)) : {};
    const focusedName = document.activeElement instanceof HTMLInputElement ? document.activeElement.name : "";
    const title = isNew ? words.messages_register : words.messages_login;
    const nickname = input({ name: "nickname", id: "nickname", maxLength: NAME_LENGTH, required: true });
    const identifier = Object.assign(identifierInput(identifiers), { name: "identifier", id: "identifier" });
    const password = input({
      name: "password", id: "password", type: "password", autocomplete: isNew ? "new-password" : "current-password", maxLength: PASSWORD_LENGTH, required: true,
    });
    const code = input({ name: "code", id: "code", autocomplete: "one-time-code", maxLength: CODE_LENGTH, spellcheck: false });
    const takesCode = this.#takesCode && !isNew;
    const kinds = IDENTIFIERS.filter((kind) => identifiers.includes(kind)).join("_");
    const label = words[`messages_login_${kinds}`] ?? words.messages_login_phone_email_name;
    const submit = /** @type {HTMLButtonElement} */ (make("button", "wide", title));
    submit.id = "login-submit";
    const heading = make("h1", "", title);
    heading.id = "login-title";
    if (!passwords) {
      const parts = make("div", "panel-form", heading, this.#done, this.#invited, this.#note, this.#providers);
      return this.#root.replaceChildren(make("div", "card", parts));
    }

    const form = /** @type {HTMLFormElement} */ (make(
      "form", "card", heading, this.#done, this.#invited,
      ...(isNew ? [field(words.messages_your_name, nickname, words.messages_name_hint)] : []),
      field(label, identifier, isNew && identifiers.includes("name") ? words.messages_login_name_hint : ""),
      make("div", "password-field", field(words.messages_password, password, isNew ? words.messages_password_hint : ""), this.#reveal(password)),
      ...(takesCode ? [field(words.messages_factor_code, code, words.messages_factor_code_hint)] : []),
      ...(isNew ? [(this.#houseRules ??= houseRules(this.app, words))] : []), this.#note, submit, ...this.#otherWays(isNew), this.#providers,
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
    const focused = focusedName ? form.querySelector(`[name="${focusedName}"]`) : null;
    if (focused instanceof HTMLElement) focused.focus();
  }

  /** @param {HTMLInputElement} password @returns {HTMLElement} a button that shows and hides it */
  #reveal(password) {
    const reveal = /** @type {HTMLButtonElement} */ (make("button", "link reveal", this.words.messages_password_show));
    reveal.type = "button";
    reveal.setAttribute("aria-pressed", "false");
    reveal.addEventListener("click", () => {
      const isShown = password.type === "password";
      password.type = isShown ? "text" : "password";
      reveal.setAttribute("aria-pressed", String(isShown));
    });
    return reveal;
  }

  /** @param {boolean} isNew @returns {HTMLElement[]} below the button: for people without an account, and without their password */
  #otherWays(isNew) {
    const { registration, reset, guests } = this.#rules;
    const ways = [];
    if (registration) ways.push(this.#switch(isNew));
    else if (guests) ways.push(make("p", "muted", this.words.messages_invited_only));
    if (reset && !isNew) ways.push(this.#forgotten());
    return ways;
  }

  #forgotten() {
    const forgotten = /** @type {HTMLButtonElement} */ (make("button", "link", this.words.messages_forgotten));
    forgotten.type = "button";
    forgotten.addEventListener("click", () => (
      withModule(import("./log-in-with.js"), this.words, ({ openForgotten }) => openForgotten(this.page), this.#note)
    ));
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

  /** Moves the focus to the first empty field. */
  #focus() {
    const empty = [...this.#root.querySelectorAll("input")].find(({ value }) => !value);
    if (matchMedia("(hover: hover)").matches) empty?.focus(); // on a phone this would open the keyboard
  }

  /**
   * Logs in, or makes an account. If a field is wrong, it says so beside it.
   *
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
    const login = identifier.value.trim();
    for (const each of [nickname, identifier, password, code]) each.removeAttribute("aria-invalid");
    show(this.#done, "");
    submit.before(this.#note);
    /** @type {[boolean, HTMLInputElement, string][]} */
    const faults = [
      [isNew && !name, nickname, words.messages_fault_nickname],
      [!login, identifier, words.messages_fault_identifier],
      [isNew && password.value.length < LEAST_PASSWORD, password, words.messages_fault_password],
      [!password.value, password, words.messages_fault_no_password],
    ];
    const fault = faults.find(([isWrong]) => isWrong);
    if (fault) {
      const [, box, reason] = fault;
      show(this.#note, reason);
      return this.#mark(box);
    }

    const device = deviceName();
    const typedCode = code.value.trim();
    const fields = { login, password: password.value, device };
    const [route, token, body] = isNew
      ? ["accounts/register", "", { ...fields, nickname: name }]
      : ["accounts/login", this.saved.earlier, { ...fields, ...(this.#takesCode && typedCode && { code: typedCode }) }];
    /** @type {HTMLInputElement | null} */
    let wrong = null;
    let lock = "";
    await attempt(submit, this.#note, words, async () => {
      const answer = await callApi(this.app, token, "POST", route, body).catch((error) => {
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
      const { account } = answer;
      password.value = "";
      this.#takesCode = false;
      this.onLogin({ token: answer.token, user: account.user, nickname: account.nickname, device, ...(isNew && { isNew }) });
    });
    if (wrong) this.#mark(wrong);
    if (lock) await this.#offerAppeal(lock, { login, password: fields.password });
  }

  /**
   * The account is locked or banned: the user may appeal.
   *
   * @param {string} lock  until when, and why
   * @param {{ login: string, password: string }} login
   */
  async #offerAppeal(lock, login) {
    const { words } = this;
    show(this.#note, lock);
    await withModule(import("./appeal.js"), words, ({ openAppeal, takesAppeals }) => {
      if (!takesAppeals(this.page)) return;
      const appeal = /** @type {HTMLButtonElement} */ (make("button", "link", words.messages_appeal));
      appeal.type = "button";
      appeal.addEventListener("click", () => openAppeal(this.page, this.saved.earlier, login));
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
  let end = words[`messages_fault_${code}`];
  if (day) {
    const until = moments(document.documentElement.lang).format(new Date(`${day}T${hour}Z`));
    end = fill(code === "banned" ? words.refused_until : words.messages_locked_until, { until, when: until });
  } else if (message.startsWith("banned for good")) end = words.messages_banned_for_good;
  return reason ? `${end}${words.messages_locked_colon}${reason}` : end;
}
