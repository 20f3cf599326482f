/**
 * React hooks for the clients of `imserver-client`.
 *
 *     const { client, state } = useImClient(() => new Messenger({ url, httpUrl, app, user, token, cursor: null }), [user]);
 *     const { entries, send } = useConversation(client, { to: "bob" });
 *
 * @module hooks
 */
import { Conversation } from "./conversation.js";
import { Conversations } from "./conversations.js";
export { storedEntry } from "./conversation.js";
export type ImClient = import("imserver-client").ImClient;
export type Push = import("imserver-client").Push;
export type StateChange = import("imserver-client").StateChange;
export type Entry = import("imserver-client/messenger").Entry;
export type Messenger = import("imserver-client/messenger").Messenger;
export type NotificationOptions = import("imserver-client/notifications").NotificationOptions;
export type NotificationState = import("imserver-client/notifications").NotificationState;
export type ConversationView = import("./conversation.js").ConversationView;
export type Where = import("./conversation.js").Where;
export type ConversationsView = import("./conversations.js").ConversationsView;
/**
 * Makes a client, connects it, and closes it when the component is unmounted or a dependency changes.
 *
 * @template {ImClient} C
 * @param {() => C} make
 * @param {readonly unknown[]} deps  as of `useEffect`: what `make` depends on
 * @returns {{ client: C | null, state: StateChange }} `client` is null until the component is mounted
 */
export declare function useImClient<C extends ImClient>(make: () => C, deps: readonly unknown[]): {
    client: C | null;
    state: StateChange;
};
/**
 * The live messages (event `msg`) that have arrived since the component was mounted.
 *
 * @param {ImClient | null} client
 * @param {number} [limit]  how many of them are kept, the newest ones
 * @returns {Push[]} the oldest first
 */
export declare function useMessages(client: ImClient | null, limit?: number): Push[];
/**
 * Which users are online. It follows the notices of logins and logouts. Since a server sends no notices in large apps, it
 * also asks after each login and every `everyMs`.
 *
 * @param {ImClient | null} client
 * @param {string[]} users
 * @param {number} [everyMs]
 * @returns {Record<string, boolean>} user → whether they are online; a user is missing if it is not known
 */
export declare function usePresence(client: ImClient | null, users: string[], everyMs?: number): Record<string, boolean>;
/**
 * A stored conversation with a user or of a group.
 *
 * @param {Messenger | null} messenger
 * @param {Where} where
 * @param {number} [pageSize]  messages that are loaded at a time, at most 200
 * @returns {ConversationView & { questions: Entry[] } & Pick<Conversation, "loadEarlier" | "send" | "edit" | "recall" | "answer" | "markRead" | "typing">}
 *   `questions`: the open questions in `entries`; `meta.ask` says what is asked
 */
export declare function useConversation(messenger: Messenger | null, where: Where, pageSize?: number): ConversationView & {
    questions: Entry[];
} & Pick<Conversation, "loadEarlier" | "send" | "edit" | "recall" | "answer" | "markRead" | "typing">;
/**
 * The user's conversations, the one with the newest entry first.
 *
 * @param {Messenger | null} messenger
 * @param {number} [pageSize]  conversations that are loaded at a time, at most 200
 * @returns {ConversationsView & Pick<Conversations, "loadMore">}
 */
export declare function useConversations(messenger: Messenger | null, pageSize?: number): ConversationsView & Pick<Conversations, "loadMore">;
/**
 * Notifications of the user on this device. Call `enable` when the user has clicked: browsers ask at no other time.
 *
 * @param {ImClient | null} client
 * @param {NotificationOptions} [options]  the options of the first call count
 * @returns {{ state: NotificationState | null, enable: () => Promise<void>, disable: () => Promise<void> }} `state` is null until it is
 *   known. Both functions are rejected with the errors of requests
 */
export declare function useNotifications(client: ImClient | null, options?: NotificationOptions): {
    state: NotificationState | null;
    enable: () => Promise<void>;
    disable: () => Promise<void>;
};
