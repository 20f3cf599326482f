// What the messages page knows of bots: presses, messages that grow, and commands as text.
import assert from "node:assert/strict";
import { it } from "node:test";

import { commandsIn } from "./static/messages/people/bots.js";
import { Store } from "./static/messages/session/store.js";

const entry = (id, more = {}) => ({ id, conversation: 1, seq: id, kind: "message", from: "robo", to: "ann", text: String(id), time: 1, ...more });
const piece = (number, text, more = {}) => ({ stream: "s1", from: "robo", to: "ann", piece: number, text, ...more });
const whole = (number, text, more = {}) => piece(number, text, { whole: true, ...more });

function fakeStore(messages = []) {
  const session = {
    user: "ann",
    isOnline: true,
    changed() {},
    people: { load: async () => {} },
    messenger: { history: async () => ({ messages, hasMore: false }), receipts: async () => ({ receipts: [] }), received: async () => {} },
    database: { put: async () => {}, get: async () => undefined, delete: async () => {} },
  };
  return new Store(/** @type {any} */ (session));
}

it("a button stays pressed until the bot edits its message", () => {
  const store = fakeStore();
  const conversation = store.add(entry(1, { meta: { buttons: [[{ text: "Yes", value: "y" }]] } }));
  conversation.entries = [entry(1)];
  store.add(entry(2, { kind: "press", from: "ann", to: "robo", about: 1, text: "y" }));
  assert.equal(store.pressedOf(conversation.entries[0]), "y");
  assert.deepEqual([conversation.last.id, conversation.position, conversation.unread], [1, 1, 1]);
  store.add(entry(3, { kind: "edit", about: 1, text: "Done", meta: { buttons: [[{ text: "Undo", value: "u" }]] } }));
  assert.equal(store.pressedOf(conversation.entries[0]), undefined);
  assert.deepEqual(conversation.entries[0].meta, { buttons: [[{ text: "Undo", value: "u" }]], edited: 3 });
});

it("a press in another conversation makes no conversation", () => {
  const store = fakeStore();
  store.add(entry(1, { conversation: 9, to: undefined }));
  store.add(entry(2, { conversation: 5, kind: "press", from: "ann", to: "robo", about: 1, text: "y" }));
  assert.deepEqual([...store.conversations.keys()], [9]);
  assert.equal(store.pressedOf(entry(1)), "y");
});

it("a message grows where it belongs, and its stored message takes its place", () => {
  const store = fakeStore();
  const conversation = store.add(entry(1));
  assert.equal(store.applyPiece(whole(0, "")), true);
  assert.equal(store.applyPiece(piece(1, "Hel")), false);
  assert.equal(store.applyPiece(piece(1, "Hel")), false, "a repetition");
  assert.equal(store.applyPiece(piece(3, "!")), false, "a piece after a gap");
  assert.equal(store.applyPiece(piece(2, "lo")), false);
  assert.deepEqual(store.streamsOf(conversation).map(({ text }) => text), ["Hello"]);
  assert.deepEqual(store.streamsOf({ ...conversation, peer: "bob" }), []);
  store.applyPiece(whole(5, "Hello, A"));
  store.applyPiece(piece(6, "nn"));
  assert.equal(store.streamOf("s1").text, "Hello, Ann");
  const stored = entry(2, { text: "Hello, Ann", clientMsgID: "s1" });
  store.add(stored);
  assert.deepEqual(store.streamsOf(conversation), []);
  assert.deepEqual([store.wasStreamed(stored), store.wasStreamed(entry(1))], [true, false]);
});

it("a stream of a group is shown there, and one without a message leaves nothing", () => {
  const store = fakeStore();
  const group = store.add(entry(1, { conversation: 9, to: undefined }));
  store.applyPiece(whole(0, "Hi", { to: undefined, conversation: 9 }));
  assert.equal(store.streamsOf(group).length, 1);
  assert.equal(store.applyPiece(whole(0, "", { to: undefined, conversation: 9, done: true })), true);
  assert.deepEqual(store.streamsOf(group), []);
  store.applyPiece(piece(1, "late"));
  assert.deepEqual(store.streamsOf({ ...group, group: false, peer: "robo" }), []);
});

it("the lines of a text are commands", () => {
  assert.deepEqual(commandsIn("/help  Show what I can do\n\n today\n"), [{ name: "help", description: "Show what I can do" }, { name: "today", description: "" }]);
  assert.deepEqual(commandsIn(""), []);
  assert.equal(commandsIn("/Help me"), null);
});
