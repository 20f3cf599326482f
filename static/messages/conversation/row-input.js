// @ts-check
/** What pointers, fingers and keys do with the rows of the open conversation. Loaded after they are shown. */

import { make } from "../../text.js";
import { icon } from "../parts/file.js";
import { onLongPress } from "../parts/long-press.js";
import { button } from "../parts/panel.js";
import { onSwipe } from "../parts/swipe.js";

/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {{ row: HTMLElement, entry: Entry }} Found */

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
 * @param {Rows} rows
 * @param {AbortSignal} signal  ends it
 */
export function listenToRows(rows, signal) {
  const { log } = rows;
  const at = (/** @type {EventTarget | null} */ target) => {
    const row = target instanceof Element ? target.closest(".line[data-id]") : null;
    const entry = row instanceof HTMLElement ? rows.find(Number(row.dataset.id)) : null;
    return row instanceof HTMLElement && entry ? { row, entry } : null;
  };
  /** @type {Found | null} */
  let pointed = null;
  const tools = makeTools(rows, () => pointed && rows.find(pointed.entry.id));
  log.addEventListener("pointerover", (event) => {
    const found = event.pointerType === "touch" ? null : at(event.target);
    if (!found || (found.row === pointed?.row && tools.isConnected)) return;
    pointed = found;
    const time = found.row.querySelector("time");
    if (time) time.title = rows.exact.format(found.entry.time); // slow: not for each row
    found.row.querySelector(".bubble-row")?.append(tools);
  }, { signal });
  log.addEventListener("pointerleave", () => tools.remove(), { signal });
  log.addEventListener("contextmenu", (event) => {
    const found = at(event.target);
    if (event instanceof PointerEvent && event.pointerType === "touch") {
      if (found) event.preventDefault(); // the long press has opened our menu
      return;
    }
    const selected = !getSelection()?.isCollapsed || (event.target instanceof Element && event.target.closest("a, video, audio, img"));
    if (!found || selected) return;
    event.preventDefault();
    rows.menu(found.entry, found.row, true, { x: event.clientX, y: event.clientY });
  }, { signal });
  onLongPress(log, (target) => {
    const found = target instanceof Element && !target.closest("input, .face") ? at(target) : null;
    if (!found) return false;
    if (rows.isSelecting()) rows.select(found.entry);
    else rows.menu(found.entry, found.row, true);
    return true;
  }, signal);
  if (matchMedia("(any-pointer: coarse)").matches) {
    onSwipe(log, (target) => {
      const found = rows.mayReply() ? at(target) : null;
      return found?.entry.kind === "message" ? { row: found.row, right: { sign: "↩", act: () => rows.reply(found.entry) } } : null;
    }, signal);
  }
  log.addEventListener("keydown", (event) => onKey(rows, event, at(event.target)), { signal });
}

/**
 * Buttons for the message under the pointer. There is one set of them, in the row that has the pointer.
 *
 * @param {Rows} rows
 * @param {() => Entry | null} current
 * @returns {HTMLElement}
 */
function makeTools(rows, current) {
  const { words } = rows;
  const acts = /** @type {[string, "smile" | "reply" | "dots", (entry: Entry, at: HTMLElement) => void][]} */ ([
    [words.messages_react, "smile", (entry, at) => rows.menu(entry, at, false)],
    [words.messages_reply, "reply", (entry) => rows.reply(entry)],
    [words.messages_more, "dots", (entry, at) => rows.menu(entry, at, true)],
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
 * Arrow keys move through the messages; Enter opens the menu of one.
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
  const onRow = row !== null && row === target;
  const act = onRow && found ? { Enter: () => rows.menu(found.entry, found.row, true), " ": () => rows.menu(found.entry, found.row, true), r: () => rows.reply(found.entry), t: () => rows.thread(found.entry), x: () => rows.select(found.entry) }[key] : undefined;
  if (act) {
    event.preventDefault();
    act();
  } else if (key === "End" || key === "Home") {
    event.preventDefault();
    if (key === "End") rows.toEnd();
    else timeline.elements[0]?.scrollIntoView();
  } else if ((key === "ArrowUp" || key === "ArrowDown") && row instanceof HTMLElement) {
    event.preventDefault();
    if (key === "ArrowUp" && !onRow) row.focus({ preventScroll: true }); // from a control in it
    else if (!timeline.focusNext(row, key === "ArrowUp" ? -1 : 1) && key === "ArrowDown") rows.leave();
  } else if (key === "ArrowUp" && target === log) {
    event.preventDefault();
    const focusable = timeline.elements.filter((each) => each.hasAttribute("tabindex"));
    focusable.findLast((each) => each.getBoundingClientRect().top < log.getBoundingClientRect().bottom - 8)?.focus({ preventScroll: true });
  }
}
