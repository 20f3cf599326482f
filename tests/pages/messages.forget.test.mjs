// What a logout deletes from the browser's storage.
import assert from "node:assert/strict";
import { it } from "node:test";

import { Database } from "./static/messages/session/database.js";
import { People } from "./static/messages/session/people.js";
import { SavedLogin } from "./static/messages/session/saved-login.js";

it("names are not stored after a logout, whatever arrives later", async () => {
  const rows = new Map();
  const listeners = {};
  globalThis.localStorage = /** @type {any} */ ({ getItem: (key) => rows.get(key) ?? null, setItem: (key, value) => rows.set(key, value), removeItem: (key) => rows.delete(key) });
  globalThis.addEventListener = (event, listener) => { listeners[event] = listener; };
  const ends = [];
  const session = { app: "gochat", user: "1", login: { nickname: "Ann" }, words: {}, peopleChanged() {}, on: (_, listener) => ends.push(listener) };
  const people = new People(/** @type {any} */ (session));
  for (const end of ends) end();
  people.add([{ user: "2", nickname: "Bob" }]);
  listeners.pagehide();
  assert.equal(rows.size, 1);
  people.add([{ user: "3", nickname: "Cat" }]);
  people.forget();
  listeners.pagehide();
  people.add([{ user: "4", nickname: "Dan" }]);
  listeners.pagehide();
  assert.equal(rows.size, 0);
});

it("somebody of whom the server has no card any more is a deleted user, on a device that was away, too", async () => {
  globalThis.localStorage = /** @type {any} */ ({ getItem: () => JSON.stringify([{ user: "2", nickname: "Bob", avatar: "/b.png" }, { user: "3", nickname: "Cat" }]), setItem() {}, removeItem() {} });
  const ends = [];
  const words = { messages_deleted_user: "Deleted user", messages_somebody: "Somebody" };
  const api = async () => ({ cards: [{ user: "3", nickname: "Cat" }] });
  const session = { app: "gochat", user: "1", login: { nickname: "Ann" }, words, api, peopleChanged() {}, on: (_, listener) => ends.push(listener) };
  const people = new People(/** @type {any} */ (session));
  for (const end of ends) end();
  assert.equal(people.nameOf("2"), "Bob");
  await people.load(["2", "3", "4"]);
  people.forget();
  assert.deepEqual(["2", "3", "4", "deleted:x"].map((user) => people.nameOf(user)), ["Deleted user", "Cat", "Somebody", "Deleted user"]);
  assert.equal(people.card("2")?.avatar, "");
});

it("a browser that forbids IndexedDB can log out", async () => {
  assert.equal(globalThis.indexedDB, undefined);
  await new Database("gochat:1").forget();
});

it("a login that the server has ended leaves its token as a proof of the device, a logout nothing", () => {
  const rows = new Map();
  globalThis.localStorage = /** @type {any} */ ({ getItem: (key) => rows.get(key) ?? null, setItem: (key, value) => rows.set(key, value), removeItem: (key) => rows.delete(key) });
  const saved = new SavedLogin("gochat");
  const login = { token: "eyJ", user: "1", nickname: "Ann" };
  saved.set(login);
  assert.equal(saved.earlier, "");
  saved.retire();
  assert.deepEqual([saved.get(), saved.earlier], [null, "eyJ"]);
  saved.retire();
  assert.equal(saved.earlier, "eyJ");
  saved.set(login);
  saved.retire();
  saved.set(login);
  saved.set(null);
  assert.equal(rows.size, 0);
});
