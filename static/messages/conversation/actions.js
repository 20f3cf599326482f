// @ts-check
/** What the user can do with a message: the menu of a row, and the functions behind it. */

import { copyText } from "../../page-parts.js";
import { drawn, element, make } from "../../text.js";
import { added, addFeatures } from "../parts/additions.js";
import { reasonOf } from "../parts/api.js";
import { attempt, withModule } from "../parts/form.js";
import { button, confirm, openDialog, toast } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

const QUICK = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏"];
const EDGE_PX = 8;
const GAP_PX = 4;

/**
 * @typedef {object} Composing
 * @property {(entry: Entry) => void} reply
 * @property {(entry: Entry) => void} edit
 * @property {(entry: Entry) => void} [select]  and others; missing: one at a time
 * @property {(entry: Entry) => void} [thread]  opens its thread; missing: it is shown
 * @property {(id: number) => boolean} isPinned
 * @property {() => boolean} membersPin  whether every member of the open group may pin
 */

/** Owns the open menu. */
export class MessageActions {
  /** @type {HTMLElement | null} */
  #menu = null;
  /** @type {HTMLElement | null} */
  #opener = null;

  /**
   * @param {Session} session
   * @param {Composing} composing
   */
  constructor(session, composing) {
    this.session = session;
    this.composing = composing;
    this.onOutside = (/** @type {Event} */ event) => {
      if (this.#menu && !this.#menu.contains(/** @type {Node} */ (event.target))) this.close();
    };
  }

  /**
   * Opens the menu of a message, or closes it.
   *
   * @param {Conversation} conversation
   * @param {Entry} entry
   * @param {HTMLElement} anchor  the menu is beside it
   * @param {boolean} all         false: only reactions
   * @param {{ x: number, y: number }} [point]
   */
  async open(conversation, entry, anchor, all, point) {
    const again = this.#opener === anchor;
    this.close();
    if (again && !point) return;
    if (all) await addFeatures(this.session, true);
    this.close(); // it was asked for twice
    const menu = make("div", "menu");
    menu.setAttribute("role", "menu");
    menu.append(this.#quickReactions(entry));
    if (all) for (const [word, act, danger] of this.#rows(conversation, entry)) menu.append(this.#row(word, act, danger));
    menu.addEventListener("keydown", (event) => this.#onKey(event));
    (anchor.closest("dialog:modal") ?? element("inbox", HTMLElement)).append(menu); // what is outside of a modal dialog takes no clicks
    place(menu, anchor, point);
    this.#menu = menu;
    this.#opener = anchor;
    setTimeout(() => document.addEventListener("pointerdown", this.onOutside));
    menu.querySelector("button")?.focus({ preventScroll: true });
  }

  close() {
    if (!this.#menu) return;
    const hadFocus = this.#menu.contains(document.activeElement);
    this.#menu.remove();
    document.removeEventListener("pointerdown", this.onOutside);
    if (hadFocus) /** @type {HTMLElement | null} */ (this.#opener?.closest(".line") ?? null)?.focus({ preventScroll: true });
    this.#menu = this.#opener = null;
  }

  /**
   * @param {Entry} entry
   * @param {string} emoji
   * @param {boolean} remove
   */
  async react(entry, emoji, remove) {
    await this.#try(() => this.session.messenger.react(entry.id, emoji, { remove })); // the change follows as an entry
  }

  /**
   * @param {Entry} entry
   * @param {boolean} remove
   */
  async pin(entry, remove) {
    await this.#try(() => this.session.messenger.pin(entry.id, { remove }));
  }

  /**
   * Presses a button of a message.
   *
   * @param {Entry} entry
   * @param {string} value
   * @param {HTMLElement} key
   */
  async press(entry, value, key) {
    const { messenger, user, words } = this.session;
    await attempt(key, null, words, async () => {
      const sent = await messenger.press(entry.id, value);
      this.session.added({ ...sent, kind: "press", from: user, to: entry.from, about: entry.id, text: value, time: Date.now() });
    });
  }

  /**
   * @param {string} stream  a message that a bot is writing
   * @param {HTMLButtonElement} key
   */
  async stop(stream, key) {
    await attempt(key, null, this.session.words, () => this.session.messenger.streamStop(stream));
  }

  /** @param {Entry} entry */
  async copy(entry) {
    const { words } = this.session;
    toast((await copyText(textOf(entry))) ? words.messages_copied : words.messages_copy_failed);
  }

  /** @param {Entry} entry */
  async copyLink({ conversation, id }) {
    const { words } = this.session;
    toast((await copyText(`${location.origin}${location.pathname}#c/${conversation}/${id}`)) ? words.messages_copied : words.messages_copy_failed);
  }

  /** @param {Entry} entry */
  async recall(entry) {
    const { words, messenger, user } = this.session;
    if (!(await confirm(words.messages_recall_ask, { yes: words.messages_recall, danger: true }))) return;
    await this.#try(async () => {
      const sent = await messenger.recall(entry.id);
      this.session.added({ ...sent, kind: "recall", from: user, to: entry.to, about: entry.id, time: Date.now() });
    });
  }

  /** @param {Entry} entry */
  async hide(entry) {
    const { words, store } = this.session;
    if (!(await confirm(words.messages_hide_ask, { yes: words.messages_hide, danger: true }))) return;
    await this.#try(() => store.hide([entry.id]));
  }

  /** @param {Entry} entry  ours, in a group */
  readers(entry) {
    withModule(import("./readers.js"), this.session.words, ({ openReaders }) => openReaders(this.session, entry));
  }

  /** @param {Entry} entry */
  forward(entry) {
    withModule(import("../people/forward.js"), this.session.words, ({ openForward }) => void openForward(this.session, [entry]));
  }

  /**
   * @param {Conversation} conversation
   * @param {Entry} entry
   * @returns {[word: string, act: () => void, danger?: boolean][]}
   */
  #rows(conversation, entry) {
    const { words, user } = this.session;
    const own = entry.from === user;
    const text = entry.text !== undefined;
    const mayPin = !conversation.group || conversation.role === "owner" || conversation.role === "admin" || this.composing.membersPin();
    const isPinned = this.composing.isPinned(entry.id);
    /** @type {[string, () => void, boolean?][]} */
    const rows = [[words.messages_reply, () => this.composing.reply(entry)]];
    const { thread, select } = this.composing;
    if (thread) rows.push([words.messages_thread_reply, () => thread(entry)]);
    if (own && text && !entry.meta?.forwarded) rows.push([words.messages_edit, () => this.composing.edit(entry)]);
    if (textOf(entry)) rows.push([words.messages_copy, () => this.copy(entry)]);
    rows.push([words.messages_copy_message_link, () => this.copyLink(entry)]);
    rows.push([words.messages_forward, () => this.forward(entry)]);
    if (select) rows.push([words.messages_select, () => select(entry)]);
    if (own && conversation.group) rows.push([words.messages_readers, () => this.readers(entry)]);
    if (mayPin) rows.push([isPinned ? words.messages_unpin : words.messages_pin, () => this.pin(entry, isPinned)]);
    if (own) rows.push([words.messages_recall, () => this.recall(entry), true]);
    rows.push([words.messages_hide, () => this.hide(entry), true]);
    for (const makeActions of added.messageActions) {
      for (const { word, act, danger } of drawn(() => makeActions(this.session, conversation, entry), () => [])) rows.push([word, () => void act(), danger]);
    }
    return rows;
  }

  /** @param {Entry} entry */
  #quickReactions(entry) {
    const line = make("div", "quick");
    const mine = new Set(entry.reactions?.filter((each) => each.mine).map(({ emoji }) => emoji));
    for (const emoji of QUICK) {
      const pick = button(emoji, "sign");
      pick.setAttribute("role", "menuitemcheckbox");
      pick.setAttribute("aria-checked", String(mine.has(emoji)));
      pick.addEventListener("click", () => {
        this.close();
        this.react(entry, emoji, mine.has(emoji));
      });
      line.append(pick);
    }
    const more = button("＋", "sign");
    more.setAttribute("role", "menuitem");
    more.setAttribute("aria-label", this.session.words.messages_more_emoji);
    more.addEventListener("click", () => {
      this.close();
      withModule(import("./emoji-picker.js"), this.session.words, async ({ makePicker }) => {
        const grid = make("div", "emoji");
        const dialog = openDialog(this.session.words.messages_react, grid);
        (await makePicker(grid, this.session, (emoji) => {
          dialog.close();
          this.react(entry, emoji, mine.has(emoji));
        })).open();
      });
    });
    line.append(more);
    return line;
  }

  /**
   * @param {string} word
   * @param {() => void} act
   * @param {boolean} danger
   */
  #row(word, act, danger = false) {
    const row = button(word, danger ? "menu-row danger" : "menu-row");
    row.setAttribute("role", "menuitem");
    row.addEventListener("click", () => {
      this.close();
      act();
    });
    return row;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const items = /** @type {HTMLElement[]} */ ([...(this.#menu?.querySelectorAll("button") ?? [])]);
    const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const isQuick = items[at]?.classList.contains("sign");
    const quick = items.filter((each) => each.classList.contains("sign")).length;
    const down = isQuick ? quick : at + 1;
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: down, ArrowUp: at === quick ? 0 : at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Escape" || event.key === "Tab") this.close();
    else if (next !== undefined) items[(next + items.length) % items.length]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {() => Promise<unknown>} work  the reason of a failure is shown */
  async #try(work) {
    try {
      await work();
    } catch (error) {
      toast(reasonOf(error, this.session.words));
    }
  }
}

/**
 * @param {Entry} entry
 * @returns {string} its text, or its caption
 */
function textOf({ text, data }) {
  return text ?? (typeof data?.caption === "string" ? data.caption : "");
}

/**
 * Puts a menu at a point, or below its anchor or above it, inside the window. It never covers the anchor: if there is no space, the
 * messages scroll.
 *
 * @param {HTMLElement} menu
 * @param {HTMLElement} anchor
 * @param {{ x: number, y: number }} [point]
 */
export function place(menu, anchor, point) {
  const { left, right, bottom, top } = (anchor.querySelector(".bubble") ?? anchor).getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const isOwn = anchor.closest(".own") !== null;
  const x = point?.x ?? (isOwn ? right - width : left);
  const lowest = innerHeight - height - EDGE_PX;
  const below = point?.y ?? bottom + GAP_PX;
  const above = (point?.y ?? top - GAP_PX) - height;
  const hasSpace = below <= lowest || above >= EDGE_PX;
  if (!hasSpace) (anchor.closest("[role=log]") ?? anchor).scrollTop += bottom + GAP_PX - lowest;
  menu.style.left = `${Math.max(EDGE_PX, Math.min(x, innerWidth - width - EDGE_PX))}px`;
  menu.style.top = `${Math.max(EDGE_PX, below <= lowest ? below : hasSpace ? above : lowest)}px`;
}
