// @ts-check
/**
 * The service worker of the messages page. It asks the network first. If the server does not answer, it opens the page
 * from its store: the files of one release, which the server lists in `SHELL` before this text. The SDK's part shows notifications.
 */

/** @typedef {{ version: string, page: string, languages: string[], files: string[] }} Shell */
/** @typedef {{ request: Request, clientId: string, resultingClientId: string, respondWith(answer: Promise<Response>): void, waitUntil(work: Promise<unknown>): void }} FetchEvent */

const PATIENCE_MS = 4_000;
const PREFIX = "imserver:messages:";

/** The scope of a worker: TypeScript's types of pages do not have it. @type {any} */
const scope = self;
const shell = /** @type {Shell} */ (scope.SHELL);
const store = `${PREFIX}${shell.version}`;
const files = new Set(shell.files);
/** Ids of the tabs whose page came from the store. Their files come from there too, so no page mixes two releases. @type {Set<string>} */
const offline = new Set();

scope.importScripts("/sdk/notifications-worker.js");
scope.addEventListener("install", (/** @type {any} */ event) => event.waitUntil(install()));
scope.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(activate()));
scope.addEventListener("fetch", (/** @type {FetchEvent} */ event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (request.mode === "navigate" && url.pathname === shell.page) event.respondWith(openPage(event, url));
  else if (files.has(url.pathname)) event.respondWith(open(event, url));
});

/** Fetches all files and the page in each language. If one fails, the worker before this one stays. */
async function install() {
  const cache = await caches.open(store);
  const pages = shell.languages.map((language) => `${shell.page}?lang=${language}`);
  await Promise.all([...shell.files, ...pages].map(async (address) => {
    const answer = await fetch(address, { cache: "no-cache" });
    if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
    await cache.put(address, answer);
  }));
  await scope.skipWaiting();
}

async function activate() {
  const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== store);
  await Promise.all(old.map((name) => caches.delete(name)));
  await scope.clients.claim();
}

/**
 * @param {FetchEvent} event
 * @param {URL} url
 * @returns {Promise<Response>}
 */
async function openPage(event, url) {
  const address = `${shell.page}?lang=${languageOf(url)}`;
  const network = fetch(event.request);
  const answer = await Promise.race([network.catch(() => null), wait(PATIENCE_MS)]);
  const cache = await caches.open(store);
  if (answer && answer.status < 500) {
    if (answer.ok) event.waitUntil(cache.put(address, answer.clone()).catch(() => {})); // no space left: the stored page stays
    return answer;
  }
  const stored = await cache.match(address, { ignoreVary: true });
  if (!stored) return network;
  offline.add(event.resultingClientId);
  return stored;
}

/**
 * @param {FetchEvent} event
 * @param {URL} url
 * @returns {Promise<Response>}
 */
async function open(event, url) {
  if (!offline.has(event.clientId)) {
    const answer = await fetch(event.request).catch(() => null);
    if (answer && answer.status < 500) return answer;
  }
  return (await caches.match(url.pathname, { cacheName: store, ignoreVary: true })) ?? fetch(event.request);
}

/** @param {number} milliseconds @returns {Promise<null>} */
const wait = (milliseconds) => new Promise((done) => setTimeout(() => done(null), milliseconds));

/**
 * The language that the server chooses for this address.
 *
 * @param {URL} url
 * @returns {string}
 */
function languageOf(url) {
  const asked = [url.searchParams.get("lang") ?? "", ...navigator.languages.map((tag) => tag.toLowerCase().split("-")[0])];
  return asked.find((language) => shell.languages.includes(language)) ?? "en";
}
