// @ts-check
/**
 * Logging in to an account with a password or a provider, its second factor, and forgotten passwords. For any engine with `fetch`.
 *
 *     const accounts = new Accounts({ url: "http://127.0.0.1:8080", app: "gochat" });
 *     const { token, user } = await accounts.oauthLogin("github", { show: ({ url, shown }) => console.log(url, shown) });
 *
 * @module accounts
 */

import { NotConnected, RequestRefused } from "./errors.js";

/** @typedef {{ provider: string, kind: "oidc" | "github" | "wechat" | "wechat_official", title: string, register: boolean }} LoginProvider */

/**
 * A login that was started: open `url` in a browser, and show the code `shown` to the user.
 *
 * @typedef {object} StartedLogin
 * @property {string} url
 * @property {string} login     its secret handle
 * @property {string} shown     the browser asks whether the device shows it, too
 * @property {number} interval  seconds between two requests to finish it
 * @property {number} expires   seconds after which it is forgotten
 */

/** @typedef {{ token: string, expiresAt: number, user: string, nickname: string }} AccountLogin */
/** @typedef {{ provider: string, title: string, since: number }} ProviderLink */

/**
 * @typedef {object} OAuthOptions
 * @property {string} [device]    name of the device, for the list of logins
 * @property {boolean} [link]     link the account of the token, instead of logging in
 * @property {string} [password]  to link: the current password, if the account has one
 * @property {string} [returnTo]  for pages of the server: the path to which the browser comes back
 */

/** @typedef {OAuthOptions & { show: (started: StartedLogin) => unknown }} ShownOptions  `show`: opens or shows the address of the login */

/** Logs in to accounts of one app, and changes how an account logs in. */
export class Accounts {
  /**
   * @param {object} [options]
   * @param {string} [options.url]    the HTTP address of the server; in a page of the server it may be empty
   * @param {string} [options.app]
   * @param {string} [options.token]  of the account, to change how it logs in
   * @param {number} [options.timeoutMs]  of one request
   */
  constructor({ url = "", app = "gochat", token = "", timeoutMs = 10_000 } = {}) {
    this.url = url.replace(/\/+$/, "");
    this.app = app;
    this.token = token;
    this.timeoutMs = timeoutMs;
  }

  /**
   * Logs in with an identifier of an account and its password. Without a `code` an account with a second factor refuses with
   * `second_factor_required`.
   *
   * @param {string} login
   * @param {string} password
   * @param {{ code?: string, device?: string }} [options]
   * @returns {Promise<AccountLogin>}
   */
  async login(login, password, { code = "", device = "" } = {}) {
    return sessionOf(await this.#call("POST", "login", { login, password, device, ...(code && { code }) }));
  }

  /**
   * Begins to turn on the second factor of the account of the token.
   *
   * @param {string} password
   * @returns {Promise<{ secret: string, address: string }>} for an authenticator app
   */
  beginFactor(password) {
    return this.#call("POST", "factor/begin", { password });
  }

  /**
   * Turns the second factor on, with a code of the authenticator app.
   *
   * @param {string} code
   * @returns {Promise<string[]>} recovery codes; each stands for a code once
   */
  async confirmFactor(code) {
    return (await this.#call("POST", "factor/confirm", { code })).codes;
  }

  /**
   * @param {string} code
   * @returns {Promise<string[]>} new recovery codes in place of all earlier ones
   */
  async renewCodes(code) {
    return (await this.#call("POST", "factor/codes", { code })).codes;
  }

  /**
   * @param {string} password
   * @param {string} code
   */
  async removeFactor(password, code) {
    await this.#call("POST", "factor/remove", { password, code });
  }

  /** @returns {Promise<LoginProvider[]>} the providers of the app */
  async oauthProviders() {
    return (await this.#call("GET", "oauth/providers")).providers;
  }

  /**
   * Starts a login with a provider.
   *
   * @param {string} provider
   * @param {OAuthOptions} [options]
   * @returns {Promise<StartedLogin>}
   */
  oauthStart(provider, { device = "", link = false, password = "", returnTo = "" } = {}) {
    return this.#call("POST", "oauth/start", { provider, device, link, password, return_to: returnTo });
  }

  /**
   * Finishes a login, or the linking of an account, once the user has agreed.
   *
   * @param {StartedLogin} started
   * @param {string} [code]  from the fragment of the address, if the login has a `returnTo`
   * @param {string} [factor]  a code of the second factor, after `second_factor_required`
   * @returns {Promise<AccountLogin | { linked: string } | null>} null: the user has not agreed yet
   */
  async oauthFinish({ login }, code = "", factor = "") {
    const answer = await this.#call("POST", "oauth/finish", { login, code, ...(factor && { factor }) });
    if (answer.pending) return null;
    return answer.linked ? { linked: answer.linked } : sessionOf(answer);
  }

  /**
   * Logs in: `show` opens the address, or shows it with the code. Resolved when the user has agreed.
   *
   * @param {string} provider
   * @param {ShownOptions} options
   * @returns {Promise<AccountLogin>}
   */
  async oauthLogin(provider, { show, device }) {
    const started = await this.oauthStart(provider, { device });
    return /** @type {AccountLogin} */ (await this.#waitForConsent(started, show));
  }

  /**
   * Links the account of the token with a provider. Resolved when the user has agreed.
   *
   * @param {string} provider
   * @param {ShownOptions} options
   */
  async oauthLink(provider, { show, password }) {
    const started = await this.oauthStart(provider, { link: true, password });
    await this.#waitForConsent(started, show);
  }

  /** @returns {Promise<ProviderLink[]>} the providers with which the account of the token logs in */
  async links() {
    return (await this.#call("GET", "oauth/links")).links;
  }

  /** @param {string} provider */
  async unlink(provider) {
    await this.#call("POST", "oauth/unlink", { provider });
  }

  /**
   * Asks for a mail to the account with this identifier. Nobody learns whether it exists.
   *
   * @param {string} login
   */
  async requestReset(login) {
    await this.#call("POST", "reset", { login });
  }

  /**
   * Sets a new password with the code of a mail. All sessions of the account end.
   *
   * @param {string} code
   * @param {string} password
   */
  async finishReset(code, password) {
    await this.#call("POST", "reset/finish", { code, password });
  }

  /**
   * Shows the address, and asks the server until the user has agreed.
   *
   * @param {StartedLogin} started
   * @param {(started: StartedLogin) => unknown} show
   */
  async #waitForConsent(started, show) {
    await show(started);
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, started.interval * 1000));
      const result = await this.oauthFinish(started).catch((error) => {
        // The server forgets the login after a time, and then refuses it: so the loop ends.
        if (error instanceof RequestRefused && !error.temporary) throw error;
        return null;
      });
      if (result) return result;
    }
  }

  /**
   * Sends a request with the token of the account, if there is one.
   *
   * @param {"GET" | "POST"} method
   * @param {string} route  below /api/v1/accounts/
   * @param {object} [body]
   * @returns {Promise<any>} rejected with RequestRefused or NotConnected
   */
  async #call(method, route, body = {}) {
    const isPost = method === "POST";
    const url = `${this.url}/api/v1/accounts/${route}`;
    const headers = { ...(isPost && { "Content-Type": "application/json" }), ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    const hasTimeouts = typeof AbortSignal !== "undefined" && AbortSignal.timeout;
    /** @type {Response} */
    let response;
    let answer;
    try {
      const query = isPost ? "" : `?${new URLSearchParams({ app: this.app })}`;
      response = await fetch(url + query, {
        method,
        headers,
        ...(isPost && { body: JSON.stringify({ app: this.app, ...body }) }),
        ...(hasTimeouts && { signal: AbortSignal.timeout(this.timeoutMs) }),
      });
      answer = await response.json();
    } catch (error) {
      throw new NotConnected(`${method} ${url}: no answer`, error);
    }
    if (!response.ok) throw new RequestRefused(response.status, answer);
    return answer;
  }
}

/**
 * @param {any} answer  to a login
 * @returns {AccountLogin}
 */
function sessionOf({ token, expires_at: expiresAt, account }) {
  return { token, expiresAt, user: account.user, nickname: account.nickname };
}
