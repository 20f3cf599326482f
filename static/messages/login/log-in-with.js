// @ts-check
/** Logging in with a provider, its links in the profile, and forgotten passwords. Loaded when it is needed. */

import { element, fill, make, ROOT } from "../../text.js";
import { CODE_LENGTH, LEAST_PASSWORD, PASSWORD_LENGTH, deviceName, identifierInput, loadRules } from "../parts/account-fields.js";
import { ApiError, callApi } from "../parts/api.js";
import { attempt, field, input, namedList, noteLine, section, show } from "../parts/form.js";
import { icon } from "../parts/file.js";
import { button, navigate, openDialog, toast } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Login} Login */
/** @typedef {import("../session/session.js").Page} Page */
/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {{ provider: string, kind: string, title: string }} Provider */

/** The login that this tab has started, until its browser comes back. */
const STARTED = "imserver:login";

/**
 * @param {string} app
 * @returns {Promise<Provider[]>} those that work in this browser: WeChat's own has no second device for a QR code
 */
async function loadProviders(app) {
  /** @type {{ providers: Provider[] }} */
  const { providers } = await callApi(app, "", "GET", "accounts/oauth/providers");
  const inWeChat = navigator.userAgent.includes("MicroMessenger");
  return providers.filter(({ kind }) => kind !== (inWeChat ? "wechat" : "wechat_official"));
}

/**
 * Leaves the page for that of a provider.
 *
 * @param {string} app
 * @param {string} token  of the account to link; empty: log in
 * @param {string} provider
 * @param {string} [password]  of the account to link, if it has one
 */
async function leave(app, token, provider, password = "") {
  const device = deviceName();
  const returnTo = location.pathname.slice(ROOT.length) + location.search;
  const request = { provider, device, return_to: returnTo, ...(token && { link: true, password }) };
  const { url, login } = await callApi(app, token, "POST", "accounts/oauth/start", request);
  sessionStorage.setItem(STARTED, JSON.stringify({ login, device }));
  location.assign(url);
}

/** Drawings of 24 by 24 units: colour, path. @type {Record<string, [string, string]>} */
const MARKS = {
  github: ["currentcolor", "M12 1.3a10.7 10.7 0 0 0-3.4 20.9c.5.1.7-.2.7-.5v-1.9c-3 .6-3.6-1.4-3.6-1.4-.5-1.2-1.2-1.6-1.2-1.6-1-.7.1-.7.1-.7 1.1.1 1.6 1.1 1.6 1.1 1 1.6 2.5 1.2 3.1.9.1-.7.4-1.2.7-1.4-2.4-.3-4.9-1.2-4.9-5.3 0-1.2.4-2.1 1.1-2.9-.1-.3-.5-1.4.1-2.8 0 0 .9-.3 2.9 1.1a10 10 0 0 1 5.4 0c2-1.4 2.9-1.1 2.9-1.1.6 1.4.2 2.5.1 2.8.7.8 1.1 1.7 1.1 2.9 0 4.1-2.5 5-4.9 5.3.4.3.7 1 .7 2v2.9c0 .3.2.6.7.5A10.7 10.7 0 0 0 12 1.3z"],
  wechat: ["#07893f", "M9.2 4C4.9 4 1.5 6.9 1.5 10.4c0 2 1.1 3.8 2.8 5l-.7 2.2 2.5-1.3c.9.3 1.9.4 2.8.4a5.7 5.7 0 0 1-.2-1.6c0-3.3 3.2-6 7.1-6h.8C15.9 6.1 12.8 4 9.2 4zM6.6 7.4a1 1 0 1 1 0 2 1 1 0 0 1 0-2zm5.2 0a1 1 0 1 1 0 2 1 1 0 0 1 0-2zm4.3 2.7c-3.6 0-6.4 2.4-6.4 5.3s2.8 5.3 6.4 5.3c.8 0 1.5-.1 2.2-.3l2 1.1-.5-1.8c1.6-1 2.7-2.5 2.7-4.3 0-2.9-2.9-5.3-6.4-5.3zm-2.1 2.9a.8.8 0 1 1 0 1.7.8.8 0 0 1 0-1.7zm4.2 0a.8.8 0 1 1 0 1.7.8.8 0 0 1 0-1.7z"],
  key: ["currentcolor", "M8 6.5a5.5 5.5 0 1 0 5.2 7.3h2.3v2.7h2.8v-2.7H22v-3.6h-8.8A5.5 5.5 0 0 0 8 6.5zm0 3.7a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6z"],
};

/**
 * @param {string} kind  of a provider
 * @returns {SVGElement}
 */
function markOf(kind) {
  const [colour, path] = MARKS[kind] ?? (kind.startsWith("wechat") ? MARKS.wechat : MARKS.key);
  const drawn = icon("more");
  drawn.setAttribute("class", "provider-mark");
  const shape = drawn.firstElementChild;
  shape?.setAttribute("d", path);
  shape?.setAttribute("fill", colour);
  shape?.setAttribute("fill-rule", "evenodd");
  return drawn;
}

/**
 * Shows the providers below the form to log in.
 *
 * @param {Page} page
 * @param {HTMLElement} place
 * @param {HTMLElement} note
 */
export async function showProviders({ app, text: words }, place, note) {
  const providers = await loadProviders(app);
  const isBesideForm = place.closest("form") !== null;
  const divider = isBesideForm ? [make("p", "or", make("span", "", words.messages_or))] : [];
  const buttons = providers.map(({ provider, kind, title }, index) => {
    const go = button("", isBesideForm || index ? "provider" : "wide provider"); // one of the page is the first to press
    go.append(markOf(kind), fill(words.messages_login_with, { title }));
    go.addEventListener("click", () => attempt(go, note, words, () => leave(app, "", provider)));
    return go;
  });
  place.replaceChildren(...divider, ...buttons);
  place.hidden = !providers.length;
}

/**
 * The browser came back from a provider.
 *
 * @param {Page} page
 * @param {string} code  `refused`: the login failed
 * @param {(login: Login) => void} onLogin
 * @returns {Promise<void>} rejected with ApiError
 */
export async function finishLogin({ app, text: words }, code, onLogin) {
  const started = JSON.parse(sessionStorage.getItem(STARTED) ?? "null");
  sessionStorage.removeItem(STARTED);
  if (!started) return; // another tab has begun this
  const { login, device } = started;
  /** @param {string} [factor]  a code of the second factor */
  const finish = async (factor) => {
    const { token, account } = await callApi(app, "", "POST", "accounts/oauth/finish", { login, code, ...(factor && { factor }) });
    if (token) onLogin({ token, user: account.user, nickname: account.nickname, device });
    else toast(words.messages_provider_linked);
  };
  await finish().catch((error) => {
    if (error.code !== "second_factor_required") throw error;
    openCode(words, finish);
  });
}

/**
 * Asks for a code of the second factor before a login with a provider is finished.
 *
 * @param {Record<string, string>} words
 * @param {(code: string) => Promise<void>} finish
 */
function openCode(words, finish) {
  const code = input({ name: "code", autocomplete: "one-time-code", maxLength: CODE_LENGTH, required: true });
  const { form, go, note, layer } = dialogForm(words.messages_factor, words.messages_login, field(words.messages_factor_code, code, words.messages_factor_code_hint));
  code.focus();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (code.value.trim() && (await attempt(go, note, words, () => finish(code.value.trim())))) layer.close();
  });
}

/**
 * The part of the profile about providers; empty if the app has none.
 *
 * @param {Session} session
 * @param {() => unknown} reload
 * @returns {Promise<HTMLElement[]>}
 */
export async function linkSection(session, reload) {
  const { app, token, words } = session;
  /** @type {[Provider[], { links: Provider[] }]} */
  const [providers, { links }] = await Promise.all([loadProviders(app), session.api("GET", "accounts/oauth/links")]);
  const linked = new Set(links.map(({ provider }) => provider));
  const unlinked = providers.filter(({ provider }) => !linked.has(provider));
  const rows = [...links, ...unlinked].map(({ provider, title }) => {
    const isLinked = linked.has(provider);
    const go = button(isLinked ? words.messages_provider_unlink : words.messages_provider_link, isLinked ? "quiet danger" : "quiet");
    go.dataset.key = `provider:${provider}`;
    go.setAttribute("aria-label", `${go.textContent}: ${title}`);
    go.addEventListener("click", () => attempt(go, null, words, async () => {
      if (!isLinked) {
        const { passwords } = await loadRules(app);
        return passwords ? openLink(session, provider, title) : leave(app, token, provider);
      }
      await session.api("POST", "accounts/oauth/unlink", { provider });
      await reload();
    }));
    return make("li", "person-row", make("span", "person-words", make("bdi", "", title)), make("span", "person-actions", go));
  });
  return rows.length ? [section(words.messages_providers, namedList(words.messages_providers, rows))] : [];
}

/**
 * Asks for the password before the account is linked.
 *
 * @param {Session} session
 * @param {string} provider
 * @param {string} title
 */
function openLink({ app, token, words }, provider, title) {
  const password = input({ type: "password", autocomplete: "current-password", maxLength: PASSWORD_LENGTH });
  const { form, go, note } = dialogForm(
    `${words.messages_provider_link}: ${title}`, words.messages_provider_link, usernameInput(),
    field(words.messages_password_old, password, words.messages_password_if_any),
  );
  password.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(go, note, words, () => leave(app, token, provider, password.value).catch(asPassword));
  });
}

/**
 * A wrong current password is called so: it is no wrong login.
 *
 * @param {unknown} error
 * @returns {never}
 */
export function asPassword(error) {
  if (error instanceof ApiError && error.code === "wrong_login") throw new ApiError("wrong_password", error.message);
  throw error;
}

/** @param {Page} page  asks for an account, to which the server sends a link for a new password */
export function openForgotten({ app, text: words }) {
  const identifier = identifierInput(["email", "name"]);
  const { form, go, note } = dialogForm(words.messages_forgotten, words.messages_send, field(words.messages_login_phone_email_name, identifier));
  identifier.focus();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const login = identifier.value.trim();
    if (!login) return show(note, words.messages_fault_identifier);
    const isSent = await attempt(go, note, words, () => callApi(app, "", "POST", "accounts/reset", { login }));
    if (isSent) form.replaceChildren(make("p", "", words.messages_reset_sent));
  });
}

/**
 * The link of a mail was opened. Who has chosen a password is logged in with it, unless somebody is.
 *
 * @param {Page} page
 * @param {string} code
 */
export async function openReset({ app, text: words }, code) {
  /** @type {{ valid: boolean, login: string }} */
  const { valid, login } = await callApi(app, "", "GET", "accounts/reset/show", { code }).catch(() => ({ valid: true, login: "" })); // the form says it later
  const password = input({ type: "password", autocomplete: "new-password", maxLength: PASSWORD_LENGTH, required: true });
  const { form, go, note, layer } = dialogForm(
    words.messages_password_new, words.messages_save, usernameInput(login),
    ...(login ? [field(words.messages_login_phone_email_name, make("span", "", make("bdi", "", login)))] : []),
    field(words.messages_password_new, password, words.messages_password_hint), make("p", "muted", words.messages_reset_ends),
  );
  layer.closed.then(() => navigate("", true)); // the code is in the address
  if (!valid) form.replaceChildren(make("p", "", words.messages_fault_unknown_reset));
  password.focus();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (password.value.length < LEAST_PASSWORD) return show(note, words.messages_fault_password);
    const finish = () => callApi(app, "", "POST", "accounts/reset/finish", { code, password: password.value });
    if (!(await attempt(go, note, words, finish))) return;
    layer.close();
    const own = document.querySelector("#login-form");
    if (!login || !(own instanceof HTMLFormElement)) return toast(words.messages_reset_done);
    element("identifier", HTMLInputElement).value = login;
    element("password", HTMLInputElement).value = password.value;
    own.requestSubmit();
  });
}

/** @param {string} [login]  whose password it is; browsers want it beside a password */
function usernameInput(login = "") {
  return input({ value: login, autocomplete: "username", readOnly: true, hidden: true });
}

/**
 * Opens a dialog with a form.
 *
 * @param {string} title
 * @param {string} label  of the button
 * @param {HTMLElement[]} fields
 */
function dialogForm(title, label, ...fields) {
  const note = noteLine();
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide", label));
  const form = /** @type {HTMLFormElement} */ (make("form", "panel-form", ...fields, note, go));
  form.noValidate = true;
  return { form, go, note, layer: openDialog(title, form) };
}
