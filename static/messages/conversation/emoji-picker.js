// @ts-check
/** All emoji in groups, with those of a feature, search, the recent ones and skin tones. Loaded when it is opened first. */

import { EMOJI } from "../../emoji.js";
import { fill, make } from "../../text.js";
import { added } from "../parts/additions.js";
import { input, loadStyle } from "../parts/form.js";
import { plain } from "../parts/formatted.js";
import { button } from "../parts/panel.js";

/**
 * An emoji, its name, more words for it, whether it has skin tones, and its version if not all systems draw it, else 0.
 *
 * @typedef {[emoji: string, name: string, words: string, tones: 0 | 1, version: number]} Row
 */

/** @typedef {{ recent: string[], tone: number }} Choices */
/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../parts/additions.js").OwnEmoji} OwnEmoji */
/**
 * A part of the grid. `sign`: on its tab; `edit`: what its last button does.
 *
 * @typedef {{ name: string, sign: string, rows: Row[], edit?: OwnEmoji["edit"] }} Section
 */

const TONES = ["", "🏻", "🏼", "🏽", "🏾", "🏿"];
/** On the tabs of the groups, in their order. */
const SIGNS = ["😀", "👋", "🐻", "🍔", "🚗", "⚽", "💡", "🔣", "🏁"];
/** Shows the chosen skin tone. */
const HAND = "✋";
/** On the tabs of the recent emoji, and of the emoji of a feature. */
const CLOCK = "🕘";
const OWN = "✨";
const MOST_RECENT = 27;
const MOST_FOUND = 180;
/** How well the name of an emoji fits a query: the best comes first. */
const BEGINS = 0;
const CONTAINS = 1;
const OTHER_WORDS = 2;
/** `keyCode` of a key that belongs to an input method. */
const INPUT_METHOD_KEY = 229;
const STORE_KEY = "imserver:emoji";
/** The size of a row, for groups that are not laid out yet. */
const ROW_PX = 40;
const ROW_EMOJI = 9;

/** Names in a language. @type {Map<string, Promise<Row[][]>>} */
const tables = new Map();

/**
 * @param {string} language  as `en`
 * @returns {Promise<Row[][]>} the groups; rejected if they cannot be loaded
 */
function table(language) {
  const known = tables.get(language);
  if (known) return known;
  const loading = loadTable(language);
  tables.set(language, loading);
  loading.catch(() => tables.delete(language));
  return loading;
}

/** @param {string} language */
async function loadTable(language) {
  const answer = await fetch(new URL(`../emoji/${language}.json`, import.meta.url));
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}

/**
 * @param {string} emoji  that has skin tones
 * @param {number} tone  0: yellow; 1 to 5: from light to dark
 */
export function toned(emoji, tone) {
  return tone ? emoji.replace(/^(.)\ufe0f?/u, `$1${TONES[tone]}`) : emoji;
}

/**
 * Finds the rows that fit all words of a query. Rows whose name begins with it come first, then rows whose name contains it.
 *
 * @param {Row[][]} groups
 * @param {string} query
 * @param {(Row[][])[]} [others]  the same emoji with names in other languages
 * @returns {Row[]}
 */
export function searched(groups, query, others = []) {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  const whole = wanted.join(" ");
  /** @type {{ row: Row, fit: number }[]} */
  const found = [];
  groups.forEach((rows, group) => rows.forEach((row, index) => {
    const translations = [row, ...others.map((language) => language[group][index])];
    const text = translations.map(([, name, words]) => `${name} ${words}`).join(" ").toLowerCase();
    const isEmojiItself = row[0] === query.trim();
    if (!isEmojiItself && !wanted.every((word) => text.includes(word))) return;
    const names = translations.map(([, name]) => name.toLowerCase());
    found.push({ row, fit: fitOfNames(names, whole) });
  }));
  found.sort((one, other) => one.fit - other.fit);
  return found.slice(0, MOST_FOUND).map(({ row }) => row);
}

/**
 * @param {string[]} names
 * @param {string} query
 */
function fitOfNames(names, query) {
  if (names.some((name) => name.startsWith(query))) return BEGINS;
  return names.some((name) => name.includes(query)) ? CONTAINS : OTHER_WORDS;
}

/**
 * @param {Session} session
 * @returns {Promise<OwnEmoji | null>} the emoji of a feature; null: there are none
 */
async function loadOwn(session) {
  return (await added.emoji?.load(session).catch(() => null)) ?? null;
}

/**
 * @param {OwnEmoji | null} own
 * @param {string} query
 * @returns {string[]} the names that contain it, first those that begin with it
 */
function ownNamed(own, query) {
  const wanted = query.trim().toLowerCase().replaceAll(" ", "_");
  const names = own?.names().filter((name) => name.includes(wanted)) ?? [];
  return names.sort((one, other) => Number(other.startsWith(wanted)) - Number(one.startsWith(wanted)));
}

/**
 * Finds emoji by a part of their names. With `isWhole`, it finds only emoji whose whole name this is. Emoji of a feature are then left out,
 * because their name is their text.
 *
 * @typedef {(query: string, isWhole: boolean) => { emoji: string, code: string }[]} FindEmoji
 */

/**
 * Loads the names of emoji for completions.
 *
 * @param {Session} session
 * @returns {Promise<FindEmoji>} rejected if the names cannot be loaded
 */
export async function emojiFinder(session) {
  const [language] = session.language.split("-");
  const [english, own] = await Promise.all([table("en"), loadOwn(session)]);
  const groups = language === "en" ? english : await table(language).catch(() => english);
  const others = groups === english ? [] : [english];
  const drawn = new Set(drawnHere(groups).flat());
  const inEnglish = new Map(english.flat().map((row) => [row[0], row]));
  return (query, isWhole) => {
    const ownFound = ownNamed(own, query).map((name) => ({ emoji: `:${name}:`, code: name }));
    if (isWhole && ownFound.some(({ code }) => code === query)) return [];
    const wanted = query.toLowerCase().replaceAll("_", " ").trim();
    const isNamed = (/** @type {Row} */ row) => hasName(row, wanted) || hasName(inEnglish.get(row[0]) ?? row, wanted);
    const rows = searched(groups, wanted, others).filter((row) => drawn.has(row) && (!isWhole || isNamed(row)));
    const { tone } = storedChoices();
    const found = rows.map(([emoji, name, , tones]) => ({ emoji: tones ? toned(emoji, tone) : emoji, code: codeOf(name) }));
    return isWhole ? found : [...ownFound, ...found];
  };
}

/**
 * @param {Row} row
 * @param {string} wanted
 * @returns {boolean} whether it is the name, or one of the words
 */
function hasName([, name, more], wanted) {
  return codeOf(name) === codeOf(wanted) || more.toLowerCase().split(" ").includes(wanted);
}

/**
 * @param {string} name
 * @returns {string} as it is typed between colons
 */
function codeOf(name) {
  return name.toLowerCase().replace(/[^\p{L}\d]+/gu, "_").replace(/^_|_$/g, "");
}

/**
 * Makes a picker for an element, which its `open` fills. If no names can be loaded, it has the few emoji of the page without names.
 *
 * @param {HTMLElement} root
 * @param {Session} session
 * @param {(emoji: string) => void} onPick
 * @returns {Promise<Picker>}
 */
export async function makePicker(root, session, onPick) {
  const [language] = session.language.split("-");
  const nameless = EMOJI.map((emoji) => /** @type {Row} */ ([emoji, "", "", 0, 0]));
  const [groups, own] = await Promise.all([
    table(language).catch(() => table("en")).catch(() => [nameless]),
    loadOwn(session),
    loadStyle(new URL("../later/emoji-picker.css", import.meta.url)),
  ]);
  return new Picker(root, session.words, language, groups, own, onPick);
}

/** Owns what is drawn in an element. */
export class Picker {
  /** @type {Choices} */
  #choices = storedChoices();
  #field;
  #tone;
  #tones = make("div", "picker-tones");
  #tabs = make("div", "picker-tabs");
  #grid = make("div", "picker-grid");
  #note = make("p", "picker-note");
  /** The emoji with the tab stop. @type {HTMLElement | null} */
  #current = null;
  /** Number of the drawing that goes on: an earlier one stops. */
  #drawing = 0;

  /**
   * @param {HTMLElement} root
   * @param {Record<string, string>} words
   * @param {string} language
   * @param {Row[][]} groups
   * @param {OwnEmoji | null} own
   * @param {(emoji: string) => void} onPick
   */
  constructor(root, words, language, groups, own, onPick) {
    this.words = words;
    this.language = language;
    this.own = own;
    this.groups = drawnHere(groups);
    this.onPick = onPick;
    const label = words.messages_emoji_search;
    this.#field = input({ className: "search-field", type: "search", placeholder: label, ariaLabel: label, enterKeyHint: "done" });
    this.#tone = button("", "round");
    this.#tone.setAttribute("aria-label", words.messages_emoji_tone);
    this.#tone.title = words.messages_emoji_tone;
    this.#tone.setAttribute("aria-expanded", "false");
    this.#tones.setAttribute("role", "group");
    this.#tones.setAttribute("aria-label", words.messages_emoji_tone);
    this.#tones.hidden = true;
    this.#note.setAttribute("role", "status");
    this.#tabs.setAttribute("role", "group");
    this.#tabs.setAttribute("aria-label", words.messages_emoji_groups_label);
    root.classList.add("picker");
    root.replaceChildren(make("div", "picker-head", this.#field, this.#tone), this.#tones, this.#tabs, this.#note, this.#grid);
    this.#field.addEventListener("input", () => this.#search());
    this.#field.addEventListener("keydown", (event) => this.#onFieldKey(event));
    this.#tone.addEventListener("click", () => {
      if (this.#tones.hidden) this.#showTones();
      else this.#hideTones();
    });
    root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#tones.hidden) return;
      event.preventDefault();
      event.stopPropagation();
      this.#hideTones();
      this.#tone.focus();
    });
    this.#grid.addEventListener("click", (event) => this.#pick(event.target));
    this.#grid.addEventListener("keydown", (event) => this.#onGridKey(event));
    this.#grid.addEventListener("focusin", ({ target }) => target instanceof HTMLElement && this.#mark(target));
    this.#grid.addEventListener("scroll", () => this.#markTab(), { passive: true });
    this.#drawTones();
  }

  /** Draws all groups, and focuses the search. On a phone it focuses the grid, so that no keyboard appears. */
  open() {
    this.show();
    if (matchMedia("(hover: hover)").matches) this.#field.focus();
    else this.#current?.focus({ preventScroll: true });
  }

  /** Draws the recent emoji and all groups, and empties the search. */
  show() {
    this.#field.value = "";
    this.#note.textContent = "";
    this.#choices = storedChoices();
    const sections = this.#sections();
    const drawn = this.#draw(sections);
    this.#tabs.hidden = sections.length < 2;
    this.#tabs.replaceChildren(...sections.map(({ name, sign }, index) => {
      const tab = button(sign, "sign");
      tab.setAttribute("aria-label", name);
      tab.title = name;
      tab.addEventListener("click", () => {
        this.#field.value = "";
        if (!drawn[index].isConnected) return this.show();
        this.#grid.scrollTop = drawn[index].offsetTop - this.#grid.offsetTop;
      });
      return tab;
    }));
    this.#markTab();
  }

  /** @returns {Section[]} the recent emoji, the emoji of a feature, and the groups; one without emoji is left out */
  #sections() {
    const { own, words } = this;
    const ownRows = this.#ownRows("");
    const sections = /** @type {Section[]} */ ([]);

    // An emoji of the feature may have been removed since it was picked.
    const exists = (/** @type {string} */ emoji) => !emoji.startsWith(":") || ownRows.some(([each]) => each === emoji);
    const recent = this.#choices.recent.filter(exists).map((emoji) => /** @type {Row} */ ([emoji, this.#nameOf(emoji), "", 0, 0]));
    if (recent.length) sections.push({ name: words.messages_emoji_recent, sign: CLOCK, rows: recent });

    if (own && (ownRows.length || own.edit)) sections.push({ name: own.title, sign: OWN, rows: ownRows, edit: own.edit });

    const names = words.messages_emoji_groups.split("|");
    this.groups.forEach((rows, index) => sections.push({ name: names[index], sign: SIGNS[index], rows }));
    return sections;
  }

  /**
   * @param {string} query
   * @returns {Row[]}
   */
  #ownRows(query) {
    return ownNamed(this.own, query).map((name) => [`:${name}:`, name, "", 0, 0]);
  }

  /** @param {string} emoji */
  #nameOf(emoji) {
    if (emoji.startsWith(":")) return emoji.slice(1, -1);
    const withoutTone = emoji.replace(/[\u{1f3fb}-\u{1f3ff}]/gu, "");
    const row = this.groups.flat().find(([each]) => each === emoji || each.replace("\ufe0f", "") === withoutTone);
    return row?.[1] ?? "";
  }

  /**
   * Draws the first section now, and each other one in a frame of its own.
   *
   * @param {Section[]} sections
   * @returns {HTMLElement[]}
   */
  #draw(sections) {
    const made = sections.map(({ name, rows }) => {
      const title = make("p", "picker-title", name);
      title.setAttribute("aria-hidden", "true");
      const section = make("section", "", title);
      section.setAttribute("aria-label", name);
      section.style.containIntrinsicSize = `auto ${(Math.ceil(rows.length / ROW_EMOJI) + 1) * ROW_PX}px`;
      return section;
    });
    this.#grid.replaceChildren(...made);
    this.#grid.scrollTop = 0;
    this.#current = null;
    this.#drawing += 1;
    const turn = this.#drawing;
    const fillOne = (/** @type {number} */ index) => {
      if (turn !== this.#drawing || !made[index]) return;
      const { rows, edit } = sections[index];
      const keys = rows.map((row) => this.#key(row));
      if (edit) keys.push(this.#editKey(edit));
      made[index].append(make("div", "picker-rows", ...keys));
      const first = this.#grid.querySelector("button");
      if (!this.#current && first) this.#mark(first);
      if (document.hidden) setTimeout(() => fillOne(index + 1)); // a hidden page gets no animation frames
      else requestAnimationFrame(() => fillOne(index + 1));
    };
    fillOne(0);
    return made;
  }

  /** @param {NonNullable<OwnEmoji["edit"]>} edit */
  #editKey({ word, act }) {
    const key = button("＋", "");
    key.tabIndex = -1;
    key.title = word;
    key.setAttribute("aria-label", word);
    key.addEventListener("click", () => act(() => this.show()));
    return key;
  }

  /** @param {Row} row */
  #key([emoji, name, , tones]) {
    const sign = tones ? toned(emoji, this.#choices.tone) : emoji;
    const key = button("", "");
    key.append(sign.startsWith(":") ? plain.draw(sign) : sign);
    key.tabIndex = -1;
    key.dataset.emoji = sign;
    if (name) {
      key.setAttribute("aria-label", name);
      key.title = name;
    }
    return key;
  }

  /** @param {HTMLElement} key  gets the tab stop */
  #mark(key) {
    if (this.#current) this.#current.tabIndex = -1;
    this.#current = key;
    key.tabIndex = 0;
  }

  /** Marks the tab of the group in view. During a search, no tab is marked. */
  #markTab() {
    const sections = /** @type {HTMLElement[]} */ ([...this.#grid.children]);
    const top = this.#grid.scrollTop + this.#grid.offsetTop + ROW_PX;
    const current = sections.findLastIndex((section) => section.offsetTop <= top);
    const isSearch = this.#field.value !== "";
    [...this.#tabs.children].forEach((tab, index) => tab.setAttribute("aria-current", String(index === current && !isSearch)));
  }

  /** Draws the emoji that fit the query, first by their names in the language of the page, then also in the language of the query. */
  async #search() {
    const query = this.#field.value;
    if (!query.trim()) return this.show();
    const draw = (/** @type {(Row[][])[]} */ others) => {
      const rows = [...this.#ownRows(query), ...searched(this.groups, query, others)];
      this.#draw([{ name: this.words.messages_emoji_found, sign: "", rows }]);
      this.#note.textContent = rows.length ? "" : fill(this.words.messages_emoji_none, { query: query.trim() });
      this.#markTab();
    };
    draw([]);
    const queryLanguage = /\p{Script=Han}/u.test(query) ? "zh" : "en";
    if (queryLanguage === this.language) return;
    const other = await table(queryLanguage).catch(() => null);
    if (other && this.#field.value === query) draw([drawnHere(other)]);
  }

  /** @param {KeyboardEvent} event */
  #onFieldKey(event) {
    if (event.isComposing || event.keyCode === INPUT_METHOD_KEY) return;
    const { key } = event;
    if (key === "Escape" && this.#field.value) {
      event.stopPropagation();
      event.preventDefault();
      this.show();
    } else if (key === "ArrowDown") {
      event.preventDefault();
      this.#current?.focus();
    } else if (key === "Enter") {
      event.preventDefault(); // the field is inside the form of the text box
      if (this.#field.value.trim()) this.#pick(this.#current);
    }
  }

  /**
   * Moves the focus between the emoji. From the first row, it goes back to the search.
   *
   * @param {KeyboardEvent} event
   */
  #onGridKey(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const keys = /** @type {HTMLElement[]} */ ([...this.#grid.querySelectorAll("button")]);
    const index = keys.indexOf(target);
    /** @type {Record<string, () => HTMLElement | undefined>} */
    const nextByKey = {
      ArrowRight: () => keys[index + 1],
      ArrowLeft: () => keys[index - 1],
      ArrowDown: () => rowBeside(target, 1),
      ArrowUp: () => rowBeside(target, -1) ?? this.#field,
      Home: () => keys[0],
      End: () => keys.at(-1),
    };
    const next = nextByKey[event.key];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    next()?.focus();
  }

  /** @param {EventTarget | null} target */
  #pick(target) {
    const emoji = target instanceof HTMLElement ? target.closest("button")?.dataset.emoji : "";
    if (!emoji) return;
    const recent = [emoji, ...this.#choices.recent.filter((each) => each !== emoji)].slice(0, MOST_RECENT);
    this.#store({ ...this.#choices, recent });
    this.onPick(emoji);
  }

  /** Shows the skin tones, and focuses the chosen one. */
  #showTones() {
    this.#tones.hidden = false;
    this.#tone.setAttribute("aria-expanded", "true");
    const chosen = this.#tones.querySelector("[aria-pressed=true]");
    if (chosen instanceof HTMLElement) chosen.focus();
  }

  #hideTones() {
    this.#tones.hidden = true;
    this.#tone.setAttribute("aria-expanded", "false");
  }

  #drawTones() {
    this.#tone.textContent = toned(HAND, this.#choices.tone);
    this.#tones.replaceChildren(...TONES.map((_, tone) => {
      const key = button(toned(HAND, tone), "sign");
      key.setAttribute("aria-label", `${this.words.messages_emoji_tone} ${tone}`);
      key.setAttribute("aria-pressed", String(tone === this.#choices.tone));
      key.addEventListener("click", () => {
        this.#store({ ...this.#choices, tone });
        this.#drawTones();
        this.#hideTones();
        this.#tone.focus();
        if (this.#field.value) this.#search();
        else this.show();
      });
      return key;
    }));
  }

  /** @param {Choices} choices */
  #store(choices) {
    this.#choices = choices;
    try {
      localStorage.setItem(STORE_KEY, JSON.stringify(choices));
    } catch {
      // the browser stores nothing
    }
  }
}

/**
 * @param {HTMLElement} key
 * @param {1 | -1} step
 * @returns {HTMLElement | undefined} the emoji below or above, perhaps in the next group
 */
function rowBeside(key, step) {
  const rows = key.parentElement;
  if (!rows) return undefined;
  const columns = getComputedStyle(rows).gridTemplateColumns.split(" ").length;
  const keys = /** @type {HTMLElement[]} */ ([...rows.children]);
  const index = keys.indexOf(key);
  const inGroup = keys[index + step * columns];
  if (inGroup) return inGroup;
  const isLastRow = Math.floor(index / columns) === Math.floor((keys.length - 1) / columns);
  if (step > 0 && !isLastRow) return keys.at(-1); // the last row is shorter

  const section = rows.closest("section");
  const otherSection = step > 0 ? section?.nextElementSibling : section?.previousElementSibling;
  const others = otherSection?.querySelectorAll("button");
  if (!others?.length) return undefined;
  const column = index % columns;
  const lastRow = Math.floor((others.length - 1) / columns) * columns;
  const row = step > 0 ? 0 : lastRow;
  return others[Math.min(row + column, others.length - 1)];
}

/**
 * @param {Row[][]} groups
 * @returns {Row[][]} without the emoji that this system draws as a box, or as several ones
 */
function drawnHere(groups) {
  const pen = document.createElement("canvas").getContext("2d");
  if (!pen) return groups;
  pen.font = '20px "Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji", sans-serif';
  const usual = pen.measureText("😀").width;
  // The first emoji of each version stands for all of its version.
  /** @type {Map<number, boolean>} */
  const isDrawnByVersion = new Map([[0, true]]);
  for (const [emoji, , , , version] of groups.flat()) {
    if (isDrawnByVersion.has(version)) continue;
    const difference = Math.abs(pen.measureText(emoji).width - usual);
    isDrawnByVersion.set(version, difference < usual / 10);
  }
  return groups.map((rows) => rows.filter(([, , , , version]) => isDrawnByVersion.get(version)));
}

/** @returns {Choices} the choices that this browser has stored */
function storedChoices() {
  try {
    const { recent, tone } = JSON.parse(localStorage.getItem(STORE_KEY) ?? "{}");
    const isTone = Number.isInteger(tone) && tone > 0 && tone < TONES.length;
    const emoji = Array.isArray(recent) ? recent.filter((each) => typeof each === "string") : [];
    return { recent: emoji.slice(0, MOST_RECENT), tone: isTone ? tone : 0 };
  } catch {
    return { recent: [], tone: 0 }; // no storage, or not written by this page
  }
}
