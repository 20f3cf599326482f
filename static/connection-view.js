// @ts-check
/** The state of the connection: a word beside the title, and a banner with a button while there is no connection. */

import { element, fill, moments } from "./text.js";

/** @typedef {import("../sdk/imserver.js").StateChange} StateChange */

/** The browser says that the network has gone: without an answer in this time, the connection has, too. */
export const OFFLINE_PROBE_MS = 1_000;

/** Close code of a user who is banned; its reason says until when and why. */
const BANNED = 4503;
/** Close codes of this server begin here. */
const FIRST_OWN_CODE = 4000;
const COUNTDOWN_MS = 250;

export class ConnectionView {
  #pill = element("state", HTMLElement);
  #pillText = element("state-text", HTMLElement);
  #banner = element("banner", HTMLElement);
  #bannerText = element("banner-text", HTMLElement);
  #button = element("banner-button", HTMLButtonElement);
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #countdown;
  #wasOnline = false;
  #act = () => {};

  /**
   * @param {Record<string, string>} words
   * @param {{ retry: () => void, reload: () => void, appeal?: { word: string, act: () => void } }} actions  `appeal`: of who is banned
   */
  constructor(words, actions) {
    this.words = words;
    this.actions = actions;
    this.#button.addEventListener("click", () => this.#act());
  }

  /** @param {StateChange} change */
  show(change) {
    clearInterval(this.#countdown);
    const { words } = this;
    const { retry, reload, appeal } = this.actions;
    const state = change.state === "waiting" && !navigator.onLine ? "offline" : change.state;
    this.#wasOnline ||= state === "online";
    this.#pill.dataset.state = state;
    this.#pillText.textContent = words[`state_${state}`] ?? words.state_connecting;
    this.#banner.dataset.state = state;
    if (state === "refused") this.#banner.setAttribute("role", "alert"); // screen readers announce the other states from the pill
    else this.#banner.removeAttribute("role");
    if (state === "waiting") this.#countDown(change);
    else if (state === "offline") this.#showBanner(words.banner_offline, words.retry_now, retry);
    else if (state === "refused" && change.code === BANNED && appeal) this.#showBanner(this.#refusal(change), appeal.word, appeal.act);
    else if (state === "refused") this.#showBanner(this.#refusal(change), words.enter_again, reload);
    else if (state === "connecting" && (this.#wasOnline || change.attempt)) this.#showBanner(words.banner_trying);
    else this.#showBanner("");
  }

  /**
   * Says in how many seconds the client tries again, and the close code if this server has sent one.
   *
   * @param {StateChange} change
   */
  #countDown({ retryInMs, code }) {
    const { words } = this;
    const due = Date.now() + retryInMs;
    const why = code < FIRST_OWN_CODE ? "" : ` (${fill(words.code, { code })})`;
    const update = () => {
      const seconds = Math.max(1, Math.ceil((due - Date.now()) / 1000));
      this.#showBanner(fill(words.banner_waiting, { seconds }) + why, words.retry_now, this.actions.retry);
    };
    update();
    this.#countdown = setInterval(update, COUNTDOWN_MS);
  }

  /**
   * @param {StateChange} change  with the code 0 if there is none
   * @returns {string} why the server refuses the user
   */
  #refusal({ code, reason }) {
    const { words } = this;
    if (!code) return fill(words.refused_0, { reason });
    const [, day, hour, why] = /^banned(?: for good| until (\S+) (\S+) UTC)?(.*)/.exec(reason) || ["", "", "", reason];
    if (day && words.refused_until) {
      const when = moments(document.documentElement.lang).format(new Date(`${day}T${hour}Z`));
      return fill(words.refused_until, { when }) + why;
    }
    if (code === BANNED && words.refused_4503) return words.refused_4503 + why;
    const other = code < FIRST_OWN_CODE ? fill(words.refused_login, { reason }) : words.refused_other;
    return `${words[`refused_${code}`] ?? other} (${fill(words.code, { code })})`;
  }

  /**
   * @param {string} text
   * @param {string} [label]
   * @param {() => void} [act]
   */
  #showBanner(text, label = "", act = () => {}) {
    if (this.#bannerText.textContent !== text) this.#bannerText.textContent = text;
    if (this.#button.textContent !== label) this.#button.textContent = label;
    this.#act = act;
    this.#banner.hidden = !text;
    this.#button.hidden = !label;
  }
}
