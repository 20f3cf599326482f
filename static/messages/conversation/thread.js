// @ts-check
/** A thread: the replies to a message, beside the conversation or on a page of its own; and the list of the threads that we follow. */

import { drawn, element, fill, make } from "../../text.js";
import { MessageActions } from "./actions.js";
import { Composer } from "./composer.js";
import { openCard } from "../people/card.js";
import { insert, isEditable, isRevision, revised, usersIn } from "../parts/entries.js";
import { loaded } from "../parts/names.js";
import { attempt, input, load, loadStyle, namedList, noteLine, redraw } from "../parts/form.js";
import { startMedia } from "../media/media.js";
import { MessageView } from "./message-view.js";
import { button, openPanel, toast } from "../parts/panel.js";
import { redrawsOf, summaryOf } from "../parts/summary.js";
import { threadsOf } from "../session/threads.js";
import { Timeline } from "./timeline.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./timeline.js").Item} Item */

const STYLE = new URL("../later/thread.css", import.meta.url);
/** Replies that are loaded at once. */
const PAGE = 50;
/** A reply that comes so soon after one of the same user needs neither name nor avatar. */
const FOLLOWS_MS = 300_000;
/** The share of an upload is drawn in so many steps. */
const SHARE_STEPS = 50;
/** Stands before the ids of the elements of the text box. */
const PREFIX = "thread-";
/** Texts that are not sent yet, by the id of the first message. @type {Map<number, import("../session/drafts.js").Draft>} */
const drafts = new Map();

/**
 * Opens a thread in a panel.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 * @param {number} root  the first message
 */
export async function openThread(session, conversation, root) {
  await loadStyle(STYLE);
  new ThreadView(session, conversation, root);
}

/** Owns the content of the panel. */
class ThreadView {
  /** The first message; null: not loaded, or it has expired. @type {Entry | null} */
  #first;
  /** The loaded replies, in order. @type {Entry[]} */
  #replies = [];
  /** The next page of older replies is before this one; 0: all are loaded. */
  #before = 0;
  /** A page of older replies is loading. */
  #isLoading = false;
  /** The newest replies are loaded. */
  #isLoaded = false;
  /** Whether the conversation shows the reply, too. */
  also = input({ type: "checkbox" });
  #ends = new AbortController();

  /**
   * @param {Session} session
   * @param {Conversation} conversation
   * @param {number} root
   */
  constructor(session, conversation, root) {
    const { words } = session;
    this.session = session;
    this.conversation = conversation;
    this.root = root;
    this.marks = threadsOf(session);
    this.#first = conversation.entries?.find(({ id }) => id === root) ?? null;
    this.note = noteLine();
    this.log = make("div", "log");
    this.log.setAttribute("role", "log");
    this.log.setAttribute("aria-label", words.messages_thread);
    this.log.tabIndex = 0;
    this.mute = button("", "quiet");
    this.mute.addEventListener("click", () => this.#follow());
    const content = this.#makeContent();
    const focused = document.activeElement;
    this.layer = openPanel(words.messages_thread, content, "belongs of-thread");
    this.composer = new Composer(session, {
      prefix: PREFIX, sent: () => this.#sent(), last: () => this.#lastOwn(),
      drafts: { get: () => drafts.get(root) ?? { text: "" }, set: (_, draft) => drafts.set(root, draft) },
      place: () => ({ thread: root, ...(this.also.checked && { also: true }) }),
    });
    this.#listenToForm(content);
    this.composer.show(conversation);
    this.actions = new MessageActions(session, {
      reply: () => this.composer.focus(), edit: (entry) => this.composer.edit(entry), isPinned: () => false, membersPin: () => false,
    });
    this.view = new MessageView(session, {
      menu: (entry, anchor, all) => this.actions.open(conversation, entry, anchor, all),
      reply: () => this.composer.focus(),
      react: (entry, emoji, remove) => this.actions.react(entry, emoji, remove),
      press: (entry, value, key) => this.actions.press(entry, value, key),
      stop: (stream, key) => this.actions.stop(stream, key),
      readers: (entry) => this.actions.readers(entry),
      jump: (id) => this.timeline.reveal(String(id)),
      person: (user) => openCard(session, user),
      cancel: ({ id }) => session.outbox.cancel(id),
      retry: ({ id }) => session.outbox.retry(id),
      find: (id) => this.#find(id),
      hold: () => this.timeline.hold(),
      thread: () => {},
    });
    this.timeline = new Timeline(this.log, { needOlder: () => this.#loadOlder(), needNewer: () => {}, onSeen: () => this.#onSeen(), onMove: () => {} });
    this.#listenToRows();
    const ends = [
      session.on("entry", (entry) => this.#onEntry(entry)),
      session.on("changed", () => this.#draw()),
      session.on("people", () => this.#draw()),
      session.on("grown", (stream) => this.#onGrown(stream)),
      session.on("state", ({ state }) => state === "online" && this.#load()),
    ];
    this.layer.closed.then(() => {
      for (const end of ends) end();
      this.composer.stop();
      this.#ends.abort();
      if (focused !== document.body) this.#returnFocus();
    });
    this.marks.load();
    this.#load();
    // On a phone, the focus would open the keyboard.
    if (matchMedia("(hover: hover)").matches) this.composer.focus();
    this.#draw();
  }

  /** @returns {HTMLElement} the content of the panel */
  #makeContent() {
    const { conversation, session } = this;
    const { words } = session;
    const name = make("bdi", "muted", session.store.nameOf(conversation));
    const alsoText = conversation.group ? words.messages_thread_also_group : words.messages_thread_also;
    const alsoBox = make("label", "also", this.also, make("span", "", alsoText));
    alsoBox.hidden = loaded.kinds?.readsOnly(conversation) ?? false;
    const head = make("div", "thread-head", name, this.mute);
    return make("div", "thread inbox", head, this.note, this.log, ...textBox(words.messages_thread_placeholder, alsoBox));
  }

  /**
   * Sends files and voice messages from the text box. Escape gives up an edit there, before it closes the thread.
   *
   * @param {HTMLElement} content  of the panel: files can be dropped on it
   */
  #listenToForm(content) {
    const form = element(`${PREFIX}composer`, HTMLFormElement);
    startMedia(this.session, {
      place: content, form, before: element(`${PREFIX}composer-tools`, HTMLElement), after: element(`${PREFIX}composer-tools-after`, HTMLElement),
      conversation: () => (this.composer.readOnlyReason ? null : this.conversation), draft: () => this.composer.draft,
      sent: (target) => {
        if (target) this.composer.takeDraft();
        this.#sent();
      },
    }, this.#ends.signal);
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing && this.composer.cancel()) {
        event.preventDefault();
        event.stopPropagation();
      }
    });
  }

  /** Focuses the line that opens the thread. The line that had the focus before may have been drawn again meanwhile. */
  #returnFocus() {
    const line = document.querySelector(`#log [data-id="${this.root}"] .thread-line`);
    if (document.activeElement === document.body && line instanceof HTMLElement) line.focus({ preventScroll: true });
  }

  // --- what is loaded -----------------------------------------------------------------------------------------

  /** Loads the first message and the newest replies, also after the connection was lost. */
  async #load() {
    if (!this.session.isOnline) return;
    await load(this.log, this.note, this.session, async () => {
      const page = await this.session.messenger.thread(this.root, { limit: PAGE });
      this.#first = page.thread.message ?? null;
      this.marks.receive(page.thread);
      this.#replies = page.messages;
      this.#before = page.before;
      this.#isLoaded = true;
      const entries = page.thread.message ? [page.thread.message, ...page.messages] : page.messages;
      this.session.people.load(entries.flatMap((entry) => [entry.from, ...usersIn(entry)]));
      this.timeline.show(this.#items());
      this.#draw();
    });
  }

  async #loadOlder() {
    if (!this.#before || this.#isLoading || !this.session.isOnline) return;
    this.#isLoading = true;
    try {
      const page = await this.session.messenger.thread(this.root, { before: this.#before, limit: PAGE });
      this.#replies = [...page.messages, ...this.#replies];
      this.#before = page.before;
      this.session.people.load(page.messages.map(({ from }) => from));
      this.#draw();
    } catch {
      // the next scroll tries again
    } finally {
      this.#isLoading = false;
    }
  }

  /**
   * Follows an entry that arrives live: a reply of this thread, or a change of its messages.
   *
   * @param {Entry} entry
   */
  #onEntry(entry) {
    const { user, messenger } = this.session;
    const isReply = entry.kind === "message" && entry.meta?.thread === this.root;
    if (isReply) {
      if (this.#first) this.#first = messenger.withReply(this.#first, entry);
      if (this.#isLoaded) insert(this.#replies, entry);
    }
    if (isRevision(entry)) {
      this.#replies = this.#replies.map((reply) => revised(reply, entry, user));
      if (this.#first) this.#first = revised(this.#first, entry, user);
    }
    if (isReply || isRevision(entry)) this.#draw();
  }

  /** @param {string} stream */
  #onGrown(stream) {
    const row = this.timeline.elements.find(({ dataset }) => dataset.key === `stream ${stream}`);
    const text = this.session.store.streamOf(stream)?.text;
    if (row && text !== undefined) this.view.grow(row, text);
  }

  /** Marks the thread as read, once its end is in view. */
  #onSeen() {
    if (!document.hidden && this.timeline.isAtEnd && this.#isLoaded) this.marks.markRead(this.root);
  }

  // --- what is shown ------------------------------------------------------------------------------------------

  #draw() {
    const { words } = this.session;
    const follows = this.marks.of(this.root)?.follows ?? false;
    this.mute.textContent = follows ? words.messages_thread_mute : words.messages_thread_follow;
    this.mute.setAttribute("aria-pressed", String(follows));
    this.composer.draw();
    this.timeline.update(this.#items());
  }

  /** @returns {Item[]} the first message, once all replies are loaded; the replies; and the messages that are being written or sent */
  #items() {
    const { session, root } = this;
    const { words } = session;
    /** @type {Item[]} */
    const items = [];
    if (this.#first && !this.#before) items.push(this.#item(this.#first, false));
    if (this.#isLoaded && !this.#before) {
      const count = this.#first?.meta?.replies?.count ?? this.#replies.length;
      const text = count ? fill(words.messages_replies, { count }) : words.messages_thread_empty;
      items.push({ key: "count", version: text, make: () => make("p", "divider", make("span", "", text)) });
    }

    let previous = /** @type {Entry | null} */ (null);
    for (const entry of this.#replies) {
      const follows = previous?.kind === "message" && previous.from === entry.from && entry.time - previous.time < FOLLOWS_MS;
      items.push(this.#item(entry, follows));
      previous = entry;
    }

    const streams = session.store.streamsOf(this.conversation).filter(({ thread }) => thread === root);
    for (const streamed of streams) {
      items.push({ key: `stream ${streamed.stream}`, version: "", make: () => this.#drawn(() => this.view.streamed(streamed, false)) });
    }

    const pending = session.outbox.of(this.conversation).filter(({ thread, edit }) => thread === root && !edit);
    for (const message of pending) {
      // While it is being sent, a reply is shown without a quote.
      const shown = { ...message, replyTo: undefined };
      items.push({
        key: message.id,
        version: `${message.state} ${message.reason} ${Math.round(message.share * SHARE_STEPS)}`,
        make: () => this.#drawn(() => this.view.pending(shown, { follows: false, isLast: true })),
      });
    }
    return items;
  }

  /**
   * @param {Entry} entry
   * @param {boolean} follows
   * @returns {Item}
   */
  #item(entry, follows) {
    const { outbox, people, store } = this.session;
    const edit = outbox.editOf(entry.id);
    const names = [entry.from, ...usersIn(entry)].map((user) => `${people.nameOf(user)} ${people.card(user)?.avatar}`);
    const version = [
      entry.kind, entry.meta?.edited, redrawsOf(entry.id),
      follows,
      names,
      JSON.stringify([entry.reactions, entry.meta?.ask]), store.pressedOf(entry),
      edit && `${edit.state} ${edit.text}`,
    ].join(" ");
    // In its thread, a message neither shows the line that opens the thread, nor quotes the first message.
    const { replies: _line, ...meta } = entry.meta ?? {};
    const about = entry.about === this.root ? undefined : entry.about;
    const makeRow = () => {
      if (entry.kind !== "message") return this.view.notice(entry);
      return this.view.row({ ...entry, about, meta }, { follows, receipt: { state: "" }, edit });
    };
    return { key: String(entry.id), version, replaces: `stream ${entry.clientMsgID}`, make: () => this.#drawn(makeRow) };
  }

  /**
   * @param {() => HTMLElement} draw
   * @returns {HTMLElement} a row; one that says so, if the message cannot be shown
   */
  #drawn(draw) {
    return drawn(draw, () => make("p", "notice", this.session.words.messages_unshown));
  }

  /** @param {number} id */
  #find(id) {
    if (id === this.#first?.id) return this.#first;
    return this.#replies.find((reply) => reply.id === id) ?? null;
  }

  /** Opens the menu of a message by the pointer or the keyboard, and moves the focus between messages with the arrow keys. */
  #listenToRows() {
    const openMenu = (/** @type {Event} */ event, /** @type {{ x: number, y: number } | undefined} */ point) => {
      const row = event.target instanceof Element ? event.target.closest(".line[data-id]") : null;
      if (!(row instanceof HTMLElement)) return;
      const entry = this.#find(Number(row.dataset.id));
      if (!entry) return;
      event.preventDefault();
      this.actions.open(this.conversation, entry, row, true, point);
    };
    this.log.addEventListener("contextmenu", (event) => openMenu(event, { x: event.clientX, y: event.clientY }));
    this.log.addEventListener("keydown", (event) => {
      const { key, target } = event;
      const row = target instanceof HTMLElement && target.matches(".line") ? target : null;
      if (row && (key === "Enter" || key === " ")) return openMenu(event, undefined);
      if (key !== "ArrowUp" && key !== "ArrowDown") return;
      event.preventDefault();
      if (row) {
        const hasMoved = this.timeline.focusNext(row, key === "ArrowUp" ? -1 : 1);
        // Below the last row is the text box.
        if (!hasMoved && key === "ArrowDown") this.composer.focus();
      } else if (target === this.log) {
        this.timeline.elements.findLast((each) => each.matches(".line"))?.focus();
      }
    });
  }

  // --- what the user does -------------------------------------------------------------------------------------

  /** A reply was sent: it is in view. The next one is not shown in the conversation, unless the user asks for it again. */
  #sent() {
    this.also.checked = false;
    this.timeline.update(this.#items());
    this.timeline.toEnd();
  }

  /** @returns {Entry | null} our newest reply that can be edited */
  #lastOwn() {
    return this.#replies.findLast((entry) => entry.from === this.session.user && isEditable(entry)) ?? null;
  }

  /** Follows the thread, or does not any more. */
  #follow() {
    const { session, root } = this;
    const remove = this.marks.of(root)?.follows ?? false;
    attempt(this.mute, null, session.words, async () => {
      this.marks.receive(await session.messenger.followThread(root, { remove }));
      toast(remove ? session.words.messages_thread_muted : session.words.messages_thread_followed);
    });
  }
}

/**
 * A text box as that of the conversation, whose elements have ids of their own.
 *
 * @param {string} placeholder
 * @param {HTMLElement} below  stands below the text
 * @returns {HTMLElement[]} the form, and what is shown in its place if one cannot write
 */
function textBox(placeholder, below) {
  const made = ["composer", "read-only"].map((id) => /** @type {HTMLElement} */ (element(id, HTMLElement).cloneNode(true)));
  const [form] = made;
  for (const each of [...made, ...form.querySelectorAll("[id]")]) each.id = PREFIX + each.id;
  for (const each of form.querySelectorAll("[aria-controls]")) each.setAttribute("aria-controls", PREFIX + each.getAttribute("aria-controls"));
  // The copy has what the text box of the conversation shows now. The composer and the media fill it anew.
  for (const place of form.querySelectorAll(".mentions, .emoji, .tools-before, .tools-after")) place.replaceChildren();
  for (const tool of form.querySelectorAll(".page-tool")) tool.remove();
  const field = /** @type {HTMLTextAreaElement} */ (form.querySelector("textarea"));
  field.removeAttribute("style");
  field.placeholder = placeholder;
  field.setAttribute("aria-label", placeholder);
  form.append(below);
  return made;
}

/**
 * Opens the list of the threads that we follow. Threads with the newest replies come first.
 *
 * @param {Session} session
 */
export async function openThreads(session) {
  await loadStyle(STYLE);
  const { words, messenger, people } = session;
  const note = noteLine();
  const body = make("div", "");
  openPanel(words.messages_threads, make("div", "chooser threads", note, body));
  /** @type {import("../../../sdk/messenger.js").Thread[]} */
  let threads = [];
  const more = button(words.more, "link");
  const draw = (/** @type {boolean} */ hasMore) => {
    const rows = threads.map((thread) => make("li", "", threadRow(session, thread)));
    const list = rows.length ? namedList(words.messages_threads, rows) : make("p", "muted", words.messages_threads_none);
    redraw(body, hasMore ? [list, more] : [list]);
  };
  const loadNext = () => load(body, note, session, async () => {
    const page = await messenger.threads({ before: threads.at(-1)?.last ?? 0 });
    threads = [...threads, ...page.threads];
    await people.load(page.threads.flatMap(({ message }) => (message ? [message.from] : [])));
    draw(page.hasMore);
  });
  more.addEventListener("click", loadNext);
  loadNext();
}

/**
 * @param {Session} session
 * @param {import("../../../sdk/messenger.js").Thread} thread
 * @returns {HTMLElement} the button that opens it, with its first message and how many replies it has
 */
function threadRow(session, thread) {
  const { words, store, people, user } = session;
  const { message, unread } = thread;
  const conversation = store.conversations.get(thread.conversation);
  const count = message?.meta?.replies?.count ?? 0;
  let title = words.messages_quote_far;
  if (message) {
    const author = message.from === user ? words.you : people.nameOf(message.from);
    title = `${author}: ${summaryOf(message, words)}`;
  }
  const row = button("", "thread-row");
  row.append(
    make("bdi", "muted", conversation ? store.nameOf(conversation) : ""),
    make("bdi", "title", title),
    make("span", "muted", fill(words.messages_replies, { count })),
  );
  if (unread) row.append(make("span", "badge", fill(words.messages_thread_new, { count: unread })));
  row.addEventListener("click", () => {
    if (conversation) openThread(session, conversation, thread.thread);
    else session.open({ conversation: thread.conversation, message: thread.thread });
  });
  return row;
}
