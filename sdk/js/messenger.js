// @ts-check
/**
 * A client for stored messages: each message that it sends is stored once, and it fetches the messages that it missed.
 *
 *     import { Messenger } from "./messenger.js";
 *
 *     const messenger = new Messenger({ url: "ws://127.0.0.1:8089/acc", app: 101, user: "ann", cursor: 0 });
 *     messenger.on("entry", (entry) => console.log(entry.from, entry.text, messenger.cursor));
 *     await messenger.connect();
 *     const { id } = await messenger.send("bob", "hello");
 *
 * @module messenger
 */

import { Closed, CommandRefused, NotConnected } from "./errors.js";
import { CODE, ImClient, newId } from "./imserver.js";

/** Entries per page of a sync: the server's maximum. */
const PAGE = 200;
/** An entry is acknowledged after this time at the latest. The server resends it after ten seconds. */
const ACK_MS = 1_000;
/** After so many entries the ack is sent at once. */
const ACK_ENTRIES = 500;
/** Pause before a request is retried. */
const RETRY_MS = 500;
/** Users that the server names for each emoji. */
const NAMED_USERS = 10;
/** Users that the server names for a thread. */
const THREAD_USERS = 5;
/** Code in `state` when the catch-up fails. It is local: no server sends it. */
const CATCH_UP_FAILED = 3000;
/** The last millisecond of the year 9999. No reader has to show a time that is further away from 1970, on either side. */
const MOST_TIME_MS = 253_402_300_799_999;

const isText = /** @type {(value: any) => boolean} */ ((value) => typeof value === "string");
const isCount = /** @type {(value: any) => boolean} */ ((value) => Number.isSafeInteger(value) && value >= 0);
const isTrueOrFalse = /** @type {(value: any) => boolean} */ ((value) => typeof value === "boolean");
const isTime = /** @type {(value: any) => boolean} */ ((value) => Number.isFinite(value) && Math.abs(value) <= MOST_TIME_MS);
const isRecord = /** @type {(value: any) => boolean} */ ((value) => typeof value === "object" && value !== null && !Array.isArray(value));
/** @type {(check: (value: any) => boolean) => (value: any) => boolean} */
const listOf = (check) => (value) => Array.isArray(value) && value.every(check);
/** A record that has all of these fields. @type {(fields: Record<string, (value: any) => boolean>) => (value: any) => boolean} */
const recordOf = (fields) => (value) => isRecord(value) && Object.keys(fields).every((name) => fields[name](value[name]));
/** @type {(check: (value: any) => boolean) => (value: any) => boolean} */
const optional = (check) => (value) => value === undefined || check(value);

const isFromText = { from: isText };
/** Events that are not stored. An event without the fields of its check is ignored. */
const SIGNALS = new Map(Object.entries({
  typing: recordOf({ ...isFromText, conversation: optional(isCount) }),
  receipt: recordOf({ ...isFromText, conversation: isCount, read: optional(isCount), received: optional(isCount) }),
  hidden: recordOf({ ids: listOf(isCount) }),
  contact: recordOf(isFromText),
  piece: recordOf({ ...isFromText, stream: isText, piece: isCount, text: isText, conversation: optional(isCount) }),
  arrangement: isArrangement,
  folders: recordOf({ version: isCount, folders: listOf(recordOf({ id: isCount, name: isText })) }),
  wish: recordOf({ conversation: isCount, level: isText, muteUntil: isCount }),
  threadMark: recordOf({ thread: isCount, conversation: isCount, last: isCount, read: isCount, unread: isCount, follows: isTrueOrFalse }),
}));
/** Checks of the fields of a conversation. */
const CONVERSATION_CHECKS = new Map(Object.entries({
  kind: isText, peer: isText, name: isText, avatar: isText, role: isText,
  unread: isCount, unreadMore: isTrueOrFalse, read: isCount, mentions: isCount, place: isCount,
}));
/** Checks of the fields of an entry that may be missing. */
const ENTRY_CHECKS = new Map(Object.entries({
  to: isText, type: isText, text: isText, base64: isText, clientMsgID: isText, about: isCount, meta: isRecord,
  reactions: listOf(recordOf({ emoji: isText, count: isCount, users: listOf(isText), mine: isTrueOrFalse })),
}));
/** Checks of the fields of `meta`. A field without a check stays as it is. */
const META_CHECKS = new Map(Object.entries({
  mentions: listOf(isText), handles: listOf(isText), users: listOf(isText), bots: listOf(isText),
  edited: isCount, reacted: isCount, count: isCount, members: isCount, incomplete: isTrueOrFalse,
  forwarded: recordOf({ from: isText, id: isCount }), buttons: listOf(listOf(recordOf({ text: isText, value: isText }))),
  command: recordOf({ bot: isText, name: isText }), muted_until: isCount, change: isText,
  name: isText, avatar: isText, description: isText, handle: isText, role: isText,
  pin: isText, invited_by: isText, thread: isCount, also: isTrueOrFalse,
  replies: recordOf({ count: isCount, last: isCount, time: isTime, users: listOf(isText) }),
}));
/** Close code after a message that is larger than the server allows. */
const TOO_LARGE = 1009;
/** Answer code when the database does not answer. The request is retried. */
const NOT_STORED = 1008;

/**
 * @typedef {object} Entry           an entry of the log
 * @property {number} id             its position in the log of the app
 * @property {number} conversation
 * @property {number} seq            its number in the conversation, without gaps
 * @property {string} kind           `message`; `edit`, `recall`, `reaction` or `pin` of the entry `about`; `press`: a button of that entry was pressed, or
 *   something has happened to the question; `group`, `join`, `leave`
 * @property {string} from           empty if a back end sent it without a sender
 * @property {string} [to]           missing in a group
 * @property {string} [type]         `text`, `picture`, …; `add` or `remove` in a reaction or pin; of a `press` about a question `answer`, `cancel`,
 *   `expire`, `escalate`, `remind`, `tally` (of a poll)
 * @property {string} [text]         missing if there is `data`; of a `press` the value of the button
 * @property {any} [data]
 * @property {string} [base64]       content from another dialect that is neither text nor JSON
 * @property {string} [clientMsgID]
 * @property {number} [about]        the entry that it replies to, edits, recalls, reacts to or pins, or whose button was pressed; its own `id`: a
 *   recalled message in the history
 * @property {{ mentions?: string[], handles?: string[], edited?: number, users?: string[], members?: number, change?: string, forwarded?: { from: string, id: number }, reacted?: number, count?: number, buttons?: Button[][], command?: SlashCommand, bots?: string[], incomplete?: boolean, thread?: number, also?: boolean, replies?: Replies, ask?: Ask }} [meta]
 *   `reacted`: the last reaction that is in `reactions`; `count`: of a reaction, how many users now react with its emoji (`text`);
 *   `change`: of a `group` entry, what has changed; `members`: of a `join` or `leave`, the number of members since then;
 *   `handles`: the handles of groups whose members it mentions, who are in `mentions`;
 *   `bots`: the bots of the group that receive the entry; `incomplete`: a bot did not finish the text;
 *   `thread`: the message with which the thread of this reply begins; `also`: the conversation shows the reply, too;
 *   `replies`: the replies in the thread of this message; `ask`: it is a question; of a `press` about a question, the fields that change
 * @property {Reaction[]} [reactions]  missing if there are none
 * @property {number} time           milliseconds since 1970
 */

/**
 * @typedef {object} Ask              what makes a message a question
 * @property {{ text: string, value: string }[]} [options]
 * @property {boolean} [text]         free text is an answer, too
 * @property {string[]} [of]          who may answer; missing: all readers but the author
 * @property {number} [need]          how many users answer before it is closed; missing: 1
 * @property {number} [until]         the deadline, milliseconds since 1970; missing: none
 * @property {"answered" | "cancelled" | "expired"} [state]  missing: it is open
 * @property {{ user: string, value?: string, text?: string, time: number }[]} [answers]  the answers that count
 * @property {boolean} [fixed]        its text is never edited
 * @property {Poll} [poll]            it is a poll, in which everybody may vote
 * @property {number[]} [mine]        the options of the poll that we have chosen, by their index; missing: not known
 */

/**
 * @typedef {object} Poll             what makes a question a poll, with the totals of the last count
 * @property {boolean} [many]         one may choose several options
 * @property {boolean} [anonymous]    nobody sees who has voted for what
 * @property {number} [voters]
 * @property {number[]} [counts]      the votes for each option
 * @property {string[][]} [users]     for each option the users who chose it last, at most 3
 * @property {number} [time]          of the count, milliseconds since 1970
 */

/**
 * @typedef {object} Replies          the replies in the thread of a message
 * @property {number} count
 * @property {number} last           id of the last one
 * @property {number} time           of the last one, milliseconds since 1970
 * @property {string[]} users        the users who wrote, at most 5, the last one first
 */

/**
 * @typedef {object} ThreadMark       what we keep about a thread, on all our devices
 * @property {number} thread         id of the message with which it begins
 * @property {number} conversation
 * @property {number} last           id of the last reply; 0: there is no reply
 * @property {number} read           up to which reply we have read it
 * @property {number} unread         replies of others after it, up to 100
 * @property {boolean} follows       we are notified of replies
 */

/** @typedef {ThreadMark & { message?: Entry }} Thread  `message`: the message with which the thread begins; missing if we may not read it */

/**
 * @typedef {object} SearchPage
 * @property {number} [conversation]  missing: all conversations of the user
 * @property {string} [from]          only messages of this user
 * @property {string[]} [types]       only of these types; missing: `text` if `text` or `link` is given, else all
 * @property {boolean} [link]         only with a link
 * @property {number} [since]         only sent at this time or later, milliseconds since 1970
 * @property {number} [until]         only sent before this time
 * @property {number} [before]        of the page before
 * @property {number} [limit]
 */

/** @typedef {{ text: string, value: string }} Button */

/** @typedef {{ bot: string, name: string, text: string }} SlashCommand  the command `/name` of a bot; `text`: the rest of the message */

/** @typedef {{ bot: string, name: string, nickname: string, command: string, description: string }} BotCommand */

/**
 * @typedef {object} Piece            of a message that a bot streams; at the end follows the message, with `clientMsgID` = `stream`
 * @property {string} from
 * @property {string} [to]            the receiver
 * @property {number} [conversation]  a group, instead of `to`
 * @property {string} stream
 * @property {number} piece           its number; the first one after the beginning has 1
 * @property {string} text
 * @property {string} [type]          missing: `text`
 * @property {number} [thread]        the message in whose thread it is a reply
 * @property {boolean} [whole]        `text` is the whole text so far
 * @property {boolean} [done]         the stream has ended without a message
 */

/**
 * @typedef {object} Sent            the result of a stored message
 * @property {number} id
 * @property {number} conversation
 * @property {number} seq
 * @property {boolean} repeated      true if it was stored before, with the same `clientMsgID`
 * @property {{ type: string, text?: string, data?: any }} [replaced]  what is stored instead of the content that was sent: the
 *   back end has replaced it, or the message was sent before with another content
 */

/**
 * @typedef {object} More            optional fields of a message
 * @property {number} [conversation] the conversation to send to, instead of a user
 * @property {any} [data]            JSON instead of text
 * @property {string} [type]
 * @property {number} [replyTo]
 * @property {string[]} [mentions]   ids of users, and handles of groups behind an `@`; or only `all`
 * @property {Button[][]} [buttons]  rows of buttons, only of a bot
 * @property {number} [thread]       a message of the conversation: this one is a reply in its thread
 * @property {boolean} [also]        the conversation shows the reply, too
 * @property {string} [clientMsgID]  use the same id to send a message again; default: a new one
 */

/**
 * @typedef {object} MessengerExtra
 * @property {number | null} [cursor]  last position of this device; 0 (default): all stored messages, null: only new ones
 * @property {number} [carryMs]        timeout of a request including retries and reconnects; default 30,000
 */

/**
 * @typedef {object} Reaction        how often users reacted to a message with an emoji
 * @property {string} emoji
 * @property {number} count
 * @property {string[]} users        at most 10 of them, the first ones first
 * @property {boolean} mine          we have reacted with it, too
 */

/**
 * @typedef {object} Annotation       the answer to a reaction or pin; its entry follows as an event
 * @property {number} conversation
 * @property {number} [id]           missing if nothing had to change
 * @property {number} [seq]
 */

/**
 * @typedef {object} HistoryPage
 * @property {number} [before]       newest page before this entry; default: the end
 * @property {number} [after]        oldest page after this entry, instead
 * @property {string[]} [types]      only messages of these types, not with `after`; the answer has a `before` for the next page
 * @property {number} [limit]
 */

/**
 * @typedef {object} Conversation
 * @property {number} id
 * @property {string} kind           `user`, `group` or `room`
 * @property {string} [peer]         the other user; missing in a group
 * @property {string} [name]         of a group
 * @property {string} [avatar]       address of the picture of a group
 * @property {string} [role]         ours in a group
 * @property {boolean} [added]       we have become a member of the group after everything that we have read
 * @property {boolean} [open]        others find the group, and may join
 * @property {string} [everybody]    who is a member without joining: `members` of the app, or `all` with guests; missing: nobody
 * @property {string} [write]        the lowest role that may write in the group: `admin`; missing: every member
 * @property {string} [reply]        the lowest role that may reply in its threads: `admin`; missing: every member
 * @property {number} unread         messages of others that are not read, up to 1,000
 * @property {boolean} [unreadMore]  whether there are more than these 1,000; missing: no
 * @property {number} [mentions]     unread messages that mention us, up to 1,000; missing if there are none
 * @property {number} read           position up to which we have read
 * @property {number} [place]        id of the newest entry if that is hidden
 * @property {Entry} [last]          the newest entry that is not hidden
 */

/**
 * @typedef {object} Typing
 * @property {string} from
 * @property {string} [to]            us
 * @property {number} [conversation]  a group, instead of `to`
 */

/**
 * @typedef {object} Receipt
 * @property {string} from
 * @property {number} conversation
 * @property {number} [read]          position up to which `from` has read
 * @property {number} [received]      position up to which a device of `from` has received
 */

/** @typedef {{ ids: number[] }} Hidden */

/** @typedef {{ from: string, to: string }} Contact  `from` has become something else to us: a friend, or somebody who asks to be one */

/**
 * A text that is not sent yet.
 *
 * @typedef {object} Draft
 * @property {string} [text]
 * @property {number} [replyTo]
 * @property {{ name: string, user: string }[]} [mentions]  names in the text
 */

/**
 * What we keep about a conversation, on all our devices.
 *
 * @typedef {object} Arrangement
 * @property {number} conversation
 * @property {number} version       the greater one is newer
 * @property {number} pinned        the conversation with the greatest number comes first; 0: not pinned
 * @property {number} archived      id of the newest entry when we archived it: it comes back with a newer one, unless it is muted; 0: not archived
 * @property {number} marked        id of the newest entry when we marked it as unread: until we read a newer one; 0: no mark
 * @property {Draft} [draft]
 * @property {number[]} [folders]   ids of the folders in which it is; missing: none
 */

/** Our folders in their order, on all our devices. @typedef {{ version: number, folders: { id: number, name: string }[] }} FolderList */

/**
 * What we wish to be notified of in a conversation, on all our devices.
 *
 * @typedef {object} Wish
 * @property {number} conversation
 * @property {"all" | "mentions" | "nothing"} level
 * @property {number} muteUntil     no notifications until then, in Unix seconds; 0: not muted
 */

/** @typedef {{ entry: Entry, anew: {}, typing: Typing, receipt: Receipt, hidden: Hidden, contact: Contact, piece: Piece, arrangement: Arrangement, folders: FolderList, wish: Wish, threadMark: ThreadMark }} MessengerEvents */

/**
 * @typedef {object} Pending         a request without an answer
 * @property {string} cmd
 * @property {object} data
 * @property {number} connection           the connection on which it was sent; 0: none
 * @property {(result: any) => void} settle
 */

/** @typedef {import("./imserver.js").Options & MessengerExtra} MessengerOptions */

/**
 * A client of the `cmd` dialect for stored messages. It adds these events to those of {@link ImClient}:
 *
 * - `entry` ({@link Entry}): each entry once, in order.
 * - `anew`: the server has deleted the entries after the cursor. Delete your entries; all that the server still has follow.
 * - `typing`, `receipt`, `hidden`, `contact` and `piece`: signals that are not stored.
 * - `arrangement` ({@link Arrangement}), `folders` ({@link FolderList}): another device of ours has changed one.
 * - `wish` ({@link Wish}): a device of ours has changed one, for example muted a conversation.
 * - `threadMark` ({@link ThreadMark}): another device of ours has read a thread, followed or muted it.
 *
 * Save {@link Messenger#cursor} together with the entries, and pass it to the constructor at the next start.
 *
 * Requests are rejected with CommandRefused, with Closed or LoginRefused if the client ends, or with NotConnected after a
 * timeout. A message that is too large is rejected with Closed and the code 1009, and the client goes on. After a timeout a
 * message may be stored or not: send it again with the same `clientMsgID`.
 *
 * @extends {ImClient<MessengerEvents>}
 */
export class Messenger extends ImClient {
  #carryMs;
  /** A catch-up is running: live entries are ignored, since the catch-up fetches them, too. */
  #catchingUp = true;
  /** The server expects acks on this connection. */
  #acks = false;
  #unacknowledged = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #ackTimer;
  /** Number of this connection; it changes when the connection is lost, so what belongs to it ends. */
  #connection = 0;
  /**
   * Requests without an answer, in order.
   *
   * @type {Set<Pending>}
   */
  #requests = new Set();

  /** @param {MessengerOptions} options */
  constructor(options) {
    super(options, ["entry", "anew", ...SIGNALS.keys()]);
    /** @type {number | null} the last position that has arrived */
    this.cursor = options.cursor === undefined ? 0 : options.cursor;
    this.#carryMs = options.carryMs ?? 30_000;
    this.on("state", ({ state, code, error }) => {
      if (code === TOO_LARGE) this.#giveUpLargest(); // while `#connection` is still the number of the lost connection
      if (state !== "online") this.#connection += 1;
      if (state === "online") {
        for (const request of [...this.#requests]) this.#sendInTurn(request);
      }
      if (state === "closed" || state === "refused") {
        clearTimeout(this.#ackTimer);
        for (const { settle } of [...this.#requests]) settle(error);
      }
    });
  }

  /**
   * Sends `text` to a user, or into `more.conversation`.
   *
   * @param {string} to       empty when `more` has a conversation
   * @param {string} [text]   unless `more` has data
   * @param {More} [more]
   * @returns {Promise<Sent>} rejected with TypeError without text and data
   */
  send(to, text, more = {}) {
    const data = { ...(to && { to }), ...(text !== undefined && { text }), ...more };
    return this.#store("send", data);
  }

  /**
   * Edits a message of ours.
   *
   * @param {number} id
   * @param {string} [text]
   * @param {{ data?: any, type?: string, mentions?: string[], buttons?: Button[][] }} [more]
   * @returns {Promise<Sent>}
   */
  edit(id, text, more = {}) {
    return this.#store("edit", { id, ...(text !== undefined && { text }), ...more });
  }

  /**
   * Recalls a message of ours.
   *
   * @param {number} id
   * @returns {Promise<Sent>}
   */
  recall(id) {
    return this.#store("recall", { id });
  }

  /**
   * Sends the content of a message that we can read to a user or a conversation. The receivers see who wrote it in `meta.forwarded`.
   *
   * @param {number} id
   * @param {string | { conversation: number }} to
   * @param {{ clientMsgID?: string }} [more]
   * @returns {Promise<Sent>}
   */
  forward(id, to, more = {}) {
    const where = typeof to === "string" ? { to } : to;
    return this.#store("send", { ...where, forward: id, ...more });
  }

  /**
   * Reacts to a message with an emoji, or removes our reaction. The entry follows as an event, here too.
   *
   * @param {number} id
   * @param {string} emoji
   * @param {{ remove?: boolean }} [more]
   * @returns {Promise<Annotation>}
   */
  react(id, emoji, { remove = false } = {}) {
    return this.#sendUntilAnswered("react", { id, emoji, ...(remove && { remove }) });
  }

  /**
   * A message after a reaction to it. Nothing changes if its `reactions` contain that one already.
   *
   * @param {Entry} message
   * @param {Entry} reaction  an entry of the kind `reaction`
   * @returns {Entry}
   */
  withReaction(message, { id, type, text: emoji = "", from, meta }) {
    if (message.kind !== "message" || id <= (message.meta?.reacted ?? 0)) return message;
    const reactions = [...(message.reactions ?? [])];
    const place = reactions.findIndex((each) => each.emoji === emoji);
    const isNew = place < 0;
    const before = isNew ? { emoji, count: 0, users: [], mine: false } : reactions[place];
    const isAdded = type === "add";
    const users = before.users.filter((user) => user !== from);
    if (isAdded && users.length < NAMED_USERS) users.push(from);
    const mine = from === this.user ? isAdded : before.mine;
    const after = { emoji, count: meta?.count ?? users.length, users, mine };
    if (!isNew) reactions.splice(place, 1);
    if (after.count) reactions.splice(isNew ? reactions.length : place, 0, after);
    const { reactions: _before, ...rest } = message;
    return { ...rest, meta: { ...message.meta, reacted: id }, ...(reactions.length && { reactions }) };
  }

  /**
   * A message after a reply in its thread. Nothing changes if its `replies` contain that one already.
   *
   * @param {Entry} message
   * @param {Entry} reply  a message with `meta.thread`
   * @returns {Entry}
   */
  withReply(message, { id, from, time }) {
    const before = message.meta?.replies ?? { count: 0, last: 0, time: 0, users: [] };
    if (id <= before.last) return message;
    const others = before.users.filter((user) => user !== from);
    const users = [from, ...others].filter(Boolean).slice(0, THREAD_USERS); // a back end may reply without a sender
    const replies = { count: before.count + 1, last: id, time, users };
    return { ...message, meta: { ...message.meta, replies } };
  }

  /**
   * The threads that we follow, the one with the newest reply first.
   *
   * @param {{ before?: number, limit?: number }} [page]  `before`: `last` of the last one of the page before
   * @returns {Promise<{ threads: Thread[], hasMore: boolean }>}
   */
  async threads(page = {}) {
    const answer = await this.#sendUntilAnswered("threads", page);
    return { ...answer, threads: answer.threads.map(threadOf) };
  }

  /**
   * The last replies in the thread of a message.
   *
   * @param {number} thread
   * @param {{ before?: number, limit?: number }} [page]  `before`: of the page after it
   * @returns {Promise<{ thread: Thread, messages: Entry[], hasMore: boolean, before: number }>}
   */
  async thread(thread, page = {}) {
    const answer = await this.#pageOf("thread", { thread, ...page });
    return { ...answer, thread: threadOf(answer.thread) };
  }

  /**
   * Follows the thread of a message: we are notified of replies. Who writes in a thread, or is mentioned there, follows it by that.
   *
   * @param {number} thread
   * @param {{ remove?: boolean }} [more]  `remove`: mutes the thread
   * @returns {Promise<Thread>}
   */
  followThread(thread, { remove = false } = {}) {
    return this.#sendUntilAnswered("followThread", { thread, ...(remove && { remove }) });
  }

  /**
   * Stores up to which reply we have read a thread that we follow.
   *
   * @param {number} thread
   * @param {number} id
   * @returns {Promise<Thread>}
   */
  readThread(thread, id) {
    return this.#sendUntilAnswered("readThread", { thread, id });
  }

  /**
   * Pins a message in its conversation, or removes the pin. The entry follows as an event, here too.
   *
   * @param {number} id
   * @param {{ remove?: boolean }} [more]
   * @returns {Promise<Annotation>}
   */
  pin(id, { remove = false } = {}) {
    return this.#sendUntilAnswered("pin", { id, ...(remove && { remove }) });
  }

  /**
   * The pinned messages of a conversation, the one that was pinned last first.
   *
   * @param {number} conversation
   * @returns {Promise<{ messages: Entry[] }>}
   */
  async pins(conversation) {
    const messages = [];
    let before = 0;
    do {
      const page = await this.#pageOf("pins", { conversation, ...(before && { before }) });
      messages.push(...page.messages);
      before = page.before;
    } while (before);
    return { messages };
  }

  /**
   * Presses a button under a message of a bot. The bot receives an entry of the kind `press`.
   *
   * @param {number} id
   * @param {string} value
   * @returns {Promise<Sent>}
   */
  press(id, value) {
    return this.#store("press", { id, value });
  }

  /**
   * Answers a question, or votes in a poll. Rejected with CommandRefused, `refused` `answered`, if others were first, or it is closed.
   *
   * @param {number} id
   * @param {{ value: string } | { text: string } | { choices: number[] }} value  the value of an option, or free text; of a poll the
   *   options by their index, in place of our earlier choice
   * @returns {Promise<{ conversation: number, ask: Ask, id?: number, seq?: number }>}  without `id`: we had answered so before, or our
   *   vote will be counted a little later
   */
  answer(id, value) {
    return this.#sendUntilAnswered("answer", { id, ...value });
  }

  /**
   * The slash commands of the bots in a conversation.
   *
   * @param {number} conversation
   * @returns {Promise<{ commands: BotCommand[] }>}
   */
  botCommands(conversation) {
    return this.#sendUntilAnswered("botCommands", { conversation });
  }

  /**
   * Begins a streamed message; for bots. It is sent once, so that no second stream is opened: rejected with NotConnected if there
   * is no answer.
   *
   * @param {{ to: string } | { conversation: number }} where
   * @param {{ text?: string, type?: string, thread?: number, stoppers?: string[] }} [more]  `text`: its beginning; `stoppers`: who
   *   may stop it (all readers, unless given)
   * @returns {Promise<{ stream: string }>}
   */
  async streamOpen(where, more = {}) {
    const { code, codeMsg, data } = await this.request("streamOpen", { ...where, ...more });
    if (code !== CODE.OK) throw new CommandRefused("streamOpen", code, codeMsg, data);
    return data;
  }

  /**
   * Appends pieces to streamed messages. The pieces of a stream have the numbers 1, 2, 3 and so on. Repeated ones are ignored.
   *
   * @param {{ stream: string, piece: number, text: string }[]} pieces
   * @returns {Promise<{ results: { stream: string, piece: number, status: string }[] }>}
   */
  streamAppend(pieces) {
    return this.#sendUntilAnswered("streamAppend", { pieces });
  }

  /**
   * Ends a streamed message, which is stored.
   *
   * @param {string} stream
   * @param {{ incomplete?: boolean }} [more]  the text is not finished
   * @returns {Promise<{ stream: string, status: string, id?: number }>}  `id`: of the message
   */
  streamClose(stream, { incomplete = false } = {}) {
    return this.#sendUntilAnswered("streamClose", { stream, ...(incomplete && { incomplete }) });
  }

  /**
   * Stops a streamed message that you read. Its text so far is stored, with you as `stopped` in `meta`.
   *
   * @param {string} stream
   * @returns {Promise<{ stream: string, status: string }>}
   */
  streamStop(stream) {
    return this.#sendUntilAnswered("streamStop", { stream });
  }

  /**
   * Sends a typing notice to a user or a conversation. Call it about every 3 s. It does nothing while offline.
   *
   * @param {{ to: string } | { conversation: number }} where
   */
  typing(where) {
    this.request("typing", where).catch(() => {});
  }

  /**
   * Stores our read position in a conversation. The senders get a receipt.
   *
   * @param {number} conversation
   * @param {number} id
   */
  read(conversation, id) {
    return this.#sendUntilAnswered("read", { conversation, id });
  }

  /**
   * Reports that this device has received the conversation up to this entry.
   *
   * @param {number} conversation
   * @param {number} id
   */
  received(conversation, id) {
    return this.#sendUntilAnswered("received", { conversation, id });
  }

  /**
   * Hides entries on all our devices.
   *
   * @param {number[]} ids
   */
  hide(ids) {
    return this.#sendUntilAnswered("hide", { ids });
  }

  /**
   * Changes what we keep about a conversation, on all our devices. 0 ends a pin, an archived state or a mark, and `{}` removes the draft.
   *
   * @param {number} conversation
   * @param {{ pinned?: number, archived?: number, marked?: number, draft?: Draft, folders?: number[] }} change
   * @returns {Promise<Arrangement>}
   */
  arrange(conversation, change) {
    return this.#sendUntilAnswered("arrange", { conversation, ...change });
  }

  /**
   * Reports a message of somebody else, or a person, to the moderators of the app.
   *
   * @param {{ id: number } | { user: string }} target
   * @param {string} reason  one of `safety.reasons` of the app
   * @param {string} [text]  what moderators should know besides
   * @returns {Promise<{ report: string }>}
   */
  report(target, reason, text) {
    return this.#sendUntilAnswered("report", { ...target, reason, ...(text && { text }) });
  }

  /**
   * Makes, names, orders and removes our folders: these are all of them, at most 20. A new one gets an id from 1 to 4294967295 at random.
   *
   * @param {{ id: number, name: string }[]} folders
   * @returns {Promise<FolderList>}
   */
  setFolders(folders) {
    return this.#sendUntilAnswered("setFolders", { folders });
  }

  /**
   * What any of our devices has changed with {@link Messenger#arrange} and {@link Messenger#setFolders} since a version.
   *
   * @param {number} [version]
   * @param {number} [limit]
   * @returns {Promise<{ arrangements: Arrangement[], version: number, hasMore: boolean, folders?: FolderList }>}  `version`: continue
   *   after it; `folders`: if they have changed
   */
  arrangements(version = 0, limit = PAGE) {
    return this.#sendUntilAnswered("arrangements", { version, limit });
  }

  /**
   * The read positions and hidden entries that any of our devices has stored since a version.
   *
   * @param {number} [version]
   * @returns {Promise<{ version: number, read: { conversation: number, id: number }[], hidden: number[], receipts: { conversation: number, user: string, read: number, received: number }[] }>}
   */
  async marks(version = 0) {
    const { more, ...page } = await this.#sendUntilAnswered("marks", { version });
    if (!more) return page;
    const later = await this.marks(page.version);
    return {
      version: later.version,
      read: [...page.read, ...later.read],
      hidden: [...page.hidden, ...later.hidden],
      receipts: [...page.receipts, ...later.receipts],
    };
  }

  /**
   * The positions up to which the other members have read and received a conversation.
   *
   * @param {number} conversation
   * @param {{ after?: string, limit?: number, message?: number }} [page]  `message`: only of members who have read this message
   * @returns {Promise<{ receipts: { user: string, read: number, received: number }[], hasMore: boolean }>}
   */
  receipts(conversation, page = {}) {
    return this.#sendUntilAnswered("receipts", { conversation, ...page });
  }

  /**
   * How many other members may read each message, and have received and read it.
   *
   * @param {number} conversation
   * @param {number[]} ids  of at most 200 messages
   * @returns {Promise<{ counts: { id: number, members: number, received: number, read: number }[] }>}
   */
  receiptCounts(conversation, ids) {
    return this.#sendUntilAnswered("receiptCounts", { conversation, ids });
  }

  /**
   * Our conversations, the most recent first.
   *
   * @param {{ before?: number, limit?: number }} [page]  `before`: `place` of the last known conversation, or the id of its `last`
   * @returns {Promise<{ conversations: Conversation[], hasMore: boolean }>}
   */
  async conversations(page = {}) {
    const answer = await this.#sendUntilAnswered("conversations", page);
    return { ...answer, conversations: conversationsOf(answer.conversations) };
  }

  /**
   * The newest messages of a conversation, or the messages before or after an entry. Reactions are in the messages.
   *
   * @param {number} conversation
   * @param {HistoryPage} [page]
   * @returns {Promise<{ messages: Entry[], hasMore: boolean, before?: number }>}
   */
  history(conversation, page = {}) {
    return this.#pageOf("history", { conversation, ...page });
  }

  /**
   * Messages with all words of `text`; the last may be unfinished, and a phrase stands in double quotes. With a filter `text` may be empty.
   *
   * @param {string} text
   * @param {SearchPage} [page]
   * @returns {Promise<{ messages: Entry[], hasMore: boolean, before: number }>}
   */
  search(text, page = {}) {
    return this.#pageOf("search", { text, ...page });
  }

  /** @override */
  loginData() {
    this.#acks = this.cursor !== null;
    return { ...super.loginData(), ...(this.#acks && { cursor: this.cursor, acks: true }) };
  }

  /**
   * @override
   * @param {any} frame
   * @returns {[string, any] | null}
   */
  eventIn(frame) {
    const data = frame?.response?.data;
    // `typing` is also a command; its answer has no data.
    const checkSignal = data && SIGNALS.get(frame?.cmd);
    if (checkSignal) return checkSignal(data) ? [frame.cmd, data] : null;
    if (frame?.cmd !== "message" || !data) return super.eventIn(frame);
    const entry = entryOf(data);
    if (!entry || this.#catchingUp || !this.#takeEntry(entry)) return null;
    return ["entry", entry];
  }

  /**
   * @override
   * @param {import("./imserver.js").Answer} answer
   */
  loggedIn(answer) {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#unacknowledged = 0;
    const isRecovered = this.cursor !== null && answer.data?.recovered === true;
    this.#catchingUp = !isRecovered;
    if (this.#catchingUp) this.#catchUp(this.#connection);
  }

  /**
   * Fetches the missed entries, page by page. Without a cursor it begins after the newest entry.
   *
   * @param {number} connection
   */
  #catchUp(connection) {
    if (this.cursor === null) {
      this.#requestOn(connection, "conversations", { limit: 1 }, ({ conversations: [newest] }) => {
        this.cursor = newest?.place || newest?.last?.id || 0;
        this.#catchUp(connection);
      });
      return;
    }
    this.#requestOn(connection, "sync", { cursor: this.cursor, limit: PAGE }, (page) => this.#handlePage(connection, page));
  }

  /**
   * Emits the entries of a page, and fetches the next one.
   *
   * @param {number} connection
   * @param {{ messages: Entry[], hasMore: boolean, beginAnew?: boolean }} page
   */
  #handlePage(connection, page) {
    const messages = entriesOf(page.messages);
    if (page.beginAnew && this.cursor) {
      this.cursor = 0;
      this.emit("anew", {});
      return this.#catchUp(connection);
    }
    if (!page.hasMore || !messages.length) this.#catchingUp = false;
    for (const entry of messages) {
      if (connection !== this.#connection) return; // a listener has closed the client
      if (this.#takeEntry(entry)) this.emit("entry", entry);
    }
    if (this.#catchingUp) this.#catchUp(connection);
  }

  /**
   * Sends a request of the catch-up. Its answer is handled before any later frame.
   *
   * @param {number} connection
   * @param {string} cmd
   * @param {object} fields
   * @param {(result: any) => void} onResult
   */
  async #requestOn(connection, cmd, fields, onResult) {
    try {
      const answer = await this.request(cmd, fields, undefined, ({ code, data }) => {
        if (connection === this.#connection && code === CODE.OK) onResult(data);
      });
      if (answer.code !== CODE.OK) throw new CommandRefused(cmd, answer.code, answer.codeMsg);
    } catch (error) {
      const { message } = /** @type {Error} */ (error);
      // Refused or timed out. If the connection is lost, the next login starts the catch-up again.
      if (connection === this.#connection) this.reconnect(CATCH_UP_FAILED, message);
    }
  }

  /**
   * Counts an entry for the next ack, and moves the cursor to it.
   *
   * @param {Entry} entry
   * @returns {boolean} false: it has arrived before
   */
  #takeEntry(entry) {
    // Count resent entries, too: the server has not received their ack in time.
    this.#unacknowledged += 1;
    if (this.#unacknowledged >= ACK_ENTRIES) Promise.resolve().then(() => this.#sendAck());
    else this.#ackTimer ??= setTimeout(() => this.#sendAck(), ACK_MS);
    if (entry.id <= (this.cursor ?? 0)) return false;
    this.cursor = entry.id;
    return true;
  }

  #sendAck() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    if (!this.#acks || !this.#unacknowledged) return;
    this.#unacknowledged = 0;
    this.request("ack", { id: this.cursor }).catch(() => {});
  }

  /**
   * Sends a command whose entry the server stores once.
   *
   * @param {string} cmd
   * @param {Record<string, any>} data
   * @returns {Promise<Sent>}
   */
  #store(cmd, data) {
    const needsContent = cmd === "send" || cmd === "edit";
    const hasContent = data.text !== undefined || data.data !== undefined || data.forward !== undefined;
    if (needsContent && !hasContent) return Promise.reject(new TypeError(`${cmd}: pass a text, or more.data`));
    return this.#sendUntilAnswered(cmd, { clientMsgID: newId(), ...data }, (/** @type {Sent} */ { id }) => {
      // Every earlier entry has arrived, unless a catch-up is running.
      if (!this.#catchingUp) this.cursor = Math.max(this.cursor ?? 0, id);
    });
  }

  /**
   * @param {string} cmd
   * @param {object} data
   * @returns {Promise<any>} the answer, whose `messages` are entries
   */
  async #pageOf(cmd, data) {
    const page = await this.#sendUntilAnswered(cmd, data);
    return { ...page, messages: entriesOf(page.messages) };
  }

  /**
   * Sends a request, again after a reconnect or a temporary error, until its answer or the timeout.
   *
   * @param {string} cmd
   * @param {object} data
   * @param {(result: any) => void} [onResult]  called before any later frame is read
   * @returns {Promise<any>}
   */
  #sendUntilAnswered(cmd, data, onResult) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const why = this.state.state === "idle" ? ": connect() was not called" : "";
        request.settle(new NotConnected(`${cmd}: no answer in time${why}`));
      }, this.#carryMs);
      const settle = (/** @type {any} */ result) => {
        clearTimeout(timer);
        if (!this.#requests.delete(request)) return;
        if (result instanceof Error) return reject(result);
        onResult?.(result);
        resolve(result);
      };
      const request = { cmd, data, connection: 0, settle };
      this.#requests.add(request);
      if (this.state.error) settle(this.state.error);
      else if (this.state.state === "online") this.#sendInTurn(request);
    });
  }

  /** Ends the largest request of the lost connection: it would end the next one, too. */
  #giveUpLargest() {
    // The length in UTF-8, of which `%..` is one byte. Mini-programs have no TextEncoder.
    const bytesOf = (/** @type {Pending} */ { data }) => encodeURIComponent(JSON.stringify(data)).replace(/%../g, "-").length;
    const sent = [...this.#requests].filter(({ connection }) => connection === this.#connection);
    sent.sort((one, other) => bytesOf(other) - bytesOf(one));
    sent[0]?.settle(new Closed(TOO_LARGE));
  }

  /** @param {Pending} request */
  #sendInTurn(request) {
    this.turn(() => this.#sendRequest(request));
  }

  /**
   * Sends a request on this connection, once. After a temporary error it is sent again.
   *
   * @param {Pending} request
   */
  async #sendRequest(request) {
    const connection = this.#connection;
    if (request.connection === connection || !this.#requests.has(request)) return;
    request.connection = connection;
    const onAnswer = (/** @type {import("./imserver.js").Answer} */ { code, data }) => {
      if (code === CODE.OK) request.settle(data);
    };
    try {
      const answer = await this.request(request.cmd, request.data, undefined, onAnswer, this.#carryMs);
      if (answer.code !== CODE.OK) throw new CommandRefused(request.cmd, answer.code, answer.codeMsg, answer.data);
    } catch (error) {
      if (request.connection === connection) request.connection = 0; // otherwise it was sent on the next connection already
      const { code } = /** @type {{ code?: unknown }} */ (error);
      if (error instanceof NotConnected) return; // it was given up, or is sent again after the next login
      if (code !== NOT_STORED && code !== CODE.NOT_LOGGED_IN) return request.settle(error);
      setTimeout(() => {
        if (this.state.state === "online") this.#sendInTurn(request);
      }, RETRY_MS);
    }
  }
}

/**
 * An entry as its type promises it, from JSON that anybody may have written: a field of another type is left out, and a time that no
 * reader can show is 0. The content, `data`, is not checked: products choose it.
 *
 * @param {any} value
 * @returns {Entry | null} null: it has no position in the log
 */
export function entryOf(value) {
  if (!isRecord(value) || !isCount(value.id) || !value.id || !isCount(value.conversation)) return null;
  const { seq, kind, from, time, meta } = value;
  const entry = fitting(value, ENTRY_CHECKS);
  const fittingMeta = isRecord(meta) ? fitting(meta, META_CHECKS) : meta;
  if (entry === value && fittingMeta === meta && isCount(seq) && isText(kind) && isText(from) && isTime(time)) return value;
  return {
    ...entry,
    seq: isCount(seq) ? seq : 0,
    kind: isText(kind) ? kind : "",
    from: isText(from) ? from : "",
    time: isTime(time) ? time : 0,
    ...(entry.meta && { meta: fittingMeta }),
  };
}

/**
 * @param {any} values
 * @returns {Entry[]}
 */
function entriesOf(values) {
  if (!Array.isArray(values)) return [];
  return /** @type {Entry[]} */ (values.map(entryOf).filter((entry) => entry !== null));
}

/**
 * @param {Record<string, any>} record
 * @param {Map<string, (value: any) => boolean>} checks
 * @returns {any} the record itself, or a copy without the fields that fail their check
 */
function fitting(record, checks) {
  const isWrong = (/** @type {string} */ name) => {
    const check = checks.get(name);
    return record[name] !== undefined && check !== undefined && !check(record[name]);
  };
  const wrongNames = Object.keys(record).filter(isWrong);
  if (!wrongNames.length) return record;
  const copy = { ...record };
  for (const name of wrongNames) delete copy[name];
  return copy;
}

/**
 * @param {any} thread
 * @returns {Thread}
 */
function threadOf({ message, ...rest }) {
  return { ...rest, message: entryOf(message) ?? undefined };
}

/** @param {any} value */
function isArrangement(value) {
  const isMention = recordOf({ name: isText, user: isText });
  const isDraft = recordOf({ text: optional(isText), replyTo: optional(isCount), mentions: optional(listOf(isMention)) });
  const hasFields = recordOf({
    conversation: isCount, version: isCount, pinned: isCount, archived: isCount, marked: isCount,
    draft: optional(isDraft), folders: optional(listOf(isCount)),
  });
  return hasFields(value);
}

/**
 * @param {any} values
 * @returns {Conversation[]}
 */
function conversationsOf(values) {
  if (!Array.isArray(values)) return [];
  const withId = values.filter((each) => isRecord(each) && isCount(each.id));
  return withId.map((conversation) => {
    const { last, ...fields } = fitting(conversation, CONVERSATION_CHECKS);
    const entry = entryOf(last);
    return { kind: "", unread: 0, read: 0, ...fields, ...(entry && { last: entry }) };
  });
}
