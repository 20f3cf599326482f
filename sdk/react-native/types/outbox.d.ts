/** Messages of ours that are not stored yet. They wait on the phone while there is no connection, and are stored once. */
export type Messenger = import("imserver-client/messenger").Messenger;
export type More = import("imserver-client/messenger").More;
export type Sent = import("imserver-client/messenger").Sent;
export type StoredMessages = import("./storage.js").StoredValue<readonly Unsent[]>;
export type Where = {
    to: string;
} | {
    conversation: number;
};
export type Unsent = {
    /**
     * its `clientMsgID`
     */
    id: string;
    /**
     * the other user; empty: `more.conversation`
     */
    to: string;
    text?: string;
    more: More;
    /**
     * when it was written, milliseconds since 1970
     */
    time: number;
    /**
     * the server does not take it: send it again with `retry()`, or `discard()` it
     */
    failed: boolean;
    /**
     * why it failed
     */
    reason: string;
};
/** Owns the messages of one user that wait on this phone. Sends them one after the other. */
export declare class Outbox {
    #private;
    /** The oldest first. @type {readonly Unsent[]} */
    items: readonly Unsent[];
    /**
     * @param {Messenger} messenger
     * @param {StoredMessages} stored
     */
    constructor(messenger: Messenger, stored: StoredMessages);
    /**
     * @internal Takes the messages that an earlier start of the app has left.
     * @returns {Promise<void>}
     */
    restore(): Promise<void>;
    /**
     * @param {() => void} changed  called when there are new `items`
     * @returns {() => void} ends that
     */
    subscribe: (changed: () => void) => () => void;
    /**
     * Sends a message, now or when there is a connection, also after the app was ended.
     *
     * @param {Where} where
     * @param {string} [text]  unless `more` has data
     * @param {More} [more]
     * @returns {Promise<string>} its `clientMsgID`, when the phone has stored it; rejected if the phone cannot
     */
    send: (where: Where, text?: string, more?: More) => Promise<string>;
    /**
     * Sends a message again that has failed.
     *
     * @param {string} id
     */
    retry: (id: string) => Promise<void>;
    /**
     * Removes a message that has failed, or is not sent yet.
     *
     * @param {string} id
     */
    discard: (id: string) => Promise<void>;
    /** @internal Removes all messages: for a logout. */
    clear(): Promise<void>;
}
