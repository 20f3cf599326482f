// @ts-check
/** A finger that pulls a message to the right replies to it. Vertical moves scroll, as always. */

import { make } from "../text.js";
import { loadStyle } from "./form.js";

/** From here on the finger has made up its mind. */
const SLIP_PX = 12;
const REPLY_PX = 56;
const MOST_PX = 84;
/** The browser goes back when a finger comes from the edge. */
const EDGE_PX = 24;

/**
 * Calls `reply` when a finger has pulled a row far enough.
 *
 * The style of the rows leaves vertical moves to the browser: when it scrolls, it cancels the pointer.
 *
 * @param {HTMLElement} root
 * @param {(target: EventTarget | null) => { row: HTMLElement, reply: () => void } | null} rowAt  null: it cannot be pulled
 * @param {AbortSignal} signal  ends it
 */
export function onSwipe(root, rowAt, signal) {
  loadStyle(new URL("./later/swipe.css", import.meta.url));
  root.classList.add("swipes");
  signal.addEventListener("abort", () => root.classList.remove("swipes"));
  /** @type {{ id: number, x: number, y: number, row: HTMLElement, reply: () => void, sign: HTMLElement | null } | null} */
  let pulled = null;
  let far = 0;

  const end = (/** @type {PointerEvent} */ { pointerId, type }) => {
    if (pulled?.id !== pointerId) return;
    const { row, sign, reply } = pulled;
    pulled = null;
    row.classList.remove("pulled");
    row.style.translate = "";
    sign?.remove();
    if (sign && type === "pointerup" && far >= REPLY_PX) reply();
  };
  root.addEventListener("pointerdown", ({ pointerId, pointerType, isPrimary, clientX: x, clientY: y, target }) => {
    const isFree = pointerType === "touch" && isPrimary && x > EDGE_PX && !(target instanceof Element && target.closest("pre, input, video"));
    const found = isFree ? rowAt(target) : null;
    pulled = found && { id: pointerId, x, y, sign: null, ...found };
    far = 0;
  }, { signal });
  root.addEventListener("pointermove", ({ pointerId, clientX, clientY }) => {
    if (pulled?.id !== pointerId) return;
    const [x, y] = [clientX - pulled.x, clientY - pulled.y];
    if (!pulled.sign) {
      if (Math.abs(y) > SLIP_PX || x < -SLIP_PX) pulled = null;
      if (!pulled || x < SLIP_PX) return;
      pulled.sign = make("span", "swipe-sign", "↩");
      pulled.sign.setAttribute("aria-hidden", "true");
      pulled.row.append(pulled.sign);
      pulled.row.classList.add("pulled");
    }
    const before = far;
    far = Math.max(0, Math.min(MOST_PX, x - SLIP_PX));
    pulled.row.style.translate = `${far}px`;
    pulled.sign.style.opacity = String(Math.min(1, far / REPLY_PX));
    pulled.sign.classList.toggle("ready", far >= REPLY_PX);
    if (before < REPLY_PX && far >= REPLY_PX && navigator.userActivation?.hasBeenActive) navigator.vibrate?.(10);
  }, { signal });
  root.addEventListener("pointerup", end, { signal });
  root.addEventListener("pointercancel", end, { signal });
}
