// @ts-check
/** The open conversation: its head, pinned messages, messages, typing notices and text box. */

import { drawn, element, fill, make } from "../../text.js";
import { ApiError, noAnswer, reasonOf } from "../parts/api.js";
import { Composer } from "./composer.js";
import { isBeside, isRevision, revised, usersIn } from "../parts/entries.js";
import { upTo } from "../session/first-view.js";
import { withModule } from "../parts/form.js";
import "./invitation-message.js";
import { startMedia } from "../media/media.js";
import { MessageView, animate } from "./message-view.js";
import { toast } from "../parts/panel.js";
import { keyOf } from "../session/store.js";
import { noticeText, redrawsOf, summaryOf } from "../parts/summary.js";
import { threadsOf } from "../session/threads.js";
import { Timeline } from "./timeline.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../session/store.js").Streamed} Streamed */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./timeline.js").Item} Item */

/**
 * @typedef {object} Opened  what the head and the avatars of the messages open
 * @property {(conversation: Conversation) => void} info
 * @property {(user: string) => void} person
 * @property {(conversation: Conversation) => void} notices  what the user is notified of
 * @property {() => void} sent  the user has sent a message
 */

const TYPING_SHOWN_MS = 5_000;
const MINUTE_MS = 60_000;
const FOLLOWS_MS = 5 * MINUTE_MS;
const FOUND_MS = 2_000;

/** Owns which conversation is open, and what of it is drawn. */
export class ConversationView {
  /** @type {Conversation | null} */
  open = null;
  /** Where the user was in conversations whose end was not in view, by their keys. @type {Map<string, NonNullable<Timeline["place"]>>} */
  #places = new Map();
  /** The first unread message when the conversation was opened: a divider is above it. */
  #unreadFrom = 0;
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
  /** Pinned messages of the open conversation, the newest first. @type {Entry[]} */
  #pins = [];
  #pin = 0;
  /** Messages that are quoted, but not loaded with the conversation. @type {Map<number, Entry | null>} */
  #quoted = new Map();
  /** The loaded messages. @type {Map<number, Entry>} */
  #byId = new Map();
  /** Messages that the user has chosen, to forward or delete them; null: none. @type {import("./selection.js").Selection | null} */
  #selection = null;
  /** Id of the newest entry that was announced. */
  #announced = 0;
  /** Users who are typing, with the time when their notice ends. @type {Map<string, number>} */
  #typists = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #typingTimer;
  /** Messages that have just come, by their ids, with the time. @type {Map<number, number>} */
  #fresh = new Map();
  /** Messages of ours that have waited for the network, by the ids that we gave them, with the time when they were sent. @type {Map<string, number>} */
  #stranded = new Map();
  /** Once they are needed. @type {import("./actions.js").MessageActions | null} */
  #actions = null;
  #ends = new AbortController();
  /** @type {(() => void)[]} */
  #offs = [];
  #log = element("log", HTMLElement);
  #latest = element("latest", HTMLButtonElement);
  #latestText = element("latest-text", HTMLElement);
  #empty = element("empty", HTMLElement);
  #start = element("start-card", HTMLElement);
  #emptyButton = element("empty-button", HTMLButtonElement);
  /** What the button does that is shown instead of messages. */
  #emptyAct = () => {};
  #name = element("conversation-name", HTMLElement);
  #status = element("conversation-status", HTMLElement);
  #face = element("conversation-avatar", HTMLElement);
  #bell = element("notices-here", HTMLButtonElement);
  #pinned = element("pinned", HTMLElement);
  #announcer = element("announce", HTMLElement);
  /** Once it is loaded. @type {typeof import("../session/presence.js").presenceOf} */
  #presenceOf = () => "";

  /**
   * @param {Session} session
   * @param {Opened} opened
   */
  constructor(session, opened) {
    this.session = session;
    const { signal } = this.#ends;
    this.days = new Intl.DateTimeFormat(session.language, { dateStyle: "full" });
    this.composer = new Composer(session, { sent: () => this.#sent(opened), last: () => this.#lastOwn() });
    this.view = new MessageView(session, {
      menu: (entry, anchor, all) => this.#openMenu(entry, anchor, all),
      reply: (entry) => this.composer.reply(entry),
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
    startMedia(session, {
      place: /** @type {HTMLElement} */ (this.#log.closest(".room")), form: element("composer", HTMLElement),
      before: element("composer-tools", HTMLElement), after: element("composer-tools-after", HTMLElement),
      conversation: () => (this.composer.readOnlyReason ? null : this.open), draft: () => this.composer.draft,
      sent: (target) => {
        if (target && target === this.open) this.composer.takeDraft();
        this.toEnd();
      },
    }, signal);
    import("../session/presence.js").catch(() => null).then((module) => {
      this.#presenceOf = module?.presenceOf ?? this.#presenceOf; // without it, the head says less
      this.#drawStatus();
    });
    this.#log.replaceChildren();
    this.timeline = new Timeline(this.#log, {
      needOlder: () => this.#load("loadOlder"),
      needNewer: () => this.#load("loadNewer"),
      onSeen: (key) => this.#onSeen(key),
      onMove: () => this.#drawLatest(),
    });
    this.#latest.addEventListener("click", () => this.toEnd(), { signal });
    this.#emptyButton.addEventListener("click", () => this.#emptyAct(), { signal });
    element("conversation-open", HTMLButtonElement).addEventListener("click", () => this.open && opened.info(this.open), { signal });
    this.#bell.addEventListener("click", () => this.open && opened.notices(this.open), { signal });
    element("pinned-jump", HTMLButtonElement).addEventListener("click", () => this.#nextPin(), { signal });
    this.#listenToRows(signal);
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
    if (this.open && place) this.#places.set(keyOf(this.open), place);
    this.open = conversation;
    this.#isShown = this.#membersPin = false;
    this.#pins = [];
    this.#typists.clear();
    for (const each of [this.#fresh, this.#stranded, this.view.fresh]) each.clear();
    this.composer.show(conversation);
    this.timeline.show([]);
    this.#empty.hidden = conversation !== null;
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
    const place = message || conversation.unread ? undefined : before;
    await this.#openEntries(conversation, message || Number(place?.key ?? 0));
    if (conversation !== this.open) return;
    const isUnread = (/** @type {Entry} */ { id, kind, from }) => id > conversation.read && kind === "message" && from !== this.session.user;
    const shown = conversation.entries?.filter((entry) => !isBeside(entry));
    this.#unreadFrom = (conversation.unread && shown?.find(isUnread)?.id) || 0;
    this.#isShown = true;
    this.#isEntering = false;
    const items = this.#items();
    const divider = items.some(({ key }) => key === "unread");
    this.timeline.show(items, message ? this.#near(message) : divider ? { key: "unread" } : place ?? {});
    if (message) this.#showFound(message);
  }

  /** @param {Conversation} conversation  its entries are shown */
  #drawEntered(conversation) {
    this.draw();
    this.#loadPins(conversation);
    this.#loadRules(conversation);
  }

  /** Draws everything again that may have changed. */
  draw() {
    const { open, session } = this;
    this.#name.replaceChildren(open ? session.store.nameOf(open) : session.words.messages_title, ...session.people.marks(open?.peer ?? ""));
    this.#drawStatus();
    this.composer.draw();
    element("conversation-open", HTMLButtonElement).disabled = !open || open.left;
    this.#face.replaceChildren(...(open ? [session.people.face(open)] : []));
    this.#bell.hidden = !session.hasNotifications || !open?.id || open.left;
    this.#bell.dataset.quiet = String(session.wishes.isQuiet(open?.id ?? 0, true));
    this.#drawPins();
    if (!open) this.#drawEmpty(session.store.isLoaded && !session.store.conversations.size ? session.words.messages_none : session.words.messages_choose, session.isGuest ? "" : session.words.messages_choose_hint);
    if (!open || !this.#isShown) return;
    this.timeline.update(this.#items());
    this.#selection?.draw();
    const isEmpty = !open.entries?.length && !session.outbox.of(open).length && !session.store.streamsOf(open).length;
    const { words } = session;
    const isMissing = !open.entries || open.cached;
    const isAlone = !isMissing && this.#isAlone(open);
    if (isEmpty && isMissing) this.#drawEmpty(words.messages_not_loaded, this.#fault || noAnswer(words), { label: words.messages_retry, act: () => this.#showAgain() });
    else if (isAlone) this.#drawEmpty(words.messages_alone, words.messages_alone_hint, { label: words.messages_group_link, act: () => this.#invite(open) });
    else if (isEmpty) this.#drawEmpty(fill(words.messages_empty, { name: session.store.nameOf(open) }), open.group ? words.messages_empty_group : words.messages_empty_hint);
    this.#empty.hidden = !isEmpty && !isAlone;
    this.#drawStart(isEmpty && !isMissing && session.people.card(open.peer)?.bot ? open.peer : "");
    this.#drawLatest();
  }

  /**
   * What is shown instead of messages.
   *
   * @param {string} title
   * @param {string} hint
   * @param {{ label: string, act: () => void } | null} [button]
   */
  #drawEmpty(title, hint, button = null) {
    element("empty-title", HTMLElement).textContent = title;
    element("empty-hint", HTMLElement).textContent = hint;
    this.#emptyButton.hidden = !button;
    if (!button) return;
    this.#emptyButton.textContent = button.label;
    this.#emptyAct = button.act;
  }

  /**
   * @param {Conversation} open
   * @returns {boolean} whether it is a group of ours in which nobody is but us, and nothing was written
   */
  #isAlone({ group, role, members, left, entries, hasOlder }) {
    return group && members === 1 && !left && ["owner", "admin"].includes(role) && !hasOlder && !entries?.some(({ kind }) => kind === "message");
  }

  /** @param {Conversation} group */
  #invite({ id, name }) {
    const { session } = this;
    withModule(import("../people/invitations.js"), session.words, ({ openInvitations }) => openInvitations(session, { id: String(id), name }));
  }

  /** @param {string} bot  whose card is shown, because the conversation with it is empty; empty: none */
  async #drawStart(bot) {
    if (this.#start.dataset.bot === bot) return;
    this.#start.dataset.bot = bot;
    this.#start.hidden = true;
    if (!bot) return;
    const parts = await import("../people/gallery.js").then(({ startCard }) => startCard(this.session, bot)).catch(() => null);
    if (!parts || this.#start.dataset.bot !== bot) return;
    this.#start.replaceChildren(...parts);
    this.#start.hidden = false;
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
      await this.#try(() => this.session.store.openNewest(open));
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
      const { store, words, isOnline } = this.session;
      const found = await store.find(open.id, id).catch(() => undefined);
      if (open !== this.open) return;
      if (found === null && isOnline) return toast(words.messages_fault_unknown_message); // hidden, or it has expired
      await this.#try(() => store.open(open, id));
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
    withModule(import("./actions.js"), session.words, ({ MessageActions }) => use((this.#actions ??= new MessageActions(session, {
      reply: (entry) => this.composer.reply(entry), edit: (entry) => this.composer.edit(entry), select: (entry) => this.#select(entry), thread: (entry) => this.#openThread(entry),
      isPinned: (id) => this.isPinned(id), membersPin: () => this.#membersPin,
    }))));
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

  /** @returns {Item[]} the rows of the open conversation */
  #items() {
    const { open, session } = this;
    if (!open || !this.#isShown) return [];
    this.#byId = new Map(open.entries?.map((entry) => [entry.id, entry]));
    /** @type {Item[]} */
    const items = [];
    let day = "";
    /** @type {Entry | null} */
    let previous = null;
    const streams = open.hasNewer ? [] : session.store.streamsOf(open).filter(({ thread }) => !thread);
    const entries = (open.entries ?? []).filter((entry) => !isBeside(entry));
    const addStream = (/** @type {Streamed} */ each) => {
      const follows = previous !== null && isNext(previous, each);
      items.push({ key: `stream ${each.stream}`, version: `${this.#faceOf(each.from)} ${follows}`, make: () => this.#drawn(() => this.view.streamed(each, follows)) });
      previous = /** @type {Entry} */ ({ ...each, id: each.after, seq: 0, kind: "message" });
    };
    for (const [index, entry] of entries.entries()) {
      const isOwn = entry.kind === "message" && entry.from === session.user;
      while (isOwn && streams.length && streams[0].after < entry.id) addStream(/** @type {Streamed} */ (streams.shift())); // what we sent stays in view
      const date = new Date(entry.time).toDateString();
      if (date !== day) items.push(this.#divider(`day ${date}`, this.days.format(entry.time)));
      if (this.#unreadFrom && entry.id >= this.#unreadFrom && (previous?.id ?? 0) < this.#unreadFrom) items.push(this.#divider("unread", session.words.messages_new));
      const follows = date === day && previous !== null && entry.kind === "message" && isNext(previous, entry) && !(this.#unreadFrom && previous.id < this.#unreadFrom && entry.id >= this.#unreadFrom);
      items.push(this.#item(open, entry, follows, !isSameMinute(entry, entries[index + 1])));
      [day, previous] = [date, entry];
    }
    streams.forEach(addStream);
    const separate = session.outbox.of(open).filter(({ edit, thread, also }) => (thread ? also : !edit || this.#byId.get(edit)?.kind !== "message")); // other edits are shown in the row of the message
    const pending = separate.map((each, index) => {
      const isLast = index === separate.length - 1;
      const isStranded = this.view.isStranded(each);
      if (isStranded) this.#stranded.set(each.id, 0);
      return {
        key: each.id,
        version: `${each.state} ${each.reason} ${Math.round(each.share * 50)} ${index} ${isStranded && isLast}`,
        make: () => this.#drawn(() => {
          const row = this.view.pending(each, { follows: index > 0 || Boolean(previous && previous.kind === "message" && previous.from === session.user), isLast });
          animate(row, "arrives", each.time);
          return row;
        }),
      };
    });
    return [...items, ...(open.hasNewer ? [] : pending)];
  }

  /**
   * @param {Conversation} open
   * @param {Entry} entry
   * @param {boolean} follows
   * @param {boolean} timed
   * @returns {Item}
   */
  #item(open, entry, follows, timed) {
    const key = String(entry.id);
    const names = [entry.from, ...usersIn(entry)].map((user) => this.#faceOf(user));
    if (entry.kind !== "message") return { key, version: `${entry.kind} ${names}`, make: () => this.#drawn(() => this.view.notice(entry)) };
    const receipt = this.#receiptOf(open, entry);
    const quoted = entry.about ? this.#find(entry.about) : null;
    const edit = this.session.outbox.editOf(entry.id);
    const thread = entry.meta?.replies && `${entry.meta.replies.last} ${threadsOf(this.session).of(entry.id)?.unread}`;
    const version = [
      thread, edit && `${edit.id} ${edit.state} ${edit.reason}`,
      entry.kind, entry.meta?.edited ?? 0, redrawsOf(entry.id), follows, timed, receipt.state, receipt.read, receipt.members, names, JSON.stringify([entry.reactions, entry.meta?.ask]), this.session.store.pressedOf(entry), quoted && `${quoted.kind} ${quoted.meta?.edited} ${this.session.people.nameOf(quoted.from)}`,
    ].join(" ");
    return { key, version, replaces: `stream ${entry.clientMsgID}`, make: () => this.#drawn(() => {
      const row = this.view.row(entry, { follows, timed, receipt, edit });
      const flight = this.#stranded.get(entry.clientMsgID ?? "");
      if (flight !== undefined) animate(row, "flies", flight || Date.now());
      if (flight === 0) this.#stranded.set(entry.clientMsgID ?? "", Date.now());
      if (flight === undefined) animate(row, "arrives", this.#fresh.get(entry.id));
      return row;
    }) };
  }

  /**
   * @param {() => HTMLElement} draw
   * @returns {HTMLElement} a row; one that says so, if the message cannot be shown
   */
  #drawn(draw) {
    return drawn(draw, () => make("p", "notice", this.session.words.messages_unshown));
  }

  /**
   * @param {string} user
   * @returns {string} changes with what a row shows of them
   */
  #faceOf(user) {
    const { people } = this.session;
    return `${people.card(user)?.avatar} ${people.card(user)?.bot} ${people.nameOf(user)}`;
  }

  /**
   * @param {string} key
   * @param {string} text
   * @returns {Item}
   */
  #divider(key, text) {
    return { key, version: text, make: () => make("p", key === "unread" ? "divider unread" : "divider day", make("span", "", text)) };
  }

  /**
   * @param {Conversation} open
   * @param {Entry} entry
   * @returns {import("./message-view.js").ReceiptShown}
   */
  #receiptOf({ group, peerRead, peerReceived, counts }, { id, from }) {
    if (from !== this.session.user) return { state: "" };
    if (!group) return { state: peerRead >= id ? "read" : peerReceived >= id ? "received" : "sent" };
    const { members = 0, received = 0, read = 0 } = counts.get(id) ?? {};
    if (read) return { state: read >= members ? "read" : "received", read, members };
    return { state: members && received >= members ? "received" : "sent" };
  }

  /** @param {number} id */
  #find(id) {
    const loaded = this.#byId.get(id);
    if (loaded) return loaded;
    const known = this.#quoted.get(id);
    if (known !== undefined) return known;
    this.#quoted.set(id, null);
    const { open } = this;
    this.session.store.find(open?.id ?? 0, id).then((entry) => {
      if (!entry || open !== this.open) return;
      this.#quoted.set(id, entry);
      this.draw();
    }, () => {});
    return null;
  }

  #lastOwn() {
    return this.open?.entries?.findLast(({ from, kind, text, meta }) => from === this.session.user && kind === "message" && text !== undefined && !meta?.forwarded) ?? null;
  }

  /** @param {number} id */
  #highlight(id) {
    const row = this.#log.querySelector(`[data-id="${id}"]`);
    if (!(row instanceof HTMLElement)) return;
    row.classList.add("found");
    row.focus({ preventScroll: true });
    setTimeout(() => row.classList.remove("found"), FOUND_MS);
  }

  /** @param {AbortSignal} signal */
  #listenToRows(signal) {
    const entryAt = (/** @type {{ target: EventTarget | null }} */ { target }) => {
      const row = target instanceof Element ? target.closest(".line[data-id]") : null;
      const entry = row instanceof HTMLElement ? this.open?.entries?.find(({ id }) => String(id) === row.dataset.id) : null;
      return row instanceof HTMLElement && entry ? { row, entry } : null;
    };
    /** @type {{ row: HTMLElement, entry: Entry } | null} */
    let pointed = null;
    const tools = this.view.tools(() => pointed && this.#find(pointed.entry.id));
    this.#log.addEventListener("pointerover", (event) => {
      const found = event.pointerType === "touch" ? null : entryAt(event);
      if (!found || (found.row === pointed?.row && tools.isConnected)) return;
      pointed = found;
      const time = found.row.querySelector("time");
      if (time) time.title = this.view.exact.format(found.entry.time); // slow: not for each row
      found.row.querySelector(".bubble-row")?.append(tools);
    }, { signal });
    this.#log.addEventListener("pointerleave", () => tools.remove(), { signal });
    this.#log.addEventListener("contextmenu", (event) => {
      const found = entryAt(event);
      if (event instanceof PointerEvent && event.pointerType === "touch") {
        if (found) event.preventDefault(); // the long press has opened our menu
        return;
      }
      const selected = !getSelection()?.isCollapsed || (event.target instanceof Element && event.target.closest("a, video, audio, img"));
      if (!found || !this.open || selected) return;
      event.preventDefault();
      this.#openMenu(found.entry, found.row, true, { x: event.clientX, y: event.clientY });
    }, { signal });
    if (matchMedia("(any-pointer: coarse)").matches) this.#followFingers(entryAt, signal);
    this.#log.addEventListener("keydown", (event) => this.#onKey(event, entryAt(event)), { signal });
  }

  /**
   * @param {(event: { target: EventTarget | null }) => { row: HTMLElement, entry: Entry } | null} entryAt
   * @param {AbortSignal} signal
   */
  async #followFingers(entryAt, signal) {
    const modules = await Promise.all([import("../parts/swipe.js"), import("../parts/long-press.js")]).catch(() => null); // without them, the tools and keys do it
    if (!modules) return;
    const [{ onSwipe }, { onLongPress }] = modules;
    onLongPress(this.#log, (target) => {
      const found = target instanceof Element && !target.closest("input, .face") ? entryAt({ target }) : null;
      if (!found || !this.open) return false;
      if (this.#selection) this.#selection.toggle(found.entry);
      else this.#openMenu(found.entry, found.row, true);
      return true;
    }, signal);
    onSwipe(this.#log, (target) => {
      const found = this.#selection || this.composer.readOnlyReason ? null : entryAt({ target });
      return found?.entry.kind === "message" ? { row: found.row, right: { sign: "↩", act: () => this.composer.reply(found.entry) } } : null;
    }, signal);
  }

  /**
   * Arrow keys move through the messages; Enter opens the menu of one.
   *
   * @param {KeyboardEvent} event
   * @param {{ row: HTMLElement, entry: Entry } | null} found
   */
  #onKey(event, found) {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const row = target instanceof Element && !target.matches("input, video, audio") ? target.closest("[data-key]") : null;
    const onRow = row !== null && row === target;
    if (key === "End" || key === "Home") {
      event.preventDefault();
      if (key === "End") this.toEnd();
      else this.timeline.elements[0]?.scrollIntoView();
    } else if ((key === "ArrowUp" || key === "ArrowDown") && row instanceof HTMLElement) {
      event.preventDefault();
      if (key === "ArrowUp" && !onRow) row.focus({ preventScroll: true }); // from a control in it
      else if (!this.timeline.focusNext(row, key === "ArrowUp" ? -1 : 1) && key === "ArrowDown") this.composer.focus();
    } else if (key === "ArrowUp" && target === this.#log) {
      event.preventDefault();
      const rows = this.timeline.elements.filter((row) => row.hasAttribute("tabindex"));
      rows.findLast((row) => row.getBoundingClientRect().top < this.#log.getBoundingClientRect().bottom - 8)?.focus({ preventScroll: true });
    } else if ((key === "Enter" || key === " ") && onRow && found && this.open) {
      event.preventDefault();
      this.#openMenu(found.entry, found.row, true);
    } else if (key === "r" && onRow && found) {
      event.preventDefault();
      this.composer.reply(found.entry);
    } else if (key === "t" && onRow && found) {
      event.preventDefault();
      this.#openThread(found.entry);
    } else if (key === "x" && onRow && found) {
      event.preventDefault();
      this.#select(found.entry);
    }
  }

  // --- what arrives -------------------------------------------------------------------------------------------

  /** @param {Entry} entry */
  #onEntry(entry) {
    const { open, session } = this;
    if (!open || entry.conversation !== open.id) return;
    this.#typists.delete(entry.from);
    const quoted = this.#quoted.get(entry.about ?? 0);
    if (quoted) this.#quoted.set(quoted.id, revised(quoted, entry, session.user));
    else if (isRevision(entry)) this.#quoted.delete(entry.about ?? 0); // the answer to a request may be older
    if (entry.kind === "message" && entry.from !== session.user && this.timeline.isAtEnd && !isBeside(entry)) this.#fresh.set(entry.id, Date.now());
    if (entry.kind === "reaction") this.view.fresh.set(`${entry.about} ${entry.text}`, Date.now());
    if (entry.kind === "pin") this.#loadPins(open);
    if (entry.kind === "group" && entry.meta?.pin) this.#membersPin = entry.meta.pin === "member";
    if (["join", "leave"].includes(entry.kind)) this.composer.membersChanged();
    if (entry.kind === "recall" && this.#pins.some(({ id }) => id === entry.about)) this.#loadPins(open);
    if (entry.id <= this.#announced || entry.from === session.user || isBeside(entry) || ["edit", "reaction", "press"].includes(entry.kind)) return;
    this.#announced = entry.id;
    session.people.load([entry.from, ...usersIn(entry)]).then(() => { // else it would be of somebody
      if (open !== this.open) return;
      const text = entry.kind === "message" ? `${session.people.nameOf(entry.from)}: ${summaryOf(entry, session.words)}` : noticeText(entry, session);
      this.#announcer.textContent = text;
    });
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
    if (!open || !this.#isShown || open.loading) return;
    try {
      await this.session.store[which](open);
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
    session.store.markRead(open, id);
  }

  #drawLatest() {
    const { open, session } = this;
    const away = Boolean(open) && this.#isShown && (!this.timeline.isAtEnd || Boolean(open?.hasNewer)) && Boolean(open?.entries?.length);
    if (this.#latest.hidden === away) this.#latest.hidden = !away;
    if (!open || !away) return;
    const text = open.unread ? fill(session.words.unread, { count: upTo(open.unread) }) : session.words.to_latest;
    if (this.#latestText.textContent !== text) this.#latestText.textContent = text; // a change would make each frame lay out the page again
  }

  // --- head ---------------------------------------------------------------------------------------------------

  /** @param {{ from: string, conversation?: number }} signal */
  #onTyping({ from, conversation }) {
    const { open } = this;
    if (!open || (conversation ? conversation !== open.id : open.group || from !== open.peer)) return;
    this.session.people.load([from]);
    this.#typists.set(from, Date.now() + TYPING_SHOWN_MS);
    this.#drawStatus();
  }

  #drawStatus() {
    clearTimeout(this.#typingTimer);
    const { open, session } = this;
    const now = Date.now();
    for (const [user, until] of this.#typists) if (until <= now) this.#typists.delete(user);
    const names = [...this.#typists.keys()].map((user) => session.people.nameOf(user)).slice(0, 3);
    if (this.#typists.size) this.#typingTimer = setTimeout(() => this.#drawStatus(), Math.max(50, Math.min(...this.#typists.values()) - now));
    this.#status.dataset.typing = String(names.length > 0);
    const count = open?.members ?? 0;
    const members = count && !open?.left ? fill(session.words.messages_members, { count }) : "";
    const presence = open && !open.group && open.peer ? this.#presenceOf(session, open.peer) : members;
    const text = names.length ? fill(session.words.messages_typing, { name: names.join(session.words.messages_and), count: names.length }) : presence;
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }

  /** @param {Conversation} conversation */
  async #loadPins(conversation) {
    if (!conversation.id || !this.session.isOnline) return;
    try {
      const { messages } = await this.session.messenger.pins(conversation.id);
      if (conversation !== this.open) return;
      this.#pins = messages;
      this.#pin = 0;
      this.session.people.load(messages.map((/** @type {Entry} */ { from }) => from));
      this.draw();
    } catch {
      // no bar
    }
  }

  /**
   * @param {Conversation} conversation
   * @returns {Promise<void>}
   */
  async #loadRules(conversation) {
    if (!conversation.group || conversation.left || !this.session.isOnline) return;
    const { membership, changed } = conversation;
    try {
      const { pin, muted_until: mutedUntil, avatar, members } = await this.session.api("GET", "groups/show", { group: String(conversation.id) });
      if (conversation.membership !== membership) return this.#loadRules(conversation); // we joined or left meanwhile
      if (conversation === this.open) this.#membersPin = pin === "member";
      Object.assign(conversation, { mutedUntil, left: false }, conversation.changed === changed && { avatar, members }); // an entry is newer
    } catch (error) {
      if (conversation.membership !== membership) return this.#loadRules(conversation);
      if (error instanceof ApiError && error.code === "unknown_group") conversation.left = true; // else only the owner and admins pin
    }
    this.draw();
  }

  #drawPins() {
    const { words, people } = this.session;
    const pin = this.#pins[this.#pin];
    this.#pinned.hidden = !pin;
    if (!pin) return;
    const count = this.#pins.length > 1 ? ` ${this.#pin + 1}/${this.#pins.length}` : "";
    element("pinned-title", HTMLElement).textContent = words.messages_pinned_title + count;
    element("pinned-text", HTMLElement).textContent = `${people.nameOf(pin.from)}: ${summaryOf(pin, words)}`;
  }

  #nextPin() {
    const pin = this.#pins[this.#pin];
    if (!pin) return;
    this.jump(pin.id);
    this.#pin = (this.#pin + 1) % this.#pins.length;
    this.#drawPins();
  }

  /** @param {number} id */
  isPinned(id) {
    return this.#pins.some((each) => each.id === id);
  }

  /**
   * @param {Conversation} conversation
   * @param {number} around  see `open` of the store
   */
  async #openEntries(conversation, around) {
    this.#quoted.clear(); // they may be from the browser's storage, too
    this.#fault = "";
    try {
      await this.session.store.open(conversation, around);
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

/**
 * @param {Entry} previous
 * @param {{ from: string, time: number }} entry
 * @returns {boolean} whether the message needs neither name nor avatar
 */
function isNext(previous, entry) {
  return previous.kind === "message" && previous.from === entry.from && entry.time - previous.time < FOLLOWS_MS;
}

/**
 * @param {Entry} entry
 * @param {Entry | undefined} next
 * @returns {boolean} whether the next row shows the time of this one, too
 */
function isSameMinute(entry, next) {
  return next?.kind === "message" && next.from === entry.from && Math.floor(next.time / MINUTE_MS) === Math.floor(entry.time / MINUTE_MS);
}
