// @ts-check
/** The box that finds what a text names: people, connections, channels, groups, apps, keys, requests, and what one may want to do. */

import { listOf, make, recordOf, textOf } from "../text.js";
import { reasonOf } from "./api.js";
import { addressOf, badge, name, problem, words } from "./ui.js";

const PAUSE_MS = 250;
/** From this number of letters on, the beginning of a word is enough. */
const LONG_LETTERS = 4;
/** Writing without spaces between words. */
const HAN = /\p{Script=Han}/u;
/**
 * Type of a hit → the detail to which it leads, with its app where that belongs to the address.
 *
 * @type {Record<string, (hit: Record<string, any>) => string[]>}
 */
const PLACES = {
  account: (hit) => ["person", hit.app, hit.id],
  user: (hit) => ["person", hit.app, hit.id],
  connection: (hit) => ["connection", hit.app, hit.id],
  channel: (hit) => ["channel", hit.app, hit.id],
  group: (hit) => ["group", hit.app, hit.id],
  app: (hit) => ["app", hit.id],
  key: (hit) => ["key", hit.id],
  request: (hit) => ["request", hit.id],
};

/** @typedef {{ label: string, detail: string, parts: string[] }} Way  a section or a task, and where it is */

export class Finder {
  /**
   * @param {import("./api.js").Api} api
   * @param {HTMLFormElement} form
   * @param {() => Way[]} ways  what can be found besides what the server finds
   */
  constructor(api, form, ways) {
    this.api = api;
    this.form = form;
    this.ways = ways;
    this.field = /** @type {HTMLInputElement} */ (form.querySelector("input"));
    this.hits = make("div", "hits");
    this.hits.hidden = true;
    this.status = make("p", "heard");
    this.status.setAttribute("role", "status");
    form.append(this.hits, this.status);
    this.turn = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.find().then(() => this.open());
    });
    this.field.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.find(), PAUSE_MS);
    });
    this.field.addEventListener("focus", () => { this.hits.hidden = !this.hits.childElementCount; });
    form.addEventListener("keydown", (event) => this.press(event));
    form.addEventListener("focusout", (event) => {
      if (!(event.relatedTarget instanceof Node && form.contains(event.relatedTarget))) this.hits.hidden = true;
    });
    this.hits.addEventListener("mousedown", (event) => event.preventDefault()); // the box keeps the focus until the click
    this.hits.addEventListener("click", (event) => {
      if (event.target instanceof Element && event.target.closest("a")) this.close();
    });
  }

  focus() {
    this.field.focus();
    this.field.select();
  }

  close() {
    this.hits.hidden = true;
    this.hits.replaceChildren();
    this.field.value = "";
    this.field.blur();
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const links = [...this.hits.querySelectorAll("a")];
    const index = links.findIndex((each) => each === document.activeElement);
    if (event.key === "Escape") {
      this.close();
    } else if (event.key === "ArrowDown" && links.length) {
      event.preventDefault();
      links[Math.min(index + 1, links.length - 1)].focus();
    } else if (event.key === "ArrowUp" && index >= 0) {
      event.preventDefault();
      if (index) links[index - 1].focus();
      else this.field.focus();
    }
  }

  /** Open the only hit, or go to the first one. */
  open() {
    const links = this.hits.querySelectorAll("a");
    if (links.length === 1) links[0].click();
    else links[0]?.focus();
  }

  /** Shows what the text of the field finds. */
  async find() {
    clearTimeout(this.timer);
    const text = this.field.value.trim();
    const turn = ++this.turn;
    if (!text) {
      this.hits.hidden = true;
      this.hits.replaceChildren();
      return;
    }
    let content;
    try {
      const { results } = await this.api.get("find", { text });
      content = this.draw(this.waysTo(text), listOf(results).map(recordOf));
    } catch (error) {
      content = [problem(reasonOf(error, words))];
    }
    if (turn !== this.turn) return; // another text is searched meanwhile
    this.hits.replaceChildren(...content);
    this.hits.hidden = false;
  }

  /**
   * @param {string} text
   * @returns {Way[]} the ways whose words have all words of the text: short ones whole, of longer ones the beginning
   */
  waysTo(text) {
    const wanted = plain(text).trim().split(" ").filter(Boolean).map(inSpaces);
    if (!wanted.length) return [];
    return this.ways().filter(({ label, detail }) => {
      const content = ` ${plain(`${label} ${detail}`)} `;
      return wanted.every((each) => content.includes(each));
    });
  }

  /**
   * @param {Way[]} ways
   * @param {Record<string, any>[]} hits
   * @returns {Node[]}
   */
  draw(ways, hits) {
    const known = hits.filter((hit) => Object.hasOwn(PLACES, textOf(hit.type)));
    const rows = known.map((hit) => {
      const type = textOf(hit.type);
      const parts = PLACES[type]({ ...hit, id: textOf(hit.id), app: textOf(hit.app) });
      return hitOf(words[`admin_type_${type}`] ?? type, hit.label, detailOf(hit), parts);
    });
    rows.push(...ways.map(({ label, detail, parts }) => hitOf(words.admin_type_task, label, detail, parts)));
    this.status.textContent = rows.length ? "" : words.admin_nothing;
    return rows.length ? [make("ul", "", ...rows)] : [make("p", "empty-note", words.admin_nothing)];
  }
}

/**
 * @param {string} type
 * @param {unknown} label
 * @param {string} detail
 * @param {string[]} parts
 */
function hitOf(type, label, detail, parts) {
  const text = make("span", "hit-words", name(label));
  if (detail) text.append(make("small", "muted", name(detail)));
  const made = make("a", "hit", badge(type), text);
  made.setAttribute("href", addressOf(...parts));
  return make("li", "", made);
}

/** @param {string} text @returns {string} its letters and digits, with one space between words */
function plain(text) {
  return text.toLocaleLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ");
}

/**
 * @param {string} word
 * @returns {string} the word with a space where a word of the text must begin or end
 */
function inSpaces(word) {
  if (HAN.test(word)) return word;
  return word.length < LONG_LETTERS ? ` ${word} ` : ` ${word}`;
}

/**
 * @param {Record<string, any>} hit
 * @returns {string} the app, the id and the detail, unless the label says them
 */
function detailOf({ type, app, id, label, detail }) {
  if (type === "channel") return textOf(app);
  const ofApp = type === "app" ? "" : textOf(app);
  const otherId = id === label ? "" : textOf(id);
  const word = type === "user" ? words[`admin_user_${textOf(detail)}`] : undefined;
  return [ofApp, otherId, word ?? textOf(detail)].filter(Boolean).join(" · ");
}
