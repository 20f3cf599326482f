// @ts-check
/** The search above the list of conversations, in all conversations or in one. Loaded when it is needed. */

import { element, fill } from "../../text.js";
import { Finder } from "./finder.js";
import { startSearchStep } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

/** Owns the field above the list of conversations, and the results in place of the list. */
export class Search {
  /** @type {Conversation | null} */
  #within = null;
  /** Whether the search is a step of the browser's history, as on a phone. */
  #isStep = false;
  #field = element("search", HTMLInputElement);
  #scope = element("search-scope", HTMLElement);
  #chips = element("search-chips", HTMLElement);
  #hits = element("hits", HTMLElement);
  #ends = new AbortController();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.finder = new Finder(session, {
      field: this.#field,
      list: this.#hits,
      chips: this.#chips,
      within: () => this.#within,
      changed: () => this.#show(Boolean(this.#field.value.trim())),
    });
    const { signal } = this.#ends;
    for (const each of [this.#field, this.#hits]) {
      each.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        this.#leave();
        if (each === this.#hits) this.#field.focus();
      }, { signal });
    }
    this.#field.addEventListener("focus", () => { this.#chips.hidden = false; }, { signal });
    document.addEventListener("focusin", ({ target }) => this.#onFocus(target), { signal });
    this.#scope.addEventListener("click", () => {
      this.#within = null;
      this.#drawScope();
      this.finder.start();
      this.#field.focus();
    }, { signal });
    if (document.activeElement === this.#field) this.#chips.hidden = false;
    if (this.#field.value.trim()) this.finder.start(); // typed before this module was there
  }

  stop() {
    this.close();
    this.finder.stop();
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
    this.finder.start();
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

  /**
   * Hides the filters again when keys lead away from the search, and nothing is searched.
   *
   * @param {EventTarget | null} target  has got the focus
   */
  #onFocus(target) {
    if (this.#chips.hidden || this.#within || this.#field.value.trim()) return;
    if (!(target instanceof Element) || target.closest("[role=search], #search-chips, dialog")) return;
    if (target.matches(":focus-visible")) this.close(); // not by a click: it must not move what it is on
  }

  /** @returns {boolean} whether the search was in view: it is given up */
  cancel() {
    if (![this.#hits, this.#scope].some(({ offsetParent }) => offsetParent)) return false;
    this.#leave();
    return true;
  }

  #leave() {
    if (history.state?.searching) history.back(); // then `follow` is called
    else this.close();
  }

  /** Shows the conversations again. */
  close() {
    this.#within = null;
    this.#field.value = "";
    this.finder.start();
    this.#drawScope();
    this.#chips.hidden = true;
    delete document.body.dataset.searching;
  }

  #drawScope() {
    const { words, store } = this.session;
    this.#scope.hidden = !this.#within;
    if (this.#within) this.#scope.textContent = fill(words.messages_search_in, { name: store.nameOf(this.#within) });
  }

  /** @param {boolean} isSearching  the results take the place of the conversations */
  #show(isSearching) {
    this.#hits.hidden = !isSearching;
    element("conversations-list", HTMLElement).hidden = isSearching;
  }
}
