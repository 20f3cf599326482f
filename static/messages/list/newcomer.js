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
/** The card goes away so long after all is done. */
const DONE_MS = 4_000;
/** Drawings of 24 by 24 units. */
const FACE = "M12 4.5a4 4 0 1 1 0 8 4 4 0 0 1 0-8M4.5 20a7.5 7.5 0 0 1 15 0";
const DONE = "M5 12.5 10 17.5 19 7";
/** The sessions in which the card was shown. @type {WeakSet<Session>} */
const welcomed = new WeakSet();

/**
 * Shows the card, once in a session. When the user is done with it, the login is not new any more.
 *
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
   * @param {() => void} done  called when the user has done all of it, or closes the card
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
      session.on("changed", () => { if (!this.#hasWritten) this.#draw(); }),
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
    const { words, people, store, user, wishes } = this.session;
    const isOurs = (/** @type {import("../parts/entries.js").Entry | null} */ each) => each?.kind === "message" && each.from === user;
    this.#hasWritten ||= store.lists.listed.some(({ last, entries }) => isOurs(last) || entries?.some(isOurs));
    const hasFace = Boolean(people.card(user)?.avatar);
    const hasNotices = wishes.device.on;
    redraw(this.#list, [
      this.#item("hello", icon("smile"), words.messages_first_hello, this.#hasWritten, () => this.#greet()),
      this.#item("face", signOf(FACE), words.messages_first_face, hasFace, () => this.#profile()),
      this.#item("notify", signOf("bell"), words.messages_first_notify, hasNotices, (item) => this.#notify(item)),
    ]);
    if (this.#hasWritten && hasFace && hasNotices) setTimeout(() => this.#end(), DONE_MS);
  }

  /**
   * @param {string} key
   * @param {SVGElement} sign  what it shows until it is done
   * @param {string} text
   * @param {boolean} isDone
   * @param {(item: HTMLButtonElement) => unknown} act
   */
  #item(key, sign, text, isDone, act) {
    const made = button("", isDone ? "first-thing is-done" : "first-thing");
    made.dataset.key = key;
    made.append(isDone ? signOf(DONE) : sign, make("span", "", text));
    if (isDone) made.setAttribute("aria-label", `${text}: ${this.session.words.messages_first_done}`);
    made.addEventListener("click", () => act(made));
    return make("li", "", made);
  }

  /** Begins a message in the open conversation; from the list, it opens the first conversation. */
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

  /** @param {HTMLButtonElement} item  lets this device notify; if it cannot, the note says why */
  async #notify(item) {
    const { session } = this;
    const { words } = session;
    if (!session.hasNotifications || !hasNotifications()) {
      show(this.#note, isSecureContext ? words.messages_notify_unsupported : words.messages_notify_needs_https);
      return;
    }
    await withModule(import("../session/notices.js"), words, ({ enable }) => attempt(item, this.#note, words, async () => {
      const state = await enable(session);
      const reasons = { blocked: words.messages_notify_blocked, off: words.messages_notify_unanswered };
      show(this.#note, state === "blocked" || state === "off" ? reasons[state] : "");
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
