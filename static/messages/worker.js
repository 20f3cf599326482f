// @ts-check
/**
 * The service worker of the messages page: it opens the page and its files from its store, with or without a network. They belong to
 * one version, which the server puts in `SHELL` before this text. If the server has another one, it sends another worker.
 */

/**
 * @typedef {{ version: string, page: string, manifest: string, languages: string[], releases: string, release: string, files: string[] }} Shell
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
  if (request.mode === "navigate" && url.pathname === shell.page) event.respondWith(openPage(languageOf(url), request));
  else if (url.pathname === shell.manifest || files.has(url.pathname + url.search) || url.pathname.startsWith(shell.releases)) event.respondWith(open(url.pathname + url.search, request));
});

/** Fetches all files, and the page in the languages in which it is open. If one fails, the worker before this one stays. */
async function install() {
  const cache = await caches.open(store);
  const windows = await scope.clients.matchAll({ type: "window", includeUncontrolled: true });
  const opened = windows.map((/** @type {{ url: string }} */ each) => new URL(each.url)).filter((/** @type {URL} */ url) => url.pathname === shell.page);
  const languages = new Set(opened.map(languageOf));
  if (!languages.size) languages.add(languageOf(new URL(location.href)));
  await Promise.all([...[...languages].map(addPage), ...shell.files.map(async (address) => {
    const isReleased = address.startsWith(shell.release);
    const answer = await fetch(address, { cache: isReleased ? "default" : "no-cache" });
    const isOther = isReleased && !answer.headers.get("Cache-Control")?.includes("immutable");
    if (!answer.ok || isOther) throw new Error(`${address}: ${answer.status}`); // or the node has another release
    await cache.put(address, answer);
  })]);
  await scope.skipWaiting();
}

/**
 * Stores the page in a language.
 *
 * @param {string} language
 */
async function addPage(language) {
  const [address, manifest] = [shell.page, shell.manifest].map((each) => `${each}?lang=${language}`);
  const answer = await fetch(address, { cache: "no-cache" });
  const isOther = !(await answer.clone().text()).includes(shell.release);
  if (!answer.ok || isOther) throw new Error(`${address}: ${answer.status}`); // or the node has another release
  const cache = await caches.open(store);
  await Promise.all([cache.put(address, await delayed(answer)), cache.add(manifest)]);
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
 * The page in a language, which is stored when it is first opened. Without a network it may be in another one.
 *
 * @param {string} language
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function openPage(language, request) {
  const cache = await caches.open(store);
  const address = `${shell.page}?lang=${language}`;
  const stored = await cache.match(address, { ignoreVary: true });
  if (stored) return stored; // a reload waits for nothing else
  await addPage(language).catch(() => {}); // the server may have another release
  return open(address, request).catch(async (error) => {
    const other = (await cache.keys()).find(({ url }) => new URL(url).pathname === shell.page);
    return (other && (await cache.match(other, { ignoreVary: true }))) ?? Promise.reject(error);
  });
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
