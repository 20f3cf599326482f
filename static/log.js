// @ts-check
/** The conversation: lines are drawn in batches, only the newest are kept, and texts are text whatever they hold. */

import { CROWD } from "./sitting.js";
import { avatar, cut, fill, make } from "./text.js";

/** @typedef {import("./sitting.js").Entry} Entry */

const MAX_LINES = 400;
const SHORT_COLUMNS = 600; // a longer text shows its beginning and a button
const SHORT_ROWS = 16;
const WIDE_FROM = 0x2e80; // characters from here on are two columns wide, nearly all
const MAX_TEXT = 100_000;
const GROUP_MS = 5 * 60_000;
const NEAR_BOTTOM_PX = 80;
const LONE_EMOJI = /^(?:\p{Extended_Pictographic}[\p{Emoji_Modifier}\u200d\ufe0f\p{Extended_Pictographic}]*){1,3}$/u;

/**
 * @typedef {object} Ways
 * @property {(entry: Entry) => string} [nameOf]                  what another one's messages are headed by
 * @property {(entry: Entry) => HTMLElement | null} [contentOf]   a bubble's content, where it is not the text
 * @property {(entry: Entry) => string} [faceOf]                  whose first character and colour stand beside it
 * @property {(entry: Entry) => HTMLElement | null} [actionOf]    what can be done with a message, beside it
 * @property {number} [maxLines]                                  how many lines are kept
 */

export class ChatLog {
  /** @type {Entry[]} */
  #waiting = [];
  #scheduled = false;
  #unseen = 0;
  /** @type {Entry | null} */
  #previous = null;
  /** How many notices of one kind came in a row, and the line that the later ones share. */
  #row = { count: 0, line: /** @type {HTMLElement | null} */ (null) };

  /**
   * @param {HTMLElement} root
   * @param {HTMLButtonElement} latest       button that leads back to the newest line
   * @param {HTMLElement} latestText
   * @param {Record<string, string>} words
   * @param {string} language
   * @param {Ways} [ways]  how lines differ from those of the chat rooms
   */
  constructor(root, latest, latestText, words, language, ways = {}) {
    this.nameOf = ways.nameOf ?? ((entry) => entry.from);
    this.contentOf = ways.contentOf ?? (() => null);
    this.faceOf = ways.faceOf ?? ((entry) => entry.from);
    this.actionOf = ways.actionOf ?? (() => null);
    this.maxLines = ways.maxLines ?? MAX_LINES;
    this.root = root;
    this.latest = latest;
    this.latestText = latestText;
    this.words = words;
    this.self = "";
    this.clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hour12: false });
    latest.addEventListener("click", () => this.toLatest());
    root.addEventListener("scroll", () => this.#isAtBottom() && this.#seen(), { passive: true });
    new ResizeObserver(() => this.#stick && this.#scroll()).observe(root);
  }

  #stick = true;

  /** @param {Entry} entry */
  add(entry) {
    this.#waiting.push(entry);
    if (this.#waiting.length > this.maxLines) this.#waiting.shift();
    if (this.#scheduled) return;
    this.#scheduled = true;
    if (document.hidden) setTimeout(() => this.flush(), 250); // a hidden page gets no animation frames
    else requestAnimationFrame(() => this.flush());
  }

  /**
   * Shows what was said before this page was loaded; not read aloud.
   *
   * @param {Entry[]} entries
   */
  restore(entries) {
    this.root.setAttribute("aria-live", "off");
    entries.forEach((entry) => this.add(entry));
    this.flush();
    if (entries.length) this.root.append(make("p", "divider", this.words.earlier));
    this.#previous = null;
    this.#scroll();
    setTimeout(() => this.root.removeAttribute("aria-live"), 500);
  }

  /**
   * Shows these lines and no others; not read aloud.
   *
   * @param {Entry[]} entries
   * @param {boolean} [stay]  what is seen stays where it is, as lines come above it
   */
  show(entries, stay = false) {
    this.root.setAttribute("aria-live", "off");
    const below = this.root.scrollHeight - this.root.scrollTop;
    this.root.replaceChildren();
    this.#row = { count: 0, line: null };
    this.#previous = null;
    this.#waiting = entries.slice(-this.maxLines);
    this.flush();
    if (stay) this.root.scrollTop = this.root.scrollHeight - below;
    else this.#scroll();
    setTimeout(() => this.root.removeAttribute("aria-live"), 500);
  }

  /** Draws the lines that wait. */
  flush() {
    this.#scheduled = false;
    if (!this.#waiting.length) return;
    const mine = this.#waiting.some((entry) => entry.kind === "own");
    const stick = mine || this.#isAtBottom();
    const lines = this.#waiting.flatMap((entry) => this.#line(entry) ?? []);
    this.#unseen += this.#waiting.filter((entry) => entry.kind === "msg").length;
    this.#waiting = [];
    this.root.append(...lines);
    while (this.root.childElementCount > this.maxLines) this.root.firstElementChild?.remove();
    if (!this.#row.line?.isConnected) this.#row.line = null; // it left with the oldest
    if (stick) this.#scroll();
    else this.#offerLatest();
  }

  /**
   * Takes a message back that did not leave.
   *
   * @param {string} id
   */
  takeBack(id) {
    this.#waiting = this.#waiting.filter((entry) => entry.id !== id);
    this.root.querySelector(`[data-id="${CSS.escape(id)}"]`)?.remove();
    this.#previous = null;
  }

  /** Goes to the newest line. */
  toLatest() {
    this.#scroll();
    this.root.focus({ preventScroll: true });
  }

  /** @param {string} text  the greeting of the admin */
  greet(text) {
    const words = this.words;
    const from = make("p", "from", make("bdi", "", words.admin));
    if (words.admin_meaning) from.append(make("span", "tag", words.admin_meaning));
    const seal = avatar(words.admin);
    this.root.append(make("div", "line admin", seal, make("div", "words", from, make("div", "bubble", text))));
  }

  #isAtBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.root;
    this.#stick = scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
    return this.#stick;
  }

  #scroll() {
    this.root.scrollTop = this.root.scrollHeight;
    this.#stick = true;
    this.#seen();
  }

  #seen() {
    this.#unseen = 0;
    this.latest.hidden = true;
  }

  #offerLatest() {
    this.latestText.textContent = this.#unseen ? fill(this.words.unread, { count: this.#unseen }) : this.words.to_latest;
    this.latest.hidden = false;
  }

  /**
   * @param {Entry} entry
   * @returns {HTMLElement | null} a new line, or nothing when the last one says it
   */
  #line(entry) {
    const previous = this.#previous;
    this.#previous = entry;
    if (entry.kind !== previous?.kind) this.#row = { count: 0, line: null };
    if (entry.kind === "reconnected") return make("p", "divider", this.words.reconnected);
    if (entry.kind === "note") return make("p", "notice", entry.text);
    if (entry.kind === "enter" || entry.kind === "exit") return this.#notice(entry);
    const follows = previous?.kind === entry.kind && previous.from === entry.from && entry.at - previous.at < GROUP_MS;
    return this.#message(entry, follows);
  }

  /**
   * @param {Entry} entry
   * @returns {HTMLElement | null}
   */
  #notice(entry) {
    const shared = ++this.#row.count - CROWD;
    const line = this.#noticeLine(entry, shared > 1 ? fill(this.words.and_others, { count: shared }) : "");
    if (shared > 1 && this.#row.line) {
      this.#row.line.replaceChildren(...line.childNodes);
      return null;
    }
    if (shared >= 1) this.#row.line = line;
    return line;
  }

  /**
   * @param {Entry} entry
   * @param {string} others
   */
  #noticeLine(entry, others) {
    const { admin, admin_meaning: meaning, entered, left } = this.words;
    const happened = entry.kind === "enter" ? entered : left;
    const parts = [make("span", "tag", meaning ? `${admin} ${meaning}` : admin), make("b", "", make("bdi", "", entry.from))];
    if (others) parts.push(make("span", "", others));
    return make("p", "notice", ...parts, make("span", "", happened), make("bdi", "", cut(entry.text, 200)));
  }

  /**
   * @param {Entry} entry
   * @param {boolean} follows  the line before is by the same person
   */
  #message(entry, follows) {
    const own = entry.kind === "own";
    const from = make("p", "from", make("bdi", "", own ? this.words.you : this.nameOf(entry)));
    if (!own && entry.from === this.self) from.append(make("span", "tag", this.words.for_you));
    const at = new Date(entry.at);
    const time = make("time", "", this.clock.format(at));
    time.setAttribute("datetime", at.toISOString());
    const bubble = make("div", LONE_EMOJI.test(entry.text) ? "bubble lone-emoji" : "bubble");
    bubble.dir = "auto";
    const row = make("div", "bubble-row", bubble, time);
    const action = this.actionOf(entry);
    if (action) row.append(action);
    const words = make("div", "words", from, row);
    const content = this.contentOf(entry);
    const more = content ? null : fillBubble(bubble, cut(entry.text, MAX_TEXT), this.words);
    if (content) bubble.append(content);
    if (more) words.append(more);
    const classes = `line${own ? " own" : ""}${follows ? " follows" : ""}`;
    const line = make("div", classes, ...(own ? [] : [avatar(this.faceOf(entry))]), words);
    if (entry.id) line.dataset.id = entry.id;
    return line;
  }
}

/**
 * Puts a text into its bubble; of a long one only the beginning.
 *
 * @param {HTMLElement} bubble
 * @param {string} text
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null} the button that shows the rest
 */
function fillBubble(bubble, text, words) {
  const short = beginning(text);
  bubble.textContent = short;
  if (short === text) return null;
  bubble.textContent = `${short}…`;
  const more = make("button", "more", words.more);
  more.setAttribute("type", "button");
  more.setAttribute("aria-expanded", "false");
  more.addEventListener("click", () => {
    const open = more.getAttribute("aria-expanded") !== "true";
    more.setAttribute("aria-expanded", String(open));
    more.textContent = open ? words.less : words.more;
    bubble.textContent = open ? text : `${short}…`;
  });
  return more;
}

/**
 * @param {string} text
 * @returns {string} as much of it as a bubble shows unasked
 */
function beginning(text) {
  let columns = 0;
  let rows = 1;
  let end = 0;
  while (end < text.length && columns < SHORT_COLUMNS) {
    const code = text.charCodeAt(end);
    if (code === 10 && ++rows > SHORT_ROWS) break;
    columns += code < WIDE_FROM ? 1 : 2;
    end += 1;
  }
  return cut(text, end);
}
