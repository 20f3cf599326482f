// @ts-check
/**
 * Finds people, conversations, messages and files, with filters: what the field above the list of conversations and the
 * palette share.
 */

import { cut, drawn, fill, make } from "../../text.js";
import { reasonOf } from "../parts/api.js";
import { findPeople, fittingOf } from "../people/directory.js";
import { shortTimes } from "../session/first-view.js";
import { loadStyle, withModule } from "../parts/form.js";
import { fitOf } from "../parts/names.js";
import { button } from "../parts/panel.js";
import { dateText, findByName, hasTypes, hitsIn, isFiltered, parse, withFilter, withoutContent } from "./search-query.js";
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

/** The server is asked after typing has paused so long. */
const AFTER_MS = 250;
/** Messages on a page of results. */
const PAGE = 30;
/** Files that are shown beside the messages before the user asks for more. */
const FIRST_FILES = 4;
/** People or conversations that are shown before the user asks for more. */
const FIRST_NAMES = 5;
/** Suggested values of the filter that is typed now. */
const SUGGESTED = 8;
/** Characters of the text that are shown in front of the first hit. */
const AROUND = 30;
/** Characters behind the first hit in which others are marked. */
const MARKED = 120;
/** Characters of the text that are shown behind the last hit, or from its beginning if it has no hit. */
const BEHIND = 120;
/** The server stops a search after a time. So many times it is continued without a result. */
const EMPTY_PAGES = 5;
/** In characters: the server searches texts of 256 bytes. */
const WORDS_LENGTH = 80;
/** Contacts that are loaded, so that their names are found at once. */
const MOST_CONTACTS = 1000;
/** @type {Content[]} */
const CONTENTS = ["picture", "video", "voice", "file", "link"];
const MEDIA = ["picture", "video", "voice", "file", "album"];
const DAY_MS = 86_400_000;
/** Days before today → the word for them. */
const AGO = /** @type {const} */ ([[0, "today"], [7, "week"], [30, "month"], [365, "year"]]);

/** Owns a list of results, the chips, and the searches for the text of a field. */
export class Finder {
  /** Number of the search that was started last: an answer to an earlier one is ignored. */
  #run = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** The people of the contact list, once they are loaded. @type {string[]} */
  #contacts = [];
  #hasAskedForContacts = false;
  /** Filter and name, as `from:ada` in lower case → the user or conversation that was picked. @type {Map<string, string | number>} */
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
    const hasFilter = isFiltered(query) || query.open !== null;
    const scope = within?.() ?? null;
    const sections = this.#suggestions(query);
    if (!hasFilter && !scope && (query.words || commands)) sections.push(...this.#names(query), ...(commands?.(query.words) ?? []));
    list.replaceChildren(...sections.map((rows) => this.#section(rows)));
    list.append(...query.faults.map((token) => note(fill(this.session.words.messages_filter_unknown, { token }))));
    this.#markFirst();
    if (!query.words && !hasFilter) return;
    const state = note(this.session.words.messages_searching);
    list.append(state);
    this.#timer = setTimeout(() => this.#find(run, query, scope, state), AFTER_MS);
  }

  /**
   * Adds what only the server knows: the other conversations and people, messages and files.
   *
   * @param {number} run  gives up when another search has been started
   * @param {Query} query
   * @param {Conversation | null} scope
   * @param {HTMLElement} state  says that nothing was found, or why
   */
  async #find(run, query, scope, state) {
    const { words, store, isGuest } = this.session;
    const { list } = this.options;
    try {
      await Promise.all([store.loadRest(), this.#loadContacts()]);
      if (run !== this.#run) return;

      const findsNames = query.words && !isFiltered(query) && !scope && !query.open;
      if (findsNames) this.#addNames(query);
      const wanted = this.#filter(query, scope);
      if (typeof wanted === "string") {
        state.textContent = wanted;
        return;
      }

      const searches = [];
      if (query.words || wanted.isNarrow) searches.push(...this.#startSearches(run, query, wanted.filter, state));
      if (findsNames) searches.push(this.#people(run, query.words));
      await Promise.all(searches);
      if (run !== this.#run) return;

      if (findsNames && store.hasMore) list.append(note(words.messages_search_part));
      if (list.querySelector("button") || query.faults.length) state.remove();
      else state.textContent = isGuest && findsNames ? words.messages_search_none_guest : words.messages_search_none;
    } catch (error) {
      if (run === this.#run) state.textContent = reasonOf(error, words);
    }
    if (run === this.#run) this.#markFirst();
  }

  /**
   * Searches messages, and beside them files if the query does not say what a message has.
   *
   * @param {number} run
   * @param {Query} query
   * @param {Record<string, any>} filter
   * @param {HTMLElement} state  the results are above it
   * @returns {Promise<void>[]}
   */
  #startSearches(run, { words: text, has }, filter, state) {
    const areFiles = has.length > 0 && !has.includes("link");
    const messages = this.#section({ key: areFiles ? "files" : "messages", rows: [] });
    state.before(messages);
    const searches = [this.#messages(run, messages, text, filter, PAGE)];
    if (has.length || !text) return searches;

    const files = this.#section({ key: "files", rows: [] });
    state.before(files);
    searches.push(this.#messages(run, files, text, { ...filter, types: MEDIA }, FIRST_FILES));
    return searches;
  }

  /** Knows the contacts, too, from now on. */
  async #loadContacts() {
    if (this.#hasAskedForContacts || !this.session.isOnline) return;
    this.#hasAskedForContacts = true;
    const { friends } = await this.session.api("GET", "friends", { list: "friends", limit: MOST_CONTACTS }).catch(() => ({ friends: [] }));
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
   * @returns {Rows[]} the people and conversations that the page knows; the latest conversations if no words are typed
   */
  #names({ words: wanted }) {
    const { store } = this.session;
    const { users, groups } = this.#known();
    const recent = wanted ? [] : store.sorted.slice(0, FIRST_NAMES);
    const people = wanted ? fittingOf(this.session, users, wanted) : [];
    const talks = wanted ? groups.filter((each) => has(store.nameOf(each), wanted)) : [];
    return [
      { key: "recent", rows: recent.map((each) => this.#conversationRow(each)) },
      { key: "people", rows: people.map((user) => this.#personRow(user)) },
      { key: "talks", rows: talks.map((each) => this.#conversationRow(each)) },
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
    const rows = users.filter((user) => !known.has(user)).map((user) => this.#row(this.#personRow(user)));
    if (!rows.length && !next) return;

    const { list } = this.options;
    if (!list.querySelector("[data-section=people]")) list.prepend(this.#section({ key: "people", rows: [] }));
    const section = /** @type {HTMLElement} */ (list.querySelector("[data-section=people]"));
    section.hidden = false;
    const people = /** @type {HTMLElement} */ (section.querySelector("ul"));
    people.append(...rows);
    if (after) rows[0]?.querySelector("button")?.focus();
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
    const { id, peer } = conversation;
    const act = () => session.open(id ? { conversation: id } : { user: peer });
    return { title: session.store.nameOf(conversation), face: session.people.face(conversation), act };
  }

  /** @param {Query} query */
  #drawChips(query) {
    const { words } = this.session;
    const { chips } = this.options;
    const contents = CONTENTS.map((content) => {
      const isOn = query.has.includes(content);
      const word = words[`messages_has_${content}`];
      const chip = button(word, "chip");
      chip.setAttribute("aria-pressed", String(isOn));
      chip.addEventListener("click", () => this.#type((text) => (isOn ? withoutContent(text, content) : withFilter(text, words.messages_filter_has, word))));
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

  /** @param {(text: string) => string} change  makes the new text of the field from its present one */
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
    const { words } = this.session;
    const { name, value } = open;
    const filterWord = words[`messages_filter_${name}`];
    const rows = this.#valuesOf(name, value).slice(0, SUGGESTED).map(({ text, title = "", face, picked }) => ({
      title: title || text,
      below: title && text,
      face,
      stays: true,
      act: () => {
        if (picked !== undefined) this.#picked.set(`${name}:${text.toLowerCase()}`, picked);
        this.#type((typed) => withFilter(typed, filterWord, text));
      },
    }));
    return rows.length ? [{ key: "filter", title: `${filterWord}:`, rows }] : [];
  }

  /**
   * @param {import("./search-query.js").FilterName} name  of a filter
   * @param {string} value  the typed part of its value
   * @returns {{ text: string, title?: string, face?: HTMLElement, picked?: string | number }[]} values that begin so; `text`: is typed;
   *   `title`: is shown instead of it; `picked`: the user or conversation
   */
  #valuesOf(name, value) {
    const { words, store, people } = this.session;
    if (name === "from") {
      const writers = this.#writers().filter((user) => has(people.nameOf(user), value)).slice(0, SUGGESTED);
      return writers.map((user) => ({ text: people.nameOf(user), face: people.avatar(user), picked: user }));
    }
    if (name === "in") {
      const persons = store.sorted.filter(({ group, peer }) => !group && peer);
      const places = [...this.#known().groups, ...persons].filter((each) => each.id && has(store.nameOf(each), value));
      return places.map((each) => ({ text: store.nameOf(each), face: people.face(each), picked: each.id }));
    }
    if (name === "has") {
      const contents = CONTENTS.map((content) => words[`messages_has_${content}`]);
      return contents.filter((text) => has(text, value) && text !== value).map((text) => ({ text }));
    }
    const days = AGO.map(([ago, word]) => ({ text: dateText(new Date(Date.now() - ago * DAY_MS)), title: words[`messages_date_${word}`] }));
    return days.filter(({ text }) => text.startsWith(value) && text !== value);
  }

  /** @returns {string[]} who may have written: the user, then those with a conversation, then all whom the page knows */
  #writers() {
    const { people, user: self } = this.session;
    return [...new Set([self, ...this.#known().users, ...people.users])];
  }

  /**
   * @param {Query} query
   * @param {Conversation | null} scope
   * @returns {{ filter: Record<string, any>, isNarrow: boolean } | string} the filter of the request, and whether it is narrow enough for
   *   a search without words; a text: the reason why it cannot be made
   */
  #filter(query, scope) {
    const { words } = this.session;
    /** @type {Record<string, any>} */
    const filter = {};
    if (query.from) {
      const writer = this.#writerOf(query.from);
      const isTyped = query.open?.name === "from";
      if (!writer) return isTyped ? { filter, isNarrow: false } : fill(words.messages_filter_nobody, { name: query.from });
      filter.from = writer;
    }
    if (scope) filter.conversation = scope.id;
    else if (query.in) {
      const place = this.#placeOf(query.in);
      const isTyped = query.open?.name === "in";
      if (!place) return isTyped ? { filter, isNarrow: false } : fill(words.messages_filter_nowhere, { name: query.in });
      filter.conversation = place;
    }
    const types = query.has.filter((content) => content !== "link");
    if (types.length) filter.types = types.some((type) => type !== "voice") ? [...types, "album"] : types; // an album has all kinds but voices
    if (query.has.includes("link")) filter.link = true;
    if (query.since) filter.since = query.since;
    if (query.until) filter.until = query.until;
    return { filter, isNarrow: ["from", "types", "link", "since", "until"].some((key) => key in filter) };
  }

  /** @param {string} name  a name, or the id of a user */
  #writerOf(name) {
    const { people } = this.session;
    const picked = this.#picked.get(`from:${name.toLowerCase()}`) ?? findByName(this.#writers(), name, (user) => people.nameOf(user));
    return picked ?? (people.card(name) && name);
  }

  /** @param {string} name */
  #placeOf(name) {
    const { store } = this.session;
    const places = store.sorted.filter(({ id }) => id);
    return this.#picked.get(`in:${name.toLowerCase()}`) ?? findByName(places, name, (each) => store.nameOf(each))?.id;
  }

  /**
   * Adds one page of messages to a section, and a button for the next page.
   *
   * @param {number} run
   * @param {HTMLElement} section
   * @param {string} text
   * @param {Record<string, any>} filter
   * @param {number} limit
   * @param {number} [before]  where the page begins; 0: at the newest message
   */
  async #messages(run, section, text, filter, limit, before = 0) {
    const { messenger, people, words } = this.session;
    let begin = before;
    let page;
    for (let pages = 0; pages < EMPTY_PAGES; pages++) {
      page = await messenger.search(cut(text, WORDS_LENGTH), { limit, ...filter, ...(begin && { before: begin }) });
      if (run !== this.#run) return;
      if (!page.hasMore || page.messages.length) break;
      begin = page.before ?? before;
    }
    if (!page) return;

    const { hasMore, before: next } = page;
    const messages = page.messages.filter((entry) => hasTypes(entry, filter.types));
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
    const conversation = this.options.within?.() ? undefined : store.conversations.get(entry.conversation);
    const writer = entry.from === user ? words.you : people.nameOf(entry.from);
    let title = writer;
    if (conversation?.group) title = `${writer} · ${store.nameOf(conversation)}`;
    else if (conversation) title = store.nameOf(conversation);
    const row = this.#row({
      title,
      time: this.when(entry.time),
      face: people.avatar(entry.from),
      act: () => this.session.open({ conversation: entry.conversation, message: entry.id }),
    });
    row.querySelector(".preview")?.append(...marked(summaryOf(entry, words, Infinity), text));
    return row;
  }

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
    const heading = make("span", "row-line", make("b", "", make("bdi", "", title)));
    if (time) heading.append(make("time", "", time));
    if (keys) heading.append(make("kbd", "", keys));
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
    const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
    if (event.key.length === 1 && event.key !== " " && !hasModifier) field.focus(); // typing goes on
    if (!step) return;
    event.preventDefault();
    const rows = this.#rows();
    const next = rows.indexOf(/** @type {HTMLButtonElement} */ (event.target)) + step;
    if (next < 0) field.focus();
    else rows[next]?.focus();
  }
}

/**
 * @param {string} text
 * @param {string} part
 * @returns {boolean} whether the part is in the text
 */
function has(text, part) {
  return fitOf(text, part) < 2; // 2: nowhere
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
  if (!hits.length) return [cut(text, BEHIND)];
  const [[first]] = hits;
  const near = [...text.slice(0, first)].slice(-AROUND).join(""); // whole characters, not halves of pairs
  const isCut = near.length < first;
  const made = /** @type {(Node | string)[]} */ ([isCut ? `…${near.slice(near.indexOf(" ") + 1)}` : near]);
  let shownTo = first;
  for (const [start, end] of hits) {
    if (start > first + MARKED) break;
    made.push(text.slice(shownTo, start), make("mark", "", text.slice(start, end)));
    shownTo = end;
  }
  return [...made, cut(text.slice(shownTo), BEHIND)];
}
