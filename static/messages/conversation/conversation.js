// @ts-check
/** The open conversation: its head, messages, typing notices and text box. */

import { element, fill } from "../../text.js";
import { ApiError, reasonOf } from "../parts/api.js";
import { loaded } from "../parts/names.js";
import { Composer } from "./composer.js";
import { isBeside, isEditable, isRevision, revised, usersIn } from "../parts/entries.js";
import { upTo } from "../session/first-view.js";
import { withModule } from "../parts/loading.js";
import "./invitation-message.js";
import { startMedia } from "../media/media.js";
import { MessageView } from "./message-view.js";
import { toast } from "../parts/panel.js";
import { History } from "../session/history.js";
import { keyOf } from "../session/store.js";
import { noticeText, summaryOf } from "../parts/summary.js";
import { Rows } from "./rows.js";
import { Timeline } from "./timeline.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./timeline.js").Item} Item */

/**
 * @typedef {object} Opened  what the head and the avatars of the messages open
 * @property {(conversation: Conversation) => void} info
 * @property {(user: string) => void} person
 * @property {(conversation: Conversation) => void} notices  what the user is notified of
 * @property {() => void} sent  the user has sent a message
 */

/** A typing notice is shown so long, unless another one follows. */
const TYPING_SHOWN_MS = 5_000;
/** The head is drawn again after this time, or later. */
const MIN_STATUS_MS = 50;
/** The head names so many users who are typing. */
const MOST_TYPISTS = 3;
/** A message that was looked for is marked so long. */
const FOUND_MS = 2_000;

/** Owns which conversation is open, and what of it is drawn. */
export class ConversationView {
  /** @type {Conversation | null} */
  open = null;
  /** Where the user was in conversations whose end was not in view, and what was their newest entry, by their keys. @type {Map<string, NonNullable<Timeline["place"]> & { newest: number }>} */
  #places = new Map();
  /** The timeline shows the entries of the open conversation. */
  #isShown = false;
  /** The entries that the timeline shows first are loading: the user has not read the entries that are shown meanwhile. */
  #isEntering = false;
  /** Resolves when they are loaded and shown. */
  #entering = Promise.resolve();
  /** Every member of the open group may pin messages. */
  #membersPin = false;
  /** Why the entries of the open conversation could not be loaded; empty: they are loaded. */
  #fault = "";
  /** Once they are loaded. @type {import("./pins.js").Pins | undefined} */
  #pins;
  /** Messages that are quoted, but not loaded with the conversation; null: one is loading, or does not exist. @type {Map<number, Entry | null>} */
  #quoted = new Map();
  /** Messages that the user has chosen, to forward or delete them; null: none. @type {import("./selection.js").Selection | null} */
  #selection = null;
  /** Id of the newest entry that was announced. */
  #announced = 0;
  /** Users who are typing, with the time when their notice ends. @type {Map<string, number>} */
  #typists = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #typingTimer;
  /** Once they are needed. @type {import("./actions.js").MessageActions | null} */
  #actions = null;
  #rows;
  /** Once it is loaded. @type {import("./empty.js").Empty | undefined} */
  #empty;
  #ends = new AbortController();
  /** @type {(() => void)[]} */
  #offs = [];
  #log = element("log", HTMLElement);
  #latest = element("latest", HTMLButtonElement);
  #latestText = element("latest-text", HTMLElement);
  #name = element("conversation-name", HTMLElement);
  #status = element("conversation-status", HTMLElement);
  #face = element("conversation-avatar", HTMLElement);
  /** What the head shows, to draw it only if that has changed. */
  #head = "";
  #bell = element("notices-here", HTMLButtonElement);
  #announcer = element("announce", HTMLElement);
  /** Once it is loaded. @type {typeof import("../session/presence.js").presenceOf} */
  #presenceOf = () => "";

  /**
   * @param {Session} session
   * @param {Opened} opened
   */
  constructor(session, opened) {
    this.session = session;
    this.history = new History(session.store);
    const { signal } = this.#ends;
    this.composer = new Composer(session, { sent: () => this.#sent(opened), last: () => this.#lastOwn() });
    this.view = new MessageView(session, {
      menu: (entry, anchor, all) => this.#openMenu(entry, anchor, all),
      reply: (entry) => this.#reply(entry),
      react: (entry, emoji, remove) => this.#act((actions) => actions.react(entry, emoji, remove)),
      press: (entry, value, key) => this.#act((actions) => actions.press(entry, value, key)),
      stop: (stream, key) => this.#act((actions) => actions.stop(stream, key)),
      readers: (entry) => this.#act((actions) => actions.readers(entry)),
      jump: (id) => this.jump(id),
      person: opened.person,
      cancel: ({ id }) => session.outbox.cancel(id),
      retry: ({ id }) => session.outbox.retry(id),
      find: (id) => this.#find(id),
      hold: () => this.timeline.hold(),
      thread: (entry) => this.#openThread(entry),
    });
    this.#rows = new Rows(session, this.view, (id) => this.#find(id));
    startMedia(session, {
      place: /** @type {HTMLElement} */ (this.#log.closest(".room")), form: element("composer", HTMLElement),
      before: element("composer-tools", HTMLElement), after: element("composer-tools-after", HTMLElement),
      conversation: () => (this.composer.readOnlyReason ? null : this.open), draft: () => this.composer.draft,
      sent: (target) => {
        if (target && target === this.open) this.composer.takeDraft();
        this.toEnd();
      },
    }, signal);
    this.#log.replaceChildren();
    this.timeline = new Timeline(this.#log, {
      needOlder: () => this.#load("loadOlder"),
      needNewer: () => this.#load("loadNewer"),
      onSeen: (key) => this.#onSeen(key),
      onMove: () => this.#drawLatest(),
    });
    this.#loadParts(signal);
    this.#latest.addEventListener("click", () => this.toEnd(), { signal });
    element("conversation-open", HTMLButtonElement).addEventListener("click", () => this.open && opened.info(this.open), { signal });
    this.#bell.addEventListener("click", () => this.open && opened.notices(this.open), { signal });
    document.addEventListener("visibilitychange", () => !document.hidden && this.timeline.update(this.#items()), { signal });
    this.#offs = [
      session.on("typing", (signal) => this.#onTyping(signal)),
      session.on("entry", (entry) => this.#onEntry(entry)),
      session.on("grown", (stream) => this.#onGrown(stream)),
      session.on("state", () => this.draw()),
      session.on("people", () => this.draw()),
      session.people.watch(() => [this.open?.peer ?? ""]),
    ];
  }

  /**
   * Loads the parts of the view that the first messages do not need. If one cannot be loaded, the view works without it.
   *
   * @param {AbortSignal} signal
   */
  #loadParts(signal) {
    const { session } = this;
    import("../session/presence.js").catch(() => null).then((module) => {
      if (!module) return;
      this.#presenceOf = module.presenceOf;
      this.#drawStatus();
    });
    import("./kinds.js").catch(() => null).then((module) => {
      if (!module) return;
      loaded.kinds = module;
      this.draw();
    });
    import("./empty.js").catch(() => null).then((module) => {
      if (!module) return;
      this.#empty = new module.Empty(session, () => this.#showAgain(), signal);
      this.draw();
    });
    import("./pins.js").catch(() => null).then((module) => {
      if (!module) return;
      this.#pins = new module.Pins(session, (id) => this.jump(id), signal);
      if (this.#isShown) this.#pins.load(this.open);
    });
    import("./row-input.js").catch(() => null).then((module) => module?.listenToRows({
      log: this.#log, timeline: this.timeline, words: session.words, exact: this.view.exact,
      find: (id) => this.#entry(id) ?? null,
      menu: (...shown) => this.#openMenu(...shown),
      reply: (entry) => this.#reply(entry),
      mayReply: () => !this.#selection && !this.composer.readOnlyReason,
      thread: (entry) => this.#openThread(entry),
      select: (entry) => this.#select(entry),
      isSelecting: () => this.#selection !== null,
      leave: () => this.composer.focus(),
      toEnd: () => this.toEnd(),
    }, signal));
  }

  /** Ends the session of this view. */
  stop() {
    this.show(null);
    this.composer.stop();
    this.#ends.abort();
    for (const off of this.#offs) off();
    this.#log.replaceChildren();
  }

  /**
   * Opens a conversation at its first unread message, or at its end, or at a message.
   *
   * @param {Conversation | null} conversation  null: closes the open one
   * @param {number} [message]
   */
  async show(conversation, message = 0) {
    if (conversation && conversation === this.open) return message ? this.jump(message) : this.composer.focus();
    this.#actions?.close();
    this.#selection?.end();
    const place = this.#isShown && this.timeline.place;
    if (this.open && place) this.#places.set(keyOf(this.open), { ...place, newest: this.open.position });

    this.open = conversation;
    this.#isShown = false;
    this.#membersPin = false;
    this.#pins?.load(null);
    this.#typists.clear();
    this.#rows.still();
    this.composer.show(conversation);
    this.timeline.show([]);
    element("empty", HTMLElement).hidden = conversation !== null;
    this.draw();
    if (!conversation) return;

    this.#announced = conversation.position;
    this.#entering = this.#enter(conversation, message);
    await this.#entering;
    if (conversation !== this.open) return;
    // On a phone, the focus would open the keyboard.
    if (matchMedia("(hover: hover)").matches) this.composer.focus();
    this.#drawEntered(conversation);
  }

  /**
   * Loads the entries of the open conversation, and goes to the first unread one, or to the end, or to a message.
   *
   * @param {Conversation} conversation
   * @param {number} message  0: none
   */
  async #enter(conversation, message) {
    this.#isEntering = true;
    const before = this.#places.get(keyOf(conversation));
    this.#places.delete(keyOf(conversation));
    // Messages that have come since the user was here are shown first.
    const hasNews = conversation.unread && before?.newest !== conversation.position;
    const place = message || hasNews ? undefined : before;
    await this.#openEntries(conversation, message || Number(place?.key ?? 0));
    if (conversation !== this.open) return;

    const isUnread = (/** @type {Entry} */ { id, kind, from }) => id > conversation.read && kind === "message" && from !== this.session.user;
    const shown = conversation.entries?.filter((entry) => !isBeside(entry));
    this.#rows.unreadFrom = (conversation.unread && shown?.find(isUnread)?.id) || 0;
    this.#isShown = true;
    this.#isEntering = false;

    const items = this.#items();
    const hasDivider = items.some(({ key }) => key === "unread");
    const start = place ?? (hasDivider ? { key: "unread" } : {});
    this.timeline.show(items, message ? this.#near(message) : start);
    if (message) this.#showFound(message);
  }

  /** @param {Conversation} conversation  its entries are shown */
  #drawEntered(conversation) {
    this.draw();
    this.#pins?.load(conversation);
    this.#loadRules(conversation);
  }

  /** Draws everything again that may have changed. */
  draw() {
    const { open, session } = this;
    this.#drawHead(open);
    this.#drawStatus();
    this.composer.draw();
    element("conversation-open", HTMLButtonElement).disabled = !open || open.left;
    this.#bell.hidden = !session.hasNotifications || !open?.id || open.left;
    this.#bell.dataset.quiet = String(session.wishes.isQuiet(open?.id ?? 0, true));
    this.#pins?.draw();
    if (!open) this.#empty?.drawChoice();
    if (!open || !this.#isShown) return;
    this.timeline.update(this.#items());
    this.#selection?.draw();
    this.#empty?.draw(open, this.#fault);
    this.#drawLatest();
  }

  /** @param {Conversation | null} open */
  #drawHead(open) {
    const { people, store, words } = this.session;
    const name = open ? store.nameOf(open) : words.messages_title;
    const head = JSON.stringify([name, open?.id, open?.avatar, people.card(open?.peer ?? "")]);
    if (head === this.#head) return;
    this.#head = head;
    this.#name.replaceChildren(name, ...people.marks(open?.peer ?? ""));
    this.#face.replaceChildren(...(open ? [people.face(open)] : []));
  }

  /** Opens the conversation again, after its entries could not be loaded. */
  #showAgain() {
    const { open } = this;
    this.open = null;
    this.show(open);
  }

  /** @param {Opened} opened */
  #sent(opened) {
    opened.sent();
    return this.toEnd();
  }

  /** Scrolls to the newest message. */
  async toEnd() {
    const { open } = this;
    if (!open) return;
    if (open.hasNewer) {
      await this.#try(() => this.history.openNewest(open));
      if (open === this.open) this.timeline.show(this.#items());
    } else {
      this.timeline.update(this.#items());
      this.timeline.toEnd();
    }
  }

  /**
   * Scrolls to a message, which may not be loaded.
   *
   * @param {number} id
   */
  async jump(id) {
    const { open } = this;
    await this.#entering;
    if (!open || open !== this.open) return;
    if (!this.timeline.reveal(String(id))) {
      const { words, isOnline } = this.session;
      const found = await this.history.find(open.id, id).catch(() => undefined);
      if (open !== this.open) return;
      // It is hidden, or it has expired.
      if (found === null && isOnline) return toast(words.messages_fault_unknown_message);
      await this.#try(() => this.history.open(open, id));
      if (open !== this.open) return;
      this.timeline.show(this.#items(), this.#near(id));
    }
    this.#showFound(id);
  }

  /**
   * Marks a message, or opens the thread that alone shows it.
   *
   * @param {number} id
   */
  #showFound(id) {
    const { words, isOnline } = this.session;
    const entry = this.#entry(id);
    // It is hidden, or it has expired.
    if (!entry && isOnline) toast(words.messages_fault_unknown_message);
    else if (entry && isBeside(entry)) this.#openThread(entry);
    else this.#highlight(id);
  }

  /** @param {(actions: import("./actions.js").MessageActions) => unknown} use  what one can do with a message */
  #act(use) {
    const { session } = this;
    withModule(import("./actions.js"), session.words, ({ MessageActions }) => {
      this.#actions ??= new MessageActions(session, {
        reply: (entry) => this.#reply(entry), edit: (entry) => this.composer.edit(entry),
        select: (entry) => this.#select(entry), thread: (entry) => this.#openThread(entry),
        isPinned: (id) => this.#pins?.has(id) ?? false, membersPin: () => this.#membersPin,
      });
      return use(this.#actions);
    });
  }

  /**
   * Opens the menu of a message; see `open` of the actions.
   *
   * @param {Entry} entry
   * @param {HTMLElement} anchor
   * @param {boolean} all
   * @param {{ x: number, y: number }} [point]
   */
  #openMenu(entry, anchor, all, point) {
    const { open } = this;
    if (open) this.#act((actions) => open === this.open && actions.open(open, entry, anchor, all, point));
  }

  /** @param {Entry} entry  whose thread one replies in, where one may not write beside it */
  #reply(entry) {
    if (loaded.kinds?.repliesInThread(this.open)) this.#openThread(entry);
    else this.composer.reply(entry);
  }

  /** @param {Entry} entry  the first message of a thread, or a reply */
  #openThread({ id, meta }) {
    const { open, session } = this;
    if (open) withModule(import("./thread.js"), session.words, ({ openThread }) => openThread(session, open, meta?.thread ?? id));
  }

  /**
   * Where a message is, or the next one if it is gone.
   *
   * @param {number} id
   * @returns {{ key?: string, align: "center" }}
   */
  #near(id) {
    const entries = (this.open?.entries ?? []).filter((each) => !isBeside(each));
    const entry = entries.find((each) => each.id >= id) ?? entries.at(-1);
    return { ...(entry && { key: String(entry.id) }), align: "center" };
  }

  /** Gives up a selection, a list of completions, a reply or an edit. Returns false if there is none. */
  cancel() {
    if (!this.#selection) return this.composer.cancel();
    this.#selection.end();
    return true;
  }

  /**
   * Chooses a message, and then others.
   *
   * @param {Entry} entry
   */
  #select(entry) {
    const { open, session } = this;
    withModule(import("./selection.js"), session.words, ({ Selection }) => {
      if (!open || open !== this.open) return;
      this.#selection ??= new Selection(session, open, {
        log: this.#log, before: element("composer", HTMLElement), ended: () => {
          this.#selection = null;
          if (document.activeElement === document.body) this.composer.focus();
        },
      });
      this.#selection.toggle(entry);
    });
  }

  // --- rows ---------------------------------------------------------------------------------------------------

  /** @returns {Item[]} */
  #items() {
    return this.open && this.#isShown ? this.#rows.of(this.open) : [];
  }

  /** @param {number} id  of a loaded entry */
  #entry(id) {
    return this.open?.entries?.find((each) => each.id === id);
  }

  /**
   * Finds a quoted message. If it is not loaded, it is requested once, and drawn when it comes.
   *
   * @param {number} id
   * @returns {Entry | null} null: it is not known yet
   */
  #find(id) {
    const shown = this.#rows.byId.get(id);
    if (shown) return shown;
    const known = this.#quoted.get(id);
    if (known !== undefined) return known;
    this.#quoted.set(id, null);
    const { open } = this;
    this.history.find(open?.id ?? 0, id).then((entry) => {
      if (!entry || open !== this.open) return;
      this.#quoted.set(id, entry);
      this.draw();
    }, () => {});
    return null;
  }

  /** @returns {Entry | null} our newest message that can be edited */
  #lastOwn() {
    return this.open?.entries?.findLast((entry) => entry.from === this.session.user && isEditable(entry)) ?? null;
  }

  /** @param {number} id */
  #highlight(id) {
    const row = this.#log.querySelector(`[data-id="${id}"]`);
    if (!(row instanceof HTMLElement)) return;
    row.classList.add("found");
    row.focus({ preventScroll: true });
    setTimeout(() => row.classList.remove("found"), FOUND_MS);
  }

  // --- what arrives -------------------------------------------------------------------------------------------

  /**
   * Follows an entry that arrives live: it may change a quoted message, the pins, the rules of the group, or its members.
   *
   * @param {Entry} entry
   */
  #onEntry(entry) {
    const { open, session } = this;
    if (!open || entry.conversation !== open.id) return;
    const { id, kind, from, about = 0, meta } = entry;
    this.#typists.delete(from);
    const quoted = this.#quoted.get(about);
    if (quoted) this.#quoted.set(quoted.id, revised(quoted, entry, session.user));
    // A request for the quoted message may be answered without this change: it is requested again.
    else if (isRevision(entry)) this.#quoted.delete(about);

    const isNews = from !== session.user && !isBeside(entry);
    if (isNews && kind === "message" && this.timeline.isAtEnd) this.#rows.fresh.set(id, Date.now());
    if (kind === "reaction") this.view.fresh.set(`${entry.about} ${entry.text}`, Date.now());

    if (kind === "pin" || (kind === "recall" && this.#pins?.has(about))) this.#pins?.load(open);
    if (meta?.change === "options") this.#loadRules(open);
    if (meta?.members) this.composer.membersChanged();
    if (isNews && id > this.#announced && !["edit", "reaction", "press"].includes(kind)) this.#announce(open, entry);
  }

  /**
   * Lets screen readers say a new entry.
   *
   * @param {Conversation} open
   * @param {Entry} entry
   */
  async #announce(open, entry) {
    const { people, words } = this.session;
    this.#announced = entry.id;
    // Without the names, it would be an entry of "somebody".
    await people.load([entry.from, ...usersIn(entry)]);
    if (open !== this.open) return;
    const isMessage = entry.kind === "message";
    this.#announcer.textContent = isMessage ? `${people.nameOf(entry.from)}: ${summaryOf(entry, words)}` : noticeText(entry, this.session);
  }

  /** @param {string} stream  its row has more text */
  #onGrown(stream) {
    const row = this.timeline.elements.find(({ dataset }) => dataset.key === `stream ${stream}`);
    const text = this.session.store.streamOf(stream)?.text;
    if (row && text !== undefined) this.view.grow(row, text);
  }

  /** Loads what may be missing after a time without a connection. The list is loaded: it says what is unread. */
  async refresh() {
    const { open } = this;
    // The entries from the browser's storage may be about to be shown.
    await this.#entering;
    if (!open || open !== this.open) return;
    const { entries } = open;
    if (entries && !open.cached) return;
    const middle = entries?.[Math.floor(entries.length / 2)]?.id ?? 0;
    this.#entering = this.timeline.isAtEnd ? this.#enter(open, 0) : this.#openEntries(open, middle);
    await this.#entering;
    if (open === this.open && !open.cached) this.#drawEntered(open);
  }

  /** @param {"loadOlder" | "loadNewer"} which */
  async #load(which) {
    const { open } = this;
    if (!open || !this.#isShown) return;
    try {
      await this.history[which](open);
    } catch {
      // the next scroll tries again
    }
  }

  /** Whether the newest entry of the open conversation is in view. */
  get #isAtEnd() {
    return this.timeline.isAtEnd && !this.open?.hasNewer;
  }

  /**
   * Marks the entries down to the last visible row as read.
   *
   * @param {string} key  of that row: the id of an entry, if it shows one
   */
  #onSeen(key) {
    const { open, session } = this;
    if (!open?.entries || !this.#isShown || this.#isEntering || document.hidden) return;
    const isEntry = /^\d+$/.test(key);
    if (this.#isAtEnd) session.store.receipts.markRead(open, open.entries.at(-1)?.id ?? 0);
    else if (isEntry) session.store.receipts.markRead(open, Number(key));
  }

  /** Shows the button that leads to the newest message, while that is out of view. It is drawn in each frame of a scroll. */
  #drawLatest() {
    const { open, session } = this;
    const isAway = this.#isShown && !this.#isAtEnd && Boolean(open?.entries?.length);
    if (this.#latest.hidden === isAway) this.#latest.hidden = !isAway;
    if (!open || !isAway) return;
    const text = open.unread ? fill(session.words.unread, { count: upTo(open.unread, open.unreadMore) }) : session.words.to_latest;
    // To set the same text would make each frame lay out the page again.
    if (this.#latestText.textContent !== text) this.#latestText.textContent = text;
  }

  // --- head ---------------------------------------------------------------------------------------------------

  /** @param {{ from: string, conversation?: number }} signal */
  #onTyping({ from, conversation }) {
    const { open } = this;
    if (!open) return;
    const isHere = conversation ? conversation === open.id : !open.group && from === open.peer;
    if (!isHere) return;
    this.session.people.load([from]);
    this.#typists.set(from, Date.now() + TYPING_SHOWN_MS);
    this.#drawStatus();
  }

  /** Draws the line below the name, and again when the next typing notice ends. */
  #drawStatus() {
    clearTimeout(this.#typingTimer);
    const now = Date.now();
    for (const [user, until] of this.#typists) if (until <= now) this.#typists.delete(user);
    const names = [...this.#typists.keys()].map((user) => this.session.people.nameOf(user)).slice(0, MOST_TYPISTS);
    if (names.length) {
      const nextEnd = Math.min(...this.#typists.values());
      this.#typingTimer = setTimeout(() => this.#drawStatus(), Math.max(MIN_STATUS_MS, nextEnd - now));
    }
    this.#status.dataset.typing = String(names.length > 0);
    const text = this.#statusText(names);
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }

  /**
   * @param {string[]} typists  names of users who are typing
   * @returns {string} who is typing, else how many members the group has, or whether the other user is there
   */
  #statusText(typists) {
    const { open, session } = this;
    const { words, user } = session;
    if (typists.length) return fill(words.messages_typing, { name: typists.join(words.messages_and), count: typists.length });
    if (!open) return "";
    const { group, peer, members, left } = open;
    if (!group && peer) return peer === user ? words.messages_to_oneself_hint : this.#presenceOf(session, peer);
    return members && !left ? fill(words.messages_members, { count: members }) : "";
  }

  /**
   * Loads what the members of a group may do, and what has changed of the group. If we join or leave meanwhile, it is loaded again.
   *
   * @param {Conversation} conversation
   * @returns {Promise<void>}
   */
  async #loadRules(conversation) {
    if (!conversation.group || conversation.left || !this.session.isOnline) return;
    const { membership, changed } = conversation;
    try {
      const group = await this.session.api("GET", "groups/show", { group: String(conversation.id) });
      const { pin, muted_until: mutedUntil, avatar, members, role, write, reply } = group;
      if (conversation.membership !== membership) return this.#loadRules(conversation);
      if (conversation === this.open) this.#membersPin = pin === "member";
      Object.assign(conversation, { mutedUntil, left: false, role, write, reply });
      // An entry that has arrived meanwhile may be newer than the answer.
      if (conversation.changed === changed) Object.assign(conversation, { avatar, members });
    } catch (error) {
      if (conversation.membership !== membership) return this.#loadRules(conversation);
      // After another error, only the owner and admins pin.
      if (error instanceof ApiError && error.code === "unknown_group") conversation.left = true;
    }
    this.draw();
  }

  /**
   * Loads the entries of the open conversation. The reason of a failure is shown in the place of the messages, or in a toast above them.
   *
   * @param {Conversation} conversation
   * @param {number} around  see `open` of the history
   */
  async #openEntries(conversation, around) {
    // Quoted messages may be from the browser's storage, too.
    this.#quoted.clear();
    this.#fault = "";
    try {
      await this.history.open(conversation, around);
    } catch (error) {
      const reason = reasonOf(error, this.session.words);
      if (conversation.entries) toast(reason);
      if (conversation.entries || conversation !== this.open) return;
      this.#fault = reason;
      this.#announcer.textContent = `${this.session.words.messages_not_loaded}: ${reason}`;
    }
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
