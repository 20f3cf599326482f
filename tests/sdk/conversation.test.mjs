// The rules of a conversation of imserver-react, with a stub of Messenger. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Messenger } from "../../sdk/js/messenger.js";
import { Conversation } from "../../sdk/react/conversation.js";

class StubMessenger {
  user = "ann";
  listeners = new Map();
  /** Pages of conversations(), by `before`. */
  pages = { 0: { conversations: [], hasMore: false } };
  histories = [];
  failure = null;
  withReaction = Messenger.prototype.withReaction;

  on(kind, listener) {
    this.listeners.set(kind, listener);
    return () => this.listeners.delete(kind);
  }

  async conversations({ before = 0 }) {
    if (this.failure) throw this.failure;
    return this.pages[before];
  }

  async history(conversation, { before = 0 }) {
    this.histories.push([conversation, before]);
    if (this.failure) throw this.failure;
    return before ? { messages: [entry(1)], hasMore: false } : { messages: [entry(2)], hasMore: true };
  }

  async hear(kind, event) {
    this.listeners.get(kind)(event);
    await settled();
  }
}

let messenger;
const settled = () => new Promise((resolve) => setImmediate(resolve));
const entry = (id, more = {}) => ({ id, conversation: 7, seq: id, kind: "message", from: "bob", to: "ann", text: String(id), time: id, ...more });
const ids = ({ view }) => view.entries.map(({ id }) => id);

async function start(where) {
  const conversation = new Conversation(messenger, where, 50);
  conversation.start();
  await settled();
  return conversation;
}

beforeEach(() => {
  messenger = new StubMessenger();
});

it("with a user shows messages in both directions, and no others", async () => {
  const conversation = await start({ to: "bob" });
  await messenger.hear("entry", entry(3, { from: "cat", conversation: 8 }));
  await messenger.hear("entry", entry(4));
  await messenger.hear("entry", entry(5, { from: "ann", to: "bob" }));
  assert.deepEqual(ids(conversation), [4, 5]);
});

it("with oneself shows no messages of others", async () => {
  const conversation = await start({ to: "ann" });
  await messenger.hear("entry", entry(3));
  await messenger.hear("entry", entry(4, { from: "ann", to: "bob" }));
  assert.deepEqual(ids(conversation), []);
  await messenger.hear("entry", entry(5, { from: "ann", to: "ann", conversation: 9 }));
  assert.deepEqual(ids(conversation), [5]);
});

it("with a user is found among many conversations", async () => {
  messenger.pages[0] = { conversations: [{ id: 1, peer: "cat", place: 90 }, { id: 2, peer: "dog", last: entry(80) }], hasMore: true };
  messenger.pages[80] = { conversations: [{ id: 7, peer: "bob", last: entry(2) }], hasMore: false };
  const conversation = await start({ to: "bob" });
  assert.deepEqual([ids(conversation), messenger.histories], [[2], [[7, 0]]]);
});

it("loads after a reconnect what could not be loaded", async () => {
  messenger.failure = new Error("no answer");
  const conversation = await start({ conversation: 7 });
  assert.equal(conversation.view.error, messenger.failure);
  messenger.failure = null;
  await messenger.hear("state", { state: "waiting" });
  assert.equal(messenger.histories.length, 1);
  await messenger.hear("state", { state: "online" });
  assert.deepEqual([ids(conversation), conversation.view.error], [[2], null]);

  messenger.failure = new Error("no answer");
  await conversation.loadEarlier();
  messenger.failure = null;
  await messenger.hear("state", { state: "online" });
  assert.deepEqual([ids(conversation), conversation.view.error], [[1, 2], null]);
  await messenger.hear("state", { state: "online" });
  assert.equal(messenger.histories.length, 4);
});

it("stays at the oldest message when nothing is older", async () => {
  const conversation = await start({ conversation: 7 });
  await conversation.loadEarlier();
  messenger.history = async (number, { before = 0 }) => {
    messenger.histories.push([number, before]);
    return { messages: [], hasMore: false };
  };
  await conversation.loadEarlier();
  await conversation.loadEarlier();
  assert.deepEqual([ids(conversation), messenger.histories], [[1, 2], [[7, 0], [7, 2], [7, 1], [7, 1]]]);
});

it("begins at the newest message when the log begins anew, also after a failure", async () => {
  const conversation = await start({ conversation: 7 });
  messenger.failure = new Error("no answer");
  await messenger.hear("anew", {});
  assert.deepEqual(ids(conversation), []);
  messenger.failure = null;
  await messenger.hear("state", { state: "online" });
  assert.deepEqual([ids(conversation), messenger.histories.at(-1)], [[2], [7, 0]]);
});

it("shows the reactions to a message, and no entries for them or for pins", async () => {
  const conversation = await start({ conversation: 7 });
  const reaction = (id, from, type, count) => entry(id, { kind: "reaction", about: 2, from, type, text: "+1", meta: { count } });
  const shown = () => conversation.view.entries.map(({ id, reactions }) => [id, reactions?.[0]]);
  await messenger.hear("entry", reaction(3, "bob", "add", 1));
  await messenger.hear("entry", reaction(4, "ann", "add", 12));
  await messenger.hear("entry", entry(5, { kind: "pin", about: 2, type: "add" }));
  assert.deepEqual(shown(), [[2, { emoji: "+1", count: 12, users: ["bob", "ann"], mine: true }]]);
  await messenger.hear("entry", reaction(4, "ann", "add", 12));
  await messenger.hear("entry", reaction(6, "bob", "remove", 11));
  assert.deepEqual(shown(), [[2, { emoji: "+1", count: 11, users: ["ann"], mine: true }]]);
  await messenger.hear("entry", reaction(7, "ann", "remove", 0));
  assert.deepEqual(shown(), [[2, undefined]]);
});
