// @ts-check
/** Which conversations are listed: all, the unread ones, those that mention us, groups, people, or a folder. */

import { element, make } from "../../text.js";
import { upTo } from "../session/first-view.js";
import { icon } from "../parts/file.js";
import { redraw, withModule } from "../parts/form.js";
import { button } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/**
 * @typedef {object} Filter
 * @property {string} key
 * @property {string} word
 * @property {(conversation: Conversation) => boolean} has
 * @property {boolean} counts  whether the chip says how many conversations have unread messages
 */

/** With fewer conversations and no folders, there are no filters. */
const LEAST = 8;

/** Owns the chips above the list, and which one is chosen. */
export class Filters {
  #chips = element("list-filters", HTMLElement);
  /** Key of the chosen filter; empty: not known yet. */
  #chosen;
  /** What the chips were drawn from; empty: they are not drawn yet. */
  #version = "";

  /**
   * @param {Session} session
   * @param {AbortSignal} signal
   * @param {() => void} changed  another one is chosen
   */
  constructor(session, signal, changed) {
    this.session = session;
    this.changed = changed;
    this.#chosen = session.rows.get()?.filter ?? "";
    signal.addEventListener("abort", () => { this.#chips.hidden = true; });
  }

  /** @returns {Filter[]} */
  get #all() {
    const { words, store, inbox } = this.session;
    const folders = inbox.folders.map(({ id, name }) => ({
      key: `folder ${id}`,
      word: name,
      has: (/** @type {Conversation} */ each) => inbox.foldersOf(each).includes(id),
      counts: true,
    }));
    return [
      { key: "all", word: words.messages_filter_all, has: () => true, counts: false },
      { key: "unread", word: words.messages_filter_unread, has: (each) => store.unreadOf(each) > 0, counts: true },
      { key: "mentions", word: words.messages_filter_mentions, has: ({ mentions }) => mentions > 0, counts: true },
      { key: "groups", word: words.messages_filter_groups, has: ({ group }) => group, counts: false },
      { key: "people", word: words.messages_filter_people, has: ({ group }) => !group, counts: false },
      ...folders,
    ];
  }

  /** @returns {string | undefined} what is chosen; undefined: there are no chips */
  get chosen() {
    return this.#chips.hidden ? undefined : this.#chosen;
  }

  /**
   * Draws the chips.
   *
   * @param {Conversation[]} listed
   * @param {Conversation | null} open  stays listed when it has been read
   * @returns {Conversation[]} those that are listed; the same array: all
   */
  draw(listed, open) {
    const { words, store, inbox } = this.session;
    const filters = this.#all;
    const chosen = filters.find(({ key }) => key === this.#chosen) ?? filters[0];
    this.#chosen = chosen.key;
    const unread = listed.filter((each) => store.unreadOf(each));
    const isOffered = listed.length >= LEAST || inbox.folders.length > 0 || chosen.key !== "all";
    if (this.#chips.hidden === isOffered) this.#chips.hidden = !isOffered;
    const shown = filters.map(({ key, word, has, counts }) => ({ key, word, count: counts && isOffered ? unread.filter(has).length : 0 }));
    const version = JSON.stringify([shown, chosen.key]);
    if (version !== this.#version) {
      const chips = shown.map((each) => this.#chip(each));
      if (inbox.isOffered) chips.push(this.#edit());
      redraw(this.#chips, chips);
    }
    if (!this.#version) this.#chips.querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" }); // that of the last visit
    this.#version = version;
    this.#chips.removeAttribute("tabindex");
    if (chosen.key === "all") return listed;
    const stays = chosen.key === "unread" || chosen.key === "mentions" ? open : null;
    return listed.filter((each) => chosen.has(each) || each === stays);
  }

  /** @param {{ key: string, word: string, count: number }} shown */
  #chip({ key, word, count }) {
    const chip = button("", "chip");
    chip.append(make("bdi", "", word), ...(count ? [" ", make("b", "", upTo(count))] : []));
    chip.dataset.key = key;
    chip.setAttribute("aria-pressed", String(key === this.#chosen));
    chip.tabIndex = key === this.#chosen ? 0 : -1;
    chip.addEventListener("click", () => {
      this.#chosen = key === this.#chosen ? "all" : key;
      this.changed();
      chip.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    return chip;
  }

  /** @returns {HTMLButtonElement} the chip that opens the folders */
  #edit() {
    const { session } = this;
    const edit = button("", "chip");
    edit.dataset.key = "edit";
    edit.tabIndex = -1;
    edit.setAttribute("aria-label", session.words.messages_folders);
    edit.title = session.words.messages_folders;
    edit.append(icon("folder"));
    edit.addEventListener("click", () => withModule(import("./folders.js"), session.words, ({ openFolders }) => openFolders(session)));
    return edit;
  }
}
