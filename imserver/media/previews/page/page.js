// @ts-check
/** Cards below messages with a link: title, description and picture of the page. Only this server is asked. */

const MOST_ASKED = 50;
const MOST_KEPT = 2000;
const GATHER_MS = 150;
/** When it is asked again for a preview that is being made. */
const AGAIN_MS = [1000, 2000, 4000, 8000, 16_000];
/** Only such texts are asked for; the server decides what a link is. */
const HAS_LINK = /https?:\/\/\S|[a-z\d]\.[a-z]{2}/i;
/** Pictures of this shape and width are above the text. */
const WIDE = 1.4;
const WIDE_PX = 300;
/** Where the server is, behind a proxy, too. */
const ROOT = new URL("../../../..", import.meta.url).href.replace(/\/$/, "");

/**
 * @typedef {object} Preview
 * @property {number} message
 * @property {string} url
 * @property {string} title
 * @property {string} [description]
 * @property {string} [site]
 * @property {string} [picture]
 * @property {number} [width]
 * @property {number} [height]
 */

/** @type {any} */
let page;
/** @type {{ on: boolean, make: boolean, show: boolean } | null} */
let wishes = null;
/** Login, message and edit → its preview; null: there is none, or not yet. @type {Map<string, Preview | null>} */
const previews = new Map();
/** Key → message that is asked for next, and how often it was. @type {Map<string, { message: number, times: number }>} */
const wanted = new Map();
let timer = 0;

/** @param {any} additions */
export function start(additions) {
  page = additions;
  const { addCard, addMessageAction, addSettings, api, words } = page;
  addCard(cardOf);
  api("GET", "previews/wishes").then((/** @type {any} */ answer) => {
    wishes = answer;
    if (!answer.on) return;
    addSettings(() => ({ title: words.previews_title, content: settings() }));
    addMessageAction((/** @type {any} */ session, /** @type {any} */ _conversation, /** @type {any} */ entry) => {
      const isOwn = entry.from === session.user && previews.get(keyOf(entry, session));
      return isOwn ? [{ word: words.previews_remove, sign: "hide", act: () => remove(entry, session) }] : [];
    });
    ask();
  }, () => {}); // then there are no previews here
}

/**
 * @param {any} entry
 * @param {any} session
 */
function keyOf(entry, { app, user }) {
  return JSON.stringify([app, user, entry.id, entry.meta?.edited ?? 0]);
}

/**
 * @param {any} entry
 * @param {any} session
 * @returns {HTMLElement | null}
 */
function cardOf(entry, session) {
  const isWanted = wishes === null || (wishes.on && wishes.show); // null: they are being loaded
  const isSentText = entry.id && (entry.type ?? "text") === "text";
  if (!isWanted || !isSentText || !HAS_LINK.test(entry.text ?? "")) return null;
  const key = keyOf(entry, session);
  const preview = previews.get(key);
  if (preview) return card(preview);
  if (preview === undefined) {
    keep(key, null);
    wanted.set(key, { message: entry.id, times: 0 });
    if (wishes) askAfter(GATHER_MS);
  }
  return null;
}

/**
 * Keeps a preview. The oldest is dropped if there are too many.
 *
 * @param {string} key
 * @param {Preview | null} preview
 */
function keep(key, preview) {
  previews.set(key, preview);
  if (previews.size > MOST_KEPT) previews.delete(/** @type {string} */ (previews.keys().next().value));
}

/** @param {number} milliseconds */
function askAfter(milliseconds) {
  timer ||= setTimeout(ask, milliseconds);
}

/** Asks for the previews of the messages that were drawn, and again after a while for those that are being made. */
async function ask() {
  timer = 0;
  const asked = new Map([...wanted].slice(0, MOST_ASKED));
  for (const key of asked.keys()) wanted.delete(key);
  if (!asked.size) return;
  const messages = new Set([...asked.values()].map(({ message }) => message));
  /** @type {{ previews: Preview[], pending: number[] }} */
  let answer = { previews: [], pending: [] };
  try {
    answer = await page.api("POST", "previews/show", { messages: [...messages] });
  } catch {
    // Messages are there without cards.
  }
  const byMessage = new Map(answer.previews.map((preview) => [preview.message, preview]));
  const pending = new Set(answer.pending);
  let pause = wanted.size ? GATHER_MS : Infinity;
  for (const [key, { message, times }] of asked) {
    const preview = byMessage.get(message);
    if (preview) {
      keep(key, preview);
      page.redraw(message);
    } else if (pending.has(message) && times < AGAIN_MS.length) {
      wanted.set(key, { message, times: times + 1 });
      pause = Math.min(pause, AGAIN_MS[times]);
    }
  }
  if (pause < Infinity) askAfter(pause);
}

/**
 * @param {Preview} preview
 * @returns {HTMLElement | null}
 */
function card({ url, title, description = "", site = "", picture = "", width = 0, height = 0 }) {
  const { make, words } = page;
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) return null;
  const host = new URL(url).hostname.replace(/^www\./, "");
  const isWide = width >= WIDE_PX && width >= WIDE * height;
  const link = make("a", isWide ? "previews-card previews-wide" : "previews-card");
  link.href = url;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  link.append(make("span", "heard", words.previews_card));
  if (picture.startsWith("/") && width && height) {
    const shown = make("img", "");
    Object.assign(shown, { alt: "", width, height, loading: "lazy", decoding: "async", draggable: false });
    shown.addEventListener("error", () => {
      shown.remove();
      link.classList.remove("previews-wide");
    });
    shown.src = ROOT + picture;
    link.append(shown);
  }
  const lines = make("span", "previews-lines", line("b", title));
  if (description) lines.append(line("span", description));
  const name = site && site.toLowerCase() !== host ? [make("bdi", "", site), " · "] : [];
  lines.append(make("small", "", ...name, make("bdi", "", host)));
  link.append(lines);
  return link;
}

/**
 * @param {string} tag
 * @param {string} text
 */
function line(tag, text) {
  const made = page.make(tag, "", text);
  made.dir = "auto";
  return made;
}

/**
 * @param {any} entry
 * @param {any} session
 */
async function remove(entry, session) {
  try {
    await page.api("POST", "previews/remove", { message: entry.id });
    keep(keyOf(entry, session), null);
    page.redraw(entry.id);
  } catch (error) {
    page.toast(page.reason(error));
  }
}

/** The switches of what the user wishes: previews of others, and of their own links. */
function settings() {
  const { make, words } = page;
  const switchOf = (/** @type {"make" | "show"} */ name) => {
    const box = make("input", "");
    Object.assign(box, { type: "checkbox", checked: wishes?.[name] });
    box.setAttribute("role", "switch");
    box.addEventListener("change", async () => {
      const { make: makes, show } = { make: true, show: true, ...wishes, [name]: box.checked };
      try {
        wishes = await page.api("POST", "previews/wishes", { make: makes, show });
        redrawAll();
      } catch (error) {
        box.checked = !box.checked;
        page.toast(page.reason(error));
      }
    });
    return make("label", "switch", make("span", "", words[`previews_${name}`]), box);
  };
  return make("div", "", switchOf("show"), switchOf("make"), make("p", "muted", words.previews_hint));
}

/** Draws all messages with a link again, as the user wishes now. */
function redrawAll() {
  const messages = [...previews.keys()].map((key) => JSON.parse(key)[2]);
  previews.clear();
  wanted.clear();
  for (const message of new Set(messages)) page.redraw(message);
}
