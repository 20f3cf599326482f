// @ts-check
/** Several messages of a conversation are chosen, to forward, copy or delete them. */

import { copyText } from "../../page-parts.js";
import { fill, make, moments } from "../../text.js";
import { reasonOf } from "../parts/api.js";
import { loadStyle, switchBox } from "../parts/form.js";
import { openForward } from "../people/forward.js";
import { button, openDialog, toast } from "../parts/panel.js";
import { summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** So many messages can be chosen. */
const MOST = 100;
/** Of a caption, so many characters are copied. */
const MOST_SUMMARY = 1000;

/**
 * Messages as a text, each with its author and its time.
 *
 * @param {Entry[]} entries
 * @param {Pick<Session, "user" | "words" | "language" | "people">} session
 * @returns {string}
 */
export function copied(entries, { user, words, language, people }) {
  const when = moments(language, "short");
  const texts = entries.map((entry) => {
    const name = entry.from === user ? words.you : people.nameOf(entry.from);
    const text = entry.text ?? summaryOf(entry, words, MOST_SUMMARY);
    return `[${when.format(entry.time)}] ${name}\n${text}`;
  });
  return texts.join("\n\n");
}

/** Owns which messages are chosen, the marks in their rows, and the bar in the place of the text box. */
export class Selection {
  /** The ids of the chosen messages. @type {Set<number>} */
  #chosen = new Set();
  /** The message that was chosen last: with Shift, all up to another one are chosen; 0: none. */
  #last = 0;
  #ends = new AbortController();
  #count = make("b", "select-count");
  #bar;
  /** The buttons of the bar that need a chosen message. */
  #acts;
  #rowObserver;

  /**
   * @param {Session} session
   * @param {Conversation} conversation
   * @param {{ log: HTMLElement, before: HTMLElement, ended: () => void }} parts  `before`: the bar is put before it
   */
  constructor(session, conversation, { log, before, ended }) {
    this.session = session;
    this.conversation = conversation;
    this.log = log;
    this.ended = ended;
    const { words } = session;
    const { signal } = this.#ends;
    const close = button("×", "round");
    close.setAttribute("aria-label", words.messages_cancel);
    close.addEventListener("click", () => this.end());
    this.#count.setAttribute("role", "status");
    this.#acts = [
      this.#makeAct(words.messages_copy, "quiet", () => this.#copy()),
      this.#makeAct(words.messages_forward, "quiet", () => this.#forward()),
      this.#makeAct(words.messages_select_delete, "quiet danger", () => this.#delete()),
    ];
    this.#bar = make("div", "select-bar", close, this.#count, make("span", "select-acts", ...this.#acts));
    this.#bar.setAttribute("role", "group");
    this.#bar.setAttribute("aria-label", words.messages_select);
    before.before(this.#bar);
    this.room = /** @type {HTMLElement} */ (log.closest(".room"));
    this.room.classList.add("selecting");
    loadStyle(new URL("../later/selection.css", import.meta.url));
    log.addEventListener("click", (event) => this.#onClick(event), { signal, capture: true });
    log.addEventListener("dblclick", (event) => event.stopPropagation(), { signal, capture: true });
    log.addEventListener("contextmenu", (event) => event.stopPropagation(), { signal, capture: true });
    log.addEventListener("keydown", (event) => this.#onKey(event), { signal, capture: true });
    // A row that is drawn again has no mark.
    this.#rowObserver = new MutationObserver(() => this.#markRows());
    this.#rowObserver.observe(log, { childList: true, subtree: true });
    this.#draw();
  }

  /**
   * Chooses a message, or does not any more. With `hasRange`, all messages from the one that was chosen last up to this one are chosen.
   *
   * @param {Entry} entry
   * @param {{ hasRange?: boolean }} [options]
   */
  toggle({ id }, { hasRange = false } = {}) {
    const ids = this.#messages.map((message) => message.id);
    const [start, end] = [ids.indexOf(this.#last), ids.indexOf(id)].sort((one, other) => one - other);
    const isRange = hasRange && start >= 0;
    if (isRange) {
      for (const each of ids.slice(start, end + 1)) this.#chosen.add(each);
    } else {
      const wasChosen = this.#chosen.delete(id);
      if (!wasChosen) this.#chosen.add(id);
    }
    if (this.#chosen.size > MOST) {
      this.#chosen = new Set([...this.#chosen].slice(0, MOST));
      toast(fill(this.session.words.messages_select_most, { count: MOST }));
    }
    this.#last = id;
    this.#draw();
    if (!this.#chosen.size) this.end();
  }

  /** Draws again: a chosen message may have been recalled. */
  draw() {
    const ids = new Set(this.#messages.map(({ id }) => id));
    for (const id of this.#chosen) if (!ids.has(id)) this.#chosen.delete(id);
    this.#draw();
  }

  /** Ends the selection: the marks and the bar are gone. It may be called again. */
  end() {
    if (this.#ends.signal.aborted) return;
    this.#ends.abort();
    this.#rowObserver.disconnect();
    this.#bar.remove();
    this.room.classList.remove("selecting");
    for (const mark of this.log.querySelectorAll(".pick")) mark.remove();
    for (const row of this.log.querySelectorAll(".chosen")) row.classList.remove("chosen");
    this.ended();
  }

  /** @returns {Entry[]} the loaded messages that can be chosen */
  get #messages() {
    return this.conversation.entries?.filter(({ kind }) => kind === "message") ?? [];
  }

  /** @returns {Entry[]} the chosen messages, in order */
  get #entries() {
    return this.#messages.filter(({ id }) => this.#chosen.has(id));
  }

  #draw() {
    const { size } = this.#chosen;
    const text = fill(this.session.words.messages_select_count, { count: size });
    if (this.#count.textContent !== text) this.#count.textContent = text;
    for (const act of this.#acts) act.disabled = !size;
    this.#markRows();
  }

  /** Puts a mark into each row, and shows which are chosen. It changes only what differs: each change of the rows calls it. */
  #markRows() {
    for (const row of /** @type {NodeListOf<HTMLElement>} */ (this.log.querySelectorAll(".line[data-id]"))) {
      const isChosen = this.#chosen.has(Number(row.dataset.id));
      let mark = row.querySelector(":scope > .pick");
      if (!mark) {
        mark = button("", "pick");
        mark.setAttribute("role", "checkbox");
        mark.setAttribute("aria-label", row.getAttribute("aria-label") ?? "");
        /** @type {HTMLElement} */ (mark).tabIndex = -1;
        row.prepend(mark);
      }
      if (mark.getAttribute("aria-checked") !== String(isChosen)) mark.setAttribute("aria-checked", String(isChosen));
      row.classList.toggle("chosen", isChosen);
    }
  }

  /**
   * @param {EventTarget | null} target
   * @returns {Entry | undefined} the message in whose row it is
   */
  #entryAt(target) {
    const row = target instanceof Element ? target.closest(".line[data-id]") : null;
    if (!(row instanceof HTMLElement)) return undefined;
    return this.#messages.find(({ id }) => String(id) === row.dataset.id);
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const entry = this.#entryAt(event.target);
    event.stopPropagation();
    event.preventDefault();
    if (entry) this.toggle(entry, { hasRange: event.shiftKey });
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !["Enter", " ", "x"].includes(event.key)) return;
    const entry = this.#entryAt(event.target);
    if (!entry) return;
    event.stopPropagation();
    event.preventDefault();
    this.toggle(entry, { hasRange: event.shiftKey });
  }

  /**
   * @param {string} word
   * @param {string} classes
   * @param {() => unknown} act
   * @returns {HTMLButtonElement} a button of the bar
   */
  #makeAct(word, classes, act) {
    const made = button(word, classes);
    made.addEventListener("click", act);
    return made;
  }

  async #copy() {
    const { session } = this;
    const isCopied = await copyText(copied(this.#entries, session));
    if (!isCopied) return toast(session.words.messages_copy_failed);
    toast(session.words.messages_copied);
    this.end();
  }

  async #forward() {
    const isForwarded = await openForward(this.session, this.#entries);
    if (isForwarded) this.end();
  }

  /** Asks, and recalls our own messages for all, if the user wants that. It hides the other messages from us only. */
  async #delete() {
    const { user, messenger, store } = this.session;
    const entries = this.#entries;
    const own = entries.filter(({ from }) => from === user);
    const answer = await this.#askToDelete(entries.length, own.length);
    if (answer === "no") return;
    await this.#try(async () => {
      const recalled = answer === "for-all" ? own : [];
      for (const entry of recalled) {
        const sent = await messenger.recall(entry.id);
        this.session.added({ ...sent, kind: "recall", from: user, to: entry.to, about: entry.id, time: Date.now() });
      }
      const hidden = entries.filter((entry) => !recalled.includes(entry)).map(({ id }) => id);
      if (hidden.length) await store.hide(hidden);
      this.end();
    });
  }

  /**
   * @param {number} count  of the messages
   * @param {number} ownCount  how many of them are ours
   * @returns {Promise<"no" | "for-us" | "for-all">} `for-all`: our own messages are recalled
   */
  async #askToDelete(count, ownCount) {
    const { words } = this.session;
    let isForAll = false;
    let isAgreed = false;
    const forAll = switchBox(fill(words.messages_select_recall, { count: ownCount }), false, words, async (on) => {
      isForAll = on;
    });
    const no = button(words.messages_cancel);
    const yes = button(words.messages_select_delete, "wide danger");
    const title = fill(words.messages_select_delete_ask, { count });
    const content = make("div", "question", make("p", "muted", words.messages_select_hides));
    if (ownCount) content.append(forAll);
    content.append(make("p", "card-row", no, yes));
    const layer = openDialog(title, content);
    no.addEventListener("click", () => layer.close());
    yes.addEventListener("click", () => {
      isAgreed = true;
      layer.close();
    });
    no.focus();
    await layer.closed;
    if (!isAgreed) return "no";
    return isForAll ? "for-all" : "for-us";
  }

  /** @param {() => Promise<unknown>} work  the reason of a failure is shown */
  async #try(work) {
    try {
      await work();
    } catch (error) {
      toast(reasonOf(error, this.session.words));
    }
  }
}
