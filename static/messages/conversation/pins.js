// @ts-check
/** The pinned messages of the open conversation, in a bar below its head. */

import { element } from "../../text.js";
import { plain } from "../parts/formatted.js";
import { summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** Owns the bar, which shows one of them. */
export class Pins {
  /** @type {Conversation | null} */
  #conversation = null;
  /** The pinned messages, the newest first. @type {Entry[]} */
  #pins = [];
  /** Index of the one that the bar shows. */
  #shown = 0;
  #bar = element("pinned", HTMLElement);

  /**
   * @param {import("../session/session.js").Session} session
   * @param {(id: number) => void} jump  to a message
   * @param {AbortSignal} signal  ends it
   */
  constructor(session, jump, signal) {
    this.session = session;
    element("pinned-jump", HTMLButtonElement).addEventListener("click", () => {
      const pin = this.#pins[this.#shown];
      if (!pin) return;
      jump(pin.id);
      this.#shown = (this.#shown + 1) % this.#pins.length;
      this.draw();
    }, { signal });
  }

  /**
   * Loads the pinned messages of a conversation.
   *
   * @param {Conversation | null} conversation  that is open now
   */
  async load(conversation) {
    if (conversation !== this.#conversation) {
      this.#conversation = conversation;
      this.#pins = [];
      this.draw();
    }
    if (!conversation?.id || !this.session.isOnline) return;
    try {
      const { messages } = await this.session.messenger.pins(conversation.id);
      if (conversation !== this.#conversation) return;
      this.#pins = messages;
      this.#shown = 0;
      this.session.people.load(messages.map((/** @type {Entry} */ { from }) => from));
      this.draw();
    } catch {
      // the bar stays as it is
    }
  }

  draw() {
    const { words, people } = this.session;
    const pin = this.#pins[this.#shown];
    this.#bar.hidden = !pin;
    if (!pin) return;
    const count = this.#pins.length > 1 ? ` ${this.#shown + 1}/${this.#pins.length}` : "";
    element("pinned-title", HTMLElement).textContent = words.messages_pinned_title + count;
    element("pinned-text", HTMLElement).replaceChildren(`${people.nameOf(pin.from)}: `, plain.draw(summaryOf(pin, words)));
  }

  /**
   * @param {number} id
   * @returns {boolean} whether the message is pinned, as far as it is loaded
   */
  has(id) {
    return this.#pins.some((each) => each.id === id);
  }
}
