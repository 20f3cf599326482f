// @ts-check
/** What somebody who has just come in sees first: three things to do. Loaded for them alone. */

import { hasNotifications } from "../../../sdk/notifications.js";
import { element, make } from "../../text.js";
import { icon } from "../parts/file.js";
import { attempt, loadStyle, noteLine, redraw, show, withModule } from "../parts/form.js";
import { button } from "../parts/panel.js";
import { signOf } from "../parts/signs.js";

/** @typedef {import("../session/session.js").Session} Session */

const STYLE = new URL("../later/newcomer.css", import.meta.url);
/** After all is done, it goes. */
const DONE_MS = 4_000;
/** Those to whom it was shown. @type {WeakSet<Session>} */
const welcomed = new WeakSet();

/**
 * @param {Session} session
 * @param {import("../session/saved-login.js").SavedLogin} saved
 */
export async function welcome(session, saved) {
  if (welcomed.has(session)) return;
  welcomed.add(session);
  await loadStyle(STYLE);
  new Welcome(session, () => {
    const login = saved.get();
    if (login?.user === session.user) saved.set({ ...login, isNew: false });
    session.login.isNew = false;
  });
}

/** Owns the card. */
class Welcome {
  #hasWritten = false;
  #isOver = false;
  #list = make("ul", "");
  #note = noteLine();
  #root = make("section", "newcomer");
  /** @type {(() => void)[]} */
  #ends = [];

  /**
   * @param {Session} session
   * @param {() => void} done  the user has seen to them, or wants to hear no more
   */
  constructor(session, done) {
    this.session = session;
    this.done = done;
    const { words } = session;
    const title = make("h2", "", words.messages_first_title);
    title.id = "newcomer-title";
    const close = button("×", "round close");
    close.setAttribute("aria-label", words.messages_close);
    close.addEventListener("click", () => this.#end());
    this.#list.setAttribute("role", "list");
    this.#root.append(title, close, this.#list, this.#note);
    this.#root.setAttribute("aria-labelledby", title.id);
    session.wishes.device = { question: Date.now() }; // the card asks
    const moved = new MutationObserver(() => this.#settle());
    moved.observe(document.body, { attributes: true, attributeFilter: ["data-view"] });
    this.#ends.push(
      () => moved.disconnect(),
      session.on("people", () => this.#draw()),
      session.on("changed", () => !this.#hasWritten && this.#draw()),
      session.on("ended", () => this.#leave()),
    );
    this.#settle();
    this.#draw();
  }

  /** On a phone the list and the conversation are never shown together: the card is in what is shown. */
  #settle() {
    const isList = document.body.dataset.view === "list" && matchMedia("(width < 720px)").matches;
    const before = isList ? element("conversations-list", HTMLElement) : document.querySelector(".log-frame");
    if (before && before.previousElementSibling !== this.#root) before.before(this.#root);
  }

  #draw() {
    if (this.#isOver) return;
    const { session } = this;
    const { words, people, store, user, wishes } = session;
    const isOurs = (/** @type {import("../parts/entries.js").Entry | null} */ each) => each?.kind === "message" && each.from === user;
    this.#hasWritten ||= store.lists.listed.some(({ last, entries }) => isOurs(last) || entries?.some(isOurs));
    const hasFace = Boolean(people.card(user)?.avatar);
    redraw(this.#list, [
      this.#item("smile", words.messages_first_hello, this.#hasWritten, "hello", () => this.#greet()),
      this.#item("M12 4.5a4 4 0 1 1 0 8 4 4 0 0 1 0-8M4.5 20a7.5 7.5 0 0 1 15 0", words.messages_first_face, hasFace, "face", () => this.#profile()),
      this.#item("bell", words.messages_first_notify, wishes.device.on, "notify", (item) => this.#notify(item)),
    ]);
    if (this.#hasWritten && hasFace && wishes.device.on) setTimeout(() => this.#end(), DONE_MS);
  }

  /**
   * @param {"smile" | "bell" | `M${string}`} sign
   * @param {string} text
   * @param {boolean} isDone
   * @param {string} key
   * @param {(item: HTMLButtonElement) => unknown} act
   */
  #item(sign, text, isDone, key, act) {
    const made = button("", isDone ? "first-thing is-done" : "first-thing");
    made.dataset.key = key;
    made.append(isDone ? signOf("M5 12.5 10 17.5 19 7") : sign === "smile" ? icon("smile") : signOf(sign), make("span", "", text));
    if (isDone) made.setAttribute("aria-label", `${text}: ${this.session.words.messages_first_done}`);
    made.addEventListener("click", () => act(made));
    return make("li", "", made);
  }

  #greet() {
    const { session } = this;
    const box = element("message", HTMLTextAreaElement);
    if (document.body.dataset.view !== "conversation") {
      const [first] = session.store.lists.listed;
      if (first) return session.open({ conversation: first.id });
      return element("new-conversation", HTMLButtonElement).click();
    }
    if (!box.value) {
      box.value = "👋 ";
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    box.focus();
  }

  #profile() {
    const { session } = this;
    return withModule(import("../settings/profile.js"), session.words, ({ openProfile }) => openProfile(session));
  }

  /** @param {HTMLButtonElement} item */
  async #notify(item) {
    const { session } = this;
    const { words } = session;
    if (!session.hasNotifications || !hasNotifications()) return show(this.#note, isSecureContext ? words.messages_notify_unsupported : words.messages_notify_needs_https);
    await withModule(import("../session/notices.js"), words, ({ enable }) => attempt(item, this.#note, words, async () => {
      const state = await enable(session);
      show(this.#note, state === "blocked" ? words.messages_notify_blocked : state === "off" ? words.messages_notify_unanswered : "");
      this.#draw();
    }), this.#note);
  }

  #end() {
    this.done();
    this.#leave();
  }

  #leave() {
    this.#isOver = true;
    for (const end of this.#ends.splice(0)) end();
    this.#root.remove();
  }
}
