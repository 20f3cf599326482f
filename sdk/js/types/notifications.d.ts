/**
 * Notifications of a browser, also while no page is open: Web Push, with the service worker of the page.
 *
 *     import { enableNotifications, notificationState } from "./notifications.js";
 *
 *     const options = { worker: "/worker.js", page: "/chat?conversation={conversation}" };
 *     button.hidden = (await notificationState(client, options)) !== "off"; // at every start
 *     button.addEventListener("click", () => enableNotifications(client, options));
 *
 * The worker has one line: `importScripts("https://im.example.com/sdk/notifications-worker.js")`. A page has one subscription, of
 * one user. The record of it is in the Cache storage, where the worker finds it.
 *
 * @module notifications
 */
export type ImClient = import("./imserver.js").ImClient;
export type NotificationState = "unsupported" | "blocked" | "off" | "on";
export type NotificationWords = {
    reply: string;
    read: string;
    notSent: string;
};
export type NotificationOptions = {
    /**
     * address of the service worker; without it the page has registered one
     */
    worker?: string;
    /**
     * of the worker; default: its folder
     */
    scope?: string;
    /**
     * address that a click opens, in which `{conversation}` and `{id}` stand for the message; default: the scope
     */
    page?: string;
    /**
     * name of this device in the list of the user's devices; default: the browser and its system
     */
    device?: string;
    /**
     * of the words that the server adds; default: that of the page
     */
    language?: string;
    /**
     * of the worker; default: English or Chinese
     */
    words?: NotificationWords;
};
export type NotificationRecord = {
    /**
     * the HTTP address of the server
     */
    url: string;
    app: string;
    user: string;
    /**
     * of the server
     */
    key: string;
    endpoint: string;
    /**
     * of the endpoint at the server
     */
    id: number;
    /**
     * with `{conversation}` and `{id}`
     */
    page: string;
    language: string;
    words?: NotificationWords;
};
export type Shown = {
    kind: "message" | "push" | "close" | "test";
    tag: string;
    title?: string;
    body?: string;
    icon?: string;
    url?: string;
    /**
     * `answer:` and a value: an option of a question
     */
    actions?: {
        action: string;
        title: string;
        url?: string;
    }[];
    conversation?: number;
    group?: boolean;
    /**
     * the newest message
     */
    id?: number;
    /**
     * of unread messages in the conversation
     */
    count?: number;
    /**
     * milliseconds since 1970
     */
    time?: number;
    token?: string;
    data?: any;
    silent?: boolean;
};
export type NotificationListener = {
    /**
     * the user has clicked on a notification: show what it is about. Without it, and if it
     * returns false, the worker opens the address
     */
    open?: (shown: Shown) => unknown;
    /**
     * whether the page shows it already, so that no notification is needed
     */
    shows?: (shown: Shown) => boolean;
};
/** @typedef {import("./imserver.js").ImClient} ImClient */
/**
 * `unsupported`: the browser, the page (without https) or the server has no notifications. `blocked`: the browser asks the user
 * no more, who must change its settings. `off`, `on`: of this user on this device.
 *
 * @typedef {"unsupported" | "blocked" | "off" | "on"} NotificationState
 */
/** @typedef {{ reply: string, read: string, notSent: string }} NotificationWords  `notSent` has `{text}` */
/**
 * @typedef {object} NotificationOptions
 * @property {string} [worker]    address of the service worker; without it the page has registered one
 * @property {string} [scope]     of the worker; default: its folder
 * @property {string} [page]      address that a click opens, in which `{conversation}` and `{id}` stand for the message; default: the scope
 * @property {string} [device]    name of this device in the list of the user's devices; default: the browser and its system
 * @property {string} [language]  of the words that the server adds; default: that of the page
 * @property {NotificationWords} [words]  of the worker; default: English or Chinese
 */
/**
 * What the worker and the page remember of a subscription.
 *
 * @typedef {object} NotificationRecord
 * @property {string} url       the HTTP address of the server
 * @property {string} app
 * @property {string} user
 * @property {string} key       of the server
 * @property {string} endpoint
 * @property {number} id        of the endpoint at the server
 * @property {string} page      with `{conversation}` and `{id}`
 * @property {string} language
 * @property {NotificationWords} [words]
 */
/**
 * What a notification shows. `conversation` 0: a push that is not stored.
 *
 * @typedef {object} Shown
 * @property {"message" | "push" | "close" | "test"} kind
 * @property {string} tag
 * @property {string} [title]
 * @property {string} [body]
 * @property {string} [icon]
 * @property {string} [url]
 * @property {{ action: string, title: string, url?: string }[]} [actions]  `answer:` and a value: an option of a question
 * @property {number} [conversation]
 * @property {boolean} [group]
 * @property {number} [id]     the newest message
 * @property {number} [count]  of unread messages in the conversation
 * @property {number} [time]   milliseconds since 1970
 * @property {string} [token]
 * @property {any} [data]
 * @property {boolean} [silent]
 */
/**
 * @typedef {object} NotificationListener
 * @property {(shown: Shown) => unknown} [open]  the user has clicked on a notification: show what it is about. Without it, and if it
 *   returns false, the worker opens the address
 * @property {(shown: Shown) => boolean} [shows]  whether the page shows it already, so that no notification is needed
 */
/** @returns {boolean} whether the browser and the page can have notifications */
export declare function hasNotifications(): boolean;
/**
 * Whether this user gets notifications on this device. If they do, but the browser has made a new subscription or the server a new
 * key, the server gets the new subscription: call it once at each start.
 *
 * @param {ImClient} client
 * @param {NotificationOptions} [options]
 * @returns {Promise<NotificationState>} rejected with the errors of requests
 */
export declare function notificationState(client: ImClient, options?: NotificationOptions): Promise<NotificationState>;
/**
 * Asks the user, subscribes, and sends the subscription to the server. Call it when the user has clicked: browsers ask at no other time.
 *
 * @param {ImClient} client
 * @param {NotificationOptions} [options]
 * @returns {Promise<NotificationState>} `off`: the user has not answered. Rejected with the errors of requests, and those of the
 *   browser, which may not reach its push service
 */
export declare function enableNotifications(client: ImClient, options?: NotificationOptions): Promise<NotificationState>;
/**
 * Ends the subscription of this device, whoever's it is. The server forgets it, too, now or when the push service says so.
 *
 * @param {ImClient} client
 * @param {NotificationOptions} [options]
 * @returns {Promise<void>}
 */
export declare function disableNotifications(client: ImClient, options?: NotificationOptions): Promise<void>;
/**
 * Answers the worker: a click on a notification opens what it is about in this page, and what the page shows needs no notification.
 *
 * @param {NotificationListener} listener
 * @returns {() => void} ends it
 */
export declare function onNotification({ open, shows }: NotificationListener): () => void;
