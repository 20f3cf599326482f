// What a logout deletes from the browser's storage.
import assert from "node:assert/strict";
import { it } from "node:test";

import { Database } from "./static/messages/database.js";
import { People } from "./static/messages/people.js";
import { SavedLogin } from "./static/messages/saved-login.js";

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
