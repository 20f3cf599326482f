// @ts-check
/** What the user can do with a message: the menu of a row, and the functions behind it. */

import { copyText } from "../../page-parts.js";
import { drawn, make } from "../../text.js";
import { added, addFeatures } from "../parts/additions.js";
import { reasonOf } from "../parts/api.js";
import { isEditable } from "../parts/entries.js";
import { attempt, withModule } from "../parts/form.js";
import { closeMenu, openMenu } from "../parts/menu.js";
import { button, confirm, openDialog, toast } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** The reactions at the top of each menu. */
const QUICK = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏"];

/**
 * @typedef {object} Composing
 * @property {(entry: Entry) => void} reply
 * @property {(entry: Entry) => void} edit
 * @property {(entry: Entry) => void} [select]  and others; missing: one at a time
 * @property {(entry: Entry) => void} [thread]  opens its thread; missing: it is shown
 * @property {(id: number) => boolean} isPinned
 * @property {() => boolean} membersPin  whether every member of the open group may pin
 */

/** What the rows of one conversation do. */
export class MessageActions {
  /**
   * @param {Session} session
   * @param {Composing} composing
   */
  constructor(session, composing) {
    this.session = session;
    this.composing = composing;
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
    const { session } = this;
    if (closeMenu(anchor) && !point) return;
    if (all) await addFeatures(session, true);
    await openMenu({
      label: session.words.messages_more, head: this.#quickReactions(entry), groups: all ? this.#rows(conversation, entry) : [], anchor, point,
      from: () => anchor.closest(".line"),
    });
  }

  close() {
    closeMenu();
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
    const isCopied = await copyText(textOf(entry));
    toast(isCopied ? words.messages_copied : words.messages_copy_failed);
  }

  /** @param {Entry} entry */
  async copyLink({ conversation, id }) {
    const { words } = this.session;
    const isCopied = await copyText(`${location.origin}${location.pathname}#c/${conversation}/${id}`);
    toast(isCopied ? words.messages_copied : words.messages_copy_failed);
  }

  /** @param {Entry} entry  is recalled for all, if the user agrees */
  async recall(entry) {
    const { words, messenger, user } = this.session;
    const isAgreed = await confirm(words.messages_recall_ask, { yes: words.messages_recall, danger: true });
    if (!isAgreed) return;
    await this.#try(async () => {
      const sent = await messenger.recall(entry.id);
      this.session.added({ ...sent, kind: "recall", from: user, to: entry.to, about: entry.id, time: Date.now() });
    });
  }

  /** @param {Entry} entry  is hidden from us, if the user agrees */
  async hide(entry) {
    const { words, store } = this.session;
    const isAgreed = await confirm(words.messages_hide_ask, { yes: words.messages_hide, danger: true });
    if (!isAgreed) return;
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
   * @returns {import("../parts/menu.js").Row[][]} the groups of the menu: to answer, to copy, others, and to delete
   */
  #rows(conversation, entry) {
    const { session, composing } = this;
    const { words, user } = session;
    const { thread, select } = composing;
    const isOwn = entry.from === user;
    const mayEdit = isOwn && isEditable(entry);
    const mayPin = !conversation.group || ["owner", "admin"].includes(conversation.role) || composing.membersPin();
    const isPinned = composing.isPinned(entry.id);
    /** @type {import("../parts/menu.js").Row} */
    const pinRow = isPinned
      ? { word: words.messages_unpin, sign: "unpin", act: () => this.pin(entry, true) }
      : { word: words.messages_pin, sign: "pin", act: () => this.pin(entry, false) };
    /** @type {(isOffered: unknown, row: import("../parts/menu.js").Row) => import("../parts/menu.js").Row[]} */
    const when = (isOffered, row) => (isOffered ? [row] : []);
    return [
      [
        { word: words.messages_reply, sign: "reply", act: () => composing.reply(entry) },
        ...when(thread, { word: words.messages_thread_reply, sign: "thread", act: () => thread?.(entry) }),
        ...when(mayEdit, { word: words.messages_edit, sign: "edit", act: () => composing.edit(entry) }),
      ],
      [
        ...when(textOf(entry), { word: words.messages_copy, sign: "copy", act: () => this.copy(entry) }),
        { word: words.messages_copy_message_link, sign: "link", act: () => this.copyLink(entry) },
        { word: words.messages_forward, sign: "forward", act: () => this.forward(entry) },
        ...when(select, { word: words.messages_select, sign: "select", act: () => select?.(entry) }),
      ],
      [
        ...when(isOwn && conversation.group, { word: words.messages_readers, sign: "readers", act: () => this.readers(entry) }),
        ...when(mayPin, pinRow),
        ...added.messageActions.flatMap((makeActions) => drawn(() => makeActions(session, conversation, entry), () => [])),
      ],
      [
        ...when(isOwn, { word: words.messages_recall, sign: "remove", danger: true, act: () => this.recall(entry) }),
        { word: words.messages_hide, sign: "hide", danger: true, act: () => this.hide(entry) },
      ],
    ];
  }

  /**
   * @param {Entry} entry
   * @returns {HTMLElement} the buttons of a few reactions, and one that opens all emoji
   */
  #quickReactions(entry) {
    const line = make("div", "quick");
    const mine = new Set(entry.reactions?.filter((reaction) => reaction.mine).map(({ emoji }) => emoji));
    for (const emoji of QUICK) {
      const pick = button(emoji, "sign");
      pick.setAttribute("role", "menuitemcheckbox");
      pick.setAttribute("aria-checked", String(mine.has(emoji)));
      pick.addEventListener("click", () => this.react(entry, emoji, mine.has(emoji)));
      line.append(pick);
    }
    const more = button("＋", "sign");
    more.setAttribute("role", "menuitem");
    more.setAttribute("aria-label", this.session.words.messages_more_emoji);
    more.addEventListener("click", () => {
      withModule(import("./emoji-picker.js"), this.session.words, async ({ makePicker }) => {
        const grid = make("div", "emoji");
        const dialog = openDialog(this.session.words.messages_react, grid);
        const picker = await makePicker(grid, this.session, (emoji) => {
          dialog.close();
          this.react(entry, emoji, mine.has(emoji));
        });
        picker.open();
      });
    });
    line.append(more);
    return line;
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
