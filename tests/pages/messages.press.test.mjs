// A long press, on whatever is under the finger.
import assert from "node:assert/strict";
import { it } from "node:test";

import { onLongPress } from "./static/messages/parts/long-press.js";

/** A root, the presses on it, and a finger that does things. */
function pressed(context, does = true) {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const root = new EventTarget();
  const points = [];
  onLongPress(root, (target, point) => {
    points.push(point);
    return does;
  }, new AbortController().signal);
  const finger = (type, ...at) => {
    const event = Object.assign(new Event(type, { cancelable: true }), { touches: at.map(([clientX, clientY]) => ({ clientX, clientY })) });
    root.dispatchEvent(event);
    return event;
  };
  return { points, finger, wait: (ms) => context.mock.timers.tick(ms) };
}

it("opens after half a second, and takes the click that follows", (context) => {
  const { points, finger, wait } = pressed(context);
  finger("touchstart", [5, 6]);
  finger("touchmove", [8, 9]);
  wait(500);
  assert.deepEqual(points, [{ x: 5, y: 6 }]);
  assert.ok(finger("touchend").defaultPrevented);
});

it("leaves a tap, a swipe, a pinch and what it does not know to the browser", (context) => {
  const { points, finger, wait } = pressed(context, false);
  finger("touchstart", [5, 6]);
  wait(499);
  assert.ok(!finger("touchend").defaultPrevented);
  finger("touchstart", [5, 6]);
  finger("touchmove", [5, 17]);
  wait(500);
  finger("touchstart", [5, 6], [50, 60]);
  wait(500);
  assert.deepEqual(points, []);
  finger("touchstart", [5, 6]);
  wait(500);
  assert.ok(!finger("touchend").defaultPrevented);
  assert.equal(points.length, 1);
});
