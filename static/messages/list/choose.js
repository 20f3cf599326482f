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
  /** @param {Session} session @param {Iterable<Conversation>} chosen  they come first @param {((conversation: Conversation) => void) | null} take  of one; null: several are chosen */
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

  draw() {
    const { store, people } = this.session;
    const wanted = this.filter.value;
    const others = store.sorted.filter((each) => (each.group || each.peer) && !each.left && !this.first.includes(each));
    const found = [...this.first, ...others].filter((each) => fitOf(store.nameOf(each), wanted) < 2).slice(0, this.first.length + MOST_SHOWN);
    redraw(this.list, found.map((each) => {
      const choice = button("", "choice");
      choice.dataset.key = String(each.id);
      choice.append(people.face(each), make("bdi", "", store.nameOf(each)), ...(this.take ? [] : [make("span", "choice-mark")]));
      if (!this.take) choice.setAttribute("role", "checkbox");
      const mark = () => !this.take && choice.setAttribute("aria-checked", String(this.chosen.has(each)));
      mark();
      choice.addEventListener("click", () => {
        if (this.take) return this.take(each);
        if (!this.chosen.delete(each)) this.chosen.add(each);
        mark();
      });
      return make("li", "", choice);
    }));
  }
}

/**
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
