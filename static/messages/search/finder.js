// @ts-check
/**
 * Finds people, conversations, messages and files, with filters: what the field above the list of conversations and the
 * palette share.
 */

import { cut, drawn, fill, listOf, make } from "../../text.js";
import { reasonOf } from "../parts/api.js";
import { findPeople, fittingOf } from "../people/directory.js";
import { shortTimes } from "../session/first-view.js";
import { loadStyle, withModule } from "../parts/form.js";
import { fitOf } from "../parts/names.js";
import { button } from "../parts/panel.js";
import { dateText, hitsIn, isFiltered, parse, withFilter, withoutContent } from "./search-query.js";
import { summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./search-query.js").Query} Query */
/** @typedef {import("./search-query.js").Content} Content */

/** @typedef {{ title: string, time?: string, below?: string, face?: HTMLElement, keys?: string, act: () => unknown }} Row  `act`: what a click does */
/** @typedef {{ key: string, rows: Row[], title?: string }} Rows  `key`: of the section; `title`: missing: the word for it */

/**
 * @typedef {object} FinderOptions
 * @property {HTMLInputElement} field
 * @property {HTMLElement} list   a `ul`
 * @property {HTMLElement} chips  offers the filters
 * @property {() => Conversation | null} [within]  search only in this conversation
 * @property {(words: string) => Rows[]} [commands]  what else is found
 * @property {(act: () => unknown) => unknown} [go]  called with what a row does
 * @property {() => void} [changed]  the text has changed
 */

const AFTER_MS = 250;
const PAGE = 30;
const FIRST_FILES = 4;
const FIRST_NAMES = 5;
const SUGGESTED = 8;
const AROUND = 30;
/** Characters behind the first hit in which others are marked. */
const MARKED = 120;
/** The server stops a search after a time. So many times it is continued without a result. */
const EMPTY_PAGES = 5;
/** The server searches texts of 256 bytes. */
const WORDS_LENGTH = 80;
/** @type {Content[]} */
const CONTENTS = ["picture", "video", "voice", "file", "link"];
const MEDIA = ["picture", "video", "voice", "file", "album"];
const DAY_MS = 86_400_000;
/** Days before today → the word for them. */
const AGO = /** @type {const} */ ([[0, "today"], [7, "week"], [30, "month"], [365, "year"]]);

/** Owns a list of results, the chips, and the searches for the text of a field. */
export class Finder {
  #run = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** The people of the contact list, once they are loaded. @type {string[]} */
  #contacts = [];
  #loaded = false;
  /** Name in a filter, in lower case → the user or conversation that was picked. @type {Map<string, string | number>} */
  #picked = new Map();
  #ends = new AbortController();

  /**
   * @param {Session} session
   * @param {FinderOptions} options
   */
  constructor(session, options) {
    this.session = session;
    this.options = options;
    this.when = shortTimes(session.language);
    const { field, list, chips } = options;
    const { signal } = this.#ends;
    loadStyle(new URL("../later/search.css", import.meta.url));
    field.addEventListener("input", () => this.start(), { signal });
    field.addEventListener("keydown", (event) => this.#onFieldKey(event), { signal });
    list.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    chips.classList.add("chips");
    chips.setAttribute("role", "toolbar"); // one stop of the Tab key, with arrow keys
    chips.setAttribute("aria-label", session.words.messages_filters);
    this.#drawChips(parse(field.value));
  }

  stop() {
    this.#run += 1;
    clearTimeout(this.#timer);
    this.#ends.abort();
  }

  /** Shows what is found for the text of the field: at once what the page knows, then what the server finds. */
  start() {
    clearTimeout(this.#timer);
    const run = ++this.#run;
    const { field, list, changed, commands, within } = this.options;
    const query = parse(field.value);
    changed?.();
    this.#drawChips(query);
    const isEmpty = !query.words && !isFiltered(query) && !query.open;
    const scope = within?.() ?? null;
    const areNames = !isFiltered(query) && !scope && (query.words || commands) && !query.open;
    const names = areNames ? this.#names(query) : [];
    list.replaceChildren(...[...this.#suggestions(query), ...names, ...(areNames ? (commands?.(query.words) ?? []) : [])].map((rows) => this.#section(rows)));
    list.append(...query.faults.map((token) => note(fill(this.session.words.messages_filter_unknown, { token }))));
    this.#markFirst();
    if (isEmpty) return;
    const state = note(this.session.words.messages_searching);
    list.append(state);
    this.#timer = setTimeout(() => this.#find(run, query, scope, state), AFTER_MS);
  }

  /**
   * @param {number} run  results of an earlier one are ignored
   * @param {Query} query
   * @param {Conversation | null} scope
   * @param {HTMLElement} state
   */
  async #find(run, query, scope, state) {
    const { words, store } = this.session;
    const { list } = this.options;
    try {
      await Promise.all([store.loadRest(), this.#loadContacts()]);
      if (run !== this.#run) return;
      const areNames = query.words && !isFiltered(query) && !scope && !query.open;
      if (areNames) this.#addNames(query);
      const searches = [];
      const found = this.#filter(query, scope);
      if (typeof found === "string") {
        state.textContent = found;
        return;
      }
      if (query.words || found.isNarrow) {
        const { filter } = found;
        const isFound = query.has.length > 0 || !query.words;
        const messages = this.#section({ key: query.has.length && !query.has.includes("link") ? "files" : "messages", rows: [] });
        state.before(messages);
        searches.push(this.#messages(run, messages, query.words, filter, PAGE));
        if (!isFound) {
          const files = this.#section({ key: "files", rows: [] });
          state.before(files);
          searches.push(this.#messages(run, files, query.words, { ...filter, types: MEDIA }, FIRST_FILES));
        }
      }
      if (areNames) searches.push(this.#people(run, query.words));
      await Promise.all(searches);
      if (run !== this.#run) return;
      if (areNames && store.hasMore) list.append(note(words.messages_search_part));
      if (list.querySelector("button") || query.faults.length) state.remove();
      else state.textContent = this.session.isGuest && areNames ? words.messages_search_none_guest : words.messages_search_none;
    } catch (error) {
      if (run === this.#run) state.textContent = reasonOf(error, words);
    }
    if (run === this.#run) this.#markFirst();
  }

  // --- names --------------------------------------------------------------------------------------------------

  /** Knows the contacts, too, from now on. */
  async #loadContacts() {
    if (this.#loaded || !this.session.isOnline) return;
    this.#loaded = true;
    const { friends } = await this.session.api("GET", "friends", { list: "friends", limit: 1000 }).catch(() => ({ friends: [] }));
    const users = friends.map((/** @type {{ user: string }} */ { user }) => user);
    await this.session.people.load(users);
    this.#contacts = users;
  }

  /** @returns {{ users: string[], groups: Conversation[] }} those with a conversation first */
  #known() {
    const { store } = this.session;
    const { sorted } = store;
    const peers = sorted.filter(({ group, peer }) => !group && peer).map(({ peer }) => peer);
    return { users: [...new Set([...peers, ...this.#contacts])], groups: sorted.filter(({ group, peer }) => group || !peer) };
  }

  /**
   * @param {Query} query
   * @returns {Rows[]} what the page knows
   */
  #names({ words: wanted }) {
    const { store } = this.session;
    if (!wanted) return [{ key: "recent", rows: store.sorted.slice(0, FIRST_NAMES).map((each) => this.#conversationRow(each)) }].filter(({ rows }) => rows.length);
    const { users, groups } = this.#known();
    const found = groups.filter((each) => has(store.nameOf(each), wanted));
    return [
      { key: "people", rows: fittingOf(this.session, users, wanted).map((user) => this.#personRow(user)) },
      { key: "talks", rows: found.map((each) => this.#conversationRow(each)) },
    ].filter(({ rows }) => rows.length);
  }

  /** @param {Query} query  older conversations and contacts are known now: shows their names in place of the first ones */
  #addNames(query) {
    const { list } = this.options;
    if (list.contains(document.activeElement)) return; // the user is choosing
    for (const key of ["people", "talks"]) list.querySelector(`[data-section=${key}]`)?.remove();
    list.prepend(...this.#names(query).map((rows) => this.#section(rows)));
  }

  /**
   * The people whom only the server knows, where the app lets us search them.
   *
   * @param {number} run
   * @param {string} wanted
   * @param {string} [after]  where the page begins
   */
  async #people(run, wanted, after = "") {
    const { users, next } = await findPeople(this.session, wanted, after);
    if (run !== this.#run) return;
    const known = new Set(this.#known().users);
    const rows = users.filter((user) => !known.has(user)).map((user) => this.#personRow(user));
    if (!rows.length && !next) return;
    const { list } = this.options;
    if (!list.querySelector("[data-section=people]")) list.prepend(this.#section({ key: "people", rows: [] }));
    const section = /** @type {HTMLElement} */ (list.querySelector("[data-section=people]"));
    section.hidden = false;
    const people = /** @type {HTMLElement} */ (section.querySelector("ul"));
    const made = rows.map((row) => this.#row(row));
    people.append(...made);
    if (after) made[0]?.querySelector("button")?.focus();
    if (!next) return;
    const more = button(this.session.words.messages_more_people, "link");
    const row = make("li", "", more);
    more.addEventListener("click", async () => {
      more.disabled = true;
      await this.#people(run, wanted, next).catch((error) => void people.append(note(reasonOf(error, this.session.words))));
      row.remove();
    });
    people.append(row);
  }

  /**
   * @param {string} user
   * @returns {Row}
   */
  #personRow(user) {
    const { session } = this;
    const { people } = session;
    const name = people.card(user)?.name;
    return { title: people.nameOf(user), below: name ? `@${name}` : "", face: people.avatar(user), act: () => session.open({ user }) };
  }

  /**
   * @param {Conversation} conversation
   * @returns {Row}
   */
  #conversationRow(conversation) {
    const { session } = this;
    return { title: session.store.nameOf(conversation), face: session.people.face(conversation), act: () => session.open(conversation.id ? { conversation: conversation.id } : { user: conversation.peer }) };
  }

  // --- filters ------------------------------------------------------------------------------------------------

  /** @param {Query} query */
  #drawChips(query) {
    const { words } = this.session;
    const { chips } = this.options;
    const contents = CONTENTS.map((content) => {
      const isOn = query.has.includes(content);
      const chip = button(words[`messages_has_${content}`], "chip");
      chip.setAttribute("aria-pressed", String(isOn));
      chip.addEventListener("click", () => this.#type(isOn ? (text) => withoutContent(text, content) : (text) => withFilter(text, words.messages_filter_has, words[`messages_has_${content}`])));
      return chip;
    });
    const menu = button(words.messages_filters, "chip");
    menu.setAttribute("aria-haspopup", "dialog");
    menu.addEventListener("click", () => this.#openFilters());
    const focused = [...chips.children].indexOf(/** @type {Element} */ (document.activeElement));
    chips.replaceChildren(menu, ...contents);
    /** @type {HTMLElement | undefined} */ (chips.children[focused])?.focus();
  }

  #openFilters() {
    const { session, options } = this;
    const { words, store, people } = session;
    withModule(import("./search-filters.js"), words, ({ openFilters }) => openFilters(session, {
      query: parse(options.field.value),
      names: this.#writers().map((user) => people.nameOf(user)),
      places: store.sorted.filter(({ id }) => id).map((each) => ({ id: each.id, name: store.nameOf(each) })),
      within: options.within?.()?.id ?? 0,
      contents: CONTENTS,
      apply: (text) => this.#type(() => text),
      go: options.go ?? ((act) => act()),
    }));
  }

  /** @param {(text: string) => string} change */
  #type(change) {
    const { field } = this.options;
    field.value = change(field.value);
    field.focus();
    this.start();
  }

  /**
   * @param {Query} query
   * @returns {Rows[]} what the filter that is typed now may mean
   */
  #suggestions({ open }) {
    if (!open) return [];
    const { words, store, people } = this.session;
    const { name, value } = open;
    const title = `${words[`messages_filter_${name}`]}:`;
    /** @param {string} text @param {HTMLElement | undefined} face @param {string | number} [picked] @param {string} [below] @returns {Row} */
    const row = (text, face, picked, below) => ({ title: below ?? text, below: below ? text : "", face, act: () => {
      if (picked !== undefined) this.#picked.set(`${name}:${text.toLowerCase()}`, picked);
      this.#type((typed) => withFilter(typed, words[`messages_filter_${name}`], text));
    } });
    /** @type {Row[]} */
    let rows = [];
    const { groups } = this.#known();
    if (name === "from") rows = this.#writers().filter((user) => has(people.nameOf(user), value)).slice(0, SUGGESTED).map((user) => row(people.nameOf(user), people.avatar(user), user));
    else if (name === "in") rows = [...groups, ...store.sorted.filter(({ group, peer }) => !group && peer)].filter((each) => each.id && has(store.nameOf(each), value)).map((each) => row(store.nameOf(each), people.face(each), each.id));
    else if (name === "has") rows = CONTENTS.map((content) => words[`messages_has_${content}`]).filter((text) => has(text, value) && text !== value).map((text) => row(text, undefined));
    else rows = AGO.map(([days, word]) => row(dateText(new Date(Date.now() - days * DAY_MS)), undefined, undefined, words[`messages_date_${word}`])).filter(({ below }) => String(below).startsWith(value) && below !== value);
    return rows.length ? [{ key: "filter", title, rows: rows.slice(0, SUGGESTED).map((each) => ({ ...each, stays: true })) }] : [];
  }

  /** @returns {string[]} who may have written: the user, then those with a conversation, then all whom the page knows */
  #writers() {
    const { people, user: self } = this.session;
    return [...new Set([self, ...this.#known().users, ...people.users])];
  }

  /**
   * @param {Query} query
   * @param {Conversation | null} scope
   * @returns {{ filter: Record<string, any>, isNarrow: boolean } | string} what the server is asked for; a text: why it cannot
   */
  #filter(query, scope) {
    const { words, store, people } = this.session;
    /** @type {Record<string, any>} */
    const filter = {};
    if (query.from) {
      const from = this.#picked.get(`from:${query.from.toLowerCase()}`) ?? match(this.#writers(), query.from, (user) => people.nameOf(user)) ?? (people.card(query.from) && query.from);
      if (!from) return query.open?.name === "from" ? { filter, isNarrow: false } : fill(words.messages_filter_nobody, { name: query.from });
      filter.from = from;
    }
    if (scope) filter.conversation = scope.id;
    else if (query.in) {
      const place = this.#picked.get(`in:${query.in.toLowerCase()}`) ?? match(store.sorted.filter(({ id }) => id), query.in, (each) => store.nameOf(each))?.id;
      if (!place) return query.open?.name === "in" ? { filter, isNarrow: false } : fill(words.messages_filter_nowhere, { name: query.in });
      filter.conversation = place;
    }
    const types = query.has.filter((content) => content !== "link");
    if (types.length) filter.types = types.some((type) => type !== "voice") ? [...types, "album"] : types; // an album has all kinds but voices
    if (query.has.includes("link")) filter.link = true;
    if (query.since) filter.since = query.since;
    if (query.until) filter.until = query.until;
    return { filter, isNarrow: ["from", "types", "link", "since", "until"].some((key) => key in filter) };
  }

  // --- messages -----------------------------------------------------------------------------------------------

  /**
   * @param {number} run
   * @param {HTMLElement} section
   * @param {string} text
   * @param {Record<string, any>} filter
   * @param {number} limit
   * @param {number} [before]
   */
  async #messages(run, section, text, filter, limit, before = 0) {
    const { messenger, people, words } = this.session;
    let page;
    for (let pages = 0; pages < EMPTY_PAGES && (!page || (page.hasMore && !page.messages.length)); pages++) {
      page = await messenger.search(cut(text, WORDS_LENGTH), { limit, ...filter, ...((page?.before ?? before) && { before: page?.before ?? before }) });
      if (run !== this.#run) return;
    }
    if (!page) return;
    const { hasMore, before: next } = page;
    const { types } = filter;
    const messages = page.messages.filter(({ type, data }) => !types || type !== "album" || listOf(data?.items).some((/** @type {any} */ each) => types.includes(each?.type || "file")));
    await people.load(messages.map(({ from }) => from));
    if (run !== this.#run) return;
    const rows = messages.reverse().map((entry) => drawn(() => this.#hit(entry, text), () => note(words.messages_unshown)));
    const list = /** @type {HTMLElement} */ (section.querySelector("ul"));
    list.append(...rows);
    section.hidden = !list.childElementCount && !hasMore;
    if (!hasMore) return;
    const more = button(words.messages_search_more, "link");
    more.addEventListener("click", async () => {
      const row = /** @type {HTMLElement} */ (more.parentElement);
      more.disabled = true;
      const last = list.childElementCount - 1;
      try {
        await this.#messages(run, section, text, filter, PAGE, next);
      } catch (error) {
        list.append(note(reasonOf(error, words)));
      }
      row.remove();
      list.children[last]?.querySelector("button")?.focus();
    });
    list.append(make("li", "", more));
  }

  /**
   * @param {Entry} entry
   * @param {string} text
   */
  #hit(entry, text) {
    const { store, people, words, user } = this.session;
    const conversation = store.conversations.get(entry.conversation);
    const from = entry.from === user ? words.you : people.nameOf(entry.from);
    const title = this.options.within?.() || !conversation ? from : conversation.group ? `${from} · ${store.nameOf(conversation)}` : store.nameOf(conversation);
    const row = this.#row({ title, time: this.when(entry.time), face: people.avatar(entry.from), act: () => this.session.open({ conversation: entry.conversation, message: entry.id }) });
    row.querySelector(".preview")?.append(...marked(summaryOf(entry, words, Infinity), text));
    return row;
  }

  // --- the list -----------------------------------------------------------------------------------------------

  /** @param {Rows} rows  of people and conversations the first are shown, and a button for the others */
  #section({ key, rows, title = this.session.words[`messages_section_${key}`] }) {
    const { words } = this.session;
    const list = make("ul", "");
    const shown = rows.map((row) => this.#row(row));
    const others = key === "people" || key === "talks" ? shown.splice(FIRST_NAMES) : [];
    list.append(...shown);
    if (others.length) {
      const more = button(words[`messages_search_${key}`], "link");
      const row = make("li", "", more);
      more.addEventListener("click", () => {
        row.replaceWith(...others);
        others[0].querySelector("button")?.focus();
      });
      list.append(row);
    }
    const made = make("li", "hit-section", make("span", "hit-title", title), list);
    made.dataset.section = key;
    made.hidden = !rows.length;
    return made;
  }

  /** @param {Row & { stays?: boolean }} row  `stays`: the list stays open */
  #row({ title, time = "", below = "", face, keys = "", act, stays = false }) {
    const heading = make("span", "row-line", make("b", "", make("bdi", "", title)), ...(time ? [make("time", "", time)] : []), ...(keys ? [make("kbd", "", keys)] : []));
    const row = button("", face ? "conversation hit" : "conversation hit plain");
    row.append(...(face ? [face] : []), make("span", "row-words", heading, make("span", "preview", below)));
    const { go = (/** @type {() => unknown} */ then) => then() } = this.options;
    row.addEventListener("click", () => (stays ? act() : go(act)));
    return make("li", "", row);
  }

  /** Marks the row that Enter opens. */
  #markFirst() {
    const [first, ...others] = this.#rows();
    for (const each of others) each.classList.remove("first");
    first?.classList.add("first");
  }

  #rows() {
    return /** @type {HTMLButtonElement[]} */ ([...this.options.list.querySelectorAll(".hit-section:not([hidden]) button")]);
  }

  /** @param {KeyboardEvent} event */
  #onFieldKey(event) {
    if (event.isComposing) return;
    const [first] = this.#rows();
    if (event.key === "ArrowDown") first?.focus();
    else if (event.key === "Enter") first?.click();
    else return;
    event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { field } = this.options;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey && !event.altKey) field.focus(); // typing goes on
    if (!step) return;
    event.preventDefault();
    const rows = this.#rows();
    const next = rows.indexOf(/** @type {HTMLButtonElement} */ (event.target)) + step;
    if (next < 0) field.focus();
    else rows[next]?.focus();
  }
}

/** @param {string} text @param {string} part */
function has(text, part) {
  return fitOf(text, part) < 2;
}

/**
 * @template T
 * @param {T[]} all
 * @param {string} name
 * @param {(each: T) => string} nameOf
 * @returns {T | undefined} the one with this name; else the first whose name begins with it
 */
function match(all, name, nameOf) {
  const wanted = name.toLowerCase();
  return all.find((each) => nameOf(each).toLowerCase() === wanted) ?? all.find((each) => nameOf(each).toLowerCase().startsWith(wanted));
}

/** @param {string} text */
function note(text) {
  const made = make("li", "people-note", text);
  made.setAttribute("aria-live", "polite"); // a list has no rows with the role "status"
  return made;
}

/**
 * @param {string} text
 * @param {string} wanted
 * @returns {(Node | string)[]} the text around the first hit; hits are marked
 */
function marked(text, wanted) {
  const hits = hitsIn(text, wanted);
  if (!hits.length) return [cut(text, 120)];
  const [[first]] = hits;
  const near = [...text.slice(0, first)].slice(-AROUND).join("");
  const made = /** @type {(Node | string)[]} */ ([near.length < first ? `…${near.slice(near.indexOf(" ") + 1)}` : near]);
  let at = first;
  for (const [start, end] of hits) {
    if (start > first + MARKED) break;
    made.push(text.slice(at, start), make("mark", "", text.slice(start, end)));
    at = end;
  }
  return [...made, cut(text.slice(at), 120)];
}
