// @ts-check
/** A finger that stays on something. */

const LONG_PRESS_MS = 500;
/** A finger that moves farther scrolls. */
const SLIP_PX = 10;

/** @typedef {{ x: number, y: number }} Point */

/**
 * Calls `press` when a finger stays. The browser then neither follows a link nor presses a button under it, nor opens a menu of its own.
 *
 * @param {EventTarget} root
 * @param {(target: EventTarget | null, point: Point) => boolean} press  returns whether it did something
 * @param {AbortSignal} signal  ends it
 */
export function onLongPress(root, press, signal) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let isPressed = false;
  /** @type {Point} */
  let start = { x: 0, y: 0 };
  const stop = () => clearTimeout(timer);
  const begin = (/** @type {Event} */ event) => {
    const { touches, target } = /** @type {TouchEvent} */ (event);
    stop();
    isPressed = false;
    if (touches.length !== 1) return;
    start = { x: touches[0].clientX, y: touches[0].clientY };
    timer = setTimeout(() => { isPressed = press(target, start); }, LONG_PRESS_MS);
  };
  const move = (/** @type {Event} */ event) => {
    const [{ clientX, clientY }] = /** @type {TouchEvent} */ (event).touches;
    if (Math.hypot(clientX - start.x, clientY - start.y) > SLIP_PX) stop();
  };
  const end = (/** @type {Event} */ event) => {
    stop();
    if (isPressed) event.preventDefault(); // no click
  };
  root.addEventListener("touchstart", begin, { signal, passive: true });
  root.addEventListener("touchmove", move, { signal, passive: true });
  root.addEventListener("touchend", end, { signal, passive: false });
  root.addEventListener("touchcancel", stop, { signal, passive: true });
  root.addEventListener("scroll", stop, { signal, passive: true, capture: true });
}
