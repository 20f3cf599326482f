// @ts-check
/** Shows where the connection stands: a word beside the title, and a bar with what can be done while it is broken. */

import { element, fill } from "./text.js";

/** @typedef {import("../sdk/imserver.js").StateChange} StateChange */

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
   * @param {{ retry: () => void, enterAgain: () => void }} actions
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
    const state = change.state === "waiting" && !navigator.onLine ? "offline" : change.state;
    this.#wasOnline ||= state === "online";
    this.#pill.dataset.state = state;
    this.#pillText.textContent = words[`state_${state}`] ?? words.state_connecting;
    this.#banner.dataset.state = state;
    if (state === "refused") this.#banner.setAttribute("role", "alert"); // the others are said by the pill
    else this.#banner.removeAttribute("role");
    if (state === "waiting") this.#count(change);
    else if (state === "offline") this.#say(words.banner_offline, words.retry_now, this.actions.retry);
    else if (state === "refused") this.#say(this.#refusal(change), words.enter_again, this.actions.enterAgain);
    else if (state === "connecting" && (this.#wasOnline || change.attempt)) this.#say(words.banner_trying);
    else this.#say("");
  }

  /** @param {StateChange} change */
  #count({ retryInMs, code }) {
    const due = Date.now() + retryInMs;
    const tell = () => {
      const seconds = Math.max(1, Math.ceil((due - Date.now()) / 1000));
      const why = code === 1006 || code < 4000 ? "" : ` (${fill(this.words.code, { code })})`;
      this.#say(fill(this.words.banner_waiting, { seconds }) + why, this.words.retry_now, this.actions.retry);
    };
    tell();
    this.#countdown = setInterval(tell, 250);
  }

  /** @param {StateChange} change */
  #refusal({ code, reason }) {
    const { words } = this;
    if (!code) return fill(words.refused_0, { reason });
    const login = code < 4000 ? fill(words.refused_login, { reason }) : words.refused_other;
    return `${words[`refused_${code}`] ?? login} (${fill(words.code, { code })})`;
  }

  /**
   * @param {string} text
   * @param {string} [label]
   * @param {() => void} [act]
   */
  #say(text, label = "", act = () => {}) {
    if (this.#bannerText.textContent !== text) this.#bannerText.textContent = text;
    if (this.#button.textContent !== label) this.#button.textContent = label;
    this.#act = act;
    this.#banner.hidden = !text;
    this.#button.hidden = !label;
  }
}
