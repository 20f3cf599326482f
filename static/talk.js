// @ts-check
/** The pages of the action dialect: a talk of two, and a room. Puts the parts together. */

import { TalkClient } from "../sdk/imserver.js";
import { websocketUrl } from "./address.js";
import { Composer } from "./composer.js";
import { ConnectionView } from "./connection.js";
import { ChatLog } from "./log.js";
import { mediaOf } from "./media.js";
import { Sitting, tabStorage } from "./sitting.js";
import { avatar, element, fill, pageData } from "./text.js";

/**
 * @typedef {object} Page  what the server put into the page
 * @property {number} app
 * @property {string} user
 * @property {string} peer
 * @property {string} room           "0" in a talk of two
 * @property {string} token
 * @property {string} websocketUrl
 * @property {string} seenHost
 * @property {string} language
 * @property {Record<string, string>} text
 */

const DAY_SECONDS = 86_400;

const page = /** @type {Page} */ (pageData());
const words = page.text;
words.send_failed = words.talk_send_failed;
const { user, peer, room } = page;
const inRoom = room !== "0";
const quiet = element("quiet-room", HTMLElement);
const title = document.title;
let unread = 0;

const log = new ChatLog(
  element("log", HTMLElement), element("latest", HTMLButtonElement), element("latest-text", HTMLElement), words, page.language,
  {
    nameOf: ({ from }) => (inRoom ? fill(words.talk_member_name, { user: from }) : words.talk_peer_name),
    contentOf: ({ type = "text", text }) => mediaOf(type, text, words),
  },
);
const sitting = new Sitting(
  { app: `talk:${page.app}:${user}:${inRoom ? `room:${room}` : peer}`, user, token: "", tokenSeconds: DAY_SECONDS, tokenUrl: "" },
  tabStorage(),
);
const client = new TalkClient({
  url: websocketUrl(page, "/ws"), app: page.app, user, peer, room, token: page.token || undefined,
});

/** @param {import("./sitting.js").Entry} entry */
function tell(entry) {
  quiet.hidden = true;
  log.add(entry);
  if (document.hidden && entry.kind === "msg") {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

/** @param {string} text */
function note(text) {
  log.add({ kind: "note", from: "", text, at: Date.now() });
}

/**
 * In a talk of two one's own words are shown at once; in a room when their copy comes back.
 *
 * @param {string} text
 * @param {string} id
 */
async function send(text, id) {
  const entry = /** @type {const} */ ({ kind: "own", from: user, text, at: Date.now(), id });
  if (!inRoom) tell(entry);
  try {
    await client.say(text, "text", id);
  } catch (error) {
    if (!inRoom) log.takeBack(id);
    throw error;
  }
  if (!inRoom) sitting.remember(entry);
}

/**
 * What this tab had shown when it logged in: of what is kept the server may tell the last once more.
 *
 * @type {Set<string>}
 */
let shown = new Set();

/** @param {{ from: string, id?: string, at: number, text: string }} entry */
const keyOf = ({ from, id, at, text }) => JSON.stringify([from, id, at, text.slice(0, 1000)]);

client.on("said", ({ from, text, type, id, at }) => {
  if (shown.delete(keyOf({ from, id, at, text }))) return;
  const entry = /** @type {const} */ ({ kind: inRoom && from === user ? "own" : "msg", from, text, type, id, at });
  tell(entry);
  sitting.remember(entry);
});
client.on("left", ({ from }) => {
  if (inRoom) note(fill(words.talk_left, { user: from })); // who belongs to a room hears of it wherever they talk
});
client.on("failed", () => note(words.talk_failed));

let over = false; // it is said once, however often the connection is tried again
client.on("state", (change) => {
  view.show(change);
  composer.refresh();
  if (change.state === "online") {
    shown = new Set(sitting.entries.map(keyOf));
    note(words.talk_in);
  }
  if (!["online", "connecting"].includes(change.state) && !over) note(words.talk_over);
  if (change.state !== "connecting") over = change.state !== "online";
});

const view = new ConnectionView(words, { retry: () => client.retryNow(), enterAgain: () => location.reload() });
const composer = new Composer(send, () => client.state.state === "online", words);

const face = avatar(user);
face.id = "me-avatar";
element("me-avatar", HTMLElement).replaceWith(face);
log.self = inRoom ? "" : user;
log.restore(sitting.entries);
quiet.hidden = sitting.entries.length > 0;
document.querySelector(".rooms [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
if (matchMedia("(hover: hover)").matches) composer.focus(); // on a phone this would open the keyboard
client.connect().catch(() => {}); // the view shows why

addEventListener("online", () => client.retryNow());
addEventListener("offline", () => view.show(client.state));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
  client.retryNow(); // timers of hidden pages are slow
});
addEventListener("pagehide", () => {
  sitting.leave();
  client.close();
});
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // back from the browser's cache, where it left
});
