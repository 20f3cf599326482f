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
  /** The newest first. @type {Entry[]} */
  #pins = [];
  #at = 0;
  #bar = element("pinned", HTMLElement);

  /**
   * @param {import("../session/session.js").Session} session
   * @param {(id: number) => void} jump  to a message
   * @param {AbortSignal} signal  ends it
   */
  constructor(session, jump, signal) {
    this.session = session;
    element("pinned-jump", HTMLButtonElement).addEventListener("click", () => {
      const pin = this.#pins[this.#at];
      if (!pin) return;
      jump(pin.id);
      this.#at = (this.#at + 1) % this.#pins.length;
      this.draw();
    }, { signal });
  }

  /** @param {Conversation | null} conversation  that is open now */
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
      this.#at = 0;
      this.session.people.load(messages.map((/** @type {Entry} */ { from }) => from));
      this.draw();
    } catch {
      // no bar
    }
  }

  draw() {
    const { words, people } = this.session;
    const pin = this.#pins[this.#at];
    this.#bar.hidden = !pin;
    if (!pin) return;
    const count = this.#pins.length > 1 ? ` ${this.#at + 1}/${this.#pins.length}` : "";
    element("pinned-title", HTMLElement).textContent = words.messages_pinned_title + count;
    element("pinned-text", HTMLElement).replaceChildren(`${people.nameOf(pin.from)}: `, plain.draw(summaryOf(pin, words)));
  }

  /** @param {number} id */
  has(id) {
    return this.#pins.some((each) => each.id === id);
  }
}
