// @ts-check
/** Who is chosen in a list that does not show all of them: their number, and a chip for each, which takes them out again. */

import { fill, make } from "../../text.js";
import { loadStyle, redraw } from "../parts/form.js";
import { button } from "../parts/panel.js";

export class Chosen {
  root = make("div", "chosen-row");

  /**
   * @param {Record<string, string>} words
   * @param {(key: string) => void} remove
   */
  constructor(words, remove) {
    this.words = words;
    this.remove = remove;
    this.root.hidden = true;
    loadStyle(new URL("../later/chosen.css", import.meta.url));
  }

  /** @param {[key: string, name: string][]} chosen */
  draw(chosen) {
    const { words } = this;
    this.root.hidden = !chosen.length;
    const count = make("span", "muted", fill(words.messages_chosen_people, { count: chosen.length }));
    count.setAttribute("role", "status");
    redraw(this.root, [count, ...chosen.map(([key, name]) => {
      const chip = button("", "quiet");
      chip.dataset.key = `chosen:${key}`;
      chip.append(make("bdi", "", name), " ×");
      chip.setAttribute("aria-label", fill(words.messages_unchoose, { name }));
      chip.addEventListener("click", () => this.remove(key));
      return chip;
    })]);
  }
}
