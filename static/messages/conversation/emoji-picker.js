// @ts-check
/** All emoji in groups, with those of a feature, search, the recent ones and skin tones. Loaded when it is opened first. */

import { EMOJI } from "../../emoji.js";
import { fill, make } from "../../text.js";
import { added } from "../parts/additions.js";
import { input, loadStyle } from "../parts/form.js";
import { plain } from "../parts/formatted.js";
import { button } from "../parts/panel.js";

/** An emoji, its name, more words for it, whether it has skin tones, and its version if not all systems draw it. @typedef {[emoji: string, name: string, words: string, tones: 0 | 1, version: number]} Row */

/** @typedef {{ recent: string[], tone: number }} Choices */
/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../parts/additions.js").OwnEmoji} OwnEmoji */

const TONES = ["", "🏻", "🏼", "🏽", "🏾", "🏿"];
const SIGNS = ["😀", "👋", "🐻", "🍔", "🚗", "⚽", "💡", "🔣", "🏁"];
const HAND = "✋";
const CLOCK = "🕘";
const OWN = "✨";
const MOST_RECENT = 27;
const MOST_FOUND = 180;
const STORE_KEY = "imserver:emoji";
/** Height of a row in pixels, for groups that are not laid out yet. */
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
  const loading = fetch(new URL(`../emoji/${language}.json`, import.meta.url)).then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`${answer.status}`))));
  tables.set(language, loading);
  loading.catch(() => tables.delete(language));
  return loading;
}

/**
 * @param {string} emoji
 * @param {number} tone  0: yellow; 1 to 5: from light to dark
 */
export function toned(emoji, tone) {
  return tone ? emoji.replace(/^(.)\ufe0f?/u, `$1${TONES[tone]}`) : emoji;
}

/**
 * Rows that fit all words of a query: first those whose name begins with it, then those whose name contains it.
 *
 * @param {Row[][]} groups
 * @param {string} query
 * @param {(Row[][])[]} [others]  the same emoji with names in other languages
 * @returns {Row[]}
 */
export function searched(groups, query, others = []) {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  const [whole] = [wanted.join(" ")];
  /** @type {[Row, number][]} */
  const found = [];
  groups.forEach((rows, group) => rows.forEach((row, index) => {
    const names = [row, ...others.map((each) => each[group][index])];
    const text = names.map(([, name, words]) => `${name} ${words}`).join(" ").toLowerCase();
    if (row[0] !== query.trim() && !wanted.every((word) => text.includes(word))) return;
    const starts = names.some(([, name]) => name.toLowerCase().startsWith(whole));
    const contains = names.some(([, name]) => name.toLowerCase().includes(whole));
    found.push([row, starts ? 0 : contains ? 1 : 2]);
  }));
  return found.sort(([, one], [, other]) => one - other).slice(0, MOST_FOUND).map(([row]) => row);
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

/** @typedef {(query: string, isWhole: boolean) => { emoji: string, code: string }[]} FindEmoji  `isWhole`: only those of which it is a name, and no own one: that stays as it is typed */

/**
 * @param {Session} session
 * @returns {Promise<FindEmoji>} rejected if the names cannot be loaded
 */
export async function emojiFinder(session) {
  const [language] = session.language.split("-");
  const [english, own] = await Promise.all([table("en"), loadOwn(session)]);
  const groups = language === "en" ? english : await table(language).catch(() => english);
  const drawn = new Set(drawnHere(groups).flat());
  const inEnglish = new Map(english.flat().map((row) => [row[0], row]));
  return (query, isWhole) => {
    const wanted = query.toLowerCase().replaceAll("_", " ").trim();
    const isNamed = (/** @type {Row} */ row) => [row, inEnglish.get(row[0]) ?? row].some(([, name, more]) => codeOf(name) === codeOf(wanted) || more.toLowerCase().split(" ").includes(wanted));
    const ownRows = ownNamed(own, query).map((name) => ({ emoji: `:${name}:`, code: name }));
    if (isWhole && ownRows.some(({ code }) => code === query)) return [];
    const rows = searched(groups, wanted, groups === english ? [] : [english]).filter((row) => drawn.has(row) && (!isWhole || isNamed(row)));
    return [...(isWhole ? [] : ownRows), ...rows.map(([emoji, name, , tones]) => ({ emoji: tones ? toned(emoji, storedChoices().tone) : emoji, code: codeOf(name) }))];
  };
}

/** @param {string} name */
function codeOf(name) {
  return name.toLowerCase().replace(/[^\p{L}\d]+/gu, "_").replace(/^_|_$/g, "");
}

/**
 * A picker for an element, which its `open` fills.
 *
 * @param {HTMLElement} root
 * @param {Session} session
 * @param {(emoji: string) => void} onPick
 * @returns {Promise<Picker>}
 */
export async function makePicker(root, session, onPick) {
  const [language] = session.language.split("-");
  const [groups, own] = await Promise.all([
    table(language).catch(() => table("en")).catch(() => /** @type {Row[][]} */ ([EMOJI.map((emoji) => /** @type {Row} */ ([emoji, "", "", 0, 0]))])),
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
    this.#field = input({ className: "search-field", type: "search", placeholder: words.messages_emoji_search, ariaLabel: words.messages_emoji_search, enterKeyHint: "done" });
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
    this.#tone.addEventListener("click", () => this.#showTones(this.#tones.hidden === true));
    root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#tones.hidden) return;
      event.preventDefault();
      event.stopPropagation();
      this.#showTones(false);
      this.#tone.focus();
    });
    this.#grid.addEventListener("click", (event) => this.#pick(event.target));
    this.#grid.addEventListener("keydown", (event) => this.#onGridKey(event));
    this.#grid.addEventListener("focusin", ({ target }) => target instanceof HTMLElement && this.#mark(target));
    this.#grid.addEventListener("scroll", () => this.#markTab(), { passive: true });
    this.#drawTones();
  }

  /** Draws all groups, after what was picked before; focuses the search, with a finger the grid, so that no keyboard appears. */
  open() {
    this.show();
    if (matchMedia("(hover: hover)").matches) this.#field.focus();
    else this.#current?.focus({ preventScroll: true });
  }

  show() {
    this.#field.value = this.#note.textContent = "";
    this.#choices = storedChoices();
    const names = this.words.messages_emoji_groups.split("|");
    const ownRows = this.#ownRows("");
    const isThere = (/** @type {string} */ emoji) => !emoji.startsWith(":") || ownRows.some(([each]) => each === emoji);
    const recent = this.#choices.recent.filter(isThere).map((emoji) => /** @type {Row} */ ([emoji, this.#nameOf(emoji), "", 0, 0]));
    const own = this.own && (ownRows.length || this.own.edit) ? [{ name: this.own.title, sign: OWN, rows: ownRows, edit: this.own.edit }] : [];
    const sections = [...(recent.length ? [{ name: this.words.messages_emoji_recent, sign: CLOCK, rows: recent }] : []), ...own, ...this.groups.map((rows, index) => ({ name: names[index], sign: SIGNS[index], rows }))];
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
    const plain = emoji.replace(/[\u{1f3fb}-\u{1f3ff}]/gu, "");
    return this.groups.flat().find(([each]) => each === emoji || each.replace("\ufe0f", "") === plain)?.[1] ?? "";
  }

  /**
   * Draws the first section now, and each other one in a frame of its own.
   *
   * @param {{ name: string, rows: Row[], edit?: OwnEmoji["edit"] }[]} sections
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
    const turn = (this.#drawing += 1);
    const fillOne = (/** @type {number} */ index) => {
      if (turn !== this.#drawing || !made[index]) return;
      const { rows, edit } = sections[index];
      made[index].append(make("div", "picker-rows", ...rows.map((row) => this.#key(row)), ...(edit ? [this.#editKey(edit)] : [])));
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

  #markTab() {
    const sections = /** @type {HTMLElement[]} */ ([...this.#grid.children]);
    const top = this.#grid.scrollTop + this.#grid.offsetTop + ROW_PX;
    const at = sections.findLastIndex((section) => section.offsetTop <= top);
    [...this.#tabs.children].forEach((tab, index) => tab.setAttribute("aria-current", String(index === at && !this.#field.value)));
  }

  async #search() {
    const query = this.#field.value;
    if (!query.trim()) return this.show();
    const draw = (/** @type {(Row[][])[]} */ others) => {
      const rows = [...this.#ownRows(query), ...searched(this.groups, query, others)];
      this.#draw([{ name: this.words.messages_emoji_found, rows }]);
      this.#note.textContent = rows.length ? "" : fill(this.words.messages_emoji_none, { query: query.trim() });
      this.#markTab();
    };
    draw([]);
    const spoken = /\p{Script=Han}/u.test(query) ? "zh" : "en"; // words of other languages find emoji, too
    if (spoken === this.language) return;
    const other = await table(spoken).catch(() => null);
    if (other && this.#field.value === query) draw([drawnHere(other)]);
  }

  /** @param {KeyboardEvent} event */
  #onFieldKey(event) {
    if (event.isComposing || event.keyCode === 229) return;
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

  /** @param {KeyboardEvent} event */
  #onGridKey(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const keys = /** @type {HTMLElement[]} */ ([...this.#grid.querySelectorAll("button")]);
    const at = keys.indexOf(target);
    const next = { ArrowRight: keys[at + 1], ArrowLeft: keys[at - 1], ArrowDown: rowBeside(target, 1), ArrowUp: rowBeside(target, -1) ?? this.#field, Home: keys[0], End: keys.at(-1) }[event.key];
    if (!["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    next?.focus();
  }

  /** @param {EventTarget | null} target */
  #pick(target) {
    const emoji = target instanceof HTMLElement ? target.closest("button")?.dataset.emoji : "";
    if (!emoji) return;
    const recent = [emoji, ...this.#choices.recent.filter((each) => each !== emoji)].slice(0, MOST_RECENT);
    this.#store({ ...this.#choices, recent });
    this.onPick(emoji);
  }

  /** @param {boolean} open */
  #showTones(open) {
    this.#tones.hidden = !open;
    this.#tone.setAttribute("aria-expanded", String(open));
    if (open) /** @type {HTMLElement | null} */ (this.#tones.querySelector("[aria-pressed=true]"))?.focus();
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
        this.#showTones(false);
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
  const at = keys.indexOf(key);
  const wanted = keys[at + step * columns];
  if (wanted) return wanted;
  const isLastRow = Math.floor(at / columns) === Math.floor((keys.length - 1) / columns);
  if (step > 0 && !isLastRow) return keys.at(-1);
  const section = rows.closest("section");
  const beside = (step > 0 ? section?.nextElementSibling : section?.previousElementSibling)?.querySelectorAll("button");
  if (!beside?.length) return undefined;
  const column = at % columns;
  if (step > 0) return beside[Math.min(column, beside.length - 1)];
  const last = Math.floor((beside.length - 1) / columns) * columns;
  return beside[Math.min(last + column, beside.length - 1)];
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
  /** @type {Map<number, boolean>} */
  const drawn = new Map([[0, true]]);
  for (const [emoji, , , , version] of groups.flat()) if (!drawn.has(version)) drawn.set(version, Math.abs(pen.measureText(emoji).width - usual) < usual / 10);
  return groups.map((rows) => rows.filter(([, , , , version]) => drawn.get(version)));
}

/** @returns {Choices} */
function storedChoices() {
  try {
    const { recent, tone } = JSON.parse(localStorage.getItem(STORE_KEY) ?? "{}");
    const isTone = Number.isInteger(tone) && tone > 0 && tone < TONES.length;
    return { recent: Array.isArray(recent) ? recent.filter((each) => typeof each === "string").slice(0, MOST_RECENT) : [], tone: isTone ? tone : 0 };
  } catch {
    return { recent: [], tone: 0 }; // no storage, or not written by this page
  }
}
