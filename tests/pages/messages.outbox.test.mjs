// Messages that wait for a connection.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { CommandRefused, NotConnected } from "./sdk/errors.js";
import { Outbox } from "./static/messages/session/outbox.js";

/** What `navigator.locks` does for one origin: who has asked for a lock waits until those before have released it. */
function fakeLocks() {
  const ends = new Map();
  const request = async (name, { signal }, work) => {
    const before = ends.get(name);
    const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    const granted = Promise.race([Promise.resolve(before), aborted]).then(() => work({ name }));
    ends.set(name, granted.catch(() => before));
    return granted;
  };
  return { request };
}

/** Pages have locks from now on, or none. */
const setLocks = (locks) => Object.defineProperty(globalThis, "navigator", { value: { locks }, configurable: true });

beforeEach(() => setLocks(fakeLocks()));

/** An outbox whose messages are answered by the test. */
function fakeOutbox({ isOnline = true, saved = [], isFull = false, rows = new Map(saved.map((row) => [row.id, row])) } = {}) {
  const sent = [];
  const recalled = [];
  const stored = [];
  const listeners = {};
  const session = {
    user: "ann",
    isOnline,
    words: { messages_refused_1003: "not allowed" },
    changed() {},
    on: (event, listener) => { listeners[event] = listener; },
    added: (entry) => stored.push(entry),
    messenger: {
      state: { state: "online" },
      send: (to, text, { clientMsgID }) => new Promise((resolve, reject) => sent.push({ to, text, clientMsgID, resolve, reject })),
      edit: (about, text, { clientMsgID }) => new Promise((resolve, reject) => sent.push({ about, text, clientMsgID, resolve, reject })),
      recall: async (id) => void recalled.push(id),
    },
    database: {
      all: async () => [...rows.values()],
      get: async (_, id) => rows.get(id),
      put: async (_, items) => isFull ? false : items.every((item) => rows.set(item.id, item)),
      delete: async (_, ids) => ids.forEach((id) => rows.delete(id)),
    },
  };
  const outbox = new Outbox(/** @type {any} */ (session), (file) => /** @type {any} */ (file)); // files of the tests upload themselves
  const online = (is) => {
    session.isOnline = is;
    listeners.state({ state: is ? "online" : "waiting" });
  };
  return { outbox, session, sent, stored, recalled, rows, online, listeners };
}

const bob = /** @type {any} */ ({ id: 0, group: false, peer: "bob" });
const file = (more = {}) => /** @type {any} */ ({ content: { size: 1 }, start: () => new Promise(() => {}), cancel() {}, ...more });
const turn = () => new Promise((resolve) => setImmediate(resolve));
const states = (outbox) => outbox.of(bob).map(({ text, state }) => `${text} ${state}`);

it("messages wait without a connection and are sent in order, one after the other", async () => {
  const { outbox, sent, stored, online, rows } = fakeOutbox({ isOnline: false });
  outbox.add(bob, { text: "one" });
  outbox.add(bob, { text: "two" });
  await turn();
  assert.deepEqual([sent.length, rows.size], [0, 2]);
  online(true);
  await turn();
  assert.deepEqual(states(outbox), ["one sending", "two waiting"]);
  sent[0].resolve({ id: 1, conversation: 5, seq: 1 });
  await turn();
  sent[1].resolve({ id: 2, conversation: 5, seq: 2 });
  await turn();
  assert.deepEqual(sent.map(({ to, text }) => [to, text]), [["bob", "one"], ["bob", "two"]]);
  assert.deepEqual(stored.map(({ id, text, to, clientMsgID }) => [id, text, to, clientMsgID]), sent.map(({ text, clientMsgID }, at) => [at + 1, text, "bob", clientMsgID]));
  assert.deepEqual([outbox.of(bob).length, rows.size], [0, 0]);
});

it("a message whose answer is lost is sent again with the same id", async () => {
  const { outbox, sent, online } = fakeOutbox();
  outbox.add(bob, { text: "one" });
  await turn();
  sent[0].reject(new NotConnected("no answer in time"));
  await turn();
  assert.deepEqual(states(outbox), ["one waiting"]);
  online(true);
  await turn();
  assert.equal(sent[1].clientMsgID, sent[0].clientMsgID);
});

it("a refused message stays with its reason until it is sent again or discarded", async () => {
  const { outbox, sent } = fakeOutbox();
  const item = outbox.add(bob, { text: "one" });
  outbox.add(bob, { text: "two" });
  await turn();
  sent[0].reject(new CommandRefused("send", 1003, "未授权", undefined));
  await turn();
  assert.deepEqual(states(outbox), ["one failed", "two sending"]);
  assert.ok(item.reason);
  sent[1].resolve({ id: 2, conversation: 5, seq: 1 });
  await turn();
  outbox.retry(item.id);
  await turn();
  assert.equal(sent[2].clientMsgID, item.id);
});

it("an edit waits like a message, over a reload too, and a later one of the same message takes its place", async () => {
  const { outbox, rows } = fakeOutbox({ isOnline: false });
  outbox.add(bob, { text: "first", edit: 7 });
  outbox.add(bob, { text: "message" });
  outbox.add(bob, { text: "second", edit: 7, mentions: ["cat"] });
  assert.deepEqual([outbox.editOf(7).text, outbox.editOf(8), states(outbox)], ["second", undefined, ["message waiting", "second waiting"]]);
  await turn();
  const again = fakeOutbox({ rows });
  await again.outbox.restore();
  await turn();
  again.sent[0].resolve({ id: 8, conversation: 5, seq: 2 });
  await turn();
  again.outbox.cancel(again.outbox.editOf(7).id); // it is under way
  again.sent[1].resolve({ id: 9, conversation: 5, seq: 3 });
  await turn();
  assert.deepEqual(again.sent.map(({ about, text }) => [about, text]), [[undefined, "message"], [7, "second"]]);
  const { id, kind, about, text, meta } = again.stored[1];
  assert.deepEqual([id, kind, about, text, meta.mentions, again.recalled, rows.size], [9, "edit", 7, "second", ["cat"], [], 0]);
});

it("a refused edit stays with its reason, and nothing else", async () => {
  const { outbox, sent } = fakeOutbox();
  outbox.add(bob, { text: "edited", edit: 7 });
  await turn();
  sent[0].reject(new CommandRefused("edit", 1003, "未授权", undefined));
  await turn();
  assert.deepEqual([outbox.editOf(7).state, outbox.editOf(7).reason], ["failed", "not allowed"]);
  outbox.cancel(outbox.editOf(7).id);
  assert.deepEqual([outbox.editOf(7), outbox.of(bob)], [undefined, []]);
});

it("a message that is cancelled while it is under way is recalled", async () => {
  const { outbox, sent, recalled, stored, rows } = fakeOutbox();
  const item = outbox.add(bob, { text: "one" });
  await turn();
  outbox.cancel(item.id);
  assert.deepEqual([outbox.of(bob).length, rows.size], [0, 0]);
  sent[0].resolve({ id: 7, conversation: 5, seq: 1 });
  await turn();
  assert.deepEqual([recalled, stored], [[7], []]);
});

it("messages that an earlier load has left are sent, and gone if another tab has sent them", async () => {
  const saved = ["a", "b"].map((id) => ({ id, key: "@bob", conversation: 0, peer: "bob", text: id, state: "sending", time: 1, reason: "", share: 0 }));
  const { outbox, sent, listeners, recalled } = fakeOutbox({ saved });
  await outbox.restore();
  await turn();
  listeners.entry({ from: "ann", clientMsgID: "b" });
  listeners.entry({ from: "ann", clientMsgID: "a" });
  sent[0].resolve({ id: 1, conversation: 5, seq: 1, repeated: true });
  await turn();
  assert.deepEqual([sent.map(({ clientMsgID }) => clientMsgID), outbox.of(bob), recalled], [["a"], [], []]);
});

it("messages written without a connection are sent in order after a reload", async () => {
  const { outbox, rows } = fakeOutbox({ isOnline: false });
  const texts = Array.from({ length: 20 }, (_, at) => `text ${at}`);
  for (const text of texts) outbox.add(bob, { text });
  const saved = [...rows.values()].sort((one, other) => (one.id < other.id ? -1 : 1)); // as the database returns them
  const again = fakeOutbox({ saved });
  await again.outbox.restore();
  assert.deepEqual(again.outbox.of(bob).map(({ text }) => text), texts);
  again.outbox.add(bob, { text: "last" });
  for (let at = 0; at < 21; at++) {
    await turn();
    again.sent[at].resolve({ id: at + 1, conversation: 5, seq: at + 1 });
  }
  assert.deepEqual(again.sent.map(({ text }) => text), [...texts, "last"]);
});

/** An upload that the test ends. */
function fakeUpload() {
  const ends = {};
  const start = (progress) => new Promise((resolve, reject) => {
    progress(0.5);
    ends.finish = (url) => resolve({ url });
    ends.fail = () => reject(new Error("refused"));
  });
  return { ends, file: file({ start }) };
}

it("files and texts are sent in order, whichever upload ends first; other conversations do not wait", async () => {
  const { outbox, sent } = fakeOutbox();
  const [large, small] = [fakeUpload(), fakeUpload()];
  const items = [large, small].map((each) => outbox.add(bob, { type: "file" }, each.file));
  const text = outbox.add(bob, { text: "text" });
  const other = outbox.add({ ...bob, peer: "cat" }, { text: "other" });
  await turn();
  small.ends.finish("/small");
  await turn();
  assert.deepEqual(items.map(({ state, share }) => [state, share]), [["uploading", 0.5], ["waiting", 0.5]]);
  assert.deepEqual(sent.map(({ clientMsgID }) => clientMsgID), [other.id]);
  large.ends.finish("/large");
  for (let at = 1; at < 4; at++) {
    await turn();
    sent[at].resolve({ id: at, conversation: 5, seq: at });
  }
  assert.deepEqual(sent.slice(1).map(({ clientMsgID }) => clientMsgID), [...items, text].map(({ id }) => id));
  assert.deepEqual(items.map(({ data }) => data.url), ["/large", "/small"]);
});

it("a file that fails or is cancelled lets the later messages pass, and is sent after them when it is tried again", async () => {
  const { outbox, sent } = fakeOutbox();
  const [gone, failing] = [fakeUpload(), fakeUpload()];
  const [first, second] = [gone, failing].map((each) => outbox.add(bob, { type: "file" }, each.file));
  const text = outbox.add(bob, { text: "text" });
  await turn();
  failing.ends.fail();
  await turn();
  assert.deepEqual([second.state, sent.length], ["failed", 0]);
  outbox.cancel(first.id);
  await turn();
  assert.deepEqual(sent.map(({ clientMsgID }) => clientMsgID), [text.id]);
  sent[0].resolve({ id: 1, conversation: 5, seq: 1 });
  outbox.retry(second.id);
  failing.ends.finish("/second");
  await turn();
  await turn();
  assert.deepEqual(sent.map(({ clientMsgID }) => clientMsgID), [text.id, second.id]);
});

it("a file that is not uploaded yet waits over a reload", async () => {
  const { outbox, rows } = fakeOutbox();
  const item = outbox.add(bob, { type: "picture", data: { name: "a.jpg", preview: "a canvas" } }, file());
  assert.ok(outbox.isUnsaved);
  await turn();
  assert.ok(!outbox.isUnsaved);
  assert.deepEqual(rows.get(item.id).data, { name: "a.jpg", preview: null });
  outbox.stop();
  const again = fakeOutbox({ saved: [{ ...rows.get(item.id), file: file({ start: async () => ({ url: "/a" }) }) }] });
  await again.outbox.restore();
  for (let turns = 0; turns < 3; turns++) await turn();
  assert.deepEqual(again.sent.map(({ clientMsgID }) => clientMsgID), [item.id]);
  assert.deepEqual([again.rows.get(item.id).data, again.rows.get(item.id).file], [{ url: "/a" }, undefined]);
});

it("an album keeps what is uploaded over a reload", async () => {
  const { outbox, rows } = fakeOutbox();
  let parts = [{ content: { size: 1 } }, { content: { size: 2 } }];
  const unsent = /** @type {any} */ ({ get items() { return parts; }, start: (_, saved) => new Promise(() => {
    parts = [{ data: { url: "/a" } }, parts[1]];
    saved();
  }), cancel() {} });
  const item = outbox.add(bob, { type: "album", data: { items: [{ preview: "a canvas" }, {}], caption: "hills" } }, unsent);
  await turn();
  const row = rows.get(item.id);
  assert.deepEqual([row.state, row.file.items[0]], ["uploading", { data: { url: "/a" } }]);
  assert.deepEqual(row.data, { items: [{ preview: null }, {}], caption: "hills" });
});

it("files and texts keep their order over a reload", async () => {
  const saved = [4, 2, 3, 1].map((time) => ({ id: String(time), key: "@bob", text: String(time), time, state: "failed", ...(time % 2 && { file: file() }) }));
  const { outbox } = fakeOutbox({ saved });
  await outbox.restore();
  for (let turns = 0; turns < 3; turns++) await turn();
  assert.deepEqual(outbox.of(bob).map(({ text }) => text), ["1", "2", "3", "4"]);
});

it("the page knows that a file would be lost if the browser has not stored it", async () => {
  for (const [how, content, locks] of /** @type {[object, object, object?][]} */ ([
    [{ isFull: true }, { size: 1 }, fakeLocks()], [{}, { size: 1e9 }, fakeLocks()], [{}, { size: 1 }],
  ])) {
    setLocks(locks);
    const { outbox } = fakeOutbox(how);
    const item = outbox.add(bob, { type: "file" }, file({ content }));
    await turn();
    assert.ok(outbox.isUnsaved);
    outbox.cancel(item.id);
    assert.ok(!outbox.isUnsaved);
  }
});

it("the page hears at once when a file would be lost, and when it is stored, uploaded or cancelled", async () => {
  for (const isFull of [false, true]) {
    const { outbox, session } = fakeOutbox({ isFull });
    let known = false;
    session.changed = () => { known = outbox.isUnsaved; };
    let finish;
    outbox.add(bob, { type: "file" }, file({ start: () => new Promise((resolve) => { finish = resolve; }) }));
    assert.ok(known);
    await turn();
    assert.equal(known, isFull);
    finish({ url: "/x" });
    await turn();
    assert.ok(!known);
    const item = outbox.add(bob, { type: "file" }, file());
    assert.ok(known);
    outbox.cancel(item.id);
    assert.ok(!known);
  }
});

it("a file that waits is shown after the next login on the same page, which uploads it", async () => {
  const { outbox, rows } = fakeOutbox();
  let isCancelled = false;
  let fail;
  const start = () => new Promise((_, reject) => { fail = reject; });
  const item = outbox.add(bob, { type: "file" }, file({ start, cancel: () => { isCancelled = true; fail(new Error("cancelled")); } }));
  await turn();
  outbox.stop();
  await turn();
  assert.deepEqual([isCancelled, outbox.of(bob), rows.get(item.id).state], [true, [], "uploading"]);
  const again = fakeOutbox({ rows });
  await again.outbox.restore();
  await turn();
  assert.deepEqual(again.outbox.of(bob).map(({ id, state }) => [id, state]), [[item.id, "uploading"]]);
});

it("a file is sent by one tab only, and by the other when the first ends", async () => {
  const { outbox, rows } = fakeOutbox();
  const [gone, left] = ["a", "b"].map((text) => outbox.add(bob, { type: "file", text }, file()));
  await turn();
  const [other, late] = [fakeOutbox({ rows }), fakeOutbox({ rows })];
  await Promise.all([other.outbox.restore(), late.outbox.restore()]);
  late.outbox.stop(); // while it waits
  await turn();
  assert.deepEqual(other.outbox.of(bob), []);
  outbox.cancel(gone.id);
  await turn();
  assert.deepEqual([other.outbox.of(bob), [...rows.keys()]], [[], [left.id]]);
  outbox.stop();
  for (let turns = 0; turns < 3; turns++) await turn();
  assert.deepEqual([other.outbox.of(bob).map(({ id }) => id), late.outbox.of(bob)], [[left.id], []]);
});

it("without locks, a file that is cancelled is not sent by another tab", async () => {
  setLocks(undefined);
  const { outbox, rows } = fakeOutbox();
  const item = outbox.add(bob, { type: "file" }, file());
  await turn();
  const other = fakeOutbox({ rows });
  await other.outbox.restore();
  outbox.cancel(item.id);
  await turn();
  assert.deepEqual([other.outbox.of(bob), rows.size], [[], 0]);
});
