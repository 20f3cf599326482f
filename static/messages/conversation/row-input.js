// @ts-check
/** What pointers, fingers and keys do with the rows of the open conversation. Loaded after they are shown. */

import { make } from "../../text.js";
import { icon } from "../parts/file.js";
import { onLongPress } from "../parts/long-press.js";
import { button } from "../parts/panel.js";
import { onSwipe } from "../parts/swipe.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {{ row: HTMLElement, entry: Entry }} Found */

/** From the messages, the arrow key goes to the last row that begins at least so far above the lower edge. */
const MIN_SHOWN_PX = 8;

/**
 * @typedef {object} Rows
 * @property {HTMLElement} log  they are in it
 * @property {import("./timeline.js").Timeline} timeline
 * @property {Record<string, string>} words
 * @property {Intl.DateTimeFormat} exact
 * @property {(id: number) => Entry | null} find
 * @property {(entry: Entry, anchor: HTMLElement, all: boolean, point?: { x: number, y: number }) => void} menu  see `open` of the actions
 * @property {(entry: Entry) => void} reply
 * @property {() => boolean} mayReply  with one movement
 * @property {(entry: Entry) => void} thread
 * @property {(entry: Entry) => void} select
 * @property {() => boolean} isSelecting
 * @property {() => void} leave  the focus goes to the text box
 * @property {() => void} toEnd
 */

/**
 * Listens to the pointer, to fingers and to keys.
 *
 * @param {Rows} rows
 * @param {AbortSignal} signal  ends it
 */
export function listenToRows(rows, signal) {
  const { log } = rows;
  const find = (/** @type {EventTarget | null} */ target) => findRow(rows, target);
  listenToPointer(rows, find, signal);
  log.addEventListener("contextmenu", (event) => {
    const found = find(event.target);
    if (event instanceof PointerEvent && event.pointerType === "touch") {
      if (found) event.preventDefault(); // the long press has opened our menu
      return;
    }
    // The browser's own menu copies selected text, and opens or saves these elements.
    const isForBrowser = !getSelection()?.isCollapsed || (event.target instanceof Element && event.target.closest("a, video, audio, img"));
    if (!found || isForBrowser) return;
    event.preventDefault();
    rows.menu(found.entry, found.row, true, { x: event.clientX, y: event.clientY });
  }, { signal });
  onLongPress(log, (target) => {
    const found = target instanceof Element && !target.closest("input, .face") ? find(target) : null;
    if (!found) return false;
    if (rows.isSelecting()) rows.select(found.entry);
    else rows.menu(found.entry, found.row, true);
    return true;
  }, signal);
  if (matchMedia("(any-pointer: coarse)").matches) {
    onSwipe(log, (target) => {
      const found = rows.mayReply() ? find(target) : null;
      if (found?.entry.kind !== "message") return null;
      return { row: found.row, right: { sign: "↩", act: () => rows.reply(found.entry) } };
    }, signal);
  }
  log.addEventListener("keydown", (event) => onKey(rows, event, find(event.target)), { signal });
}

/**
 * @param {Rows} rows
 * @param {EventTarget | null} target  of an event
 * @returns {Found | null} the message in whose row it is
 */
function findRow(rows, target) {
  const row = target instanceof Element ? target.closest(".line[data-id]") : null;
  if (!(row instanceof HTMLElement)) return null;
  const entry = rows.find(Number(row.dataset.id));
  return entry ? { row, entry } : null;
}

/**
 * Puts the buttons into the row under the pointer.
 *
 * @param {Rows} rows
 * @param {(target: EventTarget | null) => Found | null} find
 * @param {AbortSignal} signal  ends it
 */
function listenToPointer(rows, find, signal) {
  const { log } = rows;
  /** @type {Found | null} */
  let pointed = null;
  const tools = makeTools(rows, () => pointed && rows.find(pointed.entry.id));
  log.addEventListener("pointerover", (event) => {
    const found = event.pointerType === "touch" ? null : find(event.target);
    if (!found || (found.row === pointed?.row && tools.isConnected)) return;
    pointed = found;
    const time = found.row.querySelector("time");
    if (time) time.title = rows.exact.format(found.entry.time); // slow: not for each row
    found.row.querySelector(".bubble-row")?.append(tools);
  }, { signal });
  log.addEventListener("pointerleave", () => tools.remove(), { signal });
}

/**
 * Buttons for the message under the pointer. There is one set of them, in the row that has the pointer.
 *
 * @param {Rows} rows
 * @param {() => Entry | null} current  the message, as it is now
 * @returns {HTMLElement}
 */
function makeTools(rows, current) {
  const { words } = rows;
  const acts = /** @type {[string, "smile" | "reply" | "dots", (entry: Entry, anchor: HTMLElement) => void][]} */ ([
    [words.messages_react, "smile", (entry, anchor) => rows.menu(entry, anchor, false)],
    [words.messages_reply, "reply", (entry) => rows.reply(entry)],
    [words.messages_more, "dots", (entry, anchor) => rows.menu(entry, anchor, true)],
  ]);
  return make("div", "tools", ...acts.map(([word, sign, act]) => {
    const tool = button("", "tool");
    tool.append(icon(sign));
    tool.title = word;
    tool.setAttribute("aria-label", word);
    tool.tabIndex = -1;
    tool.addEventListener("click", () => {
      const entry = current();
      if (entry) act(entry, tool);
    });
    return tool;
  }));
}

/**
 * Carries out a key: arrow keys, Home and End move through the messages, and other keys do something with the message that has the focus.
 *
 * @param {Rows} rows
 * @param {KeyboardEvent} event
 * @param {Found | null} found
 */
function onKey(rows, event, found) {
  const { log, timeline } = rows;
  const { key, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const row = target instanceof Element && !target.matches("input, video, audio") ? target.closest("[data-key]") : null;
  const isOnRow = row !== null && row === target;
  const act = isOnRow && found ? actOf(rows, found, key) : undefined;
  if (act) {
    event.preventDefault();
    act();
  } else if (key === "End" || key === "Home") {
    event.preventDefault();
    if (key === "End") rows.toEnd();
    else timeline.elements[0]?.scrollIntoView();
  } else if ((key === "ArrowUp" || key === "ArrowDown") && row instanceof HTMLElement) {
    event.preventDefault();
    if (key === "ArrowUp" && !isOnRow) return row.focus({ preventScroll: true }); // from a control in it
    const hasMoved = timeline.focusNext(row, key === "ArrowUp" ? -1 : 1);
    if (!hasMoved && key === "ArrowDown") rows.leave();
  } else if (key === "ArrowUp" && target === log) {
    event.preventDefault();
    const lowest = log.getBoundingClientRect().bottom - MIN_SHOWN_PX;
    const focusable = timeline.elements.filter((element) => element.hasAttribute("tabindex"));
    focusable.findLast((element) => element.getBoundingClientRect().top < lowest)?.focus({ preventScroll: true });
  }
}

/**
 * @param {Rows} rows
 * @param {Found} found  the message that has the focus
 * @param {string} key
 * @returns {(() => void) | undefined} what the key does with it; undefined: nothing
 */
function actOf(rows, { row, entry }, key) {
  const openMenu = () => rows.menu(entry, row, true);
  return { Enter: openMenu, " ": openMenu, r: () => rows.reply(entry), t: () => rows.thread(entry), x: () => rows.select(entry) }[key];
}
