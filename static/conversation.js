// @ts-check
/** The open conversation: its messages, the text box, typing notices and receipts. */

import { reasonOf } from "./account.js";
import { Composer } from "./composer.js";
import { mediaOf } from "./media.js";
import { MessageList } from "./message-list.js";
import { element, fill, make, showNote } from "./text.js";

/** @typedef {import("../sdk/messenger.js").Entry} Entry */
/** @typedef {import("../sdk/messenger.js").Messenger} Messenger */
/** @typedef {import("./account.js").Account} Account */
/** @typedef {import("./conversations.js").Conversation} Conversation */
/** @typedef {import("./conversations.js").ConversationStore} ConversationStore */
/** @typedef {import("./message-list.js").Line & { stored?: Entry }} Line */

/**
 * @typedef {object} Events
 * @property {(entry: Entry) => void} stored  a message or recall of ours was stored
 * @property {() => void} changed             the open conversation, or its unread count, has changed
 */

const TYPING_SEND_EACH_MS = 3_000;
const TYPING_SHOWN_MS = 5_000;
const MAX_LINES = 5_000;
/** Type of a message with media → how {@link mediaOf} calls it. */
const MEDIA = new Map([["picture", "image"], ["video", "video"], ["voice", "voice"]]);

/** Owns which conversation is open, and what of it is drawn. */
export class ConversationView {
  /** @type {Conversation | null} */
  open = null;
  /** @type {Messenger | null} */
  #messenger = null;
  /** @type {ConversationStore | null} */
  #store = null;
  /** Ids of the entries that are drawn. @type {Set<number>} */
  #drawn = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #typingTimer;
  #typingSentAt = 0;
  #name = element("conversation-name", HTMLElement);
  #typing = element("typing", HTMLElement);
  #empty = element("empty", HTMLElement);
  #form = element("composer", HTMLElement);
  #field = element("message", HTMLTextAreaElement);
  #seen = make("p", "seen");
  #older = make("button", "quiet older");

  /**
   * @param {Account} account
   * @param {Record<string, string>} words
   * @param {string} language
   * @param {Events} events
   */
  constructor(account, words, language, events) {
    this.account = account;
    this.words = words;
    this.events = events;
    this.dates = new Intl.DateTimeFormat(language, { dateStyle: "long" });
    this.list = new MessageList(
      element("log", HTMLElement), element("latest", HTMLButtonElement), element("latest-text", HTMLElement), words, language,
      {
        nameOf: ({ from }) => account.nameOf(from),
        avatarOf: ({ from }) => account.nameOf(from),
        contentOf: ({ type = "text", text }) => mediaOf(type, text, words),
        actionOf: (line) => this.#recallButton(/** @type {Line} */ (line)),
        maxLines: MAX_LINES,
      },
    );
    this.composer = new Composer(
      (text, id) => this.#send(text, id), () => this.#isOnline(), words,
      () => (this.open?.group ? String(this.open.id) : `@${this.open?.peer}`),
    );
    this.#seen.setAttribute("role", "status");
    this.#form.before(this.#seen);
    this.#older.textContent = words.messages_earlier;
    this.#older.setAttribute("type", "button");
    this.#older.addEventListener("click", () => this.#loadOlder());
    this.#field.addEventListener("input", () => this.#sendTyping());
  }

  /**
   * Starts a login without an open conversation.
   *
   * @param {Messenger} messenger
   * @param {ConversationStore} store
   */
  start(messenger, store) {
    this.#messenger = messenger;
    this.#store = store;
    this.show(null);
  }

  /** Ends the login. */
  stop() {
    this.#messenger = this.#store = null;
    this.show(null);
  }

  /**
   * Opens a conversation at its end.
   *
   * @param {Conversation | null} conversation  null: closes the open one
   */
  async show(conversation) {
    this.open = conversation;
    this.#drawn.clear();
    this.#form.hidden = !conversation;
    this.#typing.textContent = "";
    this.list.show([]);
    element("empty-title", HTMLElement).textContent = conversation ? this.words.messages_empty : this.words.messages_choose;
    this.#empty.hidden = Boolean(conversation?.last);
    this.refresh();
    this.events.changed();
    if (!conversation) return;
    try {
      await this.#store?.loadHistory(conversation);
      await this.#loadNames(conversation.entries ?? []);
    } catch (error) {
      if (conversation === this.open) showNote("note", reasonOf(error, this.words));
    }
    if (conversation !== this.open) return;
    this.#drawAll(conversation);
    this.markRead();
    if (matchMedia("(hover: hover)").matches) this.composer.focus(); // on a phone this would open the keyboard
    this.refresh();
    this.events.changed();
  }

  /** Draws the name, the receipt and the text box again. */
  refresh() {
    this.#name.textContent = this.open ? conversationName(this.open, this.account, this.words) : this.words.messages_title;
    const text = this.#receipt();
    if (this.#seen.textContent !== text) this.#seen.textContent = text;
    this.composer.refresh();
  }

  /**
   * Draws an entry that was added to the open conversation, and every other one that is not drawn yet.
   *
   * @param {Entry} entry
   */
  async add(entry) {
    const conversation = this.open;
    if (!conversation) return;
    await this.#loadNames([entry, ...this.#undrawn(conversation)]);
    if (conversation !== this.open) return;
    this.#typing.textContent = "";
    this.#empty.hidden = true;
    this.#drawNew(conversation, entry.kind === "edit" || entry.kind === "recall");
    this.markRead();
  }

  /** Sends the read position if the user sees the open conversation. */
  markRead() {
    const { open } = this;
    if (!open?.id || document.hidden || !open.unread) return;
    open.unread = 0;
    this.#messenger?.read(open.id, open.position).catch(() => {});
  }

  /** @param {{ from: string, conversation?: number }} signal */
  showTyping({ from, conversation }) {
    const { open } = this;
    if (!open || (conversation ? conversation !== open.id : from !== open.peer)) return;
    this.#typing.textContent = fill(this.words.messages_typing, { name: this.account.nameOf(from) });
    clearTimeout(this.#typingTimer);
    this.#typingTimer = setTimeout(() => void (this.#typing.textContent = ""), TYPING_SHOWN_MS);
  }

  #isOnline() {
    return this.#messenger?.state.state === "online" && this.open !== null;
  }

  /**
   * @param {string} text
   * @param {string} id  of the message
   */
  async #send(text, id) {
    const { open } = this;
    if (!open || !this.#messenger) return;
    const sent = open.id
      ? await this.#messenger.send("", text, { conversation: open.id, clientMsgID: id })
      : await this.#messenger.send(open.peer, text, { clientMsgID: id });
    this.#typingSentAt = 0;
    const to = open.group ? undefined : open.peer;
    const content = sent.replaced ?? { type: "text", text };
    this.events.stored({ ...sent, kind: "message", from: this.account.user, to, time: Date.now(), ...content });
  }

  #sendTyping() {
    const { open } = this;
    if (!open || !this.#messenger || !this.#field.value || Date.now() - this.#typingSentAt < TYPING_SEND_EACH_MS) return;
    this.#typingSentAt = Date.now();
    this.#messenger.typing(open.group ? { conversation: open.id } : { to: open.peer });
  }

  /** @param {Entry[]} entries */
  async #loadNames(entries) {
    await this.account.loadNames(entries.flatMap(({ from, meta }) => [from, ...(meta?.users ?? [])]));
  }

  async #loadOlder() {
    const { open } = this;
    if (!open) return;
    try {
      await this.#store?.loadOlder(open);
      await this.#loadNames(open.entries ?? []);
    } catch {
      return; // the button is still there
    }
    if (open === this.open) this.#drawAll(open, true);
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} [keepPosition]  keep the visible messages where they are
   */
  #drawAll(conversation, keepPosition = false) {
    this.list.show(this.#lines(conversation), keepPosition, conversation.hasMore ? this.#older : null);
    this.#drawn = new Set(conversation.entries?.map(({ id }) => id));
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} revised  a drawn entry has changed
   */
  #drawNew(conversation, revised) {
    const added = this.#undrawn(conversation);
    if (!conversation.entries || (!added.length && !revised)) return;
    const late = added.length > 0 && added[0] !== conversation.entries.at(-added.length); // belongs between drawn entries
    if (revised || late) return this.#drawAll(conversation, true);
    this.#lines(conversation, added).forEach((line) => this.list.add(line));
    added.forEach(({ id }) => this.#drawn.add(id));
  }

  /** @param {Conversation} conversation */
  #undrawn(conversation) {
    return (conversation.entries ?? []).filter(({ id }) => !this.#drawn.has(id));
  }

  /**
   * Entries as lines, with a date before the first entry of each day.
   *
   * @param {Conversation} conversation
   * @param {Entry[]} [added]  the newest entries, if only they are drawn; default: all
   * @returns {Line[]}
   */
  #lines(conversation, added) {
    const all = conversation.entries ?? [];
    const first = added ? all.length - added.length : 0;
    let day = first > 0 ? this.dates.format(all[first - 1].time) : "";
    /** @type {Line[]} */
    const lines = [];
    for (const entry of added ?? all) {
      const date = this.dates.format(entry.time);
      if (date !== day) lines.push({ kind: "note", from: "", text: date, at: entry.time });
      day = date;
      lines.push(this.#line(entry));
    }
    return lines;
  }

  /**
   * @param {Entry} entry
   * @returns {Line}
   */
  #line(entry) {
    const { from, time: at, type = "" } = entry;
    if (entry.kind !== "message") return { kind: "note", from: "", text: noticeText(entry, this.account, this.words), at };
    const kind = /** @type {"own" | "msg"} */ (from === this.account.user ? "own" : "msg");
    const line = { kind, from, at, id: String(entry.id), stored: entry };
    const media = MEDIA.get(type);
    const url = media && entry.data?.url;
    return typeof url === "string" ? { ...line, text: url, type: media } : { ...line, text: messageText(entry, this.words) };
  }

  /** Whether the peer has received or read our last message. */
  #receipt() {
    const { open } = this;
    const last = open?.entries?.at(-1);
    if (!open || open.group || last?.kind !== "message" || last.from !== this.account.user) return "";
    if (open.peerRead >= last.id) return this.words.messages_read;
    return open.peerReceived >= last.id ? this.words.messages_received : "";
  }

  /**
   * @param {Line} line
   * @returns {HTMLElement | null}
   */
  #recallButton({ kind, stored }) {
    if (kind !== "own" || !stored) return null;
    const button = make("button", "recall", this.words.messages_recall);
    button.setAttribute("type", "button");
    button.addEventListener("click", async () => {
      button.setAttribute("disabled", "");
      try {
        const sent = await /** @type {Messenger} */ (this.#messenger).recall(stored.id);
        this.events.stored({ ...sent, kind: "recall", from: this.account.user, to: stored.to, about: stored.id, time: Date.now() });
      } catch (error) {
        button.removeAttribute("disabled");
        showNote("note", reasonOf(error, this.words));
      }
    });
    return button;
  }
}

/**
 * @param {Conversation} conversation
 * @param {Account} account
 * @param {Record<string, string>} words
 * @returns {string}
 */
export function conversationName({ id, group, name, peer }, account, words) {
  return group ? name || fill(words.messages_group, { number: id }) : account.nameOf(peer);
}

/**
 * @param {Entry} entry
 * @param {Record<string, string>} words
 * @returns {string} the text, or the type of a message without text
 */
export function messageText(entry, words) {
  const text = entry.text ?? words[`messages_${entry.type}`] ?? words.messages_custom;
  return entry.meta?.edited ? fill(words.messages_edited, { text }) : text;
}

/**
 * @param {Entry} entry  a recall or a change of a group
 * @param {Account} account
 * @param {Record<string, string>} words
 * @returns {string}
 */
export function noticeText(entry, account, words) {
  const names = (entry.meta?.users ?? [entry.from]).map((user) => account.nameOf(user)).join(", ");
  if (entry.kind === "recall") {
    return entry.from === account.user ? words.messages_recalled_own : fill(words.messages_recalled, { name: account.nameOf(entry.from) });
  }
  if (entry.kind === "join") return fill(words.messages_joined, { names });
  if (entry.kind === "leave") return fill(words.messages_left, { names });
  return words.messages_group_changed;
}
