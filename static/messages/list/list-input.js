// @ts-check
/** What one does with the rows of the list: keys lead through it, and a menu, letters and swipes change a conversation. */

import { element } from "../../text.js";
import { withModule } from "../parts/form.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("./conversation-list.js").ConversationList} ConversationList */
/** @typedef {{ row: HTMLElement, conversation: Conversation }} Found */

/**
 * @param {Session} session
 * @param {ConversationList} list
 * @param {AbortSignal} signal  ends it
 */
export function listen(session, list, signal) {
  const root = element("conversations", HTMLElement);
  /** @param {EventTarget | null} target @returns {Found | null} */
  const at = (target) => {
    const row = target instanceof Element ? /** @type {HTMLElement | null} */ (target.closest("[data-conversation]")) : null;
    const conversation = session.store.conversations.get(Number(row?.dataset.conversation));
    return row && conversation ? { row, conversation } : null;
  };
  /** @param {Found} found @param {{ x: number, y: number }} [point] */
  const open = ({ row, conversation }, point) => withModule(import("./conversation-menu.js"), session.words, ({ openActions }) => openActions(session, conversation, row, point));

  root.addEventListener("contextmenu", (event) => {
    const found = at(event.target);
    if (!found) return;
    event.preventDefault();
    const isMouse = event instanceof PointerEvent && event.pointerType === "mouse";
    if (isMouse || !(event instanceof PointerEvent) || event.pointerType !== "touch") open(found, isMouse ? { x: event.clientX, y: event.clientY } : undefined);
  }, { signal });
  root.addEventListener("keydown", (event) => onKey(event, session, list, at(event.target)), { signal });
  list.step = (step) => {
    const at = list.open ? list.items.indexOf(list.open) : -1;
    const next = list.items[at < 0 ? 0 : at + step];
    if (!next) return;
    list.reveal(next);
    session.open({ conversation: next.id });
  };
  if (matchMedia("(any-pointer: coarse)").matches) followFingers(session, root, { at, open, signal });
}

/**
 * @param {KeyboardEvent} event
 * @param {Session} session
 * @param {ConversationList} list
 * @param {Found | null} found
 */
function onKey(event, session, list, found) {
  if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
  const at = list.items.indexOf(found.conversation);
  const last = list.items.length - 1;
  const page = Math.max(1, Math.floor((found.row.closest("nav")?.clientHeight ?? 0) / found.row.offsetHeight) - 1);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last, PageDown: Math.min(last, at + page), PageUp: Math.max(0, at - page) }[event.key];
  if (next !== undefined && list.items[next]) list.reveal(list.items[next], true);
  else if (/^[pumaf]$/i.test(event.key)) withModule(import("./conversation-menu.js"), session.words, ({ press }) => press(session, found.conversation, event.key.toLowerCase()));
  else return; // above the conversations, list-keys leads on
  event.preventDefault();
}

/**
 * @param {Session} session
 * @param {HTMLElement} root
 * @param {{ at: (target: EventTarget | null) => Found | null, open: (found: Found, point: { x: number, y: number }) => unknown, signal: AbortSignal }} row
 */
async function followFingers(session, root, { at, open, signal }) {
  const modules = await Promise.all([import("../parts/swipe.js"), import("./conversation-menu.js"), import("../parts/long-press.js")]).catch(() => null); // without them, a key opens the menu
  if (!modules) return;
  const [{ onSwipe }, { pullsOf }, { onLongPress }] = modules;
  onLongPress(root, (target, point) => {
    const found = at(target);
    if (found) open(found, point);
    return found !== null;
  }, signal);
  onSwipe(root, (target) => {
    const found = at(target);
    return found && { row: /** @type {HTMLElement} */ (found.row.parentElement), ...pullsOf(session, found.conversation) };
  }, signal);
}
