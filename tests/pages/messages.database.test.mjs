// What the browser stores, with an IndexedDB that answers late or never.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Database } from "./static/messages/session/database.js";
import { Session } from "./static/messages/session/session.js";

const turn = () => new Promise(setImmediate);
let requests = [];

beforeEach(({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  requests = [];
});
Object.assign(globalThis, {
  addEventListener() {},
  location: { host: "localhost", origin: "http://localhost", protocol: "http:" },
  indexedDB: {
    open() {
      requests.push({});
      return requests.at(-1);
    },
  },
});

/** A session that has started; its database does not answer yet. */
function startedSession() {
  const page = { app: "gochat", websocketUrl: "ws://localhost/ws", seenHost: "", language: "en", text: {} };
  const session = new Session(page, { token: "token", user: "ann", nickname: "Ann" });
  const connects = [];
  session.messenger.connect = async () => connects.push("connect");
  session.start();
  return { session, connects };
}

/** A database with these rows; `stored` gets those that are put. */
const databaseOf = (rows, stored = []) => ({
  transaction: (table) => {
    const transaction = { objectStore: () => ({ getAll: () => ({ result: rows[table] ?? [] }), put: (row) => ({ result: stored.push(row) }) }) };
    setImmediate(() => transaction.oncomplete());
    return transaction;
  },
});

it("a page whose IndexedDB answers late connects without it, and takes what it has stored later", async ({ mock }) => {
  const { session, connects } = startedSession();
  const saved = { group: false, name: "", unread: 0, read: 1 };
  const waiting = { id: "a-1", key: "@bob", conversation: 1, peer: "bob", text: "tea?", time: 1, state: "waiting" };
  await turn();
  assert.deepEqual(connects, []);
  mock.timers.tick(10_000);
  await turn();
  assert.deepEqual(connects, ["connect"]);
  assert.deepEqual([await session.database.all("entries"), await session.database.put("entries", [{ id: 1 }])], [[], false]);
  session.store.add({ id: 9, conversation: 2, seq: 1, kind: "message", from: "cat", to: "ann", text: "newer", time: 2 });
  const stored = [];
  const conversations = [{ ...saved, id: 1, peer: "bob", unsent: 0 }, { ...saved, id: 2, peer: "cat", unsent: 8, last: null }];
  requests[0].result = databaseOf({ conversations, outbox: [waiting] }, stored);
  requests[0].onsuccess();
  for (let turns = 0; turns < 4; turns++) await turn();
  const { store, outbox } = session;
  assert.deepEqual([...store.conversations.values()].map(({ id, last }) => [id, last?.text]), [[2, "newer"], [1, undefined]]);
  assert.deepEqual(outbox.of(store.withUser("bob")).map(({ text }) => text), ["tea?"]);
  store.add({ id: 10, conversation: 2, seq: 2, kind: "message", from: "cat", to: "ann", text: "newest", time: 3 });
  await turn();
  assert.deepEqual(stored.filter(({ peer }) => peer).map(({ id, unsent }) => [id, unsent]), [[2, 8]]);
  session.close();
});

it("a session that ends before IndexedDB answers late takes nothing from it", async ({ mock }) => {
  const { session } = startedSession();
  mock.timers.tick(10_000);
  await turn();
  session.close();
  requests[0].result = { transaction: () => assert.fail("the session is over") };
  requests[0].onsuccess();
  await turn();
});

it("a session that ends before IndexedDB answers does not connect", async ({ mock }) => {
  const { session, connects } = startedSession();
  session.close();
  mock.timers.tick(10_000);
  await turn();
  assert.deepEqual(connects, []);
});

it("an IndexedDB that answers in time is used", async ({ mock }) => {
  const database = new Database("gochat:ann");
  requests[0].result = databaseOf({ entries: [{ id: 1 }] });
  requests[0].onsuccess();
  mock.timers.tick(10_000);
  assert.deepEqual(await database.all("entries"), [{ id: 1 }]);
});
