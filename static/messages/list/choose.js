// @ts-check
/** Choosing conversations: one, or several for a folder. */

import { make } from "../../text.js";
import { input, loadStyle, redraw } from "../parts/form.js";
import { fitOf } from "../parts/names.js";
import { button, openDialog, whenLeft } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

/** So many that are not chosen are shown: the others are found by their names. */
const MOST_SHOWN = 100;

/** A list of conversations with a field that filters it. Owns which are chosen. */
export class Chooser {
  /**
   * @param {Session} session
   * @param {Iterable<Conversation>} chosen  they come first
   * @param {((conversation: Conversation) => void) | null} take  called with the one that is chosen; null: the user chooses several
   */
  constructor(session, chosen, take) {
    const { words } = session;
    this.session = session;
    this.take = take;
    this.chosen = new Set(chosen);
    this.first = [...this.chosen];
    this.filter = input({ type: "search", placeholder: words.messages_filter, ariaLabel: words.messages_filter });
    this.filter.className = "search-field";
    this.filter.addEventListener("input", () => this.draw());
    this.list = make("ul", "choices");
    this.root = make("div", "chooser", this.filter, this.list);
    loadStyle(new URL("../later/selection.css", import.meta.url));
    this.draw();
  }

  /** Draws the conversations whose names fit the filter. */
  draw() {
    const { store } = this.session;
    const wanted = this.filter.value;
    const others = store.sorted.filter((each) => (each.group || each.peer) && !each.left && !this.first.includes(each));
    const found = [...this.first, ...others].filter((each) => fitOf(store.nameOf(each), wanted) < 2); // 2: it does not fit
    redraw(this.list, found.slice(0, this.first.length + MOST_SHOWN).map((each) => this.#row(each)));
  }

  /** @param {Conversation} conversation */
  #row(conversation) {
    const { store, people } = this.session;
    const { take } = this;
    const choice = button("", "choice");
    choice.dataset.key = String(conversation.id);
    choice.append(people.face(conversation), make("bdi", "", store.nameOf(conversation)));
    if (take) choice.addEventListener("click", () => take(conversation));
    else {
      const mark = () => choice.setAttribute("aria-checked", String(this.chosen.has(conversation)));
      choice.append(make("span", "choice-mark"));
      choice.setAttribute("role", "checkbox");
      mark();
      choice.addEventListener("click", () => {
        if (!this.chosen.delete(conversation)) this.chosen.add(conversation);
        mark();
      });
    }
    return make("li", "", choice);
  }
}

/**
 * Asks for one conversation in a dialog.
 *
 * @param {Session} session
 * @param {string} title
 * @param {Conversation | null} first  comes first
 * @returns {Promise<Conversation | null>} null: the user has cancelled
 */
export async function chooseConversation(session, title, first) {
  /** @type {Conversation | null} */
  let taken = null;
  const chooser = new Chooser(session, first ? [first] : [], (conversation) => {
    taken = conversation;
    layer.close();
  });
  const layer = openDialog(title, make("div", "chooser", make("p", "muted", session.words.messages_choose_where), chooser.root));
  chooser.filter.focus();
  await layer.closed;
  await whenLeft();
  return taken;
}
