// @ts-check
/** The chat page: puts the parts together. */

import { CODE, ImClient, ImError } from "../sdk/imserver.js";
import { websocketUrl, withScheme } from "./address.js";
import { Composer } from "./composer.js";
import { ConnectionView } from "./connection.js";
import { ChatLog } from "./log.js";
import { People } from "./people.js";
import { Sitting, tabStorage } from "./sitting.js";
import { avatar, element, fill, make, pageData } from "./text.js";

/**
 * @typedef {object} Page  what the server put into the page
 * @property {number} app
 * @property {string} user
 * @property {string} token
 * @property {number} tokenSeconds
 * @property {string} tokenUrl
 * @property {string} websocketUrl   full, or beginning with // for the page's own security
 * @property {string} httpUrl        the same; "" = the page's origin
 * @property {string} seenHost       the Host that websocketUrl was made from; "" = it was configured
 * @property {number} noticeMembers  above so many members the server sends no notices
 * @property {string} language
 * @property {Record<string, string>} text
 */

const TOKEN_TROUBLE = new Set([CODE.UNAUTHORIZED, 4504]);
const RENEW_BEFORE = 0.5; // of its time

const page = /** @type {Page} */ (pageData());
const words = page.text;
const TOKEN_CHECK_MS = Math.min(20_000, page.tokenSeconds * 250);
const sitting = new Sitting(page, tabStorage());
const log = new ChatLog(
  element("log", HTMLElement), element("latest", HTMLButtonElement), element("latest-text", HTMLElement), words, page.language,
);

/** @type {ImClient} */
let client;
/** @type {Composer} */
let composer;
let unread = 0;
const title = document.title;

/** @param {import("./sitting.js").Entry} entry */
function tell(entry) {
  element("quiet-room", HTMLElement).hidden = true;
  log.add(entry);
  sitting.remember(entry);
  if (document.hidden && entry.kind === "msg") {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", "skip"); // without https there is no clipboard but this old one
    field.textContent = text;
    document.body.append(field);
    /** @type {HTMLTextAreaElement} */ (field).select();
    document.execCommand("copy");
    field.remove();
  }
}

function enterAgain() {
  sitting.forget();
  location.reload();
}

/** @param {import("../sdk/imserver.js").StateChange} change */
function follow(change) {
  if (change.state === "refused" && TOKEN_TROUBLE.has(change.code) && sitting.startOver()) {
    log.root.replaceChildren();
    start();
    return;
  }
  view.show(change);
  composer.refresh();
  if (change.state !== "online") return;
  if (wasOnline) tell({ kind: "reconnected", from: "", text: "", at: Date.now() });
  wasOnline = true;
}

let wasOnline = false;
const view = new ConnectionView(words, { retry: () => client.retryNow(), enterAgain });

function start() {
  client?.close();
  log.self = sitting.user;
  log.greet(fill(words.greeting, { room: page.app, name: sitting.user }));
  log.restore(sitting.entries);
  element("me-name", HTMLElement).textContent = sitting.user;
  const face = avatar(sitting.user);
  face.id = "me-avatar";
  element("me-avatar", HTMLElement).replaceWith(face);

  client = new ImClient({
    url: websocketUrl(page, "/acc"),
    httpUrl: page.httpUrl ? withScheme(page.httpUrl, location.protocol) : location.origin,
    app: page.app,
    user: sitting.user,
    token: sitting.token,
  });
  const here = client;
  for (const kind of /** @type {const} */ (["enter", "exit", "msg"])) {
    here.on(kind, ({ from, text }) => tell({ kind, from, text, at: Date.now() }));
  }
  here.on("state", (change) => here === client && follow(change));
  new People(
    here,
    {
      list: element("people-list", HTMLElement),
      note: element("people-note", HTMLElement),
      counts: [element("people-count", HTMLElement), element("people-badge", HTMLElement)],
    },
    words,
    page,
    (alone) => void (element("quiet-room", HTMLElement).hidden = !alone || sitting.entries.length > 0),
  );
  here.connect().catch(() => {}); // follow() shows why
}

/**
 * @param {string} text
 * @param {string} id
 */
async function send(text, id) {
  try {
    await client.sendMessageAll(text, id);
  } catch (error) {
    if (error instanceof ImError && error.code === CODE.UNAUTHORIZED && sitting.until < Date.now()) expired();
    throw error;
  }
  tell({ kind: "own", from: sitting.user, text, at: Date.now() });
}

/** The device slept past the token's end: only a new page gets a new one. */
function expired() {
  client.close();
  view.show({ ...client.state, state: "refused", code: CODE.UNAUTHORIZED });
}

async function keepToken() {
  if (sitting.until - Date.now() > page.tokenSeconds * 1000 * RENEW_BEFORE) return;
  if (await sitting.renew()) client.token = sitting.token;
}

composer = new Composer(send, () => client?.state.state === "online", words);
start();
document.querySelector(".rooms [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
if (matchMedia("(hover: hover)").matches) composer.focus(); // on a phone this would open the keyboard

setInterval(keepToken, TOKEN_CHECK_MS);
addEventListener("online", () => client.retryNow());
addEventListener("offline", () => view.show(client.state));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
  client.retryNow(); // timers of hidden pages are slow
  keepToken();
});
addEventListener("pagehide", () => {
  sitting.leave();
  client.close();
});
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // back from the browser's cache, where it left the room
});
element("invite", HTMLButtonElement).addEventListener("click", async (event) => {
  const button = /** @type {HTMLElement} */ (event.currentTarget);
  await copy(new URL(`?appID=${page.app}`, location.href).href);
  button.textContent = words.invited;
  button.focus();
});
element("new-name", HTMLButtonElement).addEventListener("click", enterAgain);
