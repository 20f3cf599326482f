// What the user of the messages page wishes to be notified of, beside other devices.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { hasKeyword } from "./static/messages/session/keywords.js";
import { Wishes } from "./static/messages/session/wishes.js";

const rows = new Map();
globalThis.localStorage = /** @type {any} */ ({ getItem: (key) => rows.get(key) ?? null, setItem: (key, value) => rows.set(key, value) });

beforeEach(() => rows.clear());

const FOR_GOOD = 2 ** 40;

function fake(api) {
  const session = { app: "shop", user: "ann", hasNotifications: true, drawn: 0, changed: () => void session.drawn++, api, store: { conversations: new Map([[9, { group: true }]]) } };
  return { session, wishes: new Wishes(/** @type {any} */ (session)) };
}

it("another device mutes a conversation, and ends it", () => {
  const { session, wishes } = fake();
  wishes.receive({ conversation: 7, level: "all", muteUntil: FOR_GOOD });
  assert.deepEqual([wishes.isQuiet(7), wishes.isQuiet(8), session.drawn], [true, false, 1]);
  assert.equal(fake().wishes.isQuiet(7), true, "the browser has stored it");
  wishes.receive({ conversation: 7, level: "all", muteUntil: 0 });
  assert.deepEqual([wishes.isQuiet(7), session.drawn], [false, 2]);
});

it("those of the server replace what the browser remembers, which stays if the server does not answer", async () => {
  let answer = async () => ({ conversations: [{ conversation: 7, level: "mentions", mute_until: 0 }] });
  const { wishes } = fake(() => answer());
  wishes.receive({ conversation: 8, level: "nothing", muteUntil: 0 });
  await wishes.load();
  assert.deepEqual([wishes.isQuiet(7), wishes.isQuiet(7, true), wishes.isQuiet(8)], [true, false, false]);
  answer = async () => Promise.reject(new Error("no network"));
  await wishes.load();
  assert.equal(wishes.isQuiet(7), true);
});

it("a level for all groups and keywords come from the server", async () => {
  const { wishes } = fake(async () => ({ conversations: [], groups: "mentions", keywords: ["Green Tea", "设计"] }));
  await wishes.load();
  assert.deepEqual([wishes.isQuiet(9), wishes.isQuiet(9, true), wishes.isQuiet(7)], [true, false, false]);
  wishes.receive({ conversation: 9, level: "all", muteUntil: 0 });
  assert.equal(wishes.isQuiet(9), false, "a group with a wish of its own");
  const found = (/** @type {string} */ text, more = {}) => hasKeyword(/** @type {any} */ ({ from: "bob", text, ...more }), wishes.general.keywords, "ann");
  assert.deepEqual(["a GREEN TEA, please", "新设计稿", "greener teas", ""].map((text) => found(text)), [true, true, false, false]);
  assert.deepEqual([found("green tea", { to: "ann" }), found("green tea", { from: "ann" })], [false, false]);
});
