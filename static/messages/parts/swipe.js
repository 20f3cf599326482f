// @ts-check
/** A finger that pulls a row to a side: a message, or a conversation of the list. Vertical moves scroll, as always. */

import { make } from "../../text.js";
import { loadStyle } from "./form.js";

/** A finger that has moved so far pulls, or scrolls. */
const SLIP_PX = 12;
/** A row that is pulled so far does its act. */
const ENOUGH_PX = 56;
/** A row moves no farther. */
const MOST_PX = 84;
const VIBRATION_MS = 10;
/** The browser goes back when a finger comes from the edge. */
const EDGE_PX = 24;

/** @typedef {{ sign: string, act: () => void }} Pull  `sign`: what the finger uncovers */
/** @typedef {{ row: HTMLElement, right?: Pull, left?: Pull }} Pulls */

/**
 * Calls `act` of a side when a finger has pulled a row far enough to it.
 *
 * The style of the rows leaves vertical moves to the browser: when it scrolls, it cancels the pointer.
 *
 * @param {HTMLElement} root
 * @param {(target: EventTarget | null) => Pulls | null} rowAt  null: it cannot be pulled
 * @param {AbortSignal} signal  ends it
 */
export function onSwipe(root, rowAt, signal) {
  loadStyle(new URL("../later/swipe.css", import.meta.url));
  root.classList.add("swipes");
  signal.addEventListener("abort", () => root.classList.remove("swipes"));
  /** @type {Pulls & { id: number, x: number, y: number, side: 1 | -1, sign: HTMLElement | null } | null} */
  let pulled = null;
  /** How far the row is pulled, in pixels. */
  let far = 0;

  const end = (/** @type {PointerEvent} */ { pointerId, type }) => {
    if (pulled?.id !== pointerId) return;
    const { row, sign, side, right, left } = pulled;
    pulled = null;
    row.classList.remove("pulled");
    row.style.translate = "";
    sign?.remove();
    const pull = side > 0 ? right : left;
    if (sign && type === "pointerup" && far >= ENOUGH_PX) pull?.act();
  };
  root.addEventListener("pointerdown", ({ pointerId, pointerType, isPrimary, clientX: x, clientY: y, target }) => {
    const isInControl = target instanceof Element && target.closest("pre, input, video"); // which use such moves themselves
    const isFree = pointerType === "touch" && isPrimary && x > EDGE_PX && !isInControl;
    const found = isFree ? rowAt(target) : null;
    pulled = found && { id: pointerId, x, y, side: 1, sign: null, ...found };
    far = 0;
  }, { signal });
  root.addEventListener("pointermove", ({ pointerId, clientX, clientY }) => {
    if (pulled?.id !== pointerId) return;
    const [x, y] = [clientX - pulled.x, clientY - pulled.y];
    if (!pulled.sign) {
      const pull = x > 0 ? pulled.right : pulled.left;
      if (Math.abs(y) > SLIP_PX || (Math.abs(x) > SLIP_PX && !pull)) pulled = null;
      if (!pulled || !pull || Math.abs(x) < SLIP_PX) return;
      pulled.side = x > 0 ? 1 : -1;
      pulled.sign = make("span", x > 0 ? "swipe-sign" : "swipe-sign end", pull.sign);
      pulled.sign.setAttribute("aria-hidden", "true");
      pulled.row.append(pulled.sign);
      pulled.row.classList.add("pulled");
    }
    const before = far;
    far = Math.max(0, Math.min(MOST_PX, pulled.side * x - SLIP_PX));
    pulled.row.style.translate = `${pulled.side * far}px`;
    pulled.sign.style.opacity = String(Math.min(1, far / ENOUGH_PX));
    pulled.sign.classList.toggle("ready", far >= ENOUGH_PX);
    const isEnoughNow = before < ENOUGH_PX && far >= ENOUGH_PX;
    if (isEnoughNow && navigator.userActivation?.hasBeenActive) navigator.vibrate?.(VIBRATION_MS);
  }, { signal });
  root.addEventListener("pointerup", end, { signal });
  root.addEventListener("pointercancel", end, { signal });
}
