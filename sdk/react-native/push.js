// @ts-check
/**
 * Push notifications of a phone: its token, what a notification is about, and its actions. The module imports neither React nor the
 * libraries of push services: the app passes the library to {@link firebase} or {@link expo}.
 */

import { RequestRefused } from "imserver-client/errors";

import { StoredValue } from "./storage.js";

/** @typedef {import("imserver-client").ImClient} ImClient */
/** @typedef {import("imserver-client/notifications").NotificationState} NotificationState */
/** @typedef {import("./storage.js").PhoneStorage} PhoneStorage */

/** @typedef {{ service: "fcm" | "apns" | "hms", token: string }} PushToken */

/**
 * What the user has done with a notification.
 *
 * @typedef {object} Response
 * @property {any} payload     as the push service has delivered it
 * @property {string} id       of the notification; empty: unknown
 * @property {string} action   of a button; empty: none, the notification itself
 * @property {string} text     of a reply; empty: none
 */

/**
 * Where tokens and notifications come from: {@link firebase}, {@link expo}, or an object of the app.
 *
 * @typedef {object} PushSource
 * @property {() => Promise<boolean>} permit     asks the user, unless they have answered, and says whether they allow notifications
 * @property {() => Promise<PushToken>} token
 * @property {(listener: (token: PushToken) => void) => () => void} onToken  there is a new token; returns what ends that
 * @property {() => Promise<unknown>} [remove]   ends the token
 * @property {() => Promise<Response | null>} [first]  what has started the app; null: no notification
 * @property {(listener: (response: Response) => void) => () => void} [onResponse]  while the app runs
 */

/**
 * What a notification is about, as the server has sent it.
 *
 * @typedef {object} Notice
 * @property {string} kind          `message`, `push`, `close` or `test`
 * @property {string} tag
 * @property {number} conversation  0: a push that is not stored
 * @property {number} entry         the newest message
 * @property {number} count         unread messages of the conversation
 * @property {string} title         empty if the phone shows the notification itself
 * @property {string} body
 * @property {string} url
 * @property {{ action: string, title: string, url?: string }[]} actions
 * @property {string} token         for {@link act}; empty: there are no actions
 * @property {any} [data]           of the push
 */

/**
 * @typedef {object} PushOptions
 * @property {PhoneStorage} storage
 * @property {string} [device]    name of this phone in the list of the user's devices
 * @property {string} [language]  of the words that the server adds, such as `en`
 */

/** @typedef {{ user: string, endpoint: string, id: number }} PushRecord */

/** The action of an option of a question is this prefix and the value of the option. */
const ANSWER_PREFIX = "answer:";
/** Pauses between tries to send an action. */
const RETRIES_MS = [1_000, 4_000, 15_000];
const TOO_MANY_REQUESTS = 429;
/** HTTP statuses with which a server or an app without notifications answers. */
const OFF_STATUSES = [403, 404];
/** The longest language, in characters. */
const LANGUAGE_LENGTH = 16;

/** Owns the push token of one user on this phone. */
export class PushTokens {
  #client;
  #source;
  #options;
  /** @type {StoredValue<PushRecord>} */
  #record;

  /**
   * @param {ImClient} client
   * @param {PushSource} source
   * @param {PushOptions} options
   */
  constructor(client, source, options) {
    this.#client = client;
    this.#source = source;
    this.#options = options;
    this.#record = new StoredValue(options.storage, "push", client.httpUrl, String(client.app));
  }

  /**
   * Whether this user gets notifications on this phone. If they do, and the phone has a new token, the server gets it: call it at each
   * start.
   *
   * @returns {Promise<NotificationState>} rejected with the errors of requests
   */
  async state() {
    const record = await this.#record.get();
    if (record?.user !== this.#client.user) return "off";
    if (!(await this.#source.permit())) return "blocked";

    const token = await this.#source.token();
    if (endpointOf(token) !== record.endpoint) return this.#add(token);
    const { endpoints } = await this.#client.api("GET", "notifications/endpoints", { user: this.#client.user });
    const isListed = endpoints.some((/** @type {{ id: number, enabled: boolean }} */ { id, enabled }) => id === record.id && enabled);
    return isListed ? "on" : "off"; // removed by another device
  }

  /**
   * Asks the user, and sends the token to the server.
   *
   * @returns {Promise<NotificationState>} rejected with the errors of requests, and the errors of the push service
   */
  async enable() {
    if (!(await this.#source.permit())) return "blocked";
    return this.#add(await this.#source.token());
  }

  /**
   * Ends notifications on this phone. Call it before a logout. The server forgets the token, now or when the push service says so.
   *
   * @returns {Promise<void>}
   */
  async disable() {
    const record = await this.#record.get();
    await this.#record.set(null);
    const { user } = this.#client;
    if (record?.user === user) {
      const removed = this.#client.api("POST", "notifications/endpoints/remove", { user, id: record.id });
      await removed.catch(() => {}); // the push service tells the server
    }
    await this.#source.remove?.();
  }

  /**
   * Sends each new token to the server, while notifications are on.
   *
   * @returns {() => void} ends that
   */
  follow() {
    return this.#source.onToken(async (token) => {
      const record = await this.#record.get();
      if (record?.user !== this.#client.user || record.endpoint === endpointOf(token)) return;
      await this.#add(token).catch(() => {}); // if it fails, the next start sends the token
    });
  }

  /**
   * Sends a token to the server, and remembers it on the phone.
   *
   * @param {PushToken} token
   * @returns {Promise<NotificationState>}
   */
  async #add(token) {
    const { user } = this.#client;
    const endpoint = endpointOf(token);
    const { device = "", language = languageHere() } = this.#options;
    const before = await this.#record.get();
    const isNewToken = before?.user === user && before.endpoint !== endpoint;
    const replaces = isNewToken ? before.endpoint : "";
    try {
      const { id } = await this.#client.api("POST", "notifications/endpoints", { user, endpoint, device, language, ...(replaces && { replaces }) });
      await this.#record.set({ user, endpoint, id });
      return "on";
    } catch (error) {
      if (error instanceof RequestRefused && OFF_STATUSES.includes(error.status)) return "unsupported";
      throw error;
    }
  }
}

/**
 * What a notification is about.
 *
 * @param {any} payload  of a push, or an object that has it as the libraries of Firebase, Expo, Notifee and Huawei hand it over
 * @returns {Notice | null} null: it is not of this server
 */
export function noticeIn(payload) {
  const request = payload?.notification?.request ?? payload?.request;
  const candidates = [
    payload, payload?.data, payload?.notification?.data, request?.content?.data, request?.trigger?.payload, request?.trigger?.remoteMessage?.data,
  ];
  for (const candidate of candidates) {
    const notice = noticeOf(typeof candidate === "string" ? candidate : candidate?.imserver);
    if (notice) return notice;
  }
  return null;
}

/**
 * Marks the conversation of a notification as read, sends a reply, or answers a question, with the token of the notification: nobody needs
 * to be logged in. It is tried for 20 s. The server sends a reply once.
 *
 * @param {Notice} notice
 * @param {string} action  `read`, `reply`, or `answer:` and the value of an option
 * @param {{ httpUrl: string, text?: string, fetch?: typeof globalThis.fetch }} options  `text`: of the reply
 * @returns {Promise<boolean>} whether the server has done it
 */
export async function act({ token }, action, { httpUrl, text, fetch: send = globalThis.fetch }) {
  const url = `${httpUrl.replace(/\/+$/, "")}/api/v1/notifications/act`;
  const answer = action.startsWith(ANSWER_PREFIX) && { action: "answer", value: action.slice(ANSWER_PREFIX.length) };
  const body = JSON.stringify({ token, action, ...(action === "reply" && { text }), ...answer });
  for (const pauseMs of [...RETRIES_MS, 0]) {
    const response = await send(url, {
      method: "POST", headers: { "Content-Type": "application/json" }, body, credentials: "omit",
    }).catch(() => null);
    if (response?.ok) return true;
    const isRefused = response && response.status < 500 && response.status !== TOO_MANY_REQUESTS;
    if (isRefused) return false;
    if (pauseMs) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  return false;
}

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
export function onNotificationOpened(source, { httpUrl, open, fetch }) {
  let isOver = false;
  /** Responses that are handled. Libraries report the notification that has started the app twice. */
  const handled = new Set();
  const handle = async (/** @type {Response | null} */ response) => {
    const notice = response && noticeIn(response.payload);
    if (isOver || !notice || !response) return;
    const { id, action, text } = response;
    const key = `${id} ${action}`;
    if (handled.has(key)) return;
    if (id) handled.add(key);

    const isReply = action === "reply" && text.trim() !== "";
    const canAct = notice.token && (action === "read" || isReply || action.startsWith(ANSWER_PREFIX));
    if (canAct && (await act(notice, action, { httpUrl, text, fetch }))) return;
    const chosen = notice.actions.find((each) => each.action === action);
    const url = chosen?.url || notice.url;
    open(notice, { ...(url && { url }), ...(isReply && { draft: text }) });
  };
  source.first?.().then(handle, () => {});
  const stop = source.onResponse?.(handle);
  return () => {
    isOver = true;
    stop?.();
  };
}

// --- libraries ---------------------------------------------------------------------------------------------

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
export function firebase(messaging) {
  const tokenOf = (/** @type {string} */ token) => /** @type {PushToken} */ ({ service: "fcm", token });
  const responseOf = (/** @type {any} */ message) => message && { payload: message, id: message.messageId ?? "", action: "", text: "" };
  return {
    permit: async () => (await messaging.requestPermission()) > 0,
    token: async () => tokenOf(await messaging.getToken()),
    onToken: (listener) => messaging.onTokenRefresh((token) => listener(tokenOf(token))),
    remove: () => messaging.deleteToken(),
    first: async () => responseOf(await messaging.getInitialNotification()),
    onResponse: (listener) => messaging.onNotificationOpenedApp((message) => listener(responseOf(message))),
  };
}

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
export function expo(notifications) {
  const tokenOf = (/** @type {{ type: string, data: any }} */ { type, data }) => {
    const service = type === "ios" || type === "apns" ? "apns" : "fcm";
    return /** @type {PushToken} */ ({ service, token: String(data) });
  };
  const responseOf = (/** @type {any} */ response) => {
    if (!response) return response;
    const { notification, actionIdentifier, userText } = response;
    const isTap = actionIdentifier === notifications.DEFAULT_ACTION_IDENTIFIER;
    return {
      payload: response,
      id: notification?.request?.identifier ?? "",
      action: isTap ? "" : actionIdentifier ?? "",
      text: userText ?? "",
    };
  };
  return {
    permit: async () => (await notifications.requestPermissionsAsync()).granted,
    token: async () => tokenOf(await notifications.getDevicePushTokenAsync()),
    onToken: (listener) => {
      const subscription = notifications.addPushTokenListener((token) => listener(tokenOf(token)));
      return () => subscription.remove();
    },
    remove: () => notifications.unregisterForNotificationsAsync(),
    first: async () => {
      const response = responseOf(await notifications.getLastNotificationResponseAsync());
      await notifications.clearLastNotificationResponseAsync(); // the next start would get it again
      return response;
    },
    onResponse: (listener) => {
      const subscription = notifications.addNotificationResponseReceivedListener((response) => listener(responseOf(response)));
      return () => subscription.remove();
    },
  };
}

/** @param {PushToken} token */
function endpointOf({ service, token }) {
  return `${service}:${token}`;
}

/**
 * Reads a notification from a payload, in which any app may have written anything.
 *
 * @param {unknown} value  an object, or its JSON
 * @returns {Notice | null} null: it is not of this server
 */
function noticeOf(value) {
  /** @type {any} */
  let notice = value;
  try {
    if (typeof value === "string") notice = JSON.parse(value);
  } catch {
    return null;
  }
  if (typeof notice?.kind !== "string") return null;
  const { kind, tag, conversation, entry, count, title, body, url, actions, token, data } = notice;
  const textOf = (/** @type {unknown} */ text) => (typeof text === "string" ? text : "");
  const numberOf = (/** @type {unknown} */ number) => (Number.isSafeInteger(number) ? Number(number) : 0);
  const knownActions = Array.isArray(actions) ? actions.filter((each) => typeof each?.action === "string") : [];
  return {
    kind,
    tag: textOf(tag),
    conversation: numberOf(conversation),
    entry: numberOf(entry),
    count: numberOf(count),
    title: textOf(title),
    body: textOf(body),
    url: textOf(url),
    actions: knownActions,
    token: textOf(token),
    ...(data !== undefined && { data }),
  };
}

/** @returns {string} the language of the phone, as `en-US` */
function languageHere() {
  const { locale } = Intl.DateTimeFormat().resolvedOptions();
  const languageAndRegion = locale.split("-").slice(0, 2).join("-");
  return languageAndRegion.slice(0, LANGUAGE_LENGTH);
}
