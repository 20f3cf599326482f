// @ts-check
/** Which rows the open conversation has, in which order, and what each is drawn from. */

import { drawn, make } from "../../text.js";
import { isBeside, usersIn } from "../parts/entries.js";
import { loaded } from "../parts/names.js";
import { redrawsOf } from "../parts/summary.js";
import { threadsOf } from "../session/threads.js";
import { animate } from "./message-view.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../session/store.js").Streamed} Streamed */
/** @typedef {import("../session/outbox.js").Pending} Pending */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./timeline.js").Item} Item */

const MINUTE_MS = 60_000;
/** A message that comes so soon after one of the same user needs neither name nor avatar. */
const FOLLOWS_MS = 5 * MINUTE_MS;
/** The share of an upload is drawn in so many steps. */
const SHARE_STEPS = 50;
/** Of a message that still waits for the network. */
const NOT_SENT = 0;

/** Makes the rows of one session. */
export class Rows {
  /** The loaded messages. @type {Map<number, Entry>} */
  byId = new Map();
  /** The first unread message when the conversation was opened: a divider is above it; 0: all were read. */
  unreadFrom = 0;
  /** Messages that have just come, by their ids, with the time. @type {Map<number, number>} */
  fresh = new Map();
  /** Messages of ours that have waited for the network, by the ids that we gave them, with the time when they were sent, or `NOT_SENT`. @type {Map<string, number>} */
  #stranded = new Map();

  /**
   * @param {Session} session
   * @param {import("./message-view.js").MessageView} view
   * @param {(id: number) => Entry | null} find  a message that is quoted
   */
  constructor(session, view, find) {
    this.session = session;
    this.view = view;
    this.find = find;
    this.days = new Intl.DateTimeFormat(session.language, { dateStyle: "full" });
  }

  /** Forgets what moves: another conversation is opened. */
  still() {
    for (const each of [this.fresh, this.#stranded, this.view.fresh]) each.clear();
  }

  /**
   * Makes the items of a conversation, in order: the loaded messages with their dividers, the messages that bots are writing, and the
   * messages that are not stored yet.
   *
   * @param {Conversation} open
   * @returns {Item[]}
   */
  of(open) {
    const { session, unreadFrom } = this;
    this.byId = new Map(open.entries?.map((entry) => [entry.id, entry]));
    const entries = (open.entries ?? []).filter((entry) => !isBeside(entry));
    const streams = open.hasNewer ? [] : session.store.streamsOf(open).filter(({ thread }) => !thread);
    /** @type {Item[]} */
    const items = [];
    let day = "";
    /** What the last item shows. @type {Entry | null} */
    let previous = null;

    const addStream = (/** @type {Streamed} */ streamed) => {
      const follows = isNext(previous, streamed);
      const version = `${this.#faceOf(streamed.from)} ${follows}`;
      items.push({ key: `stream ${streamed.stream}`, version, make: () => this.#drawn(() => this.view.streamed(streamed, follows)) });
      previous = /** @type {Entry} */ ({ ...streamed, id: streamed.after, seq: 0, kind: "message" });
    };

    for (let index = 0; index < entries.length; index++) {
      let entry = entries[index];
      const isOwn = entry.kind === "message" && entry.from === session.user;
      // A long message of a bot would push our newer one out of view, so it stays above it.
      while (isOwn && streams.length && streams[0].after < entry.id) addStream(/** @type {Streamed} */ (streams.shift()));

      const date = new Date(entry.time).toDateString();
      if (date !== day) items.push(this.#divider(`day ${date}`, this.days.format(entry.time)));
      const isFirstUnread = unreadFrom && entry.id >= unreadFrom && (previous?.id ?? 0) < unreadFrom;
      if (isFirstUnread) items.push(this.#divider("unread", session.words.messages_new));

      const follows = date === day && !isFirstUnread && entry.kind === "message" && isNext(previous, entry);
      const run = loaded.kinds?.runFrom(session, entries, index, unreadFrom);
      if (run) ({ entry, index } = run);
      items.push(this.#item(open, entry, follows, !isSameMinute(entry, entries[index + 1])));
      previous = entry;
      day = date;
    }

    streams.forEach(addStream);
    const pending = this.#pendingItems(open, previous);
    return [...items, ...(open.hasNewer ? [] : pending)];
  }

  /**
   * @param {Conversation} open
   * @param {Entry | null} previous  is above them
   * @returns {Item[]} our messages that are not stored yet, and edits whose message is not shown
   */
  #pendingItems(open, previous) {
    const { outbox, user } = this.session;
    // The row of a loaded message shows its edit.
    const hasRow = (/** @type {Pending} */ { edit, thread, also }) => (thread ? also : !edit || this.byId.get(edit)?.kind !== "message");
    const shown = outbox.of(open).filter(hasRow);
    return shown.map((pending, index) => {
      const isLast = index === shown.length - 1;
      const isStranded = this.view.isStranded(pending);
      if (isStranded) this.#stranded.set(pending.id, NOT_SENT);
      const follows = index > 0 || (previous?.kind === "message" && previous.from === user);
      return {
        key: pending.id,
        version: `${pending.state} ${pending.reason} ${Math.round(pending.share * SHARE_STEPS)} ${index} ${isStranded && isLast}`,
        make: () => this.#drawn(() => {
          const row = this.view.pending(pending, { follows, isLast });
          animate(row, "arrives", pending.time);
          return row;
        }),
      };
    });
  }

  /**
   * @param {Conversation} open
   * @param {Entry} entry
   * @param {boolean} follows
   * @param {boolean} timed
   * @returns {string} changes with what the row shows
   */
  #versionOf(open, entry, follows, timed) {
    const names = [entry.from, ...usersIn(entry)].map((user) => this.#faceOf(user));
    if (entry.kind !== "message") return `${entry.kind} ${names} ${entry.line}`;
    const receipt = this.#receiptOf(open, entry);
    const quoted = entry.about ? this.find(entry.about) : null;
    const edit = this.session.outbox.editOf(entry.id);
    const thread = entry.meta?.replies && `${entry.meta.replies.last} ${threadsOf(this.session).of(entry.id)?.unread}`;
    return [
      thread,
      edit && `${edit.id} ${edit.state} ${edit.reason}`,
      entry.kind, entry.meta?.edited ?? 0, redrawsOf(entry.id),
      follows, timed,
      receipt.state, receipt.read, receipt.members,
      names,
      JSON.stringify([entry.reactions, entry.meta?.ask]), this.session.store.pressedOf(entry),
      quoted && `${quoted.kind} ${quoted.meta?.edited} ${this.session.people.nameOf(quoted.from)}`,
    ].join(" ");
  }

  /**
   * @param {Conversation} open
   * @param {Entry} entry
   * @param {boolean} follows
   * @param {boolean} timed
   * @returns {Item} its version is computed when it is asked for: of 1,000 loaded messages, few have rows
   */
  #item(open, entry, follows, timed) {
    const isMessage = entry.kind === "message";
    const version = () => this.#versionOf(open, entry, follows, timed);
    return {
      key: String(entry.id),
      get version() { return version(); },
      ...(isMessage && { replaces: `stream ${entry.clientMsgID}` }),
      make: () => this.#drawn(() => (isMessage ? this.#messageRow(open, entry, follows, timed) : this.view.notice(entry))),
    };
  }

  /**
   * Draws a message that is stored. It moves in if it has just come, or if it had waited for the network.
   *
   * @param {Conversation} open
   * @param {Entry} entry
   * @param {boolean} follows
   * @param {boolean} timed
   */
  #messageRow(open, entry, follows, timed) {
    const row = this.view.row(entry, { follows, timed, receipt: this.#receiptOf(open, entry), edit: this.session.outbox.editOf(entry.id) });
    const id = entry.clientMsgID ?? "";
    const sentAt = this.#stranded.get(id);
    if (sentAt === undefined) {
      animate(row, "arrives", this.fresh.get(entry.id));
    } else {
      const since = sentAt === NOT_SENT ? Date.now() : sentAt;
      this.#stranded.set(id, since);
      animate(row, "flies", since);
    }
    return row;
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
    if (!group && peerRead >= id) return { state: "read" };
    if (!group) return { state: peerReceived >= id ? "received" : "sent" };
    const { members = 0, received = 0, read = 0 } = counts.get(id) ?? {};
    if (read) return { state: read >= members ? "read" : "received", read, members };
    return { state: members && received >= members ? "received" : "sent" };
  }
}

/**
 * @param {Entry | null} previous  null: it is the first one
 * @param {{ from: string, time: number }} entry
 * @returns {boolean} whether the message needs neither name nor avatar
 */
function isNext(previous, entry) {
  return previous?.kind === "message" && previous.from === entry.from && entry.time - previous.time < FOLLOWS_MS;
}

/**
 * @param {Entry} entry
 * @param {Entry | undefined} next
 * @returns {boolean} whether the next row shows the time of this one, too
 */
function isSameMinute(entry, next) {
  return next?.kind === "message" && next.from === entry.from && Math.floor(next.time / MINUTE_MS) === Math.floor(entry.time / MINUTE_MS);
}
