// @ts-check
/** The list of own emoji: the browser stores it, and the page asks for another one when it meets a name that is not there. */

import { picture } from "./picture.js";

/** @typedef {import("./picture.js").Emoji} Emoji */

const STORED = "imserver:own-emoji";
const AGAIN_MS = 10_000;
/** Without a stored list, the first message waits this time for it. */
const PATIENCE_MS = 2_000;
/** A message of at most so many emoji alone is drawn large. */
const MOST_LONE = 3;

/**
 * @param {any} page
 * @param {any} session
 * @returns {Promise<OwnList>}
 */
export async function openOwn(page, session) {
  const own = new OwnList(page, session, await page.loadWords(import.meta.url));
  await Promise.all([page.loadStyle(new URL("./own.css", import.meta.url)), own.start()]);
  return own;
}

/** The emoji of the app of one login. */
export class OwnList {
  /** @type {Map<string, Emoji>} */
  #emoji = new Map();
  #version = "";
  #askedAt = 0;
  #timer = 0;
  /** Names that the page has met, and asked for once. @type {Set<string>} */
  #unknown = new Set();
  #asking = Promise.resolve();

  /**
   * @param {any} page
   * @param {any} session
   * @param {Record<string, string>} words
   */
  constructor(page, session, words) {
    this.page = page;
    this.session = session;
    this.words = words;
    this.title = words.emoji_title;
  }

  /** Takes the stored list, and asks for the newest one. Without a stored one it waits for that, but not for long. */
  async start() {
    const { app, version, emoji } = stored();
    if (app === this.session.app) this.#take(version, emoji);
    const asking = this.refresh();
    if (!this.#version) await Promise.race([asking, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
  }

  get all() {
    return [...this.#emoji.values()];
  }

  names() {
    return [...this.#emoji.keys()];
  }

  /** What lets the user change them; null: they must not. */
  get edit() {
    const { role = "member" } = this.session.people.card(this.session.user) ?? {};
    if (!role || role === "member") return null;
    const act = async (/** @type {() => void} */ done) => {
      try {
        (await import("./manage.js")).openManage(this.page, this, done);
      } catch (error) {
        this.page.toast(this.page.reason(error));
      }
    };
    return { word: this.words.emoji_edit, act };
  }

  /** Asks for the list, if it is another one than ours, one request after the other. Without an answer ours stays. */
  refresh() {
    this.#asking = this.#asking.then(() => this.#ask()).catch(() => {});
    return this.#asking;
  }

  /** Asks for the list, stores it, and draws the signs again. */
  async #ask() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#askedAt = Date.now();
    const { version, emoji } = await this.page.api("GET", "emoji", { version: this.#version });
    if (!emoji) return;
    this.#take(version, emoji);
    try {
      localStorage.setItem(STORED, JSON.stringify({ app: this.session.app, version, emoji: this.all }));
    } catch {
      // the browser stores nothing
    }
    for (const sign of document.querySelectorAll("[data-own-emoji]")) this.fill(/** @type {HTMLElement} */ (sign));
  }

  /**
   * @param {unknown} version
   * @param {unknown} rows
   */
  #take(version, rows) {
    this.#emoji = new Map((Array.isArray(rows) ? rows : []).filter(isEmoji).map((each) => [each.name, each]));
    this.#version = String(version ?? "");
  }

  /** @param {HTMLElement} sign  becomes the picture of its name, or its name */
  fill(sign) {
    const name = String(sign.dataset.ownEmoji);
    const emoji = this.#emoji.get(name);
    const show = (/** @type {HTMLElement | string} */ content) => {
      sign.replaceChildren(content);
      sign.classList.toggle("drawn", typeof content !== "string");
      queueMicrotask(() => fit(sign)); // then it is in its message
    };
    show(emoji ? picture(this.page, emoji, () => show(`:${name}:`)) : `:${name}:`);
    if (!emoji) this.#miss(name);
  }

  /** @param {string} name  perhaps of a new one */
  #miss(name) {
    if (this.#unknown.has(name)) return;
    this.#unknown.add(name);
    this.#timer ||= setTimeout(() => this.refresh(), Math.max(0, this.#askedAt + AGAIN_MS - Date.now()));
  }
}

/**
 * A message of own emoji alone is drawn large, as those of other emoji are.
 *
 * @param {HTMLElement} sign
 */
function fit(sign) {
  const text = sign.parentElement; // perhaps with very many signs: the time of each must not grow with them
  const bubble = text?.matches(".bubble > .text") ? text.parentElement : null;
  if (!text || !bubble) return;
  const hasMany = text.children[MOST_LONE] !== undefined;
  const isLone = !hasMany && [...text.children].every((each) => each.matches(".own-emoji.drawn")) && !text.textContent?.trim();
  bubble.classList.toggle("lone-emoji", isLone && !bubble.querySelector(":scope > .quote"));
}

/**
 * @param {any} row
 * @returns {row is Emoji}
 */
function isEmoji(row) {
  const hasName = typeof row?.name === "string" && /^[a-z\d][a-z\d_-]{1,29}$/.test(row.name);
  const hasPicture = /^\/(?!\/)/.test(String(row?.url)) && row.width > 0 && row.height > 0; // on this server
  return hasName && hasPicture;
}

/** @returns {any} */
function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED) ?? "{}") ?? {};
  } catch {
    return {};
  }
}
