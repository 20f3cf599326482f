// @ts-check
/** The page in a frame: the page around it gives the login, says what is shown, and hears how many messages are unread. */

import { fill } from "../text.js";
import { upTo } from "./session/first-view.js";
import { keepLogins, SavedLogin } from "./session/saved-login.js";

/** @typedef {import("./session/session.js").Session} Session */
/** @typedef {import("./session/session.js").Page} Page */

/** A login that lasts a shorter time was refused: the next one waits. */
const SHORT_MS = 10_000;
const WAIT_MS = 1_000;
const MOST_WAIT_MS = 60_000;

/** The page around this one. The Content-Security-Policy of this page says whose pages may be there. */
export class Surroundings {
  /** Of the page around, once it has spoken. */
  #origin = "*";
  /** The user or the conversation that is shown; both empty: all conversations. */
  #with = { user: "", conversation: 0 };
  #isOpen = false;
  /** @type {(login: { user: string, token: string }) => void} */
  #give = () => {};
  /** When the last login was given, and how long the next one waits. */
  #given = -Infinity;
  #wait = 0;
  #unread = -1;

  /** @param {Page} page */
  constructor(page) {
    this.app = page.app;
    this.words = page.text;
    const kept = new Map(); // the login of this frame is not one of the browser
    keepLogins({ getItem: (key) => kept.get(key) ?? null, setItem: (key, login) => void kept.set(key, login), removeItem: (key) => void kept.delete(key) });
    addEventListener("message", (event) => event.source === parent && this.#receive(event));
    addEventListener("keydown", (event) => event.key === "Escape" && !event.defaultPrevented && this.leave());
  }

  /** Waits for a login, and saves it. */
  async giveLogin() {
    this.#wait = performance.now() - this.#given < SHORT_MS ? Math.min(this.#wait * 2 || WAIT_MS, MOST_WAIT_MS) : 0;
    await new Promise((resolve) => setTimeout(resolve, this.#wait));
    const { user, token } = await new Promise((/** @type {(login: { user: string, token: string }) => void} */ resolve) => {
      this.#give = resolve;
      this.#tell({ kind: "login" });
    });
    this.#given = performance.now();
    new SavedLogin(this.app).set({ user, token, nickname: "", device: "frame" });
  }

  /** @param {Session} session */
  watch(session) {
    this.#unread = -1;
    const count = () => {
      const { user, conversation } = this.#with;
      const { store } = session;
      const one = user ? store.known(user) : store.conversations.get(conversation);
      const unread = user || conversation ? one?.unread ?? 0 : store.unread;
      if (unread === this.#unread) return;
      this.#unread = unread;
      this.#tell({ kind: "unread", count: unread, label: unread ? fill(this.words.messages_unread, { count: upTo(unread) }) : "" });
    };
    session.on("changed", count);
    count();
    this.#show();
  }

  /** The user is done here. */
  leave() {
    this.#tell({ kind: "close" });
  }

  /** @param {MessageEvent} event */
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

  get #address() {
    const { user, conversation } = this.#with;
    return user ? `#u/${encodeURIComponent(user)}` : conversation ? `#c/${conversation}` : "";
  }

  /** Nothing is read while the frame is hidden: no conversation is open then. */
  #show() {
    const address = this.#isOpen ? this.#address : "";
    if (this.#isOpen ? address && location.hash !== address : location.hash) location.replace(address || "#");
  }

  /** @param {{ kind: string, count?: number, label?: string }} message */
  #tell(message) {
    parent.postMessage({ imserver: message }, this.#origin);
  }
}

/** @type {Surroundings | undefined} */
let made;

/**
 * @param {Page} page
 * @returns {Surroundings}
 */
export function surroundings(page) {
  return (made ??= new Surroundings(page));
}
