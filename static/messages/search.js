// @ts-check
/** Search in the messages of all conversations, or of one. A hit opens its conversation there. */

import { cut, element, fill, make } from "../text.js";
import { reasonOf } from "./api.js";
import { shortTimes } from "./conversation-list.js";
import { summaryOf } from "./message-view.js";
import { button, startSearchStep } from "./panel.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */
/** @typedef {import("./entries.js").Entry} Entry */

const AFTER_MS = 250;
const PAGE = 30;
const FIRST_NAMES = 5;
const AROUND = 30;

/** Owns the field above the list of conversations, and the hits in place of the list. */
export class Search {
  /** @type {Conversation | null} */
  #within = null;
  /** It is a step of the browser's history. */
  #isStep = false;
  #run = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #field = element("search", HTMLInputElement);
  #scope = element("search-scope", HTMLElement);
  #hits = element("hits", HTMLElement);
  #ends = new AbortController();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.when = shortTimes(session.language);
    const { signal } = this.#ends;
    this.#field.addEventListener("input", () => this.#start(), { signal });
    this.#field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.#leave();
      } else if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        this.#hits.querySelector("button")?.focus();
      }
    }, { signal });
    this.#hits.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    this.#scope.addEventListener("click", () => {
      this.#within = null;
      this.#drawScope();
      this.#start();
      this.#field.focus();
    }, { signal });
  }

  stop() {
    this.close();
    this.#ends.abort();
  }

  /**
   * Begins a search.
   *
   * @param {Conversation | null} within  null: in all conversations
   */
  open(within) {
    this.#isStep = startSearchStep();
    this.#within = within;
    document.body.dataset.searching = "true";
    this.#drawScope();
    this.#field.focus();
    this.#field.select();
    this.#start();
  }

  /** The page is at another entry of the browser's history, and its address has not changed. */
  follow() {
    const { dataset } = document.body;
    if (history.state?.searching) dataset.searching = "true";
    else if (this.#isStep && "searching" in dataset) {
      this.close();
      element("search-here", HTMLButtonElement).focus();
    }
  }

  #leave() {
    if (history.state?.searching) history.back(); // then `follow` is called
    else this.close();
  }

  /** Shows the conversations again. */
  close() {
    this.#run += 1;
    clearTimeout(this.#timer);
    this.#within = null;
    this.#field.value = "";
    this.#drawScope();
    this.#show(false);
    delete document.body.dataset.searching;
  }

  #drawScope() {
    const { words, store } = this.session;
    this.#scope.hidden = !this.#within;
    if (this.#within) this.#scope.textContent = fill(words.messages_search_in, { name: store.nameOf(this.#within) });
  }

  /** @param {boolean} hits */
  #show(hits) {
    this.#hits.hidden = !hits;
    element("conversations-list", HTMLElement).hidden = hits;
  }

  #start() {
    clearTimeout(this.#timer);
    const text = this.#field.value.trim();
    this.#run += 1;
    this.#show(Boolean(text));
    if (!text) return this.#hits.replaceChildren();
    const run = this.#run;
    this.#timer = setTimeout(() => this.#find(run, text), AFTER_MS);
  }

  /**
   * @param {number} run   hits of an earlier one are ignored
   * @param {string} text
   * @param {number} [before]
   */
  async #find(run, text, before = 0) {
    const { words, messenger, store, people } = this.session;
    if (!before) {
      this.#hits.replaceChildren(note(words.messages_searching));
      await store.loadRest();
      if (run !== this.#run) return;
      this.#hits.prepend(...this.#conversations(text));
    } else this.#hits.lastElementChild?.replaceWith(note(words.messages_searching));
    try {
      const within = this.#within?.id;
      const page = await messenger.search(text, { limit: PAGE, ...(within && { conversation: within }), ...(before && { before }) });
      await people.load(page.messages.map(({ from }) => from));
      if (run !== this.#run) return;
      this.#hits.lastElementChild?.remove();
      this.#hits.append(...page.messages.reverse().map((entry) => this.#hit(entry, text)));
      if (page.hasMore) {
        const more = button(words.messages_search_more, "link");
        more.addEventListener("click", () => this.#find(run, text, page.before));
        this.#hits.append(make("li", "", more));
      } else if (!this.#hits.childElementCount) this.#hits.append(note(words.messages_search_none));
    } catch (error) {
      if (run === this.#run) this.#hits.lastElementChild?.replaceWith(note(reasonOf(error, words)));
    }
  }

  /** @param {string} text  conversations whose name contains it: the first, a button for the others, and what is not searched */
  #conversations(text) {
    const { store, people, words } = this.session;
    if (this.#within) return [];
    const found = store.sorted.filter((each) => store.nameOf(each).toLowerCase().includes(text.toLowerCase()));
    const rows = found.map((each) => {
      return this.#row(people.face(each), store.nameOf(each), "", "", () => this.session.open({ conversation: each.id }));
    });
    const others = rows.splice(FIRST_NAMES);
    if (others.length) {
      const more = button(words.messages_search_talks, "link");
      const row = make("li", "", more);
      more.addEventListener("click", () => {
        row.replaceWith(...others);
        others[0].querySelector("button")?.focus();
      });
      rows.push(row);
    }
    return store.hasMore ? [...rows, note(words.messages_search_part)] : rows;
  }

  /**
   * @param {Entry} entry
   * @param {string} text
   */
  #hit(entry, text) {
    const { store, people, words, user } = this.session;
    const conversation = store.conversations.get(entry.conversation);
    const from = entry.from === user ? words.you : people.nameOf(entry.from);
    const title = this.#within || !conversation ? from : conversation.group ? `${from} · ${store.nameOf(conversation)}` : store.nameOf(conversation);
    const row = this.#row(people.avatar(entry.from), title, this.when(entry.time), "", () => {
      this.session.open({ conversation: entry.conversation, message: entry.id });
    });
    row.querySelector(".preview")?.append(...marked(summaryOf(entry, words, Infinity), text));
    return row;
  }

  /**
   * @param {HTMLElement} face
   * @param {string} title
   * @param {string} time
   * @param {string} below
   * @param {() => void} act
   */
  #row(face, title, time, below, act) {
    const heading = make("span", "row-line", make("b", "", make("bdi", "", title)), make("time", "", time));
    const row = button("", "conversation hit");
    row.append(face, make("span", "row-words", heading, make("span", "preview", below)));
    row.addEventListener("click", act);
    return make("li", "", row);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      this.#leave();
      this.#field.focus();
    }
    if (!step) return;
    event.preventDefault();
    const rows = [...this.#hits.querySelectorAll("button")];
    const next = rows.indexOf(/** @type {HTMLButtonElement} */ (event.target)) + step;
    if (next < 0) this.#field.focus();
    else rows[next]?.focus();
  }
}

/** @param {string} text */
function note(text) {
  const made = make("li", "people-note", text);
  made.setAttribute("role", "status");
  return made;
}

/**
 * @param {string} text
 * @param {string} wanted
 * @returns {(Node | string)[]} the text around the first hit, which is marked
 */
function marked(text, wanted) {
  const at = text.toLowerCase().indexOf(wanted.toLowerCase());
  if (at < 0) return [cut(text, 120)];
  const near = [...text.slice(0, at)].slice(-AROUND).join("");
  const before = near.length < at ? `…${near.slice(near.indexOf(" ") + 1)}` : near;
  return [before, make("mark", "", text.slice(at, at + wanted.length)), cut(text.slice(at + wanted.length), 120)];
}
