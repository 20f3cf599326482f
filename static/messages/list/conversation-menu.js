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
 * @returns {Action[][]} the actions of the page, and those that features add
 */
function groupsOf(session, conversation) {
  const { inbox, words, wishes } = session;
  const { id } = conversation;
  const change = (/** @type {import("../session/inbox.js").Change} */ changes) => tryOut(session, () => inbox.change(conversation, changes));
  const isArchived = inbox.isArchived(conversation);
  /** @type {Action[]} */
  const actions = inbox.isOffered && !isArchived ? pinActions(session, conversation) : [];
  const isUnread = conversation.unread > 0 || inbox.isMarked(conversation);
  if (isUnread) actions.push({ key: "u", sign: "read", word: words.messages_mark_read, act: () => markRead(session, conversation) });
  else if (inbox.isOffered) actions.push({ key: "u", sign: "unread", word: words.messages_mark_unread, act: () => change({ marked: newestOf(conversation) }) });

  if (session.hasNotifications && wishes.of(id).until > 0) {
    const unmute = () => tryOut(session, () => wishes.change(id, { mute_until: 0 }));
    actions.push({ key: "m", sign: "bell", word: words.messages_notify_unmute, act: unmute });
  } else if (session.hasNotifications) {
    const openMutes = () => withModule(import("../settings/notice-settings.js"), words, ({ openNotices }) => openNotices(session, id));
    actions.push({ key: "m", sign: "mute", word: words.messages_mute, act: openMutes });
  }

  if (inbox.isOffered) {
    if (conversation.left) actions.push({ key: "", sign: "remove", word: words.messages_remove_left, act: () => removeLeft(session, conversation) });
    if (isArchived) actions.push({ key: "a", sign: "archive", word: words.messages_unarchive, act: () => change({ archived: 0 }) });
    else actions.push({ key: "a", sign: "archive", word: words.messages_archive, act: () => archive(session, conversation) });
    const openFolders = () => withModule(import("./folders.js"), words, ({ openFoldersOf }) => openFoldersOf(session, conversation));
    actions.push({ key: "f", sign: "folder", word: words.messages_folder_into, act: openFolders });
  }
  return [actions, added.actions.flatMap((makeAction) => drawn(() => makeAction(session, conversation), () => null) ?? [])];
}

/**
 * @param {Session} session
 * @param {Conversation} conversation
 * @returns {Action[]} pin it; or unpin it, and move it among the pinned ones
 */
function pinActions(session, conversation) {
  const { inbox, words, store } = session;
  const change = (/** @type {number} */ pinned) => tryOut(session, () => inbox.change(conversation, { pinned }));
  const pins = store.lists.listed.filter((each) => inbox.pinOf(each));
  const index = pins.indexOf(conversation);
  if (index < 0) return [{ key: "p", sign: "pin", word: words.messages_pin, act: () => change(Date.now()) }];
  /** @type {Action[]} */
  const actions = [{ key: "p", sign: "unpin", word: words.messages_unpin, act: () => change(0) }];
  const [above, below] = [pins[index - 1], pins[index + 1]];
  if (above) actions.push({ key: "", sign: "up", word: words.messages_pin_up, act: () => swap(session, conversation, above) });
  if (below) actions.push({ key: "", sign: "down", word: words.messages_pin_down, act: () => swap(session, conversation, below) });
  return actions;
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
 * Does the action of a key.
 *
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
  const read = actions.find(({ key }) => key === "u");
  const archive = actions.find(({ key }) => key === "a");
  return {
    ...(read && { right: { sign: read.word, act: read.act } }),
    ...(archive && { left: { sign: archive.word, act: archive.act } }),
  };
}

/**
 * Archives a conversation, and offers to undo it.
 *
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
 * Exchanges the places of two pinned conversations.
 *
 * @param {Session} session
 * @param {Conversation} one    pinned
 * @param {Conversation} other  pinned, above or below it
 */
function swap(session, one, other) {
  const { inbox } = session;
  const [first, second] = [inbox.pinOf(one), inbox.pinOf(other)];
  return tryOut(session, () => Promise.all([inbox.change(one, { pinned: second }), inbox.change(other, { pinned: first })]));
}

/** @param {Conversation} conversation @returns {number} the id of its newest entry */
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
