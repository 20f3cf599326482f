// What the browser stores, with an IndexedDB that answers late or never.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Database } from "./static/messages/database.js";
import { Session } from "./static/messages/session.js";

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

it("a page whose IndexedDB does not answer connects without it, and takes nothing from it later", async ({ mock }) => {
  const { session, connects } = startedSession();
  await turn();
  assert.deepEqual(connects, []);
  mock.timers.tick(10_000);
  await turn();
  assert.deepEqual(connects, ["connect"]);
  requests[0].result = { transaction: () => assert.fail("the stored state is older") };
  requests[0].onsuccess();
  assert.deepEqual([await session.database.all("entries"), await session.database.put("entries", [{ id: 1 }])], [[], false]);
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
  const request = { result: [{ id: 1 }] };
  requests[0].result = { transaction: () => {
    const transaction = { objectStore: () => ({ getAll: () => request }) };
    setImmediate(() => transaction.oncomplete());
    return transaction;
  } };
  requests[0].onsuccess();
  mock.timers.tick(10_000);
  assert.deepEqual(await database.all("entries"), [{ id: 1 }]);
});
