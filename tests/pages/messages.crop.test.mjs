// The arithmetic of cropped avatars. Without a browser.
import assert from "node:assert/strict";
import { it } from "node:test";
import { moved, startPlacement, visibleSquare, zoomed } from "./static/messages/people/avatar-crop.js";

const wide = { width: 400, height: 200 };

it("a picture fills the window from the start", () => {
  assert.deepEqual(startPlacement(wide, 100), { scale: 0.5, x: -50, y: 0 });
  assert.deepEqual(visibleSquare(startPlacement(wide, 100), 100), { x: 100, y: 0, size: 200 });
});

it("no edge of the picture is moved into the window", () => {
  const start = startPlacement(wide, 100);
  assert.deepEqual(visibleSquare(moved(start, 999, 999, wide, 100), 100), { x: 0, y: 0, size: 200 });
  assert.deepEqual(visibleSquare(moved(start, -999, -999, wide, 100), 100), { x: 200, y: 0, size: 200 });
});

it("a zoom keeps the point below the pointer where it is", () => {
  const start = startPlacement(wide, 100);
  const at = { x: 30, y: 40 };
  const before = { x: (at.x - start.x) / start.scale, y: (at.y - start.y) / start.scale };
  const near = zoomed(start, 1, at, wide, 100);
  assert.equal(near.scale, 1);
  assert.deepEqual({ x: (at.x - near.x) / near.scale, y: (at.y - near.y) / near.scale }, before);
});

it("a zoom has bounds, and shows no edge", () => {
  const start = startPlacement(wide, 100);
  assert.equal(zoomed(start, 99, { x: 50, y: 50 }, wide, 100).scale, 4);
  const corner = moved(zoomed(start, 1, { x: 0, y: 0 }, wide, 100), 999, 999, wide, 100);
  assert.deepEqual(visibleSquare(zoomed(corner, 0, { x: 100, y: 100 }, wide, 100), 100), { x: 0, y: 0, size: 200 });
});
