// The list of messages, with a layout of rows that are all 40 px high.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Timeline } from "./static/messages/conversation/timeline.js";

const [ROW_PX, ROOT_PX] = [40, 900];
let isShown = true;
let frames = [];
let resized = () => {};

/** A row, or the list of them. */
class FakeElement {
  children = [];
  dataset = {};
  parent = null;

  get clientHeight() { return isShown ? ROW_PX : 0; }
  get firstElementChild() { return this.children[0] ?? null; }
  get nextElementSibling() { return this.parent?.children[this.parent.children.indexOf(this) + 1] ?? null; }
  get childElementCount() { return this.children.length; }
  append(...children) { for (const child of children) this.insertBefore(child, null); }
  replaceChildren() { for (const child of [...this.children]) child.remove(); }
  contains() { return false; }
  addEventListener(type, listener) { if (type === "scroll") this.scrolled = listener; }

  insertBefore(child, next) {
    child.remove();
    this.children.splice(next ? this.children.indexOf(next) : this.children.length, 0, child);
    child.parent = this;
  }

  remove() {
    this.parent?.children.splice(this.parent.children.indexOf(this), 1);
    this.parent = null;
  }

  getBoundingClientRect() {
    const { children, parent } = this.parent ?? this;
    const top = isShown && parent ? children.indexOf(this) * ROW_PX - parent.scrollTop : 0;
    return { top, height: this.clientHeight, bottom: top + this.clientHeight };
  }
}

/** The element that scrolls. Without a layout all its measures are 0. */
class FakeRoot extends FakeElement {
  #top = 0;

  get clientHeight() { return isShown ? ROOT_PX : 0; }
  get scrollHeight() { return isShown ? Math.max(ROOT_PX, this.children[0].childElementCount * ROW_PX) : 0; }
  get scrollTop() { return isShown ? this.#top : 0; }
  set scrollTop(top) { this.#top = Math.max(0, Math.min(top, this.scrollHeight - ROOT_PX)); }
  getBoundingClientRect() { return { top: 0, height: this.clientHeight, bottom: this.clientHeight }; }
}

beforeEach(() => {
  isShown = true;
  frames = [];
});
Object.assign(globalThis, {
  HTMLElement: FakeElement,
  document: { hidden: false, activeElement: null, createElement: () => new FakeElement() },
  requestAnimationFrame: (work) => frames.push(work),
  ResizeObserver: class {
    constructor(work) { resized = work; }
    observe() {}
  },
});

/** A timeline, and what it has asked for. */
function fakeTimeline() {
  const root = new FakeRoot();
  const asked = [];
  const timeline = new Timeline(/** @type {any} */ (root), { needOlder: () => asked.push("older"), needNewer: () => asked.push("newer"), onSeen() {}, onMove() {} });
  return { root, asked, timeline };
}

const items = (count) => Array.from({ length: count }, (_, at) => ({ key: String(at), version: "", make: () => /** @type {any} */ (new FakeElement()) }));
const keys = ({ elements }) => elements.map(({ dataset }) => dataset.key);

/** The browser draws until nothing is left to do; returns whether that ends. */
function drawn() {
  for (let count = 0; frames.length && count < 50; count++) frames.shift()();
  return !frames.length;
}

/** The view of the timeline is hidden, or shown again. */
function setShown(shown, root) {
  root.scrollTop = 0; // browsers may forget it
  isShown = shown;
  resized();
}

for (const count of [20, 400]) {
  it(`a hidden timeline of ${count} items draws and loads nothing until it is shown`, () => {
    const { root, asked, timeline } = fakeTimeline();
    setShown(false, root);
    timeline.show(items(count));
    const before = keys(timeline);
    assert.ok(drawn());
    assert.deepEqual([keys(timeline), asked], [before, []]);
    setShown(true, root);
    assert.ok(drawn());
    assert.ok(timeline.isAtEnd);
    assert.deepEqual(asked, count > 30 ? ["newer"] : ["older", "newer"]);
    assert.ok(keys(timeline).length >= Math.min(count, 31));
  });
}

it("a timeline that was hidden shows the same rows again", () => {
  const { root, timeline } = fakeTimeline();
  timeline.show(items(40), { key: "10" });
  assert.ok(drawn());
  const { scrollTop } = root;
  assert.ok(scrollTop > 0 && !timeline.isAtEnd);
  setShown(false, root);
  timeline.update(items(41)); // a message arrives
  assert.ok(drawn());
  setShown(true, root);
  assert.ok(drawn());
  assert.deepEqual([root.scrollTop, timeline.isAtEnd], [scrollTop, false]);
});

it("a timeline goes back to where the user was", () => {
  const { root, timeline } = fakeTimeline();
  timeline.show([{ ...items(1)[0], key: "day" }, ...items(80)], { key: "20" });
  assert.ok(drawn());
  root.scrollTop += 55;
  root.scrolled();
  const { scrollTop } = root;
  const { place } = timeline;
  timeline.show([]);
  assert.equal(timeline.place, null, "the end is in view");
  timeline.show([{ ...items(1)[0], key: "day" }, ...items(80)], place);
  assert.ok(drawn());
  assert.deepEqual([timeline.place, root.scrollTop], [place, scrollTop]);
});

it("on a slow device few rows are drawn in a frame, and rows that are far away are removed", (context) => {
  const { root, timeline } = fakeTimeline();
  let now = 0;
  context.mock.method(performance, "now", () => now);
  let made = 0;
  const slow = items(500).map((item) => ({ ...item, make: () => {
    now += 4;
    made += 1;
    return item.make();
  } }));
  timeline.show(slow);
  assert.ok(drawn());
  const most = [];
  for (let frame = 0; frame < 300; frame++) {
    root.scrollTop -= 60;
    root.scrolled();
    made = 0;
    frames.shift()?.();
    most.push(made);
  }
  assert.ok(Math.max(...most.slice(2)) <= 3, String(most));
  assert.ok(most.filter(Boolean).length > 50 && keys(timeline).length < 130, String(keys(timeline).length));
});
