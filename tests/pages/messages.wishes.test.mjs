// What the user of the messages page wishes to be notified of, beside other devices.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Wishes } from "./static/messages/session/wishes.js";

const rows = new Map();
globalThis.localStorage = /** @type {any} */ ({ getItem: (key) => rows.get(key) ?? null, setItem: (key, value) => rows.set(key, value) });

beforeEach(() => rows.clear());

const FOR_GOOD = 2 ** 40;

function fake(api) {
  const session = { app: "shop", user: "ann", hasNotifications: true, drawn: 0, changed: () => void session.drawn++, api };
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
