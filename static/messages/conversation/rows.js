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
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./timeline.js").Item} Item */

const MINUTE_MS = 60_000;
const FOLLOWS_MS = 5 * MINUTE_MS;

/** Makes the rows of one session. */
export class Rows {
  /** The loaded messages. @type {Map<number, Entry>} */
  byId = new Map();
  /** The first unread message when the conversation was opened: a divider is above it. */
  unreadFrom = 0;
  /** Messages that have just come, by their ids, with the time. @type {Map<number, number>} */
  fresh = new Map();
  /** Messages of ours that have waited for the network, by the ids that we gave them, with the time when they were sent. @type {Map<string, number>} */
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
   * @param {Conversation} open
   * @returns {Item[]}
   */
  of(open) {
    const { session } = this;
    this.byId = new Map(open.entries?.map((entry) => [entry.id, entry]));
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
    for (let index = 0; index < entries.length; index++) {
      let entry = entries[index];
      const isOwn = entry.kind === "message" && entry.from === session.user;
      while (isOwn && streams.length && streams[0].after < entry.id) addStream(/** @type {Streamed} */ (streams.shift())); // what we sent stays in view
      const date = new Date(entry.time).toDateString();
      if (date !== day) items.push(this.#divider(`day ${date}`, this.days.format(entry.time)));
      if (this.unreadFrom && entry.id >= this.unreadFrom && (previous?.id ?? 0) < this.unreadFrom) items.push(this.#divider("unread", session.words.messages_new));
      const follows = date === day && previous !== null && entry.kind === "message" && isNext(previous, entry) && !(this.unreadFrom && previous.id < this.unreadFrom && entry.id >= this.unreadFrom);
      const run = loaded.kinds?.runFrom(session, entries, index, this.unreadFrom);
      if (run) ({ entry, index } = run);
      items.push(this.#item(open, entry, follows, !isSameMinute(entry, entries[index + 1])));
      [day, previous] = [date, entry];
    }
    streams.forEach(addStream);
    const separate = session.outbox.of(open).filter(({ edit, thread, also }) => (thread ? also : !edit || this.byId.get(edit)?.kind !== "message")); // other edits are shown in the row of the message
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
      thread, edit && `${edit.id} ${edit.state} ${edit.reason}`,
      entry.kind, entry.meta?.edited ?? 0, redrawsOf(entry.id), follows, timed, receipt.state, receipt.read, receipt.members, names, JSON.stringify([entry.reactions, entry.meta?.ask]), this.session.store.pressedOf(entry), quoted && `${quoted.kind} ${quoted.meta?.edited} ${this.session.people.nameOf(quoted.from)}`,
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
    const key = String(entry.id);
    const version = () => this.#versionOf(open, entry, follows, timed);
    if (entry.kind !== "message") return { key, get version() { return version(); }, make: () => this.#drawn(() => this.view.notice(entry)) };
    return { key, get version() { return version(); }, replaces: `stream ${entry.clientMsgID}`, make: () => this.#drawn(() => {
      const row = this.view.row(entry, { follows, timed, receipt: this.#receiptOf(open, entry), edit: this.session.outbox.editOf(entry.id) });
      const flight = this.#stranded.get(entry.clientMsgID ?? "");
      if (flight !== undefined) animate(row, "flies", flight || Date.now());
      if (flight === 0) this.#stranded.set(entry.clientMsgID ?? "", Date.now());
      if (flight === undefined) animate(row, "arrives", this.fresh.get(entry.id));
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
