// Modules that are loaded on a click, what is asked for again while it loads, and lists that have several pages.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { it } from "node:test";

import { rowsOf } from "./static/messages/parts/api.js";
import { load, noteLine, withModule } from "./static/messages/parts/form.js";

const FOLDER = new URL("./static/messages/", import.meta.url);
const WORDS = [
  { messages_fault_no_answer: "服务器没有回答", enter_again: "重新进入" },
  { messages_fault_no_answer: "the server does not answer", enter_again: "Reload" },
];

/** An element that has a text and children, no more. */
function fakeElement() {
  return {
    parts: [],
    append(...parts) { this.parts.push(...parts); },
    setAttribute() {},
    addEventListener(_, listener) { this.click = listener; },
    remove() {},
    get text() { return this.textContent ?? this.parts.map((part) => part.text ?? part).join(""); },
  };
}

it("a module that cannot be loaded is reported in the language of the page, and one that can is used", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const words of WORDS) {
    const body = fakeElement();
    let reloads = 0;
    globalThis.location = /** @type {any} */ ({ reload: () => (reloads += 1) });
    globalThis.document = /** @type {any} */ ({ body, createElement: fakeElement, getElementById: () => null });
    const used = [];
    const missing = () => import("./static/messages/absent.js");
    await withModule(missing(), words, () => used.push("missing"));
    assert.deepEqual([body.text, used], [words.messages_fault_no_answer + words.enter_again, []]);
    const [[toast]] = body.parts.map(({ parts }) => parts);
    toast.parts[1].click();
    assert.equal(reloads, 1);
    const note = noteLine();
    await withModule(missing(), words, () => used.push("missing"), note);
    assert.deepEqual([note.textContent, note.hidden, body.parts.length], [words.messages_fault_no_answer, false, 1]);
    await withModule(import("./static/messages/parts/format.js"), words, () => used.push("found"), note);
    assert.deepEqual(used, ["found"]);
    assert.equal(body.parts.length, 1);
  }
});

it("every module that is loaded late is loaded that way", () => {
  for (const name of readdirSync(FOLDER, { recursive: true }).filter((each) => each.endsWith(".js"))) {
    const code = readFileSync(new URL(name, FOLDER), "utf-8").replaceAll(/\/\*\*.*?\*\//gs, "");
    for (const [line] of code.matchAll(/^.*\bimport\(.*$/gm)) {
      assert.match(line, /withModule\(import\("|\.catch\(/, `${name}: ${line.trim()}`);
    }
  }
});

it("a list has the rows of all its pages, up to a limit", async () => {
  const asked = [];
  const pages = { "": { bots: [1, 2], next: "2" }, 2: { bots: [3], next: "" } };
  const found = await rowsOf("bots", async (cursor) => {
    asked.push(cursor);
    return pages[cursor];
  });
  assert.deepEqual([found, asked], [[1, 2, 3], ["", "2"]]);
  const endless = await rowsOf("bots", async () => ({ bots: Array(1_000).fill(0), next: "more" }));
  assert.equal(endless.length, 2_000);
});

it("what is asked for again while it loads is loaded once more, after the answers that may be older", async () => {
  const attributes = new Map();
  const session = /** @type {any} */ ({ words: {} });
  const body = /** @type {any} */ ({
    childElementCount: 1,
    getAttribute: (name) => attributes.get(name) ?? null,
    setAttribute: (name, value) => attributes.set(name, value),
    removeAttribute: (name) => attributes.delete(name),
  });
  let role = "member";
  let shown = "";
  let asked = 0;
  const answers = [];
  const read = async () => {
    asked += 1;
    const answer = role;
    await new Promise((resolve) => answers.push(resolve));
    shown = answer;
  };
  const first = load(body, null, session, read);
  role = "admin";
  const others = [load(body, null, session, read), load(body, null, session, read)];
  answers[0]();
  while (answers.length < 2) await new Promise(setImmediate);
  assert.equal(shown, "member");
  answers[1]();
  assert.deepEqual(await Promise.all([first, ...others]), [true, true, true]);
  assert.deepEqual([shown, asked, attributes.size], ["admin", 2, 0]);
  const later = load(body, null, session, read);
  answers[2]();
  assert.equal(await later, true);
  assert.equal(asked, 3);
});
