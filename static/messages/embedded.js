// @ts-check
/** The page in a frame: the page around it gives the login, says what is shown, and hears how many messages are unread. */

import { fill } from "../text.js";
import { upTo } from "./session/first-view.js";
import { keepLogins, SavedLogin } from "./session/saved-login.js";

/** @typedef {import("./session/session.js").Session} Session */
/** @typedef {import("./session/session.js").Page} Page */

/** A login that lasts a shorter time was refused: the next one waits. */
const SHORT_MS = 10_000;
/** The first wait; each next one is twice as long, up to the longest one. */
const WAIT_MS = 1_000;
const MOST_WAIT_MS = 60_000;
/** No count of unread messages was told yet. */
const NOT_TOLD = -1;

/** The page around this one. The Content-Security-Policy of this page says whose pages may be there. */
export class Surroundings {
  /** The origin of the page around. Until that page has sent a message, it may be any. */
  #origin = "*";
  /** The user or the conversation that is shown; both empty: all conversations. */
  #with = { user: "", conversation: 0 };
  /** The frame is visible. */
  #isOpen = false;
  /** Resolves the promise of {@link giveLogin}. @type {(login: { user: string, token: string }) => void} */
  #give = () => {};
  /** When the last login was given, by `performance.now()`. */
  #givenAt = -Infinity;
  /** How many milliseconds the next login waits. */
  #wait = 0;
  /** The count of unread messages that the page around knows. */
  #unread = NOT_TOLD;

  /** @param {Page} page */
  constructor(page) {
    this.app = page.app;
    this.words = page.text;
    // The login of this frame is not one of the browser, so it is kept in memory.
    const logins = new Map();
    keepLogins({
      getItem: (key) => logins.get(key) ?? null,
      setItem: (key, login) => void logins.set(key, login),
      removeItem: (key) => void logins.delete(key),
    });
    addEventListener("message", (event) => event.source === parent && this.#receive(event));
    addEventListener("keydown", (event) => event.key === "Escape" && !event.defaultPrevented && this.leave());
  }

  /** Asks the page around for a login, and saves it. */
  async giveLogin() {
    const wasRefused = performance.now() - this.#givenAt < SHORT_MS;
    this.#wait = wasRefused ? Math.min(this.#wait * 2 || WAIT_MS, MOST_WAIT_MS) : 0;
    await new Promise((resolve) => setTimeout(resolve, this.#wait));
    const { user, token } = await new Promise((/** @type {(login: { user: string, token: string }) => void} */ resolve) => {
      this.#give = resolve;
      this.#tell({ kind: "login" });
    });
    this.#givenAt = performance.now();
    new SavedLogin(this.app).set({ user, token, nickname: "", device: "frame" });
  }

  /**
   * Tells the page around how many messages of a session are unread, now and after each change.
   *
   * @param {Session} session
   */
  watch(session) {
    this.#unread = NOT_TOLD;
    const tellUnread = () => {
      const unread = this.#unreadIn(session);
      if (unread === this.#unread) return;
      this.#unread = unread;
      const label = unread ? fill(this.words.messages_unread, { count: upTo(unread) }) : "";
      this.#tell({ kind: "unread", count: unread, label });
    };
    session.on("changed", tellUnread);
    tellUnread();
    this.#show();
  }

  /**
   * @param {Session} session
   * @returns {number} unread messages of the conversation that is shown, or of all
   */
  #unreadIn({ store }) {
    const { user, conversation } = this.#with;
    if (user) return store.known(user)?.unread ?? 0;
    return conversation ? store.conversations.get(conversation)?.unread ?? 0 : store.unread;
  }

  /** Asks the page around to close the frame. */
  leave() {
    this.#tell({ kind: "close" });
  }

  /**
   * Receives a message of the page around: a login, with what is shown, or whether the frame is visible.
   *
   * @param {MessageEvent} event
   */
  #receive({ origin, data }) {
    this.#origin = origin;
    if (data?.kind === "login") {
      this.#with = { user: String(data.to ?? ""), conversation: Number(data.conversation) || 0 };
      document.body.dataset.embedded = this.#address ? "one" : "all";
      this.#give({ user: String(data.user), token: String(data.token) });
    } else if (data?.kind === "open" || data?.kind === "hide") {
      this.#isOpen = data.kind === "open";
      this.#show();
    }
  }

  /** @returns {string} the address of the conversation that is shown; empty: all conversations are */
  get #address() {
    const { user, conversation } = this.#with;
    if (user) return `#u/${encodeURIComponent(user)}`;
    return conversation ? `#c/${conversation}` : "";
  }

  /** Opens the conversation of the frame. While the frame is hidden, no conversation is open, so that nothing counts as read. */
  #show() {
    if (!this.#isOpen) {
      if (location.hash) location.replace("#");
      return;
    }
    const address = this.#address;
    if (address && location.hash !== address) location.replace(address);
  }

  /** @param {{ kind: string, count?: number, label?: string }} message */
  #tell(message) {
    parent.postMessage({ imserver: message }, this.#origin);
  }
}

/** The only one of this page. @type {Surroundings | undefined} */
let made;

/**
 * @param {Page} page
 * @returns {Surroundings}
 */
export function surroundings(page) {
  return (made ??= new Surroundings(page));
}
