// @ts-check
/** The messages and notices of a room or conversation. Draws in batches, limits the lines, and never interprets markup. */

import { MAX_SINGLE_NOTICES } from "./tab-session.js";
import { avatar } from "./page-parts.js";
import { cut, fill, make } from "./text.js";

/** @typedef {import("./tab-session.js").Line} Line */

const MAX_LINES = 400;
/** Of a longer text only the start is shown, with a button for the rest. */
const SHORT_COLUMNS = 600;
const SHORT_ROWS = 16;
/** Nearly all characters from here on are two columns wide. */
const WIDE_FROM = 0x2e80;
const LINE_FEED = 10;
const MAX_TEXT = 100_000;
const MAX_NOTICE = 200;
/** Messages of one user within this time have one name. */
const GROUP_MS = 5 * 60_000;
const NEAR_BOTTOM_PX = 80;
/** A hidden page gets no animation frames: it draws after this time. */
const HIDDEN_DRAW_MS = 250;
/** After this time, screen readers announce new lines again. */
const QUIET_MS = 500;
const LONE_EMOJI = /^(?:\p{Extended_Pictographic}[\p{Emoji_Modifier}\u200d\ufe0f\p{Extended_Pictographic}]*){1,3}$/u;

/**
 * @typedef {object} Options
 * @property {(line: Line) => string} [nameOf]                  name above the messages of another user
 * @property {(line: Line) => HTMLElement | null} [contentOf]   content of the bubble, if it is not the text
 * @property {(line: Line) => string} [avatarOf]                name from which the avatar is made
 * @property {(line: Line) => HTMLElement | null} [actionOf]    button beside the message
 * @property {number} [maxLines]                                older lines are removed
 */

/** Owns the lines in `root` and whether the newest stays in view. */
export class MessageList {
  /** Lines that are drawn with the next frame. @type {Line[]} */
  #waiting = [];
  #scheduled = false;
  #unseen = 0;
  /** Whether the newest line stays in view. */
  #stick = true;
  /** The last known scroll position. */
  #top = 0;
  /** @type {Line | null} */
  #previous = null;
  /** The number of notices of one kind in a row, and the element that the later ones share. */
  #notices = { count: 0, element: /** @type {HTMLElement | null} */ (null) };

  /**
   * @param {HTMLElement} root
   * @param {HTMLButtonElement} latest       button that scrolls to the newest line
   * @param {HTMLElement} latestText
   * @param {Record<string, string>} words
   * @param {string} language
   * @param {Options} [options]  default: a room of the `cmd` dialect
   */
  constructor(root, latest, latestText, words, language, options = {}) {
    this.nameOf = options.nameOf ?? ((line) => line.from);
    this.contentOf = options.contentOf ?? (() => null);
    this.avatarOf = options.avatarOf ?? ((line) => line.from);
    this.actionOf = options.actionOf ?? (() => null);
    this.maxLines = options.maxLines ?? MAX_LINES;
    this.root = root;
    this.latest = latest;
    this.latestText = latestText;
    this.words = words;
    this.self = "";
    this.clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    latest.addEventListener("click", () => this.toLatest());
    root.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    const stayAtEnd = () => {
      if (this.#stick) this.#scroll();
    };
    new ResizeObserver(stayAtEnd).observe(root);
    root.addEventListener("load", stayAtEnd, { capture: true }); // an image
    root.addEventListener("loadedmetadata", stayAtEnd, { capture: true }); // a video
  }

  /** @param {Line} line */
  add(line) {
    this.#waiting.push(line);
    if (this.#waiting.length > this.maxLines) this.#waiting.shift();
    if (this.#scheduled) return;
    this.#scheduled = true;
    if (document.hidden) setTimeout(() => this.flush(), HIDDEN_DRAW_MS);
    else requestAnimationFrame(() => this.flush());
  }

  /**
   * Shows the lines of an earlier load of this page. Screen readers do not announce them.
   *
   * @param {Line[]} lines
   */
  restore(lines) {
    this.root.setAttribute("aria-live", "off");
    lines.forEach((line) => this.add(line));
    this.flush();
    if (lines.length) this.root.append(make("p", "divider", this.words.earlier));
    this.#previous = null;
    this.#scroll();
    setTimeout(() => this.root.removeAttribute("aria-live"), QUIET_MS);
  }

  /**
   * Replaces all lines and scrolls to the end. Screen readers do not announce them.
   *
   * @param {Line[]} lines
   * @param {boolean} [keepPosition]       keep the visible lines where they are, instead of scrolling to the end
   * @param {HTMLElement | null} [header]  shown above the lines
   */
  show(lines, keepPosition = false, header = null) {
    this.root.setAttribute("aria-live", "off");
    const below = this.root.scrollHeight - this.root.scrollTop;
    this.root.replaceChildren(...(header ? [header] : []));
    this.#notices = { count: 0, element: null };
    this.#previous = null;
    this.#waiting = lines.slice(-this.maxLines);
    this.#scroll();
    this.flush();
    if (keepPosition) {
      this.root.scrollTop = this.root.scrollHeight - below;
      this.#top = this.root.scrollTop;
      this.#stick = this.#isAtBottom();
    }
    setTimeout(() => this.root.removeAttribute("aria-live"), QUIET_MS);
  }

  /** Draws the waiting lines. */
  flush() {
    this.#scheduled = false;
    if (!this.#waiting.length) return;
    const hasOwn = this.#waiting.some((line) => line.kind === "own");
    const stick = hasOwn || this.#stick;
    const elements = this.#waiting.flatMap((line) => this.#draw(line) ?? []);
    this.#unseen += this.#waiting.filter((line) => line.kind === "msg").length;
    this.#waiting = [];
    this.root.append(...elements);
    while (this.root.childElementCount > this.maxLines) this.root.firstElementChild?.remove();
    if (!this.#notices.element?.isConnected) this.#notices.element = null; // removed with the oldest lines
    if (stick) this.#scroll();
    else this.#offerLatest();
  }

  /**
   * Removes a message that could not be sent.
   *
   * @param {string} id
   */
  remove(id) {
    this.#waiting = this.#waiting.filter((line) => line.id !== id);
    this.root.querySelector(`[data-id="${CSS.escape(id)}"]`)?.remove();
    this.#previous = null;
  }

  /** Scrolls to the newest line. */
  toLatest() {
    this.#scroll();
    this.root.focus({ preventScroll: true });
  }

  /** @param {string} text  the greeting, as a message of the admin */
  greet(text) {
    const words = this.words;
    const from = make("p", "from", make("bdi", "", words.admin));
    const seal = avatar(words.admin);
    this.root.append(make("div", "line admin", seal, make("div", "words", from, make("div", "bubble", text))));
  }

  #isAtBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.root;
    return scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
  }

  /** Only the user scrolls up; a distance to the end that has grown otherwise comes from an image that has loaded. */
  #onScroll() {
    const { scrollTop } = this.root;
    if (this.#isAtBottom()) {
      this.#stick = true;
      this.#seen();
    } else if (scrollTop < this.#top) {
      this.#stick = false;
    }
    this.#top = scrollTop;
  }

  #scroll() {
    this.root.scrollTop = this.root.scrollHeight;
    this.#top = this.root.scrollTop;
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
   * @param {Line} line
   * @returns {HTMLElement | null} null: the last element includes it
   */
  #draw(line) {
    const previous = this.#previous;
    this.#previous = line;
    if (line.kind !== previous?.kind) this.#notices = { count: 0, element: null };
    if (line.kind === "reconnected") return make("p", "divider", this.words.reconnected);
    if (line.kind === "note") return make("p", "notice", line.text);
    if (line.kind === "enter" || line.kind === "exit") return this.#notice(line);
    const follows = previous?.kind === line.kind && previous.from === line.from && line.at - previous.at < GROUP_MS;
    return this.#message(line, follows);
  }

  /**
   * The first notices of one kind have an element each; the later ones share one, which names the last user and counts the others.
   *
   * @param {Line} line
   * @returns {HTMLElement | null} null: the shared element shows it
   */
  #notice(line) {
    this.#notices.count += 1;
    const shared = this.#notices.count - MAX_SINGLE_NOTICES;
    const element = this.#noticeElement(line, shared > 1 ? fill(this.words.and_others, { count: shared }) : "");
    if (shared > 1 && this.#notices.element) {
      this.#notices.element.replaceChildren(...element.childNodes);
      return null;
    }
    if (shared >= 1) this.#notices.element = element;
    return element;
  }

  /**
   * @param {Line} line
   * @param {string} others
   */
  #noticeElement(line, others) {
    const { admin, entered, left } = this.words;
    const change = line.kind === "enter" ? entered : left;
    const parts = [make("span", "tag", admin), make("b", "", make("bdi", "", line.from))];
    if (others) parts.push(make("span", "", others));
    return make("p", "notice", ...parts, make("span", "", change), make("bdi", "", cut(line.text, MAX_NOTICE)));
  }

  /**
   * @param {Line} line
   * @param {boolean} follows  the line before is a recent message of the same user
   */
  #message(line, follows) {
    const isOwn = line.kind === "own";
    const from = make("p", "from", make("bdi", "", isOwn ? this.words.you : this.nameOf(line)));
    if (!isOwn && line.from === this.self) from.append(make("span", "tag", this.words.for_you));
    const at = new Date(line.at);
    const time = make("time", "", this.clock.format(at));
    time.setAttribute("datetime", at.toISOString());
    const bubble = make("div", LONE_EMOJI.test(line.text) ? "bubble lone-emoji" : "bubble");
    bubble.dir = "auto";
    const row = make("div", "bubble-row", bubble, time);
    const action = this.actionOf(line);
    if (action) row.append(action);
    const words = make("div", "words", from, row);
    const content = this.contentOf(line);
    if (content) {
      bubble.append(content);
    } else {
      const more = fillBubble(bubble, cut(line.text, MAX_TEXT), this.words);
      if (more) words.append(more);
    }
    const element = make("div", "line", words);
    element.classList.toggle("own", isOwn);
    element.classList.toggle("follows", follows);
    if (!isOwn) element.prepend(avatar(this.avatarOf(line)));
    if (line.id) element.dataset.id = line.id;
    return element;
  }
}

/**
 * Puts a text into its bubble. Of a long text only the start is shown.
 *
 * @param {HTMLElement} bubble
 * @param {string} text
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null} button that shows the rest; null: the text is short
 */
function fillBubble(bubble, text, words) {
  const short = startOf(text);
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
 * @returns {string} the part that a bubble shows at first
 */
function startOf(text) {
  let columns = 0;
  let rows = 1;
  let end = 0;
  while (end < text.length && columns < SHORT_COLUMNS) {
    const code = text.charCodeAt(end);
    if (code === LINE_FEED) rows += 1;
    if (rows > SHORT_ROWS) break;
    columns += code < WIDE_FROM ? 1 : 2;
    end += 1;
  }
  return cut(text, end);
}
