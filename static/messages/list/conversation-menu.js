// @ts-check
/** What the user can do with a conversation of the list: its menu, keys, and swipes. */

import { drawn } from "../../text.js";
import { added, addFeatures } from "../parts/additions.js";
import { reasonOf } from "../parts/api.js";
import { withModule } from "../parts/form.js";
import { openMenu } from "../parts/menu.js";
import { toast } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/additions.js").Action} Action */

/**
 * @param {Session} session
 * @param {Conversation} conversation
 * @returns {Action[]} in the order of the menu
 */
export function actionsOf(session, conversation) {
  return groupsOf(session, conversation).flat();
}

/**
 * @param {Session} session
 * @param {Conversation} conversation
 * @returns {Action[][]}
 */
function groupsOf(session, conversation) {
  const { inbox, words, wishes } = session;
  const { id } = conversation;
  /** @type {Action[]} */
  const actions = [];
  const add = (/** @type {string} */ key, /** @type {Action["sign"]} */ sign, /** @type {string} */ word, /** @type {() => unknown} */ act) => actions.push({ key, sign, word, act });
  const change = (/** @type {import("../session/inbox.js").Change} */ changes) => tryOut(session, () => inbox.change(conversation, changes));
  const isArchived = inbox.isArchived(conversation);
  if (inbox.isOffered && !isArchived) {
    const pins = session.store.lists.listed.filter((each) => inbox.pinOf(each));
    const at = pins.indexOf(conversation);
    add("p", at < 0 ? "pin" : "unpin", at < 0 ? words.messages_pin : words.messages_unpin, () => change({ pinned: at < 0 ? Date.now() : 0 }));
    if (at > 0) add("", "up", words.messages_pin_up, () => swap(session, conversation, pins[at - 1]));
    if (at >= 0 && at < pins.length - 1) add("", "down", words.messages_pin_down, () => swap(session, conversation, pins[at + 1]));
  }
  const isUnread = conversation.unread > 0 || inbox.isMarked(conversation);
  if (isUnread) add("u", "read", words.messages_mark_read, () => markRead(session, conversation));
  else if (inbox.isOffered) add("u", "unread", words.messages_mark_unread, () => change({ marked: newestOf(conversation) }));
  if (session.hasNotifications) {
    const isMuted = wishes.of(id).until > 0;
    const openMutes = () => withModule(import("../settings/notice-settings.js"), words, ({ openNotices }) => openNotices(session, id));
    add("m", isMuted ? "bell" : "mute", isMuted ? words.messages_notify_unmute : words.messages_mute, isMuted ? () => tryOut(session, () => wishes.change(id, { mute_until: 0 })) : openMutes);
  }
  if (inbox.isOffered && conversation.left) add("", "remove", words.messages_remove_left, () => removeLeft(session, conversation));
  if (inbox.isOffered) add("a", "archive", isArchived ? words.messages_unarchive : words.messages_archive, () => (isArchived ? change({ archived: 0 }) : archive(session, conversation)));
  if (inbox.isOffered) add("f", "folder", words.messages_folder_into, () => withModule(import("./folders.js"), words, ({ openFoldersOf }) => openFoldersOf(session, conversation)));
  return [actions, added.actions.flatMap((makeAction) => drawn(() => makeAction(session, conversation), () => null) ?? [])];
}

/**
 * Opens the menu of a conversation.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 * @param {HTMLElement} row     the menu is beside it, and the focus returns to it
 * @param {{ x: number, y: number }} [point]
 */
export async function openActions(session, conversation, row, point) {
  await addFeatures(session, true);
  await openMenu({
    label: session.store.nameOf(conversation), groups: groupsOf(session, conversation), anchor: row, point,
    from: () => document.querySelector(`[data-conversation="${conversation.id}"]`),
  });
}

/**
 * @param {Session} session
 * @param {Conversation} conversation
 * @param {string} key  that was pressed
 */
export async function press(session, conversation, key) {
  await addFeatures(session, true);
  actionsOf(session, conversation).find((each) => each.key === key)?.act();
}

/**
 * What a finger does that pulls the row of a conversation.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 * @returns {{ right?: import("../parts/swipe.js").Pull, left?: import("../parts/swipe.js").Pull }}
 */
export function pullsOf(session, conversation) {
  const actions = actionsOf(session, conversation);
  const [right, left] = ["u", "a"].map((key) => actions.find((each) => each.key === key));
  return { ...(right && { right: { sign: right.word, act: right.act } }), ...(left && { left: { sign: left.word, act: left.act } }) };
}

/**
 * @param {Session} session
 * @param {Conversation} conversation
 */
async function archive(session, conversation) {
  const { inbox, words } = session;
  const pinned = inbox.pinOf(conversation);
  if (!(await tryOut(session, () => inbox.change(conversation, { archived: newestOf(conversation) })))) return;
  const undo = () => tryOut(session, () => inbox.change(conversation, pinned ? { pinned } : { archived: 0 }));
  toast(words.messages_is_archived, { label: words.messages_undo, act: undo });
}

/**
 * @param {Session} session
 * @param {Conversation} conversation  a group that we have left
 */
async function removeLeft(session, conversation) {
  const { inbox, words } = session;
  if (!(await tryOut(session, () => inbox.remove(conversation)))) return;
  toast(words.messages_is_removed, { label: words.messages_undo, act: () => tryOut(session, () => inbox.change(conversation, { archived: 0 })) });
}

/**
 * @param {Session} session
 * @param {Conversation} conversation
 */
function markRead(session, conversation) {
  session.store.receipts.markRead(conversation, newestOf(conversation));
  if (session.inbox.of(conversation.id).marked) tryOut(session, () => session.inbox.change(conversation, { marked: 0 }));
}

/**
 * @param {Session} session
 * @param {Conversation} one    pinned
 * @param {Conversation} other  pinned, above or below it
 */
function swap(session, one, other) {
  const { inbox } = session;
  const [first, second] = [inbox.pinOf(one), inbox.pinOf(other)];
  return tryOut(session, () => Promise.all([inbox.change(one, { pinned: second }), inbox.change(other, { pinned: first })]));
}

/** @param {Conversation} conversation */
function newestOf({ last, position }) {
  return Math.max(last?.id ?? 0, position);
}

/**
 * @param {Session} session
 * @param {() => Promise<unknown>} work  the reason of a failure is shown
 * @returns {Promise<boolean>} whether it succeeded
 */
async function tryOut(session, work) {
  try {
    await work();
    return true;
  } catch (error) {
    toast(reasonOf(error, session.words));
    return false;
  }
}
