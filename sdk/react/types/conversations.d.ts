/** The list of the user's conversations as a page shows it. The module does not import React. */
export type Conversation = import("imserver-client/messenger").Conversation;
export type Entry = import("imserver-client/messenger").Entry;
export type Messenger = import("imserver-client/messenger").Messenger;
export type ConversationsView = {
    /**
     * the conversations that are loaded, the one with the newest entry first
     */
    conversations: Conversation[];
    /**
     * older conversations exist
     */
    hasMore: boolean;
    /**
     * why the last request failed
     */
    error: Error | null;
};
/** Owns the view of the list, and follows it between `start()` and the function that `start()` returns. */
export declare class Conversations {
    #private;
    view: ConversationsView;
    /**
     * @param {Messenger | null} messenger
     * @param {number} pageSize
     */
    constructor(messenger: Messenger | null, pageSize: number);
    /**
     * @param {() => void} changed  called when there is a new `view`
     * @returns {() => void} ends that
     */
    subscribe: (changed: () => void) => () => void;
    /**
     * Loads the newest conversations and follows them.
     *
     * @returns {() => void} ends that
     */
    start(): () => void;
    /** Loads the conversations after the last one that is loaded. */
    loadMore: () => Promise<void>;
}
