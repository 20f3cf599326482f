// @ts-check
/** The open conversation: its head, messages and text box. */

import { element, fill } from "../../text.js";
import { ApiError, reasonOf } from "../parts/api.js";
import { loaded } from "../parts/names.js";
import { Composer } from "./composer.js";
import { ConversationHead } from "./head.js";
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

/** How long a message that was jumped to is marked. */
const FOUND_MS = 2_000;
/** Kinds of entries that screen readers are not told of: they change a message that was announced. */
const UNANNOUNCED = ["edit", "reaction", "press"];

/** Owns which conversation is open, and what of it is drawn. */
export class ConversationView {
  /** @type {Conversation | null} */
  open = null;
  /** Where the user was in conversations whose end was not in view, and what was their newest entry, by their keys. @type {Map<string, NonNullable<Timeline["place"]> & { newest: number }>} */
  #places = new Map();
  /** The timeline shows the entries of the open conversation. */
  #isShown = false;
  /** What the timeline shows first is loading: the user has not read what is shown meanwhile. */
  #isEntering = false;
  /** Loads what the timeline shows first. */
  #entering = Promise.resolve();
  /** Every member of the open group may pin messages. */
  #membersPin = false;
  /** Why the entries of the open conversation could not be loaded; empty: they are loaded. */
  #fault = "";
  /** Once they are loaded. @type {import("./pins.js").Pins | null | undefined} */
  #pins;
  /** Messages that are quoted, but not loaded with the conversation. @type {Map<number, Entry | null>} */
  #quoted = new Map();
  /** Messages that the user has chosen, to forward or delete them; null: none. @type {import("./selection.js").Selection | null} */
  #selection = null;
  /** Id of the newest entry that was announced. */
  #announced = 0;
  /** Once they are needed. @type {import("./actions.js").MessageActions | null} */
  #actions = null;
  #rows;
  /** Once it is loaded. @type {import("./empty.js").Empty | null | undefined} */
  #empty;
  #ends = new AbortController();
  /** @type {(() => void)[]} */
  #offs = [];
  #log = element("log", HTMLElement);
  #latest = element("latest", HTMLButtonElement);
  #latestText = element("latest-text", HTMLElement);
  #announcer = element("announce", HTMLElement);

  /**
   * @param {Session} session
   * @param {Opened} opened
   */
  constructor(session, opened) {
    this.session = session;
    this.history = new History(session.store);
    this.head = new ConversationHead(session);
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
      place: /** @type {HTMLElement} */ (this.#log.closest(".room")),
      form: element("composer", HTMLElement),
      before: element("composer-tools", HTMLElement),
      after: element("composer-tools-after", HTMLElement),
      conversation: () => (this.composer.readOnlyReason ? null : this.open),
      draft: () => this.composer.draft,
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
    import("./kinds.js").catch(() => null).then((module) => {
      loaded.kinds = module;
      this.draw();
    });
    import("./empty.js").catch(() => null).then((module) => {
      this.#empty = module && new module.Empty(session, () => this.#showAgain(), signal);
      this.draw();
    });
    import("./pins.js").catch(() => null).then((module) => { // without it there is no bar
      this.#pins = module && new module.Pins(session, (id) => this.jump(id), signal);
      if (this.#isShown) this.#pins?.load(this.open);
    });
    import("./row-input.js").catch(() => null).then((module) => module?.listenToRows({ // without it, messages are only read
      log: this.#log,
      timeline: this.timeline,
      words: session.words,
      exact: this.view.exact,
      find: (id) => this.open?.entries?.find((each) => each.id === id) ?? null,
      menu: (...shown) => this.#openMenu(...shown),
      reply: (entry) => this.#reply(entry),
      mayReply: () => !this.#selection && !this.composer.readOnlyReason,
      thread: (entry) => this.#openThread(entry),
      select: (entry) => this.#select(entry),
      isSelecting: () => this.#selection !== null,
      leave: () => this.composer.focus(),
      toEnd: () => this.toEnd(),
    }, signal));
    this.#latest.addEventListener("click", () => this.toEnd(), { signal });
    element("conversation-open", HTMLButtonElement).addEventListener("click", () => this.open && opened.info(this.open), { signal });
    element("notices-here", HTMLButtonElement).addEventListener("click", () => this.open && opened.notices(this.open), { signal });
    document.addEventListener("visibilitychange", () => !document.hidden && this.timeline.update(this.#items()), { signal });
    this.#offs = [
      session.on("typing", (notice) => this.head.onTyping(notice)),
      session.on("entry", (entry) => this.#onEntry(entry)),
      session.on("grown", (stream) => this.#onGrown(stream)),
      session.on("state", () => this.draw()),
      session.on("people", () => this.draw()),
      session.people.watch(() => [this.open?.peer ?? ""]),
    ];
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
    this.#isShown = this.#membersPin = false;
    this.#pins?.load(null);
    this.head.show(conversation);
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
    if (matchMedia("(hover: hover)").matches) this.composer.focus(); // on a phone this would open the keyboard
    this.#drawEntered(conversation);
  }

  /**
   * Loads the entries of the open conversation, and goes to the first unread one, or to the end, or to a message.
   *
   * @param {Conversation} conversation
   * @param {number} message
   */
  async #enter(conversation, message) {
    this.#isEntering = true;
    const before = this.#places.get(keyOf(conversation));
    this.#places.delete(keyOf(conversation));
    const hasNew = conversation.unread && before?.newest !== conversation.position;
    const place = message || hasNew ? undefined : before; // new messages come before the old place
    await this.#openEntries(conversation, message || Number(place?.key ?? 0));
    if (conversation !== this.open) return;
    this.#rows.unreadFrom = this.#firstUnread(conversation);
    this.#isShown = true;
    this.#isEntering = false;
    const items = this.#items();
    const divider = items.some(({ key }) => key === "unread");
    this.timeline.show(items, message ? this.#near(message) : place ?? (divider ? { key: "unread" } : {}));
    if (message) this.#showFound(message);
  }

  /** @param {Conversation} conversation  @returns {number} id of its first unread message of others; 0: none is loaded */
  #firstUnread({ unread, entries, read }) {
    if (!unread || !entries) return 0;
    const isUnread = (/** @type {Entry} */ entry) => {
      const isOfOthers = entry.kind === "message" && entry.from !== this.session.user;
      return isOfOthers && entry.id > read && !isBeside(entry);
    };
    return entries.find(isUnread)?.id ?? 0;
  }

  /** @param {Conversation} conversation  its entries are shown */
  #drawEntered(conversation) {
    this.draw();
    this.#pins?.load(conversation);
    this.#loadRules(conversation);
  }

  /** Draws everything again that may have changed. */
  draw() {
    const { open } = this;
    this.head.draw();
    this.composer.draw();
    this.#pins?.draw();
    if (!open) this.#empty?.drawChoice();
    if (!open || !this.#isShown) return;
    this.timeline.update(this.#items());
    this.#selection?.draw();
    this.#empty?.draw(open, this.#fault);
    this.#drawLatest();
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
      if (found === null && isOnline) return toast(words.messages_fault_unknown_message); // hidden, or it has expired
      await this.#try(() => this.history.open(open, id));
      if (open !== this.open) return;
      this.timeline.show(this.#items(), this.#near(id));
    }
    this.#showFound(id);
  }

  /** @param {number} id  of a message; one that only its thread shows is there */
  #showFound(id) {
    const { words, isOnline } = this.session;
    const entry = this.open?.entries?.find((each) => each.id === id);
    if (!entry && isOnline) toast(words.messages_fault_unknown_message); // hidden, or it has expired
    else if (entry && isBeside(entry)) this.#openThread(entry);
    else this.#highlight(id);
  }

  /** @param {(actions: import("./actions.js").MessageActions) => unknown} use  what one can do with a message */
  #act(use) {
    const { session } = this;
    withModule(import("./actions.js"), session.words, ({ MessageActions }) => {
      this.#actions ??= new MessageActions(session, {
        reply: (entry) => this.#reply(entry),
        edit: (entry) => this.composer.edit(entry),
        select: (entry) => this.#select(entry),
        thread: (entry) => this.#openThread(entry),
        isPinned: (id) => this.#pins?.has(id) ?? false,
        membersPin: () => this.#membersPin,
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

  /** Gives up a selection, a reply, an edit or a menu. Returns false if there is none. */
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

  /** @param {number} id */
  #find(id) {
    const entry = this.#rows.byId.get(id) ?? this.#quoted.get(id);
    if (entry !== undefined) return entry;
    this.#quoted.set(id, null); // it is being loaded
    const { open } = this;
    this.history.find(open?.id ?? 0, id).then((entry) => {
      if (!entry || open !== this.open) return;
      this.#quoted.set(id, entry);
      this.draw();
    }, () => {});
    return null;
  }

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

  /** @param {Entry} entry */
  #onEntry(entry) {
    const { open, session } = this;
    if (!open || entry.conversation !== open.id) return;
    this.head.stoppedTyping(entry.from);
    const quoted = this.#quoted.get(entry.about ?? 0);
    if (quoted) this.#quoted.set(quoted.id, revised(quoted, entry, session.user));
    else if (isRevision(entry)) this.#quoted.delete(entry.about ?? 0); // the answer to a request may be older
    const isOfOthers = entry.from !== session.user;
    if (entry.kind === "message" && isOfOthers && this.timeline.isAtEnd && !isBeside(entry)) this.#rows.fresh.set(entry.id, Date.now());
    if (entry.kind === "reaction") this.view.fresh.set(`${entry.about} ${entry.text}`, Date.now());
    const isPinGone = entry.kind === "recall" && this.#pins?.has(entry.about ?? 0);
    if (entry.kind === "pin" || isPinGone) this.#pins?.load(open);
    if (entry.meta?.change === "options") this.#loadRules(open);
    if (entry.meta?.members) this.composer.membersChanged();
    if (entry.id > this.#announced && isOfOthers && !isBeside(entry) && !UNANNOUNCED.includes(entry.kind)) this.#announce(open, entry);
  }

  /**
   * Tells screen readers of a new entry.
   *
   * @param {Conversation} open
   * @param {Entry} entry
   */
  async #announce(open, entry) {
    const { people, words } = this.session;
    this.#announced = entry.id;
    await people.load([entry.from, ...usersIn(entry)]); // before that they have no names
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
    await this.#entering; // perhaps from the browser's storage
    if (!open || open !== this.open || (open.entries && !open.cached)) return;
    if (this.timeline.isAtEnd) this.#entering = this.#enter(open, 0);
    else this.#entering = this.#openEntries(open, open.entries?.[Math.floor(open.entries.length / 2)]?.id ?? 0);
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

  /** @param {string} key */
  #onSeen(key) {
    const { open, session } = this;
    if (!open?.entries || !this.#isShown || this.#isEntering || document.hidden) return;
    const isPending = !/^\d+$/.test(key);
    const atEnd = this.timeline.isAtEnd && !open.hasNewer;
    const id = atEnd || isPending ? open.entries.at(-1)?.id ?? 0 : Number(key);
    if (isPending && !atEnd) return;
    session.store.receipts.markRead(open, id);
  }

  #drawLatest() {
    const { open, session } = this;
    const isAtEnd = this.timeline.isAtEnd && !open?.hasNewer;
    const isAway = this.#isShown && Boolean(open?.entries?.length) && !isAtEnd;
    // Only what changes is written: else each frame would lay out the page again.
    if (this.#latest.hidden === isAway) this.#latest.hidden = !isAway;
    if (!open || !isAway) return;
    const { unread, to_latest: toLatest } = session.words;
    const text = open.unread ? fill(unread, { count: upTo(open.unread, open.unreadMore) }) : toLatest;
    if (this.#latestText.textContent !== text) this.#latestText.textContent = text;
  }

  /**
   * @param {Conversation} conversation
   * @returns {Promise<void>}
   */
  async #loadRules(conversation) {
    if (!conversation.group || conversation.left || !this.session.isOnline) return;
    const { membership, changed } = conversation;
    try {
      const group = await this.session.api("GET", "groups/show", { group: String(conversation.id) });
      if (conversation.membership !== membership) return this.#loadRules(conversation); // we joined or left meanwhile
      const { pin, muted_until: mutedUntil, avatar, members, role, write, reply } = group;
      if (conversation === this.open) this.#membersPin = pin === "member";
      Object.assign(conversation, { mutedUntil, left: false, role, write, reply });
      // If an entry has changed them meanwhile, its values are newer.
      if (conversation.changed === changed) Object.assign(conversation, { avatar, members });
    } catch (error) {
      if (conversation.membership !== membership) return this.#loadRules(conversation);
      if (error instanceof ApiError && error.code === "unknown_group") conversation.left = true; // else only the owner and admins pin
    }
    this.draw();
  }

  /**
   * @param {Conversation} conversation
   * @param {number} around  see `open` of the store
   */
  async #openEntries(conversation, around) {
    this.#quoted.clear(); // they may be from the browser's storage, too
    this.#fault = "";
    try {
      await this.history.open(conversation, around);
    } catch (error) {
      const reason = reasonOf(error, this.session.words);
      if (conversation.entries) toast(reason);
      if (conversation.entries || conversation !== this.open) return;
      this.#fault = reason; // shown in the place of the messages
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
