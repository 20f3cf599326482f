// Texts that are not sent yet, in several tabs of one browser.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Drafts } from "./static/messages/session/drafts.js";

const rows = new Map();
globalThis.localStorage = /** @type {any} */ ({
  getItem: (key) => rows.get(key) ?? null,
  setItem: (key, value) => rows.set(key, value),
  removeItem: (key) => rows.delete(key),
});

beforeEach(() => rows.clear());

it("a draft with its reply and its mentions is there after a reload", () => {
  const drafts = new Drafts("drafts");
  const draft = /** @type {any} */ ({ text: "@Bob tea?", replyTo: 7, mentions: [["Bob", "2"]] });
  drafts.set("1", draft);
  drafts.save();
  assert.deepEqual(new Drafts("drafts").get("1"), draft);
});

it("a tab saves only what was written in it", () => {
  const [one, other] = [new Drafts("drafts"), new Drafts("drafts")];
  one.set("1", { text: "one" });
  one.save();
  other.save(); // hidden: nothing was written there
  other.set("2", { text: "two" });
  other.set("1", { text: "" }); // shown there: it knows no draft
  other.save();
  one.set("1", { text: "one" });
  one.save();
  const again = new Drafts("drafts");
  assert.deepEqual([again.get("1").text, again.get("2").text], ["one", "two"]);
  again.set("1", { text: " " });
  again.save();
  one.save();
  assert.deepEqual(new Drafts("drafts").get("1"), { text: "" });
});

it("nothing is saved after a logout", () => {
  const drafts = new Drafts("drafts");
  drafts.set("1", { text: "one" });
  drafts.forget();
  drafts.save();
  assert.equal(rows.size, 0);
});
