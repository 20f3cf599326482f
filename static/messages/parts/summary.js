// @ts-check
/** Messages in one line, for lists and quotes. And the additions of features: views of types of messages, cards, commands of text boxes. */

import { cut, drawn, fill, textOf } from "../../text.js";
import { unformatted } from "./format.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../session/outbox.js").Content} Content */
/** @typedef {import("./entries.js").Entry} Entry */

/**
 * The content of one type of message.
 *
 * @typedef {object} View
 * @property {(entry: Entry, session: Session) => HTMLElement | null | undefined} [draw]  the content of the bubble; null: show
 *   {@link summaryOf}; undefined: the text
 * @property {(entry: Entry, words: Record<string, string>, plain?: string) => string | undefined} [summary]  one line, for lists and quotes;
 *   `plain`: the text without formatting; undefined: show `plain`
 */

/** @type {Map<string, View>} */
const views = new Map();

/**
 * Says how messages of a type are shown. A later call for the same type replaces the earlier one.
 *
 * @param {string} type
 * @param {View} view
 */
export function registerView(type, view) {
  views.set(type, view);
}

/** What features of the server show below messages. @type {((entry: Entry, session: Session) => HTMLElement | null)[]} */
const cards = [];

/** @param {(entry: Entry, session: Session) => HTMLElement | null} draw  null: there is nothing below this one */
export function addCard(draw) {
  cards.push(draw);
}

/**
 * @param {Entry} entry
 * @param {Session} session
 * @returns {(HTMLElement | "")[]} what features show below a message; empty texts: nothing
 */
export function cardsOf(entry, session) {
  return cards.map((draw) => drawn(() => draw(entry, session), () => null) ?? "");
}

/**
 * A command that the page carries out, `/question Tea?`. If a bot has a command of this name, the bot gets it instead.
 *
 * @typedef {object} PageCommand
 * @property {string} command
 * @property {string} word       what it does
 * @property {(session: Session, conversation: Conversation, text: string, place: { thread?: number, also?: boolean }) => unknown} act  `text`: what
 *   is behind it; `place`: in a thread, as of messages
 * @property {import("./menu.js").Row["sign"]} [sign]  the menu of the text box has it with this icon, too
 */

/** @type {PageCommand[]} */
export const pageCommands = [];

/**
 * A button of a feature beside the text boxes.
 *
 * @typedef {object} PageTool
 * @property {Parameters<typeof import("./file.js").icon>[0]} icon
 * @property {string} word
 * @property {(conversation: Conversation) => number} count  if it is not 0, the button is shown without a text, too
 * @property {(session: Session, conversation: Conversation, content: Content | null, clear: () => void) => unknown} act  `content`: what would be
 *   sent, or null; `clear` empties the text box
 */

/** @type {PageTool[]} */
export const pageTools = [];

/** Id of a message → how often it was asked to be drawn again. @type {Map<number, number>} */
const redraws = new Map();

/** @param {number} id  of a message whose view shows something else now */
export function redraw(id) {
  redraws.set(id, redrawsOf(id) + 1);
}

/** @param {number} id */
export function redrawsOf(id) {
  return redraws.get(id) ?? 0;
}

/**
 * @param {Entry} entry
 * @param {Session} session
 * @returns {HTMLElement | null | undefined} what the view of its type draws; null: it cannot; undefined: the type has no view
 */
export function contentOf(entry, session) {
  return drawn(() => views.get(entry.type ?? "text")?.draw?.(entry, session), () => null);
}

/**
 * A message in one line: the summary of its type, else its text, else the name of its type.
 *
 * @param {Entry} entry
 * @param {Record<string, string>} words
 * @param {number} [most]  characters
 * @returns {string}
 */
export function summaryOf(entry, words, most = 200) {
  return drawn(() => {
    const view = views.get(entry.type ?? "text");
    // Only the start of a text is parsed: more of it than the line shows, because the marks are left out.
    const plain = entry.text === undefined ? undefined : unformatted(cut(entry.text, 5 * most));
    const text = view?.summary?.(entry, words, plain) ?? plain ?? words[`messages_${entry.type}`] ?? words.messages_custom;
    return cut(text.replace(/\s+/g, " "), most);
  }, () => words.messages_unshown);
}

/** A notice names so many people. Of more people it names the first ones, and says how many others there are. */
export const MOST_NAMED = 5;
/** How many people a notice names if there are more than {@link MOST_NAMED}. */
const FIRST_NAMED = 3;
/** Settings of a group whose change a notice tells. */
const CHANGES = ["open", "everybody", "history", "invite", "rename", "pin", "bots", "write", "reply"];

/**
 * @param {Entry} entry  a recall, or a change of a group
 * @param {Session} session
 * @returns {string} a sentence that says what has happened
 */
export function noticeText(entry, session) {
  return drawn(() => noticeOf(entry, session), () => session.words.messages_unshown);
}

/**
 * @param {Entry} entry
 * @param {Session} session
 * @returns {string}
 */
function noticeOf(entry, session) {
  const { words, people, user } = session;
  const { kind, from, meta = {} } = entry;
  const say = (/** @type {string} */ template, /** @type {Record<string, string>} */ values) => sentence(session, template, values);
  const nameOf = (/** @type {string} */ each) => (each === user ? words.messages_you : people.nameOf(each));
  const nameInside = (/** @type {string} */ each) => (each === user ? words.messages_you_inside : people.nameOf(each));
  const name = from ? nameOf(from) : words.messages_server;
  const others = (meta.users ?? []).filter((/** @type {string} */ each) => each !== from);
  const named = others.length > MOST_NAMED ? others.slice(0, FIRST_NAMED) : others;
  const more = named === others ? "" : fill(words.messages_and_more, { count: others.length - FIRST_NAMED });
  const names = named.map(nameInside).join(words.messages_and) + more;

  if (kind === "recall" && meta.removed) return words.messages_moderated;
  if (kind === "recall") return meta.erased ? words.messages_erased : say(words.messages_recalled, { name });
  if (kind === "pin") return say(words.messages_pinned, { name });
  if (kind === "join" && meta.invited_by) return say(words.messages_joined_by_link, { names: name });
  if (kind === "join" && !others.length) return say(words.messages_joined, { names: name });
  if (kind === "join" && from) return say(words.messages_added, { name, names });
  if (kind === "join") return say(words.messages_joined, { names: named.map(nameOf).join(words.messages_and) + more });
  if (kind === "leave") return others.length ? say(words.messages_removed, { name, names }) : say(words.messages_left, { name });

  if (meta.change === "create") return say(words.messages_created, { name, group: meta.name ?? "" });
  if (meta.change === "rename") return say(words.messages_renamed, { name, group: meta.name ?? "" });
  if (meta.change === "avatar") return say(meta.avatar ? words.messages_avatar_changed : words.messages_avatar_gone, { name });
  if (meta.change === "description") return say(meta.description ? words.messages_described : words.messages_description_gone, { name });
  if (meta.change === "handle") return say(meta.handle ? words.messages_handle_set : words.messages_handle_gone, { name, handle: meta.handle });
  const changes = CHANGES.filter((option) => option in meta).map((option) => {
    const value = textOf(meta[option]) || meta[option] === true;
    return say(words[`messages_now_${option}_${value}`] ?? "", { name });
  });
  const changed = changes.filter(Boolean).join(" · ");
  if (changed) return changed;
  if (meta.change === "mute") return say(meta.muted_until > entry.time / 1000 ? words.messages_muted : words.messages_unmuted, { name, names });
  if (meta.change === "member" && meta.users?.length) {
    const [member] = meta.users;
    const key = member === user ? `messages_role_${meta.role}_you` : `messages_role_${meta.role}`;
    return say(words[key] ?? words.messages_group_changed, { name, names: nameOf(member) });
  }
  return kind === "group" ? say(words.messages_group_changed, { name }) : words.messages_unshown;
}

/**
 * @param {Session} session
 * @param {string} template
 * @param {Record<string, string>} values  names; a template has a second form for what we have done
 * @returns {string}
 */
function sentence({ words, language }, template, values) {
  let text = template;
  for (const key of language.startsWith("zh") ? Object.keys(values) : []) {
    // In Chinese templates names have spaces around them, but 你 has none.
    if (values[key] === words.messages_you) text = text.replace(new RegExp(` ?\\{${key}\\} ?`), `{${key}}`);
  }
  const isOurs = (values.name ?? values.names) === words.messages_you;
  return fill(text, { ...values, count: isOurs ? 2 : 1 });
}
