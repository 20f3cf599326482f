/**
 * Push notifications of a phone: its token, what a notification is about, and its actions. The module imports neither React nor the
 * libraries of push services: the app passes the library to {@link firebase} or {@link expo}.
 */
export type ImClient = import("imserver-client").ImClient;
export type NotificationState = import("imserver-client/notifications").NotificationState;
export type PhoneStorage = import("./storage.js").PhoneStorage;
export type PushToken = {
    service: "fcm" | "apns" | "hms";
    token: string;
};
export type Response = {
    /**
     * as the push service has delivered it
     */
    payload: any;
    /**
     * of the notification; empty: unknown
     */
    id: string;
    /**
     * of a button; empty: none, the notification itself
     */
    action: string;
    /**
     * of a reply; empty: none
     */
    text: string;
};
export type PushSource = {
    /**
     * asks the user, unless they have answered, and says whether they allow notifications
     */
    permit: () => Promise<boolean>;
    token: () => Promise<PushToken>;
    /**
     * there is a new token; returns what ends that
     */
    onToken: (listener: (token: PushToken) => void) => () => void;
    /**
     * ends the token
     */
    remove?: () => Promise<unknown>;
    /**
     * what has started the app; null: no notification
     */
    first?: () => Promise<Response | null>;
    /**
     * while the app runs
     */
    onResponse?: (listener: (response: Response) => void) => () => void;
};
export type Notice = {
    /**
     * `message`, `push`, `close` or `test`
     */
    kind: string;
    tag: string;
    /**
     * 0: a push that is not stored
     */
    conversation: number;
    /**
     * the newest message
     */
    entry: number;
    /**
     * unread messages of the conversation
     */
    count: number;
    /**
     * empty if the phone shows the notification itself
     */
    title: string;
    body: string;
    url: string;
    actions: {
        action: string;
        title: string;
        url?: string;
    }[];
    /**
     * for {@link act}; empty: there are no actions
     */
    token: string;
    /**
     * of the push
     */
    data?: any;
};
export type PushOptions = {
    storage: PhoneStorage;
    /**
     * name of this phone in the list of the user's devices
     */
    device?: string;
    /**
     * of the words that the server adds, such as `en`
     */
    language?: string;
};
export type PushRecord = {
    user: string;
    endpoint: string;
    id: number;
};
/** Owns the push token of one user on this phone. */
export declare class PushTokens {
    #private;
    /**
     * @param {ImClient} client
     * @param {PushSource} source
     * @param {PushOptions} options
     */
    constructor(client: ImClient, source: PushSource, options: PushOptions);
    /**
     * Whether this user gets notifications on this phone. If they do, and the phone has a new token, the server gets it: call it at each
     * start.
     *
     * @returns {Promise<NotificationState>} rejected with the errors of requests
     */
    state(): Promise<NotificationState>;
    /**
     * Asks the user, and sends the token to the server.
     *
     * @returns {Promise<NotificationState>} rejected with the errors of requests, and the errors of the push service
     */
    enable(): Promise<NotificationState>;
    /**
     * Ends notifications on this phone. Call it before a logout. The server forgets the token, now or when the push service says so.
     *
     * @returns {Promise<void>}
     */
    disable(): Promise<void>;
    /**
     * Sends each new token to the server, while notifications are on.
     *
     * @returns {() => void} ends that
     */
    follow(): () => void;
}
/**
 * What a notification is about.
 *
 * @param {any} payload  of a push, or an object that has it as the libraries of Firebase, Expo, Notifee and Huawei hand it over
 * @returns {Notice | null} null: it is not of this server
 */
export declare function noticeIn(payload: any): Notice | null;
/**
 * Marks the conversation of a notification as read, sends a reply, or answers a question, with the token of the notification: nobody needs
 * to be logged in. It is tried for 20 s. The server sends a reply once.
 *
 * @param {Notice} notice
 * @param {string} action  `read`, `reply`, or `answer:` and the value of an option
 * @param {{ httpUrl: string, text?: string, fetch?: typeof globalThis.fetch }} options  `text`: of the reply
 * @returns {Promise<boolean>} whether the server has done it
 */
export declare function act({ token }: Notice, action: string, { httpUrl, text, fetch: send }: {
    httpUrl: string;
    text?: string;
    fetch?: typeof globalThis.fetch;
}): Promise<boolean>;
export type Opened = {
    /**
     * of a button, or of the notification
     */
    url?: string;
    /**
     * a reply that was not sent: show it in the composer
     */
    draft?: string;
};
/**
 * @typedef {object} Opened
 * @property {string} [url]    of a button, or of the notification
 * @property {string} [draft]  a reply that was not sent: show it in the composer
 */
/**
 * Carries out "Mark as read", "Reply" and answers to questions, and opens what other notifications are about. It begins with the
 * notification that has started the app.
 *
 * @param {PushSource} source
 * @param {{ httpUrl: string, open: (notice: Notice, opened: Opened) => unknown, fetch?: typeof globalThis.fetch }} options
 * @returns {() => void} ends that
 */
export declare function onNotificationOpened(source: PushSource, { httpUrl, open, fetch }: {
    httpUrl: string;
    open: (notice: Notice, opened: Opened) => unknown;
    fetch?: typeof globalThis.fetch;
}): () => void;
export type FirebaseMessaging = {
    getToken: () => Promise<string>;
    onTokenRefresh: (listener: (token: string) => any) => () => void;
    deleteToken: () => Promise<void>;
    requestPermission: () => Promise<number>;
    getInitialNotification: () => Promise<any>;
    onNotificationOpenedApp: (listener: (message: any) => any) => () => void;
};
/**
 * `messaging()` of `@react-native-firebase/messaging`.
 *
 * @typedef {object} FirebaseMessaging
 * @property {() => Promise<string>} getToken
 * @property {(listener: (token: string) => any) => () => void} onTokenRefresh
 * @property {() => Promise<void>} deleteToken
 * @property {() => Promise<number>} requestPermission
 * @property {() => Promise<any>} getInitialNotification
 * @property {(listener: (message: any) => any) => () => void} onNotificationOpenedApp
 */
/**
 * Tokens and notifications of Firebase, also on iOS.
 *
 * @param {FirebaseMessaging} messaging
 * @returns {PushSource}
 */
export declare function firebase(messaging: FirebaseMessaging): PushSource;
export type ExpoNotifications = {
    requestPermissionsAsync: () => Promise<{
        granted: boolean;
    }>;
    getDevicePushTokenAsync: () => Promise<{
        type: string;
        data: any;
    }>;
    addPushTokenListener: (listener: (token: {
        type: string;
        data: any;
    }) => void) => {
        remove: () => void;
    };
    unregisterForNotificationsAsync: () => Promise<void>;
    getLastNotificationResponseAsync: () => Promise<any>;
    clearLastNotificationResponseAsync: () => Promise<void>;
    addNotificationResponseReceivedListener: (listener: (response: any) => void) => {
        remove: () => void;
    };
    DEFAULT_ACTION_IDENTIFIER: string;
};
/**
 * The module `expo-notifications`.
 *
 * @typedef {object} ExpoNotifications
 * @property {() => Promise<{ granted: boolean }>} requestPermissionsAsync
 * @property {() => Promise<{ type: string, data: any }>} getDevicePushTokenAsync
 * @property {(listener: (token: { type: string, data: any }) => void) => { remove: () => void }} addPushTokenListener
 * @property {() => Promise<void>} unregisterForNotificationsAsync
 * @property {() => Promise<any>} getLastNotificationResponseAsync
 * @property {() => Promise<void>} clearLastNotificationResponseAsync
 * @property {(listener: (response: any) => void) => { remove: () => void }} addNotificationResponseReceivedListener
 * @property {string} DEFAULT_ACTION_IDENTIFIER
 */
/**
 * Tokens and notifications of Expo: of APNs on iOS, of FCM on Android.
 *
 * @param {ExpoNotifications} notifications
 * @returns {PushSource}
 */
export declare function expo(notifications: ExpoNotifications): PushSource;
