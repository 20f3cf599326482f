// @ts-check
/** The pages of the `action` dialect: a conversation of two users, or a room. */

import { TalkClient } from "../sdk/imserver.js";
import { websocketUrl } from "./address.js";
import { Composer } from "./composer.js";
import { ConnectionView } from "./connection-view.js";
import { mediaOf } from "./media.js";
import { MessageList } from "./message-list.js";
import { followTab, TabSession, tabStorage } from "./tab-session.js";
import { avatar } from "./page-parts.js";
import { element, fill, pageData } from "./text.js";

/**
 * @typedef {object} Page  data from the server
 * @property {number} app
 * @property {string} user
 * @property {string} peer
 * @property {string} room           "0": a conversation of two
 * @property {string} token
 * @property {string} websocketUrl
 * @property {string} seenHost
 * @property {string} language
 * @property {Record<string, string>} text
 */

const DAY_SECONDS = 86_400;
/** Characters of a text that tell it from others. */
const KEY_CHARACTERS = 1_000;

const page = /** @type {Page} */ (pageData());
const words = page.text;
words.send_failed = words.talk_send_failed;
const { user, peer, room } = page;
const inRoom = room !== "0";
const empty = element("empty", HTMLElement);

const list = new MessageList(
  element("log", HTMLElement), element("latest", HTMLButtonElement), element("latest-text", HTMLElement), words, page.language,
  {
    nameOf: ({ from }) => (inRoom ? fill(words.talk_member_name, { user: from }) : words.talk_peer_name),
    contentOf: ({ type = "text", text }) => mediaOf(type, text, words),
  },
);
const conversation = inRoom ? `room:${room}` : peer;
const session = new TabSession(
  { app: `talk:${page.app}:${user}:${conversation}`, user, token: "", tokenSeconds: DAY_SECONDS, tokenUrl: "" },
  tabStorage(),
);
const client = new TalkClient({
  url: websocketUrl(page, "/ws"), app: page.app, user, peer, room, token: page.token || undefined,
});

/** @param {import("./tab-session.js").Line} line */
function show(line) {
  empty.hidden = true;
  list.add(line);
  if (line.kind === "msg") countUnread();
}

/** @param {string} text */
function note(text) {
  list.add({ kind: "note", from: "", text, at: Date.now() });
}

/**
 * In a conversation of two, our own message is shown at once; in a room, when the server sends its copy.
 *
 * @param {string} text
 * @param {string} id
 */
async function send(text, id) {
  const line = /** @type {const} */ ({ kind: "own", from: user, text, at: Date.now(), id });
  if (!inRoom) show(line);
  try {
    await client.say(text, "text", id);
  } catch (error) {
    if (!inRoom) list.remove(id);
    throw error;
  }
  if (!inRoom) session.add(line);
}

/**
 * The lines that the tab had shown before the login. Of stored messages, the server may send the last ones again.
 *
 * @type {Set<string>}
 */
let shown = new Set();

/** @param {{ from: string, id?: string, at: number, text: string }} entry */
const keyOf = ({ from, id, at, text }) => JSON.stringify([from, id, at, text.slice(0, KEY_CHARACTERS)]);

client.on("said", ({ from, text, type, id, at }) => {
  if (shown.delete(keyOf({ from, id, at, text }))) return;
  const line = /** @type {const} */ ({ kind: inRoom && from === user ? "own" : "msg", from, text, type, id, at });
  show(line);
  session.add(line);
});
client.on("left", ({ from }) => {
  if (inRoom) note(fill(words.talk_left, { user: from })); // members of a room receive this in every conversation
});
client.on("failed", () => note(words.talk_failed));

let isOver = false; // the note is shown once, however often the client reconnects
client.on("state", (change) => {
  view.show(change);
  composer.refresh();
  if (change.state === "connecting") return;
  if (change.state === "online") {
    shown = new Set(session.lines.map(keyOf));
    note(words.talk_in);
    isOver = false;
    return;
  }
  if (!isOver) note(words.talk_over);
  isOver = true;
});

const view = new ConnectionView(words, { retry: () => client.retryNow(), reload: () => location.reload() });
const countUnread = followTab(session, view, () => client);
const composer = new Composer(send, () => client.state.state === "online", words);

const picture = avatar(user);
picture.id = "me-avatar";
element("me-avatar", HTMLElement).replaceWith(picture);
list.self = inRoom ? "" : user;
list.restore(session.lines);
empty.hidden = session.lines.length > 0;
document.querySelector(".rooms [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
if (matchMedia("(hover: hover)").matches) composer.focus(); // on a phone this would open the keyboard
client.connect().catch(() => {}); // the view shows the reason
