// @ts-check
/** The page of a room of the `cmd` dialect. */

import { CODE, ImClient, ImError } from "../sdk/imserver.js";
import { websocketUrl, withScheme } from "./address.js";
import { Composer } from "./composer.js";
import { ConnectionView } from "./connection-view.js";
import { MessageList } from "./message-list.js";
import { OnlineUsers } from "./online-users.js";
import { followTab, TabSession, tabStorage } from "./tab-session.js";
import { avatar, copyText } from "./page-parts.js";
import { element, fill, make, pageData } from "./text.js";

/**
 * @typedef {object} Page  data from the server
 * @property {number} app
 * @property {string} user
 * @property {string} token
 * @property {number} tokenSeconds
 * @property {string} tokenUrl
 * @property {string} websocketUrl   full, or starts with // to use the page's own scheme
 * @property {string} httpUrl        the same; "": the page's origin
 * @property {string} seenHost       Host header from which websocketUrl was made; "": it is configured
 * @property {number} noticeMembers  from this number of users on, the server sends no notices
 * @property {string} language
 * @property {Record<string, string>} text
 */

/** Texts of the server's notices, as the wire has them → in the language of the page. @type {Record<string, string>} */
const SAID = { "哈喽~": "said_enter", "用户已经离开~": "said_exit" };
const TOKEN_INVALID = new Set([CODE.UNAUTHORIZED, 4504]);
/** Share of the lifetime of the token. */
const RENEW_AT = 0.5;

const page = /** @type {Page} */ (pageData());
const words = page.text;
/** A quarter of the lifetime of the token, or a shorter time. */
const TOKEN_CHECK_MS = Math.min(20_000, page.tokenSeconds * 250);
const session = new TabSession(page, tabStorage());
const list = new MessageList(
  element("log", HTMLElement), element("latest", HTMLButtonElement), element("latest-text", HTMLElement), words, page.language,
);

/** @type {ImClient} */
let client;
/** @type {Composer} */
let composer;

/** @param {import("./tab-session.js").Line} line */
function show(line) {
  element("empty", HTMLElement).hidden = true;
  list.add(line);
  session.add(line);
  if (line.kind === "msg") countUnread();
}

/** The next page gets a new name. */
function reload() {
  session.forget();
  location.reload();
}

/** @param {import("../sdk/imserver.js").StateChange} change */
function onState(change) {
  if (change.state === "refused" && TOKEN_INVALID.has(change.code) && session.startOver()) {
    list.root.replaceChildren();
    start();
    return;
  }
  view.show(change);
  composer.refresh();
  if (change.state !== "online") return;
  if (wasOnline) show({ kind: "reconnected", from: "", text: "", at: Date.now() });
  wasOnline = true;
}

let wasOnline = false;
const view = new ConnectionView(words, { retry: () => client.retryNow(), reload });
const countUnread = followTab(session, view, () => client, renewToken);

/** Shows the lines of the session, and logs in as its user: at first, and when the restored user was refused. */
function start() {
  client?.close();
  list.self = session.user;
  list.greet(fill(words.greeting, { app: page.app, name: session.user }));
  list.restore(session.lines);
  element("me-name", HTMLElement).textContent = session.user;
  const picture = avatar(session.user);
  picture.id = "me-avatar";
  element("me-avatar", HTMLElement).replaceWith(picture);

  client = new ImClient({
    url: websocketUrl(page, "/acc"),
    httpUrl: page.httpUrl ? withScheme(page.httpUrl, location.protocol) : location.origin,
    app: page.app,
    user: session.user,
    token: session.token,
  });
  const current = client;
  current.on("msg", ({ from, text }) => show({ kind: "msg", from, text, at: Date.now() }));
  for (const kind of /** @type {const} */ (["enter", "exit"])) {
    current.on(kind, ({ from, text }) => show({ kind, from, text: words[SAID[text]] ?? text, at: Date.now() }));
  }
  current.on("state", (change) => {
    if (current === client) onState(change);
  });
  new OnlineUsers(
    current,
    {
      list: element("people-list", HTMLElement),
      note: element("people-note", HTMLElement),
      counts: [element("people-count", HTMLElement), element("people-badge", HTMLElement)],
    },
    words,
    page,
    (isAlone) => {
      element("empty", HTMLElement).hidden = !isAlone || session.lines.length > 0;
    },
  );
  current.connect().catch(() => {}); // onState() shows the reason
}

/**
 * @param {string} text
 * @param {string} id
 */
async function send(text, id) {
  try {
    await client.sendMessageAll(text, id);
  } catch (error) {
    if (error instanceof ImError && error.code === CODE.UNAUTHORIZED && session.until < Date.now()) expired();
    throw error;
  }
  show({ kind: "own", from: session.user, text, at: Date.now() });
}

/** The token expired while the device slept. Only a new page gets a new token. */
function expired() {
  client.close();
  view.show({ ...client.state, state: "refused", code: CODE.UNAUTHORIZED });
}

async function renewToken() {
  const remainingMs = session.until - Date.now();
  if (remainingMs > page.tokenSeconds * 1000 * RENEW_AT) return;
  if (await session.renew()) client.token = session.token;
}

composer = new Composer(send, () => client?.state.state === "online", words);
start();
document.querySelector(".rooms [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
if (matchMedia("(hover: hover)").matches) composer.focus(); // on a phone this would open the keyboard

setInterval(renewToken, TOKEN_CHECK_MS);
element("invite", HTMLButtonElement).addEventListener("click", async (event) => {
  const button = /** @type {HTMLElement} */ (event.currentTarget);
  const isCopied = await copyText(new URL(`?appID=${page.app}`, location.href).href);
  button.textContent = isCopied ? words.invited : words.copy_failed;
  button.focus();
});
element("new-name", HTMLButtonElement).addEventListener("click", reload);
