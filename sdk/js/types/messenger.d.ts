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
import { ImClient } from "./imserver.js";
export type Entry = {
    /**
     * its position in the log of the app
     */
    id: number;
    conversation: number;
    /**
     * its number in the conversation, without gaps
     */
    seq: number;
    /**
     * `message`; `edit`, `recall`, `reaction` or `pin` of the entry `about`; `press`: a button of that entry was pressed, or
     * something has happened to the question; `group`, `join`, `leave`
     */
    kind: string;
    /**
     * empty if a back end sent it without a sender
     */
    from: string;
    /**
     * missing in a group
     */
    to?: string;
    /**
     * `text`, `picture`, …; `add` or `remove` in a reaction or pin; of a `press` about a question `answer`, `cancel`,
     * `expire`, `escalate`, `remind`, `tally` (of a poll)
     */
    type?: string;
    /**
     * missing if there is `data`; of a `press` the value of the button
     */
    text?: string;
    data?: any;
    /**
     * content from another dialect that is neither text nor JSON
     */
    base64?: string;
    clientMsgID?: string;
    /**
     * the entry that it replies to, edits, recalls, reacts to or pins, or whose button was pressed; its own `id`: a
     * recalled message in the history
     */
    about?: number;
    /**
     * `reacted`: the last reaction that is in `reactions`; `count`: of a reaction, how many users now react with its emoji (`text`);
     * `change`: of a `group` entry, what has changed; `members`: of a `join` or `leave`, the number of members since then;
     * `handles`: the handles of groups whose members it mentions, who are in `mentions`;
     * `bots`: the bots of the group that receive the entry; `incomplete`: a bot did not finish the text;
     * `thread`: the message with which the thread of this reply begins; `also`: the conversation shows the reply, too;
     * `replies`: the replies in the thread of this message; `ask`: it is a question; of a `press` about a question, the fields that change
     */
    meta?: {
        mentions?: string[];
        handles?: string[];
        edited?: number;
        users?: string[];
        members?: number;
        change?: string;
        forwarded?: {
            from: string;
            id: number;
        };
        reacted?: number;
        count?: number;
        buttons?: Button[][];
        command?: SlashCommand;
        bots?: string[];
        incomplete?: boolean;
        thread?: number;
        also?: boolean;
        replies?: Replies;
        ask?: Ask;
    };
    /**
     * missing if there are none
     */
    reactions?: Reaction[];
    /**
     * milliseconds since 1970
     */
    time: number;
};
export type Ask = {
    options?: {
        text: string;
        value: string;
    }[];
    /**
     * free text is an answer, too
     */
    text?: boolean;
    /**
     * who may answer; missing: all readers but the author
     */
    of?: string[];
    /**
     * how many users answer before it is closed; missing: 1
     */
    need?: number;
    /**
     * the deadline, milliseconds since 1970; missing: none
     */
    until?: number;
    /**
     * missing: it is open
     */
    state?: "answered" | "cancelled" | "expired";
    /**
     * the answers that count
     */
    answers?: {
        user: string;
        value?: string;
        text?: string;
        time: number;
    }[];
    /**
     * its text is never edited
     */
    fixed?: boolean;
    /**
     * it is a poll, in which everybody may vote
     */
    poll?: Poll;
    /**
     * the options of the poll that we have chosen, by their index; missing: not known
     */
    mine?: number[];
};
export type Poll = {
    /**
     * one may choose several options
     */
    many?: boolean;
    /**
     * nobody sees who has voted for what
     */
    anonymous?: boolean;
    voters?: number;
    /**
     * the votes for each option
     */
    counts?: number[];
    /**
     * for each option the users who chose it last, at most 3
     */
    users?: string[][];
    /**
     * of the count, milliseconds since 1970
     */
    time?: number;
};
export type Replies = {
    count: number;
    /**
     * id of the last one
     */
    last: number;
    /**
     * of the last one, milliseconds since 1970
     */
    time: number;
    /**
     * the users who wrote, at most 5, the last one first
     */
    users: string[];
};
export type ThreadMark = {
    /**
     * id of the message with which it begins
     */
    thread: number;
    conversation: number;
    /**
     * id of the last reply; 0: there is no reply
     */
    last: number;
    /**
     * up to which reply we have read it
     */
    read: number;
    /**
     * replies of others after it, up to 100
     */
    unread: number;
    /**
     * we are notified of replies
     */
    follows: boolean;
};
export type Thread = ThreadMark & {
    message?: Entry;
};
export type SearchPage = {
    /**
     * missing: all conversations of the user
     */
    conversation?: number;
    /**
     * only messages of this user
     */
    from?: string;
    /**
     * only of these types; missing: `text` if `text` or `link` is given, else all
     */
    types?: string[];
    /**
     * only with a link
     */
    link?: boolean;
    /**
     * only sent at this time or later, milliseconds since 1970
     */
    since?: number;
    /**
     * only sent before this time
     */
    until?: number;
    /**
     * of the page before
     */
    before?: number;
    limit?: number;
};
export type Button = {
    text: string;
    value: string;
};
export type SlashCommand = {
    bot: string;
    name: string;
    text: string;
};
export type BotCommand = {
    bot: string;
    name: string;
    nickname: string;
    command: string;
    description: string;
};
export type Piece = {
    from: string;
    /**
     * the receiver
     */
    to?: string;
    /**
     * a group, instead of `to`
     */
    conversation?: number;
    stream: string;
    /**
     * its number; the first one after the beginning has 1
     */
    piece: number;
    text: string;
    /**
     * missing: `text`
     */
    type?: string;
    /**
     * the message in whose thread it is a reply
     */
    thread?: number;
    /**
     * `text` is the whole text so far
     */
    whole?: boolean;
    /**
     * the stream has ended without a message
     */
    done?: boolean;
};
export type Sent = {
    id: number;
    conversation: number;
    seq: number;
    /**
     * true if it was stored before, with the same `clientMsgID`
     */
    repeated: boolean;
    /**
     * what is stored instead of the content that was sent: the
     * back end has replaced it, or the message was sent before with another content
     */
    replaced?: {
        type: string;
        text?: string;
        data?: any;
    };
};
export type More = {
    /**
     * the conversation to send to, instead of a user
     */
    conversation?: number;
    /**
     * JSON instead of text
     */
    data?: any;
    type?: string;
    replyTo?: number;
    /**
     * ids of users, and handles of groups behind an `@`; or only `all`
     */
    mentions?: string[];
    /**
     * rows of buttons, only of a bot
     */
    buttons?: Button[][];
    /**
     * a message of the conversation: this one is a reply in its thread
     */
    thread?: number;
    /**
     * the conversation shows the reply, too
     */
    also?: boolean;
    /**
     * use the same id to send a message again; default: a new one
     */
    clientMsgID?: string;
};
export type MessengerExtra = {
    /**
     * last position of this device; 0 (default): all stored messages, null: only new ones
     */
    cursor?: number | null;
    /**
     * timeout of a request including retries and reconnects; default 30,000
     */
    carryMs?: number;
};
export type Reaction = {
    emoji: string;
    count: number;
    /**
     * at most 10 of them, the first ones first
     */
    users: string[];
    /**
     * we have reacted with it, too
     */
    mine: boolean;
};
export type Annotation = {
    conversation: number;
    /**
     * missing if nothing had to change
     */
    id?: number;
    seq?: number;
};
export type HistoryPage = {
    /**
     * newest page before this entry; default: the end
     */
    before?: number;
    /**
     * oldest page after this entry, instead
     */
    after?: number;
    /**
     * only messages of these types, not with `after`; the answer has a `before` for the next page
     */
    types?: string[];
    limit?: number;
};
export type Conversation = {
    id: number;
    /**
     * `user`, `group` or `room`
     */
    kind: string;
    /**
     * the other user; missing in a group
     */
    peer?: string;
    /**
     * of a group
     */
    name?: string;
    /**
     * address of the picture of a group
     */
    avatar?: string;
    /**
     * ours in a group
     */
    role?: string;
    /**
     * we have become a member of the group after everything that we have read
     */
    added?: boolean;
    /**
     * others find the group, and may join
     */
    open?: boolean;
    /**
     * who is a member without joining: `members` of the app, or `all` with guests; missing: nobody
     */
    everybody?: string;
    /**
     * the lowest role that may write in the group: `admin`; missing: every member
     */
    write?: string;
    /**
     * the lowest role that may reply in its threads: `admin`; missing: every member
     */
    reply?: string;
    /**
     * messages of others that are not read, up to 1,000
     */
    unread: number;
    /**
     * whether there are more than these 1,000; missing: no
     */
    unreadMore?: boolean;
    /**
     * unread messages that mention us, up to 1,000; missing if there are none
     */
    mentions?: number;
    /**
     * position up to which we have read
     */
    read: number;
    /**
     * id of the newest entry if that is hidden
     */
    place?: number;
    /**
     * the newest entry that is not hidden
     */
    last?: Entry;
};
export type Typing = {
    from: string;
    /**
     * us
     */
    to?: string;
    /**
     * a group, instead of `to`
     */
    conversation?: number;
};
export type Receipt = {
    from: string;
    conversation: number;
    /**
     * position up to which `from` has read
     */
    read?: number;
    /**
     * position up to which a device of `from` has received
     */
    received?: number;
};
export type Hidden = {
    ids: number[];
};
export type Contact = {
    from: string;
    to: string;
};
export type Draft = {
    text?: string;
    replyTo?: number;
    /**
     * names in the text
     */
    mentions?: {
        name: string;
        user: string;
    }[];
};
export type Arrangement = {
    conversation: number;
    /**
     * the greater one is newer
     */
    version: number;
    /**
     * the conversation with the greatest number comes first; 0: not pinned
     */
    pinned: number;
    /**
     * id of the newest entry when we archived it: it comes back with a newer one, unless it is muted; 0: not archived
     */
    archived: number;
    /**
     * id of the newest entry when we marked it as unread: until we read a newer one; 0: no mark
     */
    marked: number;
    draft?: Draft;
    /**
     * ids of the folders in which it is; missing: none
     */
    folders?: number[];
};
export type FolderList = {
    version: number;
    folders: {
        id: number;
        name: string;
    }[];
};
export type Wish = {
    conversation: number;
    level: "all" | "mentions" | "nothing";
    /**
     * no notifications until then, in Unix seconds; 0: not muted
     */
    muteUntil: number;
};
export type MessengerEvents = {
    entry: Entry;
    anew: {};
    typing: Typing;
    receipt: Receipt;
    hidden: Hidden;
    contact: Contact;
    piece: Piece;
    arrangement: Arrangement;
    folders: FolderList;
    wish: Wish;
    threadMark: ThreadMark;
};
export type Pending = {
    cmd: string;
    data: object;
    /**
     * the connection on which it was sent; 0: none
     */
    connection: number;
    settle: (result: any) => void;
};
export type MessengerOptions = import("./imserver.js").Options & MessengerExtra;
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
export declare class Messenger extends ImClient<MessengerEvents> {
    #private;
    /** @type {number | null} the last position that has arrived */
    cursor: number | null;
    /** @param {MessengerOptions} options */
    constructor(options: MessengerOptions);
    /**
     * Sends `text` to a user, or into `more.conversation`.
     *
     * @param {string} to       empty when `more` has a conversation
     * @param {string} [text]   unless `more` has data
     * @param {More} [more]
     * @returns {Promise<Sent>} rejected with TypeError without text and data
     */
    send(to: string, text?: string, more?: More): Promise<Sent>;
    /**
     * Edits a message of ours.
     *
     * @param {number} id
     * @param {string} [text]
     * @param {{ data?: any, type?: string, mentions?: string[], buttons?: Button[][] }} [more]
     * @returns {Promise<Sent>}
     */
    edit(id: number, text?: string, more?: {
        data?: any;
        type?: string;
        mentions?: string[];
        buttons?: Button[][];
    }): Promise<Sent>;
    /**
     * Recalls a message of ours.
     *
     * @param {number} id
     * @returns {Promise<Sent>}
     */
    recall(id: number): Promise<Sent>;
    /**
     * Sends the content of a message that we can read to a user or a conversation. The receivers see who wrote it in `meta.forwarded`.
     *
     * @param {number} id
     * @param {string | { conversation: number }} to
     * @param {{ clientMsgID?: string }} [more]
     * @returns {Promise<Sent>}
     */
    forward(id: number, to: string | {
        conversation: number;
    }, more?: {
        clientMsgID?: string;
    }): Promise<Sent>;
    /**
     * Reacts to a message with an emoji, or removes our reaction. The entry follows as an event, here too.
     *
     * @param {number} id
     * @param {string} emoji
     * @param {{ remove?: boolean }} [more]
     * @returns {Promise<Annotation>}
     */
    react(id: number, emoji: string, { remove }?: {
        remove?: boolean;
    }): Promise<Annotation>;
    /**
     * A message after a reaction to it. Nothing changes if its `reactions` contain that one already.
     *
     * @param {Entry} message
     * @param {Entry} reaction  an entry of the kind `reaction`
     * @returns {Entry}
     */
    withReaction(message: Entry, { id, type, text: emoji, from, meta }: Entry): Entry;
    /**
     * A message after a reply in its thread. Nothing changes if its `replies` contain that one already.
     *
     * @param {Entry} message
     * @param {Entry} reply  a message with `meta.thread`
     * @returns {Entry}
     */
    withReply(message: Entry, { id, from, time }: Entry): Entry;
    /**
     * The threads that we follow, the one with the newest reply first.
     *
     * @param {{ before?: number, limit?: number }} [page]  `before`: `last` of the last one of the page before
     * @returns {Promise<{ threads: Thread[], hasMore: boolean }>}
     */
    threads(page?: {
        before?: number;
        limit?: number;
    }): Promise<{
        threads: Thread[];
        hasMore: boolean;
    }>;
    /**
     * The last replies in the thread of a message.
     *
     * @param {number} thread
     * @param {{ before?: number, limit?: number }} [page]  `before`: of the page after it
     * @returns {Promise<{ thread: Thread, messages: Entry[], hasMore: boolean, before: number }>}
     */
    thread(thread: number, page?: {
        before?: number;
        limit?: number;
    }): Promise<{
        thread: Thread;
        messages: Entry[];
        hasMore: boolean;
        before: number;
    }>;
    /**
     * Follows the thread of a message: we are notified of replies. Who writes in a thread, or is mentioned there, follows it by that.
     *
     * @param {number} thread
     * @param {{ remove?: boolean }} [more]  `remove`: mutes the thread
     * @returns {Promise<Thread>}
     */
    followThread(thread: number, { remove }?: {
        remove?: boolean;
    }): Promise<Thread>;
    /**
     * Stores up to which reply we have read a thread that we follow.
     *
     * @param {number} thread
     * @param {number} id
     * @returns {Promise<Thread>}
     */
    readThread(thread: number, id: number): Promise<Thread>;
    /**
     * Pins a message in its conversation, or removes the pin. The entry follows as an event, here too.
     *
     * @param {number} id
     * @param {{ remove?: boolean }} [more]
     * @returns {Promise<Annotation>}
     */
    pin(id: number, { remove }?: {
        remove?: boolean;
    }): Promise<Annotation>;
    /**
     * The pinned messages of a conversation, the one that was pinned last first.
     *
     * @param {number} conversation
     * @returns {Promise<{ messages: Entry[] }>}
     */
    pins(conversation: number): Promise<{
        messages: Entry[];
    }>;
    /**
     * Presses a button under a message of a bot. The bot receives an entry of the kind `press`.
     *
     * @param {number} id
     * @param {string} value
     * @returns {Promise<Sent>}
     */
    press(id: number, value: string): Promise<Sent>;
    /**
     * Answers a question, or votes in a poll. Rejected with CommandRefused, `refused` `answered`, if others were first, or it is closed.
     *
     * @param {number} id
     * @param {{ value: string } | { text: string } | { choices: number[] }} value  the value of an option, or free text; of a poll the
     *   options by their index, in place of our earlier choice
     * @returns {Promise<{ conversation: number, ask: Ask, id?: number, seq?: number }>}  without `id`: we had answered so before, or our
     *   vote will be counted a little later
     */
    answer(id: number, value: {
        value: string;
    } | {
        text: string;
    } | {
        choices: number[];
    }): Promise<{
        conversation: number;
        ask: Ask;
        id?: number;
        seq?: number;
    }>;
    /**
     * The slash commands of the bots in a conversation.
     *
     * @param {number} conversation
     * @returns {Promise<{ commands: BotCommand[] }>}
     */
    botCommands(conversation: number): Promise<{
        commands: BotCommand[];
    }>;
    /**
     * Begins a streamed message; for bots. It is sent once, so that no second stream is opened: rejected with NotConnected if there
     * is no answer.
     *
     * @param {{ to: string } | { conversation: number }} where
     * @param {{ text?: string, type?: string, thread?: number, stoppers?: string[] }} [more]  `text`: its beginning; `stoppers`: who
     *   may stop it (all readers, unless given)
     * @returns {Promise<{ stream: string }>}
     */
    streamOpen(where: {
        to: string;
    } | {
        conversation: number;
    }, more?: {
        text?: string;
        type?: string;
        thread?: number;
        stoppers?: string[];
    }): Promise<{
        stream: string;
    }>;
    /**
     * Appends pieces to streamed messages. The pieces of a stream have the numbers 1, 2, 3 and so on. Repeated ones are ignored.
     *
     * @param {{ stream: string, piece: number, text: string }[]} pieces
     * @returns {Promise<{ results: { stream: string, piece: number, status: string }[] }>}
     */
    streamAppend(pieces: {
        stream: string;
        piece: number;
        text: string;
    }[]): Promise<{
        results: {
            stream: string;
            piece: number;
            status: string;
        }[];
    }>;
    /**
     * Ends a streamed message, which is stored.
     *
     * @param {string} stream
     * @param {{ incomplete?: boolean }} [more]  the text is not finished
     * @returns {Promise<{ stream: string, status: string, id?: number }>}  `id`: of the message
     */
    streamClose(stream: string, { incomplete }?: {
        incomplete?: boolean;
    }): Promise<{
        stream: string;
        status: string;
        id?: number;
    }>;
    /**
     * Stops a streamed message that you read. Its text so far is stored, with you as `stopped` in `meta`.
     *
     * @param {string} stream
     * @returns {Promise<{ stream: string, status: string }>}
     */
    streamStop(stream: string): Promise<{
        stream: string;
        status: string;
    }>;
    /**
     * Sends a typing notice to a user or a conversation. Call it about every 3 s. It does nothing while offline.
     *
     * @param {{ to: string } | { conversation: number }} where
     */
    typing(where: {
        to: string;
    } | {
        conversation: number;
    }): void;
    /**
     * Stores our read position in a conversation. The senders get a receipt.
     *
     * @param {number} conversation
     * @param {number} id
     */
    read(conversation: number, id: number): Promise<any>;
    /**
     * Reports that this device has received the conversation up to this entry.
     *
     * @param {number} conversation
     * @param {number} id
     */
    received(conversation: number, id: number): Promise<any>;
    /**
     * Hides entries on all our devices.
     *
     * @param {number[]} ids
     */
    hide(ids: number[]): Promise<any>;
    /**
     * Changes what we keep about a conversation, on all our devices. 0 ends a pin, an archived state or a mark, and `{}` removes the draft.
     *
     * @param {number} conversation
     * @param {{ pinned?: number, archived?: number, marked?: number, draft?: Draft, folders?: number[] }} change
     * @returns {Promise<Arrangement>}
     */
    arrange(conversation: number, change: {
        pinned?: number;
        archived?: number;
        marked?: number;
        draft?: Draft;
        folders?: number[];
    }): Promise<Arrangement>;
    /**
     * Reports a message of somebody else, or a person, to the moderators of the app.
     *
     * @param {{ id: number } | { user: string }} target
     * @param {string} reason  one of `safety.reasons` of the app
     * @param {string} [text]  what moderators should know besides
     * @returns {Promise<{ report: string }>}
     */
    report(target: {
        id: number;
    } | {
        user: string;
    }, reason: string, text?: string): Promise<{
        report: string;
    }>;
    /**
     * Makes, names, orders and removes our folders: these are all of them, at most 20. A new one gets an id from 1 to 4294967295 at random.
     *
     * @param {{ id: number, name: string }[]} folders
     * @returns {Promise<FolderList>}
     */
    setFolders(folders: {
        id: number;
        name: string;
    }[]): Promise<FolderList>;
    /**
     * What any of our devices has changed with {@link Messenger#arrange} and {@link Messenger#setFolders} since a version.
     *
     * @param {number} [version]
     * @param {number} [limit]
     * @returns {Promise<{ arrangements: Arrangement[], version: number, hasMore: boolean, folders?: FolderList }>}  `version`: continue
     *   after it; `folders`: if they have changed
     */
    arrangements(version?: number, limit?: number): Promise<{
        arrangements: Arrangement[];
        version: number;
        hasMore: boolean;
        folders?: FolderList;
    }>;
    /**
     * The read positions and hidden entries that any of our devices has stored since a version.
     *
     * @param {number} [version]
     * @returns {Promise<{ version: number, read: { conversation: number, id: number }[], hidden: number[], receipts: { conversation: number, user: string, read: number, received: number }[] }>}
     */
    marks(version?: number): Promise<{
        version: number;
        read: {
            conversation: number;
            id: number;
        }[];
        hidden: number[];
        receipts: {
            conversation: number;
            user: string;
            read: number;
            received: number;
        }[];
    }>;
    /**
     * The positions up to which the other members have read and received a conversation.
     *
     * @param {number} conversation
     * @param {{ after?: string, limit?: number, message?: number }} [page]  `message`: only of members who have read this message
     * @returns {Promise<{ receipts: { user: string, read: number, received: number }[], hasMore: boolean }>}
     */
    receipts(conversation: number, page?: {
        after?: string;
        limit?: number;
        message?: number;
    }): Promise<{
        receipts: {
            user: string;
            read: number;
            received: number;
        }[];
        hasMore: boolean;
    }>;
    /**
     * How many other members may read each message, and have received and read it.
     *
     * @param {number} conversation
     * @param {number[]} ids  of at most 200 messages
     * @returns {Promise<{ counts: { id: number, members: number, received: number, read: number }[] }>}
     */
    receiptCounts(conversation: number, ids: number[]): Promise<{
        counts: {
            id: number;
            members: number;
            received: number;
            read: number;
        }[];
    }>;
    /**
     * Our conversations, the most recent first.
     *
     * @param {{ before?: number, limit?: number }} [page]  `before`: `place` of the last known conversation, or the id of its `last`
     * @returns {Promise<{ conversations: Conversation[], hasMore: boolean }>}
     */
    conversations(page?: {
        before?: number;
        limit?: number;
    }): Promise<{
        conversations: Conversation[];
        hasMore: boolean;
    }>;
    /**
     * The newest messages of a conversation, or the messages before or after an entry. Reactions are in the messages.
     *
     * @param {number} conversation
     * @param {HistoryPage} [page]
     * @returns {Promise<{ messages: Entry[], hasMore: boolean, before?: number }>}
     */
    history(conversation: number, page?: HistoryPage): Promise<{
        messages: Entry[];
        hasMore: boolean;
        before?: number;
    }>;
    /**
     * Messages with all words of `text`; the last may be unfinished, and a phrase stands in double quotes. With a filter `text` may be empty.
     *
     * @param {string} text
     * @param {SearchPage} [page]
     * @returns {Promise<{ messages: Entry[], hasMore: boolean, before: number }>}
     */
    search(text: string, page?: SearchPage): Promise<{
        messages: Entry[];
        hasMore: boolean;
        before: number;
    }>;
    /** @override */
    loginData(): {
        appID: number;
        app?: undefined;
        userID: string;
        serviceToken?: string | undefined;
        device?: string | undefined;
        cursor?: number | null | undefined;
        acks?: boolean | undefined;
    } | {
        appID?: undefined;
        app: string;
        userID: string;
        serviceToken?: string | undefined;
        device?: string | undefined;
        cursor?: number | null | undefined;
        acks?: boolean | undefined;
    };
    /**
     * @override
     * @param {any} frame
     * @returns {[string, any] | null}
     */
    eventIn(frame: any): [string, any] | null;
    /**
     * @override
     * @param {import("./imserver.js").Answer} answer
     */
    loggedIn(answer: import("./imserver.js").Answer): void;
}
/**
 * An entry as its type promises it, from JSON that anybody may have written: a field of another type is left out, and a time that no
 * reader can show is 0. The content, `data`, is not checked: products choose it.
 *
 * @param {any} value
 * @returns {Entry | null} null: it has no position in the log
 */
export declare function entryOf(value: any): Entry | null;
