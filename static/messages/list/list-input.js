// @ts-check
/** What one does with the rows of the list: keys lead through it, and a menu, letters and swipes change a conversation. */

import { element } from "../../text.js";
import { withModule } from "../parts/form.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("./conversation-list.js").ConversationList} ConversationList */
/** @typedef {{ row: HTMLElement, conversation: Conversation }} Found */

/**
 * Lets keys, the mouse and fingers act on the rows.
 *
 * @param {Session} session
 * @param {ConversationList} list
 * @param {AbortSignal} signal  ends it
 */
export function listen(session, list, signal) {
  const root = element("conversations", HTMLElement);
  /** @param {EventTarget | null} target @returns {Found | null} */
  const rowOf = (target) => {
    const row = target instanceof Element ? /** @type {HTMLElement | null} */ (target.closest("[data-conversation]")) : null;
    const conversation = session.store.conversations.get(Number(row?.dataset.conversation));
    return row && conversation ? { row, conversation } : null;
  };
  /** @param {Found} found @param {{ x: number, y: number }} [point] */
  const openMenu = ({ row, conversation }, point) => (
    withModule(import("./conversation-menu.js"), session.words, ({ openActions }) => openActions(session, conversation, row, point))
  );

  root.addEventListener("contextmenu", (event) => {
    const found = rowOf(event.target);
    if (!found) return;
    event.preventDefault();
    const pointer = event instanceof PointerEvent ? event.pointerType : "";
    if (pointer === "touch") return; // a long press opens it
    openMenu(found, pointer === "mouse" ? { x: event.clientX, y: event.clientY } : undefined);
  }, { signal });
  root.addEventListener("keydown", (event) => onKey(event, session, list, rowOf(event.target)), { signal });
  list.step = (step) => {
    const index = list.open ? list.items.indexOf(list.open) : -1;
    const next = list.items[index < 0 ? 0 : index + step];
    if (!next) return;
    list.reveal(next);
    session.open({ conversation: next.id });
  };
  if (matchMedia("(any-pointer: coarse)").matches) followFingers(session, root, { rowOf, openMenu, signal });
}

/**
 * @param {KeyboardEvent} event
 * @param {Session} session
 * @param {ConversationList} list
 * @param {Found | null} found
 */
function onKey(event, session, list, found) {
  if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key } = event;
  const index = list.items.indexOf(found.conversation);
  const last = list.items.length - 1;
  const visibleRows = Math.floor((found.row.closest("nav")?.clientHeight ?? 0) / found.row.offsetHeight);
  const page = Math.max(1, visibleRows - 1);
  const indexByKey = {
    ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: last, PageDown: Math.min(last, index + page), PageUp: Math.max(0, index - page),
  };
  const next = list.items[indexByKey[/** @type {keyof typeof indexByKey} */ (key)]];
  if (next) list.reveal(next, true);
  else if (/^[pumaf]$/i.test(key)) {
    withModule(import("./conversation-menu.js"), session.words, ({ press }) => press(session, found.conversation, key.toLowerCase()));
  } else return; // above the conversations, list-keys leads on
  event.preventDefault();
}

/**
 * Opens the menu by a long press, and does an action by a swipe.
 *
 * @param {Session} session
 * @param {HTMLElement} root
 * @param {{ rowOf: (target: EventTarget | null) => Found | null, openMenu: (found: Found, point: { x: number, y: number }) => unknown, signal: AbortSignal }} of
 */
async function followFingers(session, root, { rowOf, openMenu, signal }) {
  // Without these modules, a key opens the menu.
  const modules = await Promise.all([import("../parts/swipe.js"), import("./conversation-menu.js"), import("../parts/long-press.js")]).catch(() => null);
  if (!modules) return;
  const [{ onSwipe }, { pullsOf }, { onLongPress }] = modules;
  onLongPress(root, (target, point) => {
    const found = rowOf(target);
    if (found) openMenu(found, point);
    return found !== null;
  }, signal);
  onSwipe(root, (target) => {
    const found = rowOf(target);
    return found && { row: /** @type {HTMLElement} */ (found.row.parentElement), ...pullsOf(session, found.conversation) };
  }, signal);
}
