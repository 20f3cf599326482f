// @ts-check
/**
 * The service worker of the messages page: it opens the page and its files from its store, with or without a network. They belong to
 * one version, which the server puts in `SHELL` before this text. If the server has another one, it sends another worker.
 */

/**
 * @typedef {{ version: string, page: string, languages: string[], releases: string, release: string, files: string[] }} Shell
 *   `releases`: files below it never change; `release`: those of this version are below it
 */
/** @typedef {{ request: Request, respondWith(answer: Promise<Response>): void }} FetchEvent */

const PREFIX = "imserver:messages:";

/** The scope of a worker: TypeScript's types of pages do not have it. @type {any} */
const scope = self;
const shell = /** @type {Shell} */ (scope.SHELL);
const store = `${PREFIX}${shell.version}`;
const files = new Set(shell.files);

scope.addEventListener("install", (/** @type {any} */ event) => {
  // browsers that can do it read the files of this version from the store without waking the worker
  const route = event.addRoutes?.({ condition: { urlPattern: `${shell.release}*` }, source: { cacheName: store } });
  event.waitUntil(Promise.all([install(), route?.catch(() => {})]));
});
scope.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(activate()));
scope.addEventListener("fetch", (/** @type {FetchEvent} */ event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (request.mode === "navigate" && url.pathname === shell.page) event.respondWith(open(`${shell.page}?lang=${languageOf(url)}`, request));
  else if (files.has(url.pathname + url.search) || url.pathname.startsWith(shell.releases)) event.respondWith(open(url.pathname + url.search, request));
});

/** Fetches all files and the page in each language. If one fails, the worker before this one stays. */
async function install() {
  const cache = await caches.open(store);
  const pages = shell.languages.map((language) => `${shell.page}?lang=${language}`);
  await Promise.all([...shell.files, ...pages].map(async (address) => {
    const isReleased = address.startsWith(shell.release);
    const answer = await fetch(address, { cache: isReleased ? "default" : "no-cache" });
    const isOther = isReleased ? !answer.headers.get("Cache-Control")?.includes("immutable") : pages.includes(address) && !(await answer.clone().text()).includes(shell.release);
    if (!answer.ok || isOther) throw new Error(`${address}: ${answer.status}`); // or the node has another release
    await cache.put(address, pages.includes(address) ? await delayed(answer) : answer);
  }));
  await scope.skipWaiting();
}

/**
 * What is stored needs no time to load: all modules at once would only delay those that begin. So the first module asks for the rest.
 *
 * @param {Response} page
 */
async function delayed(page) {
  return new Response((await page.text()).replace(/(<link rel="modulepreload" href="[^"]+">\s*)+/, '<template id="first-modules">$&</template>'), { headers: page.headers });
}

/** Tabs with the page of the version before may need more of its files: its store stays until the next one. */
async function activate() {
  const others = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== store);
  await Promise.all(others.slice(0, -1).map((name) => caches.delete(name)));
  await scope.clients.claim();
}

/**
 * @param {string} address
 * @param {Request} request
 * @returns {Promise<Response>} what is stored, else from the server
 */
async function open(address, request) {
  const cache = await caches.open(store);
  return (await cache.match(address, { ignoreVary: true })) ?? (await caches.match(address, { ignoreVary: true })) ?? fetch(request);
}

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
