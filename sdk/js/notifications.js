// @ts-check
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

import { RequestRefused } from "./errors.js";

/** The cache with the record of each worker. notifications-worker.js knows the name, too. */
const CACHE = "imserver:notifications";
/** Problems that say that the server has no notifications, or the app none. */
const NONE = [403, 404];
const BROWSERS = [["Edg", "Edge"], ["OPR", "Opera"], ["Firefox", "Firefox"], ["Chrome", "Chrome"], ["Safari", "Safari"]];
const SYSTEMS = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["CrOS", "ChromeOS"], ["Linux", "Linux"]];

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
export function hasNotifications() {
  return typeof navigator !== "undefined" && "serviceWorker" in navigator && "PushManager" in globalThis && "Notification" in globalThis && isSecureContext;
}

/**
 * Whether this user gets notifications on this device. If they do, but the browser has made a new subscription or the server a new
 * key, the server gets the new subscription: call it once at each start.
 *
 * @param {ImClient} client
 * @param {NotificationOptions} [options]
 * @returns {Promise<NotificationState>} rejected with the errors of requests
 */
export async function notificationState(client, options = {}) {
  const key = hasNotifications() ? await keyOf(client) : "";
  if (!key) return "unsupported";
  if (Notification.permission === "denied") return "blocked";
  const registration = await navigator.serviceWorker.getRegistration(options.scope);
  const record = registration && (await recordOf(registration));
  if (!registration || !record || Notification.permission !== "granted" || !isOf(record, client)) return "off";
  const subscription = await registration.pushManager.getSubscription();
  if (subscription?.endpoint !== record.endpoint || key !== record.key) await subscribe(client, registration, key, options);
  else if (!(await isListed(client, record))) return "off"; // removed by another device
  return "on";
}

/**
 * Asks the user, subscribes, and sends the subscription to the server. Call it when the user has clicked: browsers ask at no other time.
 *
 * @param {ImClient} client
 * @param {NotificationOptions} [options]
 * @returns {Promise<NotificationState>} `off`: the user has not answered. Rejected with the errors of requests, and those of the
 *   browser, which may not reach its push service
 */
export async function enableNotifications(client, options = {}) {
  if (!hasNotifications()) return "unsupported";
  const permission = await Notification.requestPermission(); // first: the click counts for a few seconds only
  if (permission !== "granted") return permission === "denied" ? "blocked" : "off";
  const key = await keyOf(client);
  if (!key) return "unsupported";
  const { worker, scope } = options;
  const { serviceWorker } = navigator;
  const registration = worker
    ? await serviceWorker.register(worker, { ...(scope && { scope }), updateViaCache: "none" })
    : await serviceWorker.getRegistration(scope);
  if (!registration) throw new TypeError("the page has no service worker: pass the option worker");
  await isActive(registration);
  await subscribe(client, registration, key, options);
  return "on";
}

/**
 * Ends the subscription of this device, whoever's it is. The server forgets it, too, now or when the push service says so.
 *
 * @param {ImClient} client
 * @param {NotificationOptions} [options]
 * @returns {Promise<void>}
 */
export async function disableNotifications(client, options = {}) {
  const registration = hasNotifications() && (await navigator.serviceWorker.getRegistration(options.scope));
  if (!registration) return;
  const record = await recordOf(registration);
  await (await caches.open(CACHE)).delete(registration.scope);
  await (await registration.pushManager.getSubscription())?.unsubscribe();
  for (const each of await registration.getNotifications()) each.close();
  if (!record || !isOf(record, client)) return;
  const removal = client.api("POST", "notifications/endpoints/remove", { user: client.user, id: record.id });
  await removal.catch(() => {}); // then the push service tells the server at the next notification
}

/**
 * Answers the worker: a click on a notification opens what it is about in this page, and what the page shows needs no notification.
 *
 * @param {NotificationListener} listener
 * @returns {() => void} ends it
 */
export function onNotification({ open, shows }) {
  if (!hasNotifications()) return () => {};
  const { serviceWorker } = navigator;
  const listen = (/** @type {MessageEvent} */ { data, ports: [port] }) => {
    if (data?.imserver === "shows") port?.postMessage(Boolean(shows?.(data.shown)));
    if (data?.imserver !== "open" || !open) return;
    port?.postMessage(open(data.shown) !== false);
  };
  serviceWorker.addEventListener("message", listen);
  serviceWorker.startMessages();
  return () => serviceWorker.removeEventListener("message", listen);
}

/** Clients whose page renews the subscription when the worker says so. @type {WeakSet<ImClient>} */
const renewing = new WeakSet();

/**
 * @param {ImClient} client
 * @param {ServiceWorkerRegistration} registration
 * @param {string} key  of the server
 * @param {NotificationOptions} options
 */
async function subscribe(client, registration, key, options) {
  const { pushManager } = registration;
  const known = await pushManager.getSubscription();
  const knownKey = known?.options.applicationServerKey;
  if (known && knownKey && base64url(knownKey) !== key) await known.unsubscribe(); // a subscription has one key
  const subscription = await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytesOf(key) });
  const { language = document.documentElement.lang || navigator.language, device = deviceName(), page = registration.scope } = options;
  const { endpoint, keys } = subscription.toJSON();
  const { id } = await client.api("POST", "notifications/endpoints", { user: client.user, endpoint, keys, device, language });
  const record = { url: client.httpUrl, app: String(client.app), user: client.user, key, endpoint, id, page, language, words: options.words };
  await (await caches.open(CACHE)).put(registration.scope, new Response(JSON.stringify(record)));
  if (renewing.has(client)) return;
  renewing.add(client);
  navigator.serviceWorker.addEventListener("message", ({ data }) => {
    if (data?.imserver === "renew") notificationState(client, options).catch(() => {}); // else at the next start
  });
}

/**
 * @param {ImClient} client
 * @returns {Promise<string>} empty: the server or the app has no notifications
 */
async function keyOf(client) {
  try {
    return (await client.api("GET", "notifications/key")).key;
  } catch (error) {
    if (error instanceof RequestRefused && NONE.includes(error.status)) return "";
    throw error;
  }
}

/**
 * @param {ImClient} client
 * @param {NotificationRecord} record
 */
async function isListed(client, { id }) {
  const { endpoints } = await client.api("GET", "notifications/endpoints", { user: client.user });
  return endpoints.some((/** @type {{ id: number, enabled: boolean }} */ each) => each.id === id && each.enabled);
}

/**
 * @param {ServiceWorkerRegistration} registration
 * @returns {Promise<NotificationRecord | null>}
 */
async function recordOf({ scope }) {
  const stored = await (await caches.open(CACHE)).match(scope);
  return stored ? stored.json() : null;
}

/**
 * @param {NotificationRecord} record
 * @param {ImClient} client
 */
function isOf(record, client) {
  return record.url === client.httpUrl && record.app === String(client.app) && record.user === client.user;
}

/**
 * Waits for the worker: without it browsers do not subscribe.
 *
 * @param {ServiceWorkerRegistration} registration
 */
async function isActive(registration) {
  const worker = registration.installing ?? registration.waiting;
  if (registration.active || !worker) return;
  await new Promise((resolve) => {
    worker.addEventListener("statechange", () => {
      const hasSettled = ["activated", "redundant"].includes(worker.state);
      if (hasSettled) resolve(undefined);
    });
  });
}

/** @param {ArrayBuffer} buffer */
function base64url(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** @param {string} text  base64url */
function bytesOf(text) {
  return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (character) => character.charCodeAt(0));
}

/** @returns {string} the browser and its system, which need no translation */
function deviceName() {
  const named = (/** @type {string[][]} */ names) => names.find(([mark]) => navigator.userAgent.includes(mark))?.[1];
  return [named(BROWSERS), named(SYSTEMS)].filter(Boolean).join(", ");
}
