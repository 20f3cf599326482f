// @ts-check
/** The bots that the app offers, and the card with which a conversation with a bot begins. */

import { make } from "../../text.js";
import { rowsOf } from "../parts/api.js";
import { load, loadStyle, namedList, noteLine, redraw, withModule } from "../parts/form.js";
import { button, openDialog, openPanel } from "../parts/panel.js";
import { personRow } from "./person-row.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} BotCard  a bot as every user sees it
 * @property {string} bot
 * @property {string} name      user name; empty: none
 * @property {string} nickname
 * @property {string} avatar
 * @property {string} description
 * @property {{ name: string, description: string }[]} commands
 */

/** What the button sends: bots answer it with what they can do. */
const START = "/start";

/** @param {Session} session  opens the panel of the bots */
export function openGallery(session) {
  const { words } = session;
  const note = noteLine();
  const body = make("div", "bots-body");
  const own = button(words.messages_my_bots);
  own.id = "bots";
  own.addEventListener("click", () => withModule(import("./bots.js"), words, ({ openBots }) => openBots(session)));
  openPanel(words.messages_bots, make("div", "bots", make("p", "muted", words.messages_gallery_hint), note, body, make("p", "panel-buttons", own)));
  load(body, note, session, async () => {
    const cards = /** @type {BotCard[]} */ (await rowsOf("bots", (cursor) => session.api("GET", "bots/listed", { cursor })));
    learn(session, ...cards);
    const rows = cards.map((card) => personRow(session, card.bot, () => openStart(session, card), { below: card.description || (card.name && `@${card.name}`) }));
    redraw(body, [rows.length ? namedList(words.messages_bots, rows) : make("p", "muted", words.messages_gallery_none)]);
  });
}

/**
 * Opens the card of a bot: the user begins a conversation with it, or adds it to a group.
 *
 * @param {Session} session
 * @param {BotCard} card
 */
async function openStart(session, card) {
  await loadCardStyle();
  const { words } = session;
  const hasTalked = Boolean(session.store.known(card.bot)?.last);
  const go = button(hasTalked ? words.messages_message : words.messages_start, "wide");
  const add = button(words.messages_bot_add);
  const content = make("div", "card-of-person", ...partsOf(session, card), make("p", "card-actions", go, add));
  const layer = openDialog(card.nickname || card.name, content);
  go.id = "bot-start";
  go.addEventListener("click", () => {
    layer.close();
    if (hasTalked) session.open({ user: card.bot });
    else start(session, card.bot);
  });
  add.addEventListener("click", () => withModule(import("./bots.js"), words, ({ openGroups }) => openGroups(session, card.bot)));
}

/**
 * The card in an empty conversation. Rejected with ApiError.
 *
 * @param {Session} session
 * @param {string} bot
 * @returns {Promise<HTMLElement[]>}
 */
export async function startCard(session, bot) {
  const [card] = await Promise.all([/** @type {Promise<BotCard>} */ (session.api("GET", "bots/show", { bot })), loadCardStyle()]);
  learn(session, card);
  const go = button(session.words.messages_start, "wide");
  go.id = "bot-start";
  go.addEventListener("click", () => start(session, bot));
  return [...partsOf(session, card), make("p", "card-actions", go)];
}

/**
 * Opens the conversation with a bot, and sends the first message.
 *
 * @param {Session} session
 * @param {string} bot
 */
function start(session, bot) {
  session.open({ user: bot });
  session.outbox.add(session.store.withUser(bot), { type: "text", text: START });
}

/**
 * @param {Session} session
 * @param {BotCard} card
 * @returns {HTMLElement[]} the picture, the description, and the list of commands
 */
function partsOf({ people, words }, { bot, name, description, commands }) {
  const head = make("div", "card-head", people.avatar(bot, "large"), make("p", "card-name", make("bdi", "", people.nameOf(bot)), ...people.marks(bot)));
  if (name) head.append(make("p", "card-handle", `@${name}`));
  if (description) head.append(make("p", "card-text", description));
  const rows = commands.map((each) => make("li", "", make("code", "", `/${each.name}`), make("span", "", each.description)));
  return rows.length ? [head, namedList(words.messages_commands, rows)] : [head];
}

/**
 * Lets the page know the names and pictures of bots.
 *
 * @param {Session} session
 * @param {...BotCard} cards
 */
function learn({ people }, ...cards) {
  people.add(cards.map(({ bot, name, nickname, avatar }) => ({ user: bot, name, nickname, avatar, bot: true })));
}

function loadCardStyle() {
  return loadStyle(new URL("../later/gallery.css", import.meta.url));
}
