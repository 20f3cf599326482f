// @ts-check
/** What is shown in the place of messages, where there are none. */

import { element, fill } from "../../text.js";
import { noAnswer } from "../parts/api.js";
import { withModule } from "../parts/form.js";

/** @typedef {import("../session/store.js").Conversation} Conversation */

/** Owns that part of the page. Loaded after the first messages are shown. */
export class Empty {
  #place = element("empty", HTMLElement);
  #button = element("empty-button", HTMLButtonElement);
  #start = element("start-card", HTMLElement);
  #act = () => {};

  /**
   * @param {import("../session/session.js").Session} session
   * @param {() => void} again  loads the messages
   * @param {AbortSignal} signal  ends it
   */
  constructor(session, again, signal) {
    this.session = session;
    this.again = again;
    this.#button.addEventListener("click", () => this.#act(), { signal });
  }

  /** No conversation is open. */
  drawChoice() {
    const { words, store, isGuest } = this.session;
    const hasNone = store.isLoaded && !store.conversations.size;
    this.#draw(hasNone ? words.messages_none : words.messages_choose, isGuest ? "" : words.messages_choose_hint);
  }

  /**
   * Draws why the open conversation shows no messages, or that we are alone in the group. Else it hides this part of the page.
   *
   * @param {Conversation} open
   * @param {string} fault  why its messages could not be loaded; empty: they are loaded
   */
  draw(open, fault) {
    const { words, store, outbox, people } = this.session;
    const isEmpty = !open.entries?.length && !outbox.of(open).length && !store.streamsOf(open).length;
    const isMissing = !open.entries || open.cached;
    const isAlone = !isMissing && isAloneIn(open);
    if (isEmpty && isMissing) {
      this.#draw(words.messages_not_loaded, fault || noAnswer(words), { label: words.messages_retry, act: this.again });
    } else if (isAlone) {
      this.#draw(words.messages_alone, words.messages_alone_hint, { label: words.messages_invite_people, act: () => this.#invite(open) });
    } else if (isEmpty) {
      const hint = open.group ? words.messages_empty_group : words.messages_empty_hint;
      this.#draw(fill(words.messages_empty, { name: store.nameOf(open) }), hint);
    }
    this.#place.hidden = !isEmpty && !isAlone;
    const isNewWithBot = isEmpty && !isMissing && people.card(open.peer)?.bot;
    this.#drawStart(isNewWithBot ? open.peer : "");
  }

  /**
   * @param {string} title
   * @param {string} hint
   * @param {{ label: string, act: () => void }} [button]  missing: there is none
   */
  #draw(title, hint, { label, act } = { label: "", act: () => {} }) {
    this.#place.hidden = false;
    element("empty-title", HTMLElement).textContent = title;
    element("empty-hint", HTMLElement).textContent = hint;
    this.#button.hidden = !label;
    this.#button.textContent = label;
    this.#act = act;
  }

  /** @param {Conversation} group */
  #invite({ id, name }) {
    const { session } = this;
    withModule(import("../people/invitations.js"), session.words, ({ openInvitations }) => openInvitations(session, { id: String(id), name }));
  }

  /** @param {string} bot  whose card is shown, because the conversation with it is empty; empty: none */
  async #drawStart(bot) {
    if (this.#start.dataset.bot === bot) return;
    this.#start.dataset.bot = bot;
    this.#start.hidden = true;
    if (!bot) return;
    const parts = await import("../people/gallery.js").then(({ startCard }) => startCard(this.session, bot)).catch(() => null);
    // Another conversation may be open now.
    if (!parts || this.#start.dataset.bot !== bot) return;
    this.#start.replaceChildren(...parts);
    this.#start.hidden = false;
  }
}

/**
 * @param {Conversation} group
 * @returns {boolean} whether it is a group of ours in which nobody is but us, and nothing was written
 */
function isAloneIn({ group, role, members, left, entries, hasOlder }) {
  const mayInvite = group && !left && ["owner", "admin"].includes(role);
  const hasMessages = hasOlder || entries?.some(({ kind }) => kind === "message");
  return mayInvite && members === 1 && !hasMessages;
}
