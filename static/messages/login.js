// @ts-check
/** The form to log in or to create an account. */

import { element, showNote } from "../text.js";
import { callApi, reasonOf } from "./api.js";

/** @typedef {import("./session.js").Login} Login */
/** @typedef {import("./session.js").Page} Page */

export class LoginView {
  #form = element("login-form", HTMLFormElement);
  #phone = element("phone", HTMLInputElement);
  #password = element("password", HTMLInputElement);
  #nickname = element("nickname", HTMLInputElement);
  #submit = element("login-submit", HTMLButtonElement);
  #switch = element("login-switch", HTMLButtonElement);

  /**
   * @param {Page} page
   * @param {(login: Login) => void} onLogin
   */
  constructor(page, onLogin) {
    this.app = page.app;
    this.words = page.text;
    this.onLogin = onLogin;
    this.#switch.addEventListener("click", () => this.#setMode(this.#form.dataset.mode === "login"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#logIn();
    });
    this.#setMode(false);
  }

  /** @param {string} reason  why a login is needed; may be empty */
  show(reason) {
    showNote("login-note", reason);
    this.#phone.focus();
  }

  /** @param {boolean} register  create an account instead of logging in to one */
  #setMode(register) {
    const { words } = this;
    const title = register ? words.messages_register : words.messages_login;
    this.#form.dataset.mode = register ? "register" : "login";
    element("login-title", HTMLElement).textContent = title;
    this.#submit.textContent = title;
    this.#switch.textContent = register ? words.messages_to_login : words.messages_to_register;
    element("nickname-label", HTMLElement).hidden = !register;
    element("password-hint", HTMLElement).hidden = !register;
    this.#password.autocomplete = register ? "new-password" : "current-password";
    showNote("login-note", "");
  }

  async #logIn() {
    const [phone, password, nickname] = [this.#phone.value.trim(), this.#password.value, this.#nickname.value.trim()];
    const register = this.#form.dataset.mode === "register";
    showNote("login-note", "");
    this.#submit.disabled = true;
    try {
      const fields = register ? { phone, password, nickname } : { phone, password };
      const { token, account } = await callApi(this.app, "", "POST", register ? "accounts/register" : "accounts/login", fields);
      this.#password.value = "";
      this.onLogin({ token, user: account.user, nickname: account.nickname });
    } catch (error) {
      showNote("login-note", reasonOf(error, this.words));
      this.#password.focus();
    }
    this.#submit.disabled = false;
  }
}
