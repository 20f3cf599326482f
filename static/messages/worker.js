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
  const { pathname } = url;
  const address = pathname + url.search;
  const isPage = request.mode === "navigate" && pathname === shell.page;
  const isStored = pathname === shell.manifest || files.has(address) || pathname.startsWith(shell.releases);
  if (isPage) event.respondWith(openPage(languageOf(url), request));
  else if (isStored) event.respondWith(open(address, request));
});

/** Fetches all files, and the page in the languages in which it is open. If one fails, the worker before this one stays. */
async function install() {
  const cache = await caches.open(store);
  const languages = await openLanguages();
  await Promise.all([...languages.map(addPage), ...shell.files.map((address) => addFile(cache, address))]);
  await scope.skipWaiting();
}

/** @returns {Promise<string[]>} the languages in which the page is open, or else the language of this worker's address */
async function openLanguages() {
  /** @type {{ url: string }[]} */
  const windows = await scope.clients.matchAll({ type: "window", includeUncontrolled: true });
  const pages = windows.map((each) => new URL(each.url)).filter(({ pathname }) => pathname === shell.page);
  const languages = [...new Set(pages.map(languageOf))];
  return languages.length ? languages : [languageOf(new URL(location.href))];
}

/**
 * Stores a file. If the node has another release, its files may be changed later: it does not send them as `immutable`.
 *
 * @param {Cache} cache
 * @param {string} address
 */
async function addFile(cache, address) {
  const isReleased = address.startsWith(shell.release);
  const answer = await fetch(address, { cache: isReleased ? "default" : "no-cache" });
  const isOther = isReleased && !answer.headers.get("Cache-Control")?.includes("immutable");
  if (!answer.ok || isOther) throw new Error(`${address}: ${answer.status}`);
  await cache.put(address, answer);
}

/**
 * Stores the page in a language. It names its release: the node may have another one.
 *
 * @param {string} language
 */
async function addPage(language) {
  const [address, manifest] = [shell.page, shell.manifest].map((each) => `${each}?lang=${language}`);
  const answer = await fetch(address, { cache: "no-cache" });
  const isOther = !(await answer.clone().text()).includes(shell.release);
  if (!answer.ok || isOther) throw new Error(`${address}: ${answer.status}`);
  const cache = await caches.open(store);
  await Promise.all([cache.put(address, await delayed(answer)), cache.add(manifest)]);
}

/**
 * Puts the links to modules into a template. Stored modules load at once, so to load all of them would only delay the first module. That
 * module adds the links later.
 *
 * @param {Response} page
 */
async function delayed(page) {
  const text = await page.text();
  const links = /(<link rel="modulepreload" href="[^"]+">\s*)+/;
  return new Response(text.replace(links, '<template id="first-modules">$&</template>'), { headers: page.headers });
}

/** Deletes the stores of old versions. Tabs with the version before this one may need more of its files, so its store stays. */
async function activate() {
  const others = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== store);
  await Promise.all(others.slice(0, -1).map((name) => caches.delete(name)));
  await scope.clients.claim();
}

/**
 * @param {string} address
 * @param {Request} request
 * @returns {Promise<Response>} what this version has stored, else what another one has, else the answer of the server
 */
async function open(address, request) {
  const cache = await caches.open(store);
  const own = await cache.match(address, { ignoreVary: true });
  return own ?? (await caches.match(address, { ignoreVary: true })) ?? fetch(request);
}

/**
 * Answers with the page in a language, and stores it when it is first opened. Without a network, the page may be in another language.
 *
 * @param {string} language
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function openPage(language, request) {
  const cache = await caches.open(store);
  const address = `${shell.page}?lang=${language}`;
  const stored = await cache.match(address, { ignoreVary: true });
  if (stored) return stored;
  await addPage(language).catch(() => {}); // the server may have another release
  try {
    return await open(address, request);
  } catch (error) {
    const other = (await cache.keys()).find(({ url }) => new URL(url).pathname === shell.page);
    const page = other && (await cache.match(other, { ignoreVary: true }));
    if (page) return page;
    throw error;
  }
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
