// @ts-check
/** The rows of a conversation: messages by their type, system lines and dividers. */

import { cut, fill, make, moments } from "../../text.js";
import { mentions } from "../parts/entries.js";
import { formatted, plain } from "../parts/formatted.js";
import { loaded, namesIn } from "../parts/names.js";
import { icon } from "../parts/file.js";
import { button } from "../parts/panel.js";
import { hueOf } from "../session/people.js";
import { cardsOf, contentOf, noticeText, summaryOf } from "../parts/summary.js";
import { threadsOf } from "../session/threads.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("../session/outbox.js").Pending} Pending */
/** @typedef {import("../session/store.js").Streamed} Streamed */

/**
 * What the user does with a message.
 *
 * @typedef {object} Actions
 * @property {(entry: Entry, anchor: HTMLElement, all: boolean) => void} menu  `all`: everything, else only reactions
 * @property {(entry: Entry) => void} reply
 * @property {(entry: Entry, emoji: string, remove: boolean) => void} react
 * @property {(entry: Entry, value: string, button: HTMLElement) => void} press
 * @property {(stream: string, button: HTMLButtonElement) => void} stop  what a bot is writing
 * @property {(entry: Entry) => void} readers  of a message in a group
 * @property {(id: number) => void} jump
 * @property {(user: string) => void} person
 * @property {(pending: Pending) => void} cancel
 * @property {(pending: Pending) => void} retry
 * @property {(id: number) => Entry | null} find  a loaded message
 * @property {() => void} hold  the visible rows stay where they are
 * @property {(entry: Entry) => void} thread  opens its thread
 */

/**
 * How far our message has come. In a group, `read` of `members` have read it: "read" means that all have.
 *
 * @typedef {{ state: "" | "sent" | "received" | "read", read?: number, members?: number }} ReceiptShown
 */

/**
 * @typedef {object} Around  what a row depends on besides its message
 * @property {boolean} follows    the row before is a recent message of the same user
 * @property {boolean} [timed]     its time is shown; false: the next row has the same
 * @property {ReceiptShown} receipt
 * @property {Pending} [edit]     that is not stored yet
 */

/** Of a longer text only the start is shown, with a button for the rest. A wide character has two columns. */
const SHORT_COLUMNS = 600;
const SHORT_ROWS = 16;
/** Of a text, more characters are not drawn. */
const MAX_TEXT = 100_000;
/** Nearly all characters from here on are two columns wide. */
const WIDE_FROM = 0x2e80;
const LONE_EMOJI = /^(?:\p{Extended_Pictographic}[\p{Emoji_Modifier}\u200d\ufe0f\p{Extended_Pictographic}]*){1,3}$/u;
/** Views that need no bubble around them. */
const BARE = ".media-picture, .media-waiting, .album";
/** Text from whose start the language is taken, in characters. */
const LANGUAGE_CHARACTERS = 500;
/** A longer text is read in the row itself. */
const HEARD_CHARACTERS = 300;
/** One Han character says as much as so many letters. */
const LETTERS_OF_HAN = 3;
/** The longest movement of the style sheet. */
const MOVES_MS = 320;
const TICKS = { "": "", sent: "✓", received: "✓✓", read: "✓✓" };

/** Makes the rows of one session. */
export class MessageView {
  /** Reactions that have just come, as `id emoji`, with the time. @type {Map<string, number>} */
  fresh = new Map();
  /** The long messages of which all is shown, by the id that their sender gave them, or by their own. @type {Set<string | number>} */
  #expanded = new Set();

  /**
   * @param {Session} session
   * @param {Actions} actions
   */
  constructor(session, actions) {
    this.session = session;
    this.actions = actions;
    this.clock = new Intl.DateTimeFormat(session.language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    this.exact = moments(session.language, "full");
  }

  /**
   * Draws a message that is stored: who wrote it, its bubble, and what stands below the bubble.
   *
   * @param {Entry} entry
   * @param {Around} around
   * @returns {HTMLElement}
   */
  row(entry, around) {
    const { words, user } = this.session;
    const { follows, edit } = around;
    const isOwn = entry.from === user;
    const name = this.#nameOf(entry.from);
    const row = make("article", "line");
    row.classList.toggle("own", isOwn);
    row.classList.toggle("follows", follows);
    if (edit) row.classList.add(edit.state);
    if (!isOwn && !follows) row.append(this.#face(entry, name));
    row.append(this.#words(entry, name, isOwn, around));
    row.tabIndex = -1;
    row.dataset.id = String(entry.id);
    row.setAttribute("aria-label", fill(words.messages_row, { name, text: this.#heard(entry), time: this.clock.format(entry.time) }));
    if (mentions(entry, user)) row.classList.add("mentioned");
    return row;
  }

  /** @param {string} user  empty: the server */
  #nameOf(user) {
    const { words, people, user: self } = this.session;
    if (user === self) return words.you;
    return user ? people.nameOf(user) : words.messages_server;
  }

  /**
   * @param {Entry} entry
   * @param {string} name  of its sender
   * @returns {HTMLElement} the button with the avatar of the sender
   */
  #face({ from, meta }, name) {
    const { people, user } = this.session;
    const face = button("", "face");
    face.tabIndex = -1;
    face.setAttribute("aria-label", name);
    face.append(from ? people.avatar(from) : people.face({ id: 0, group: false, peer: meta?.reminder ? user : "", name: "", avatar: "" }));
    face.addEventListener("click", () => this.actions.person(from));
    return face;
  }

  /**
   * @param {Entry} entry
   * @param {string} name  of its sender
   * @param {boolean} isOwn
   * @param {Around} around
   * @returns {HTMLElement} all of the row beside the avatar
   */
  #words(entry, name, isOwn, around) {
    const { people } = this.session;
    const { edit } = around;
    const parts = make("div", "words");
    if (!isOwn) parts.append(make("p", "from", make("bdi", entry.to ? "" : hueOf(entry.from), name), ...people.marks(entry.from)));
    const shown = edit ? { ...entry, text: edit.text, meta: { ...entry.meta, handles: [], mentions: edit.mentions } } : entry;
    const bubble = this.#bubble(shown, edit ? [this.#status(edit)] : this.#time(entry, isOwn, around));
    parts.append(make("div", "bubble-row", bubble));
    if (edit && edit.state !== "sending") parts.append(this.#pendingLine(edit));
    parts.append(...cardsOf(entry, this.session));
    // The card of a question has buttons of its own.
    if (entry.meta?.buttons?.length && !entry.meta.ask) parts.append(this.#buttons(entry));
    if (entry.reactions?.length) parts.append(this.#reactions(entry));
    if (entry.meta?.replies) parts.append(this.#thread(entry));
    return parts;
  }

  /**
   * A message that is not stored yet.
   *
   * @param {Pending} pending
   * @param {{ follows: boolean, isLast: boolean }} around
   * @returns {HTMLElement}
   */
  pending(pending, { follows, isLast }) {
    const { words, user } = this.session;
    const { id, state, text, data, type = "text", replyTo, edit, mentions: mentioned, time } = pending;
    // The same functions draw it as a stored message, which it is not yet: so its numbers are 0.
    const entry = /** @type {Entry} */ ({
      id: 0, conversation: 0, seq: 0, kind: "message", from: user, type, text, data, clientMsgID: id, about: edit ?? replyTo, meta: { mentions: mentioned }, time,
    });
    const parts = make("div", "words", make("div", "bubble-row", this.#bubble(entry, [this.#status(pending)])), this.#pendingLine(pending, isLast));
    const row = make("article", `line own pending ${state}`, parts);
    row.classList.toggle("follows", follows);
    row.classList.toggle("stranded", this.isStranded(pending));
    row.tabIndex = -1;
    row.setAttribute("aria-label", fill(words.messages_row, { name: words.you, text: this.#heard(entry), time: this.#stateOf(pending) }));
    return row;
  }

  /**
   * @param {Entry} entry
   * @returns {string} what a screen reader says of a message when its row gets the focus
   */
  #heard(entry) {
    return entry.text === undefined ? summaryOf(entry, this.session.words) : cut(entry.text, HEARD_CHARACTERS);
  }

  /**
   * @param {Pending} pending
   * @returns {boolean} whether it waits for the network
   */
  isStranded({ state }) {
    return state === "waiting" && !this.session.isOnline;
  }

  /**
   * @param {Pending} pending
   * @returns {string} in words of the page
   */
  #stateOf(pending) {
    if (pending.state === "failed") return pending.reason;
    return this.session.words[this.isStranded(pending) ? "messages_state_stranded" : `messages_state_${pending.state}`];
  }

  /** @param {Pending} pending */
  #status(pending) {
    const word = this.#stateOf(pending);
    const status = make("span", "status", pending.state === "failed" ? "!" : icon("clock"));
    status.setAttribute("role", "img");
    status.setAttribute("aria-label", word);
    status.title = word;
    return status;
  }

  /**
   * What can be done with a message that is not stored yet.
   *
   * @param {Pending} pending
   * @param {boolean} [isLast]  says for all above it that they wait
   */
  #pendingLine(pending, isLast = true) {
    const { words } = this.session;
    const { state, reason, share } = pending;
    const line = make("p", "pending-line");
    if (isLast && this.isStranded(pending)) line.append(make("span", "stranded-note", words.messages_stranded));
    if (state === "uploading") {
      const bar = /** @type {HTMLProgressElement} */ (make("progress", ""));
      bar.value = share;
      bar.setAttribute("aria-label", this.#stateOf(pending));
      line.append(bar);
    }
    if (state === "failed") {
      const again = button(words.messages_retry, "link");
      again.addEventListener("click", () => this.actions.retry(pending));
      line.append(make("span", "reason", reason), again);
    }
    const cancel = button(state === "failed" ? words.messages_discard : words.messages_cancel, "link");
    cancel.addEventListener("click", () => this.actions.cancel(pending));
    line.append(cancel);
    return line;
  }

  /**
   * A message that a bot is writing.
   *
   * @param {Streamed} streamed
   * @param {boolean} follows
   * @returns {HTMLElement}
   */
  streamed({ stream, from, text, time }, follows) {
    const entry = /** @type {Entry} */ ({ id: 0, conversation: 0, seq: 0, kind: "message", from, text: "", time });
    const row = this.row(entry, { follows, receipt: { state: "" } });
    delete row.dataset.id;
    row.classList.add("streamed");
    row.setAttribute("aria-busy", "true");
    this.grow(row, text);
    const stop = button(this.session.words.messages_stop, "key");
    stop.addEventListener("click", () => this.actions.stop(stream, stop));
    row.querySelector(".words")?.append(make("div", "press-rows", make("p", "", stop)));
    return row;
  }

  /**
   * @param {Element} row   of a message that a bot is writing
   * @param {string} text  all of it so far
   */
  grow(row, text) {
    row.querySelector(".text")?.replaceChildren(...formatted(cut(text, MAX_TEXT), [], { isMarkdown: true }), make("span", "caret"));
  }

  /**
   * @param {Entry} entry
   * @returns {HTMLElement}
   */
  notice(entry) {
    const notice = make("p", "notice", entry.line ?? noticeText(entry, this.session));
    loaded.kinds?.showsAll(notice, entry, this.session);
    return notice;
  }

  /**
   * @param {Entry} entry
   * @param {HTMLElement[]} when  time and receipt, or the state of a message that is not stored yet
   */
  #bubble(entry, when) {
    const { words, people } = this.session;
    const { meta } = entry;
    const text = entry.text ?? "";
    const bubble = make("div", "bubble");
    if (meta?.forwarded) bubble.append(make("p", "forwarded", fill(words.messages_forwarded, { name: people.nameOf(String(meta.forwarded.from)) })));
    const quoted = entry.about && entry.kind === "message" ? this.#quote(entry.about) : null;
    if (quoted) bubble.append(quoted);
    const content = contentOf(entry, this.session);
    if (content) {
      bubble.append(content);
      bubble.classList.add("holds");
      if (bubble.childElementCount === 1 && content.matches(BARE)) bubble.classList.add("bare");
      // If a picture cannot be loaded, a link takes its place, which needs a bubble. An error event does not bubble, so the listener captures it.
      bubble.addEventListener("error", () => bubble.classList.toggle("bare", content.matches(".album")), true);
    } else if (entry.text === undefined) {
      bubble.append(make("span", "text unknown", summaryOf(entry, words)));
    } else {
      if (!quoted && LONE_EMOJI.test(text)) bubble.classList.add("lone-emoji");
      bubble.append(this.#text(entry, cut(text, MAX_TEXT)));
    }
    if (when.length) {
      // The style sheet puts an invisible copy of it behind the text: so the last line keeps space for it.
      const shown = bubble.querySelector(":scope > .text");
      if (shown instanceof HTMLElement) shown.dataset.when = when.map((each) => each.textContent || "✓✓").join("\u00a0");
      bubble.append(make("span", "when", ...when));
    }
    return bubble;
  }

  /**
   * Draws the text of a message. A long one has a button that shows all of it, and one that shows only its start again.
   *
   * @param {Entry} entry
   * @param {string} text
   */
  #text(entry, text) {
    const { words, people, store } = this.session;
    const names = namesIn(entry.meta ?? {}, (user) => people.nameOf(user)).map(([name]) => name);
    const options = { isMarkdown: people.card(entry.from)?.bot, words };
    const short = store.wasStreamed(entry) ? text : startOf(text);
    const language = languageOf(text, this.session.language);
    if (short === text) return directed(make("div", "text", ...formatted(text, names, options)), language);
    const id = entry.clientMsgID || entry.id;
    const shown = directed(make("div", "text"), language);
    const more = button("", "more");
    const draw = () => {
      const isExpanded = this.#expanded.has(id);
      more.setAttribute("aria-expanded", String(isExpanded));
      more.textContent = isExpanded ? words.less : words.more;
      shown.replaceChildren(...formatted(isExpanded ? text : `${short}…`, names, options), more);
    };
    more.addEventListener("click", () => {
      const wasExpanded = this.#expanded.delete(id);
      if (!wasExpanded) this.#expanded.add(id);
      this.actions.hold();
      draw();
      if (wasExpanded) shown.scrollIntoView({ block: "nearest" });
    });
    draw();
    return shown;
  }

  /**
   * @param {number} id
   * @returns {HTMLElement} the button with who wrote the quoted message, and with its start, or why the start is missing
   */
  #quote(id) {
    const { words, people, user } = this.session;
    const quoted = this.actions.find(id);
    let name = words.messages_quote;
    if (quoted) name = quoted.from === user ? words.you : people.nameOf(quoted.from);
    const missing = quoted?.kind === "recall" ? words.messages_quote_gone : words.messages_quote_far;
    const start = quoted?.kind === "message" ? plain.draw(summaryOf(quoted, words)) : missing;
    const made = button("", "quote");
    made.append(directed(make("b", "", name)), directed(make("span", "", start)));
    made.addEventListener("click", () => this.actions.jump(id));
    return made;
  }

  /**
   * @param {Entry} entry
   * @param {boolean} isOwn
   * @param {Around} around
   * @returns {HTMLElement[]} what stands at the end of a bubble: that the message is incomplete or edited, its time, its receipt
   */
  #time(entry, isOwn, { timed = true, receipt }) {
    const { words } = this.session;
    /** @type {HTMLElement[]} */
    const parts = [];
    if (entry.meta?.incomplete) parts.push(make("span", "incomplete", entry.meta.stopped ? words.messages_stopped : words.messages_incomplete));
    if (entry.meta?.edited) parts.push(make("span", "edited", words.messages_edited));
    if (timed) {
      const at = new Date(entry.time);
      const time = make("time", "", this.clock.format(at));
      time.setAttribute("datetime", at.toISOString());
      parts.push(time);
    }
    if (isOwn && receipt.state) parts.push(this.#tick(entry, receipt));
    return parts;
  }

  /**
   * Draws the receipt of our message. In a group it is a button that lists the readers, as soon as there is one.
   *
   * @param {Entry} entry
   * @param {ReceiptShown} receipt
   */
  #tick(entry, { state, read = 0, members = 0 }) {
    const { words } = this.session;
    const label = read ? fill(words.messages_read_by, { count: read, members }) : words[`messages_${state}`];
    const tick = read ? button(TICKS[state], `tick ${state}`) : make("span", `tick ${state}`, TICKS[state]);
    if (read) {
      tick.append(make("span", "readers", String(read)));
      tick.tabIndex = -1;
      tick.addEventListener("click", () => this.actions.readers(entry));
    } else tick.setAttribute("role", "img");
    tick.setAttribute("aria-label", label);
    tick.title = label;
    return tick;
  }

  /** @param {Entry} entry */
  #buttons(entry) {
    const { store, words } = this.session;
    const pressed = store.pressedOf(entry);
    const rows = make("div", "press-rows");
    rows.setAttribute("role", "group");
    rows.setAttribute("aria-label", words.messages_buttons);
    for (const row of /** @type {{ text: string, value: string }[][]} */ (entry.meta.buttons)) {
      rows.append(make("p", "", ...row.map(({ text, value }) => {
        const key = button(text, "key");
        key.setAttribute("aria-pressed", String(value === pressed));
        key.addEventListener("click", () => this.actions.press(entry, value, key));
        return key;
      })));
    }
    return rows;
  }

  /**
   * How many have replied in its thread, who, when, and what of it is unread.
   *
   * @param {Entry} entry
   */
  #thread(entry) {
    const { words, people } = this.session;
    const { count, time, users } = /** @type {import("../../../sdk/messenger.js").Replies} */ (entry.meta.replies);
    const unread = threadsOf(this.session).of(entry.id)?.unread ?? 0;
    const line = button("", "thread-line");
    const faces = make("span", "faces", ...users.slice(0, 3).map((user) => people.avatar(user)));
    faces.setAttribute("aria-hidden", "true");
    const last = fill(words.messages_thread_last, { time: this.clock.format(time) });
    line.append(faces, make("b", "", fill(words.messages_replies, { count })), make("span", "muted", last));
    if (unread) line.append(make("span", "badge", fill(words.messages_thread_new, { count: unread })));
    line.addEventListener("click", () => this.actions.thread(entry));
    return line;
  }

  /** @param {Entry} entry */
  #reactions(entry) {
    const { words } = this.session;
    const line = make("p", "reactions");
    for (const { emoji, count, users, mine } of entry.reactions ?? []) {
      const chip = button("", "reaction");
      animate(chip, "pops", this.fresh.get(`${entry.id} ${emoji}`));
      chip.append(make("span", "sign", plain.draw(emoji)), make("span", "", String(count)));
      chip.setAttribute("aria-pressed", String(mine));
      const names = users.map((each) => this.#nameOf(each)).join(words.messages_and);
      chip.title = names;
      chip.setAttribute("aria-label", `${emoji} ${count}, ${names}`);
      chip.addEventListener("click", () => this.actions.react(entry, emoji, mine));
      line.append(chip);
    }
    return line;
  }
}

/**
 * Lets an element move in. If it is drawn again meanwhile, it goes on from where it was.
 *
 * @param {HTMLElement} moving
 * @param {"arrives" | "flies" | "pops"} how  a class
 * @param {number} [since]  when it began, in milliseconds since 1970
 */
export function animate(moving, how, since = 0) {
  const passed = Date.now() - since;
  if (passed > MOVES_MS) return;
  moving.classList.add(how);
  moving.style.animationDelay = `${-passed}ms`;
}

/**
 * @param {HTMLElement} made
 * @param {string | null} [language]  null: that of the page
 * @returns {HTMLElement} the same, written from left to right or from right to left as its text
 */
function directed(made, language = null) {
  made.dir = "auto";
  if (language !== null) made.lang = language;
  return made;
}

/**
 * The language that fonts, line breaks and screen readers need to know.
 *
 * @param {string} text
 * @param {string} page  language of the page
 * @returns {string | null} null: that of the page; empty: not known
 */
export function languageOf(text, page) {
  const start = text.slice(0, LANGUAGE_CHARACTERS);
  const isChinese = page.startsWith("zh");
  if (/[\u3040-\u30ff]/.test(start)) return "ja";
  if (/[\uac00-\ud7af]/.test(start)) return "ko";
  const han = start.match(/\p{Script=Han}/gu)?.length ?? 0;
  const letters = (start.match(/\p{L}/gu)?.length ?? 0) - han;
  // A few characters in a text do not change its font.
  const isHan = han * LETTERS_OF_HAN >= letters;
  if (isHan && han) return isChinese ? null : "zh-Hans";
  return isChinese && !isHan ? "" : null;
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
    if (text[end] === "\n") rows += 1;
    if (rows > SHORT_ROWS) break;
    columns += text.charCodeAt(end) < WIDE_FROM ? 1 : 2;
    end += 1;
  }
  return cut(text, end);
}
