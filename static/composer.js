// @ts-check
/** The text box: it grows with its text, sends on Enter, inserts emoji and shows why a message was not sent. */

import { makeEmojiGrid } from "./emoji.js";
import { CommandRefused, ImError, newId, NotConnected } from "../sdk/imserver.js";
import { leftOf, leftText } from "./page-parts.js";
import { element, fill } from "./text.js";

/** `keyCode` of a key that an input method has taken. */
const INPUT_METHOD_KEY = 229;

export class Composer {
  #form = element("composer", HTMLFormElement);
  #field = element("message", HTMLTextAreaElement);
  #send = element("send", HTMLButtonElement);
  #note = element("note", HTMLElement);
  #left = element("left", HTMLElement);
  #grid = element("emoji", HTMLElement);
  #opener = element("emoji-open", HTMLButtonElement);
  #busy = false;
  /** The last text that failed, with its id. A retry uses the same id, so that the message cannot arrive twice. */
  #failed = { text: "", id: "", target: "" };

  /**
   * @param {(text: string, id: string) => Promise<unknown>} send  rejects with the reason if it failed
   * @param {() => boolean} isOnline
   * @param {Record<string, string>} words
   * @param {() => string} [target]  the receiver: the same text to another receiver is another message
   */
  constructor(send, isOnline, words, target = () => "") {
    this.send = send;
    this.target = target;
    this.isOnline = isOnline;
    this.words = words;
    const emoji = makeEmojiGrid(this.#grid, (picked) => this.#insert(picked));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#field.addEventListener("keydown", (event) => this.#onKey(event));
    this.#field.addEventListener("input", () => this.#changed());
    this.#opener.addEventListener("click", () => {
      this.#toggleEmoji(this.#grid.hidden === true);
      if (!this.#grid.hidden) emoji.focus();
    });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#grid.hidden) return;
      this.#toggleEmoji(false);
      this.#field.focus();
    });
    this.#changed();
  }

  /** The state of the connection has changed. */
  refresh() {
    const hasText = this.#field.value.trim() !== "" && leftOf(this.#field) >= 0;
    const canSend = this.isOnline() && !this.#busy && hasText;
    this.#send.setAttribute("aria-disabled", String(!canSend));
    if (this.isOnline() && this.#note.dataset.why === "offline") this.#showNote("");
  }

  focus() {
    this.#field.focus();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.isComposing || event.keyCode === INPUT_METHOD_KEY) return; // this Enter belongs to the input method
    event.preventDefault();
    this.#submit();
  }

  async #submit() {
    const text = this.#field.value.trim();
    if (!text || this.#busy || leftOf(this.#field) < 0) return this.#field.focus();
    if (!this.isOnline()) return this.#showNote(this.words.send_offline, "offline");
    const target = this.target();
    const isRetry = this.#failed.text === text && this.#failed.target === target;
    const id = isRetry ? this.#failed.id : newId();
    this.#setBusy(true);
    try {
      await this.send(text, id);
      this.#failed = { text: "", id: "", target: "" };
      this.#field.value = "";
      this.#showNote("");
      this.#toggleEmoji(false);
    } catch (error) {
      this.#failed = { text, id, target };
      this.#showNote(this.#failure(error));
    }
    this.#setBusy(false);
    this.#changed();
    this.#field.focus();
  }

  /**
   * @param {unknown} error
   * @returns {string} the note for the person who writes
   */
  #failure(error) {
    const { words } = this;
    if (error instanceof CommandRefused && error.reason !== null) {
      return fill(words.send_rejected, { reason: error.reason || words.no_reason });
    }
    if (error instanceof NotConnected) return fill(words.send_failed, { reason: words.no_answer });
    return fill(words.send_failed, { reason: error instanceof ImError ? error.message : String(error) });
  }

  /** @param {boolean} busy */
  #setBusy(busy) {
    this.#busy = busy;
    this.#field.readOnly = busy;
    this.#form.setAttribute("aria-busy", String(busy));
  }

  /** The text has changed: the field gets the height of it. */
  #changed() {
    this.#field.style.height = "auto";
    const { scrollHeight } = this.#field;
    if (scrollHeight) this.#field.style.height = `${scrollHeight}px`; // 0: it is hidden, and has the height of one row
    this.#left.textContent = leftText(this.#field, this.words);
    this.refresh();
  }

  /**
   * @param {string} text
   * @param {string} [why]
   */
  #showNote(text, why = "") {
    this.#note.textContent = text;
    this.#note.dataset.why = why;
    this.#note.hidden = !text;
  }

  /** @param {boolean} open */
  #toggleEmoji(open) {
    this.#grid.hidden = !open;
    this.#opener.setAttribute("aria-expanded", String(open));
  }

  /** @param {string} emoji */
  #insert(emoji) {
    const { selectionStart, selectionEnd } = this.#field;
    this.#field.setRangeText(emoji, selectionStart, selectionEnd, "end");
    this.#changed();
  }
}
