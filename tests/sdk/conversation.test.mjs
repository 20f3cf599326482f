// The rules of a conversation of imserver-react and of their list, with a stub of Messenger. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { Messenger } from "../../sdk/js/messenger.js";
import { Conversation } from "../../sdk/react/conversation.js";
import { Conversations } from "../../sdk/react/conversations.js";

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

// --- the list of conversations -----------------------------------------------------------------------------------

async function startList() {
  messenger.asked = 0;
  const { conversations } = messenger;
  messenger.conversations = async (page) => {
    messenger.asked += 1;
    return conversations.call(messenger, page);
  };
  const list = new Conversations(messenger, 2);
  list.start();
  await settled();
  return list;
}

const rows = ({ view }) => view.conversations.map(({ id, unread, last }) => [id, unread, last?.id]);

it("a list follows entries, and asks when it cannot know", async () => {
  messenger.pages[0] = { conversations: [{ id: 7, peer: "bob", unread: 0, last: entry(5) }, { id: 8, peer: "cat", unread: 1, last: entry(4) }], hasMore: true };
  messenger.pages[4] = { conversations: [{ id: 9, peer: "dog", unread: 0, place: 2 }], hasMore: false };
  const list = await startList();
  assert.deepEqual([rows(list), list.view.hasMore], [[[7, 0, 5], [8, 1, 4]], true]);
  await messenger.hear("entry", entry(6, { conversation: 8 }));
  await messenger.hear("entry", entry(7, { conversation: 8, from: "ann" }));
  await messenger.hear("entry", entry(8, { conversation: 8, kind: "reaction", about: 6 }));
  await messenger.hear("entry", entry(6, { conversation: 8 })); // again
  assert.deepEqual([rows(list), messenger.asked], [[[8, 2, 8], [7, 0, 5]], 1]);

  messenger.pages[0].conversations = [{ id: 8, peer: "cat", unread: 0, last: entry(8) }, { id: 7, peer: "bob", unread: 0, last: entry(5) }];
  await messenger.hear("receipt", { from: "bob", conversation: 8, read: 8 }); // of somebody else
  assert.equal(messenger.asked, 1);
  await messenger.hear("receipt", { from: "ann", conversation: 8, read: 8 }); // another device of ours
  assert.deepEqual([rows(list), messenger.asked], [[[8, 0, 8], [7, 0, 5]], 2]);
  await messenger.hear("entry", entry(9, { conversation: 7, kind: "group" }));
  assert.equal(messenger.asked, 3);

  messenger.pages[5] = messenger.pages[4];
  await list.loadMore();
  assert.deepEqual([rows(list).map(([id]) => id), list.view.hasMore], [[8, 7, 9], false]);
  messenger.pages[0] = { conversations: [{ id: 10, peer: "eel", unread: 1, last: entry(10) }, { id: 8, peer: "cat", unread: 0, last: entry(8) }], hasMore: true };
  await messenger.hear("entry", entry(10, { conversation: 10 }));
  assert.deepEqual([rows(list).map(([id]) => id), list.view.hasMore], [[10, 8, 7, 9], false]);
  await messenger.hear("anew", {});
  assert.deepEqual(rows(list).map(([id]) => id), [10, 8]);
});

it("a list asks once more for what came while it asked, and after an error", async () => {
  messenger.pages[0] = { conversations: [], hasMore: false };
  const list = await startList();
  messenger.listeners.get("entry")(entry(1));
  messenger.listeners.get("entry")(entry(2));
  messenger.listeners.get("entry")(entry(3));
  await settled();
  assert.equal(messenger.asked, 3);
  messenger.failure = new Error("no answer");
  await messenger.hear("anew", {});
  assert.equal(list.view.error, messenger.failure);
  messenger.failure = null;
  await messenger.hear("state", { state: "online" });
  assert.deepEqual([list.view.error, messenger.asked], [null, 5]);
  await messenger.hear("state", { state: "online" });
  assert.equal(messenger.asked, 5);
});
