/** A stored conversation as a page shows it. The module does not import React. */
export type Ask = import("imserver-client/messenger").Ask;
export type Entry = import("imserver-client/messenger").Entry;
export type Messenger = import("imserver-client/messenger").Messenger;
export type More = import("imserver-client/messenger").More;
export type Sent = import("imserver-client/messenger").Sent;
export type Where = {
    to: string;
} | {
    conversation: number;
};
export type ConversationView = {
    /**
     * the messages that are loaded, the oldest first, with edits, recalls and reactions applied; a recalled
     * message has no content, and `about` is its own `id`
     */
    entries: Entry[];
    /**
     * older messages exist
     */
    hasMore: boolean;
    /**
     * who is typing; empty: nobody
     */
    typingUser: string;
    /**
     * why the last request for messages failed
     */
    error: Error | null;
};
/** Owns the view of one conversation, and follows it between `start()` and the function that `start()` returns. */
export declare class Conversation {
    #private;
    view: ConversationView;
    /**
     * @param {Messenger | null} messenger
     * @param {Where} where
     * @param {number} pageSize
     */
    constructor(messenger: Messenger | null, where: Where, pageSize: number);
    /**
     * @param {() => void} changed  called when there is a new `view`
     * @returns {() => void} ends that
     */
    subscribe: (changed: () => void) => () => void;
    /**
     * Loads the newest messages and follows the conversation.
     *
     * @returns {() => void} ends that
     */
    start(): () => void;
    /** Loads the messages before the oldest one that is loaded. */
    loadEarlier: () => Promise<void>;
    /**
     * Sends a text, or `more.data`. Rejected as {@link Messenger#send}.
     *
     * @param {string} [text]
     * @param {More} [more]
     */
    send: (text?: string, more?: More) => Promise<void>;
    /**
     * Changes a message of ours. Rejected as {@link Messenger#send}.
     *
     * @param {number} id
     * @param {string} text
     */
    edit: (id: number, text: string) => Promise<void>;
    /**
     * Recalls a message of ours. Rejected as {@link Messenger#send}.
     *
     * @param {number} id
     */
    recall: (id: number) => Promise<void>;
    /**
     * Answers a question with the value of an option, or in own words. Rejected as {@link Messenger#send}: `refused` of the error is
     * `answered` if somebody else was faster. Then, too, `entries` say who has answered.
     *
     * @param {number} id
     * @param {{ value: string } | { text: string }} given
     */
    answer: (id: number, given: {
        value: string;
    } | {
        text: string;
    }) => Promise<void>;
    /** Stores that we have read what is loaded. */
    markRead: () => Promise<void>;
    /** Tells the others that we are typing. Call it on every key press: it sends a notice every 3 s. */
    typing: () => void;
}
/**
 * The entry of a message or change of ours, which the server does not send to its own connection.
 *
 * @param {Messenger} messenger  which has sent it
 * @param {string} kind
 * @param {Sent} sent            the answer
 * @param {Partial<Entry>} content
 * @returns {Entry}
 */
export declare function storedEntry({ user }: Messenger, kind: string, { id, conversation, seq, replaced }: Sent, { text, data, type, ...content }: Partial<Entry>): Entry;
