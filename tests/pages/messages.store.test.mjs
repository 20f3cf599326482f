// The conversations of the messages page, with requests and entries in any order.
import assert from "node:assert/strict";
import { it } from "node:test";

import { NotConnected } from "./sdk/errors.js";
import { Messenger } from "./sdk/messenger.js";
import { upTo } from "./static/messages/session/first-view.js";
import { History } from "./static/messages/session/history.js";
import { Store } from "./static/messages/session/store.js";

const entry = (id, more = {}) => ({ id, conversation: 1, seq: id, kind: "message", from: "bob", to: "ann", text: String(id), time: 1, ...more });

/** A store whose history requests are answered by the test, in any order. */
function fakeStore() {
  const requests = [];
  const saved = new Map();
  const history = (conversation, { before = 0, after = 0 }) => new Promise((resolve, reject) => {
    requests.push({ before, after, answer: (messages, hasMore = false) => resolve({ messages, hasMore }), fail: reject });
  });
  const session = {
    user: "ann",
    isOnline: true,
    changed() {},
    people: { load: async () => {} },
    inbox: { pinOf: ({ pin = 0 }) => pin, isArchived: ({ archived = false }) => archived, isGone: ({ gone = false }) => gone, isMarked: ({ marked = false }) => marked, load: async () => {}, settle() {} },
    wishes: { load: async () => {} },
    messenger: { withReply: Messenger.prototype.withReply, history, receipts: async () => ({ receipts: [] }), receiptCounts: async () => ({ counts: [] }), read: async () => {}, received: async () => {} },
    database: {
      put: async (table, rows) => rows.forEach((row) => table === "entries" && saved.set(row.id, row)),
      get: async (_, id) => saved.get(id),
      delete: async (_, ids) => ids.forEach((id) => saved.delete(id)),
      entries: async (_, { before = Infinity, after = 0 }) => [...saved.values()].filter(({ id }) => id < before && id > after).sort((a, b) => a.id - b.id),
    },
  };
  return { requests, session, saved, store: new Store(/** @type {any} */ (session)) };
}

/** A conversation whose newest page of history was loaded. */
async function opened(page, hasMore = false) {
  const fake = fakeStore();
  const conversation = fake.store.add(entry(page.at(-1).id));
  conversation.unread = 0;
  const opening = new History(fake.store).open(conversation);
  fake.requests[0].answer(page, hasMore);
  await opening;
  return { ...fake, conversation };
}

const texts = ({ entries }) => entries.map(({ text }) => text);
const range = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => entry(first + index));

it("a late entry is inserted at its position, once", async () => {
  const { store, conversation } = await opened([entry(100)]);
  store.add(entry(105, { from: "ann", to: "bob" }));
  store.add(entry(103));
  store.add(entry(103));
  assert.deepEqual(texts(conversation), ["100", "103", "105"]);
});

it("a reply in a thread is counted in its first message, and only unread in the conversation that shows it", async () => {
  const { store, conversation } = await opened([entry(1), entry(2)]);
  const reply = (id, more = {}) => entry(id, { about: 1, time: id, meta: { thread: 1, ...more } });
  for (const id of [3, 4, 4]) store.add(reply(id));
  assert.deepEqual([conversation.unread, conversation.last.id, conversation.position], [0, 2, 4]);
  store.add(reply(5, { also: true }));
  assert.deepEqual([conversation.unread, conversation.last.id], [1, 5]);
  assert.deepEqual(conversation.entries[0].meta.replies, { count: 3, last: 5, time: 5, users: ["bob"] });
  store.add(entry(6, { kind: "edit", about: 1, text: "new", meta: {} }));
  store.add(entry(7, { kind: "recall", about: 3, text: undefined, meta: undefined }));
  assert.equal(conversation.entries[0].meta.replies.count, 3);
  assert.equal(conversation.entries.find(({ id }) => id === 3).meta.thread, 1);
});

it("a history that is requested twice at once loses no entry that arrives meanwhile", async () => {
  const { store, requests } = fakeStore();
  const conversation = store.add(entry(1, { from: "ann", to: "bob" }));
  const first = new History(store).open(conversation);
  assert.deepEqual([requests[0].before, requests[0].after], [0, 0]);
  store.add(entry(2, { from: "ann", to: "bob" }));
  const second = new History(store).open(conversation);
  requests[0].answer([entry(1)]);
  await first;
  store.add(entry(3));
  await second;
  assert.deepEqual(texts(conversation), ["1", "2", "3"]);
  assert.equal(requests.length, 1);
});

it("edits, recalls and reactions that arrive while the history loads are applied", async () => {
  const { store, requests } = fakeStore();
  const conversation = store.add(entry(1, { from: "ann", to: "bob" }));
  const opening = new History(store).open(conversation);
  store.add(entry(3, { from: "ann", to: "bob" }));
  store.add(entry(4, { kind: "edit", about: 3, text: "three" }));
  store.add(entry(5, { kind: "reaction", type: "add", about: 1, text: "👍", meta: { count: 1 } }));
  store.add(entry(6, { kind: "recall", about: 2 }));
  requests[0].answer([entry(1), entry(2)]);
  await opening;
  assert.deepEqual(texts(conversation), ["1", undefined, "three"]);
  assert.deepEqual(conversation.entries[0].reactions, [{ emoji: "👍", count: 1, users: ["bob"], mine: false }]);
  assert.equal(conversation.entries[1].kind, "recall");
});

it("reactions have the count of the server, and are applied once", async () => {
  const { store, conversation } = await opened([entry(1, { meta: { reacted: 3 }, reactions: [{ emoji: "🎉", count: 12, users: ["eve"], mine: false }] })]);
  const react = (id, from, type, count) => store.add(entry(id, { from, kind: "reaction", about: 1, type, text: "🎉", meta: { count } }));
  react(3, "eve", "add", 12);
  react(4, "ann", "add", 13);
  assert.deepEqual(conversation.entries[0].reactions, [{ emoji: "🎉", count: 13, users: ["eve", "ann"], mine: true }]);
  react(5, "eve", "remove", 12);
  react(6, "ann", "remove", 0);
  assert.deepEqual(conversation.entries[0].reactions, []);
  assert.deepEqual([conversation.last.id, conversation.unread], [1, 0]);
});

it("older pages are added once", async () => {
  const { store, requests, conversation } = await opened([entry(51), entry(52)], true);
  const both = [new History(store).loadOlder(conversation), new History(store).loadOlder(conversation)];
  assert.deepEqual(requests.map(({ before }) => before), [0, 51]);
  requests[1].answer([entry(49), entry(50)], true);
  await Promise.all(both);
  assert.deepEqual(texts(conversation), ["49", "50", "51", "52"]);
});

it("a page of edits only leads to the page before it", async () => {
  const { store, requests, conversation } = await opened([entry(60, { kind: "edit", about: 3 }), entry(99, { kind: "edit", about: 3 })], true);
  const loading = new History(store).loadOlder(conversation);
  assert.equal(requests[1].before, 60);
  requests[1].answer([entry(3)]);
  await loading;
  assert.deepEqual(texts(conversation), ["3"]);
});

it("a conversation with unread messages is loaded around the first of them", async () => {
  const { store, requests } = fakeStore();
  const conversation = store.add(entry(500));
  Object.assign(conversation, { read: 100, unread: 400 });
  const opening = new History(store).open(conversation);
  assert.deepEqual(requests.map(({ before, after }) => [before, after]), [[101, 0], [0, 100]]);
  requests[0].answer([entry(99), entry(100)], true);
  requests[1].answer([entry(101), entry(102)], true);
  await opening;
  assert.deepEqual(texts(conversation), ["99", "100", "101", "102"]);
  store.add(entry(501));
  assert.equal(conversation.entries.length, 4, "an entry after a gap is not shown");
  assert.equal(conversation.unread, 401);
  store.receipts.markRead(conversation, 102);
  assert.deepEqual([conversation.unread, conversation.read], [399, 102]);
});

it("of more unread messages than the server counts, some were read: nobody knows how many are left", async () => {
  globalThis.document = /** @type {any} */ ({ documentElement: { lang: "en" } });
  const { store } = fakeStore();
  const conversation = store.add(entry(5000));
  Object.assign(conversation, { read: 1, unread: 1000, unreadMore: true, entries: [entry(2), entry(3)] });
  store.receipts.markRead(conversation, 3);
  assert.deepEqual([conversation.unread, upTo(conversation.unread, conversation.unreadMore), upTo(999)], [1000, "1,000+", "999"]);
});

it("a conversation of which nothing was read is loaded from its start", async () => {
  const { store, requests } = fakeStore();
  const conversation = store.add(entry(500));
  conversation.unread = 100;
  const opening = new History(store).open(conversation);
  requests[0].answer([entry(1)], true);
  await opening;
  assert.deepEqual([requests.length, texts(conversation), conversation.hasOlder, conversation.hasNewer], [1, ["1"], false, true]);
});

it("a long conversation holds a bounded number of entries", async () => {
  const { store, requests, conversation } = await opened(range(2001, 2100), true);
  for (let first = 1901, page = 1; first > 700; first -= 100, page++) {
    const loading = new History(store).loadOlder(conversation);
    requests[page].answer(range(first, first + 99), true);
    await loading;
  }
  assert.equal(conversation.entries.length, 1_000);
  assert.deepEqual([conversation.hasOlder, conversation.hasNewer], [true, true]);
  const { oldest, newest } = conversation;
  assert.deepEqual([conversation.entries[0].id, conversation.entries.at(-1).id], [oldest, newest]);
  const loading = new History(store).loadNewer(conversation);
  assert.equal(requests.at(-1).after, newest);
  requests.at(-1).answer(range(newest + 1, newest + 100), false);
  await loading;
  assert.deepEqual([conversation.entries.length, conversation.hasNewer, conversation.newest], [1_000, false, 2_100]);
});

it("the newest entries are loaded after a page that is loading", async () => {
  const { store, requests } = fakeStore();
  const conversation = store.add(entry(1_000, { from: "ann", to: "bob" }));
  const opening = new History(store).open(conversation, 10);
  requests[0].answer([entry(10)]);
  requests[1].answer([entry(11)], true);
  await opening;
  const both = [new History(store).loadNewer(conversation), new History(store).openNewest(conversation)];
  assert.equal(requests.length, 3);
  requests[2].answer([entry(12)], true);
  await both[0];
  await new Promise(setImmediate);
  requests[3].answer([entry(1_000)], true);
  await both[1];
  assert.deepEqual([texts(conversation), conversation.hasNewer], [["1000"], false]);
});

it("the newest entries are not loaded again if the page that is loading has them", async () => {
  const { store, requests } = fakeStore();
  const conversation = store.add(entry(12, { from: "ann", to: "bob" }));
  const opening = new History(store).open(conversation, 10);
  requests[0].answer([entry(10)]);
  requests[1].answer([entry(11)], true);
  await opening;
  const both = [new History(store).loadNewer(conversation), new History(store).openNewest(conversation)];
  assert.equal(requests.length, 3);
  requests[2].answer([entry(12)]);
  await Promise.all(both);
  assert.deepEqual([texts(conversation), requests.length], [["10", "11", "12"], 3]);
});

it("what was loaded is there without a connection, with later changes", async () => {
  const { store, session, requests, conversation } = await opened([entry(1), entry(2)]);
  store.add(entry(3, { kind: "edit", about: 1, text: "one" }));
  store.applyHidden([2]);
  const again = new Store(/** @type {any} */ (session));
  session.isOnline = false;
  const same = Object.assign(again.add(entry(4, { from: "ann", to: "bob" })));
  await new History(again).open(same);
  assert.deepEqual(texts(same), ["one", "4"]);
  assert.ok(same.cached, "it is loaded again later");
  assert.deepEqual(texts(conversation), ["one"]);
  session.isOnline = true;
  const opening = new History(again).open(same);
  requests.at(-1).fail(new NotConnected("line lost"));
  await opening;
  assert.deepEqual(texts(same), ["one", "4"]);
});

it("a quoted message is that of the server, and the stored one only without a connection", async () => {
  const { store, session, requests, saved } = fakeStore();
  saved.set(1, entry(1, { text: "before" }));
  const find = async (answer) => {
    const found = new History(store).find(1, 1);
    answer?.(requests.at(-1));
    return (await found)?.text;
  };
  assert.equal(await find(({ fail }) => fail(new NotConnected("line lost"))), "before");
  assert.equal(await find(({ answer }) => answer([entry(1, { text: "after" })])), "after");
  session.isOnline = false;
  assert.equal(await find(), "after");
  session.isOnline = true;
  assert.equal(await find(({ answer }) => answer([])), undefined);
  assert.equal(saved.size, 0);
});

it("a change of our role takes effect at once", () => {
  const { store } = fakeStore();
  const of = (id, kind, users, meta) => store.add(entry(id, { kind, to: undefined, meta: { users, ...meta } })).role;
  const conversation = () => [...store.conversations.values()][0];
  store.session.messenger.conversations = async () => ({ conversations: [], hasMore: false });
  assert.equal(of(1, "group", ["ann"], { change: "member", role: "admin" }), "admin");
  assert.equal(of(2, "group", ["bob"], { change: "member", role: "owner" }), "admin");
  assert.equal(of(3, "leave", ["ann"]), "admin");
  assert.equal(conversation().left, true);
  assert.equal(of(4, "join", ["ann"]), "member");
  assert.equal(conversation().left, false);
  of(5, "group", ["bob"], { change: "mute", role: "member", muted_until: 9 });
  assert.equal(conversation().mutedUntil, 0);
  of(6, "group", ["ann"], { change: "mute", role: "member", muted_until: 9 });
  assert.equal(conversation().mutedUntil, 9);
});

it("what is read on another device is counted", async (test) => {
  test.mock.timers.enable({ apis: ["setTimeout"] });
  const fake = await opened([entry(1), entry(2), entry(3), entry(4, { from: "ann", to: "bob" }), entry(5, { meta: { mentions: ["ann"] } }), entry(6)]);
  const { store, conversation } = fake;
  const asked = withList(fake);
  const rows = savedConversations(fake);
  Object.assign(conversation, { unread: 4, mentions: 1, read: 1 });
  store.receipts.apply({ from: "ann", conversation: 1, read: 3 });
  assert.deepEqual([conversation.unread, conversation.mentions, rows[0].unread], [2, 1, 2]);
  store.receipts.apply({ from: "ann", conversation: 1, read: 5 });
  assert.deepEqual([conversation.unread, conversation.mentions, rows[0].unread], [1, 0, 1]);
  Object.assign(conversation, { unread: 99, read: 0, entries: null });
  store.receipts.apply({ from: "ann", conversation: 1, read: 2 });
  test.mock.timers.tick(900);
  store.receipts.apply({ from: "ann", conversation: 1, read: 3 });
  test.mock.timers.tick(900);
  await new Promise(setImmediate);
  assert.equal(asked.length, 0, "the other device is still reading");
  test.mock.timers.tick(100);
  await new Promise(setImmediate);
  assert.equal(asked.length, 1, "the server counts once");
  for (let id = 10; id < 60; id++) store.add(entry(id, { conversation: id }));
  store.receipts.apply({ from: "ann", conversation: 1, read: 4 });
  test.mock.timers.tick(1_000);
  await new Promise(setImmediate);
  assert.equal(asked.length, 1, "the first page of the list does not reach that far");
});

it("a conversation that is not open keeps only its last entry", () => {
  const { store } = fakeStore();
  const conversation = store.add(entry(1));
  for (let id = 2; id < 100; id++) store.add(entry(id, id % 10 ? {} : { meta: { mentions: ["ann"] } }));
  assert.deepEqual([conversation.last.id, conversation.unread, conversation.mentions], [99, 99, 9]);
  assert.equal(Object.values(conversation).filter(Array.isArray).flat().length, 0);
});

it("a new conversation stays the same object when its first message is stored", async () => {
  const { store, session } = fakeStore();
  session.messenger.conversations = async () => ({ conversations: [], hasMore: false });
  const fresh = store.withUser("cat");
  assert.equal(store.withUser("cat"), fresh);
  await new History(store).open(fresh);
  store.add(entry(7, { conversation: 9, from: "ann", to: "cat" }));
  assert.deepEqual([store.withUser("cat"), fresh.id, texts(fresh)], [fresh, 9, ["7"]]);
});

it("the conversation with a user is looked for in the older pages of the list, and only a new one is empty", async () => {
  const { store, session, requests } = fakeStore();
  const asked = [];
  session.messenger.conversations = async ({ before }) => {
    asked.push(before);
    const id = before ? before - 1 : 9;
    return { conversations: [{ id, kind: "user", peer: `user ${id}`, unread: 2, read: 1, last: entry(id, { conversation: id }) }], hasMore: id > 5 };
  };
  session.isOnline = false;
  const old = store.withUser("user 7");
  await new History(store).open(old);
  assert.deepEqual([old.entries, asked], [null, []], "without a connection nobody knows");
  session.isOnline = true;
  const opening = new History(store).open(old);
  while (!requests.length) await new Promise(setImmediate);
  requests.forEach(({ answer }, at) => answer(at ? [entry(7)] : [entry(1)]));
  await opening;
  assert.deepEqual([store.withUser("user 7"), old.id, old.unread, texts(old), asked], [old, 7, 2, ["1", "7"], [0, 9, 8]]);
  const fresh = store.withUser("dan");
  await new History(store).open(fresh);
  assert.deepEqual([fresh.id, fresh.entries, asked.at(-1), store.hasMore], [0, [], 6, false]);
  const early = store.withUser("user 4");
  assert.equal(early.entries, null);
  store.add(entry(20, { conversation: 4, from: "ann", to: "user 4" }));
  assert.deepEqual([early.id, early.entries], [4, null], "its history is not loaded yet");
});

it("conversations are in the order of their messages, and pages continue after reactions too", async () => {
  const { store, session } = fakeStore();
  const asked = [];
  const listed = (id, last, more = {}) => ({ id, kind: "user", peer: `user ${id}`, unread: 0, read: 0, last: entry(last, { conversation: id }), ...more });
  session.messenger.conversations = async ({ before }) => {
    asked.push(before);
    return { conversations: before ? [listed(3, 2)] : [listed(2, 3, { place: 9 }), listed(1, 6)], hasMore: !before };
  };
  await store.load();
  await store.load(true);
  assert.deepEqual(store.sorted.map(({ id }) => id), [1, 2, 3]);
  assert.deepEqual(asked, [0, 6]);
});

/** Conversation 1 as the server lists it. */
const listed = (more = {}) => ({ id: 1, kind: "user", peer: "bob", unread: 0, read: 0, last: entry(1), ...more });

/** The server lists conversation 1; the test answers the requests. */
function withList(fake) {
  const asked = [];
  fake.session.messenger.conversations = (page) => new Promise((resolve) => asked.push({ ...page, answer: (...conversations) => resolve({ conversations, hasMore: false }) }));
  return asked;
}

/** What the browser has stored of the only conversation. */
function savedConversations({ session: { database } }) {
  const rows = [];
  const putEntries = database.put;
  database.put = async (table, saved) => (table === "conversations" ? void rows.splice(0, 1, ...saved) : putEntries(table, saved));
  database.all = async () => rows;
  return rows;
}

it("messages that arrived while the page was closed are unread, even if our own are the last ones that it had read", async () => {
  const fake = fakeStore();
  const asked = withList(fake);
  const rows = savedConversations(fake);
  const conversation = fake.store.add(entry(1));
  fake.store.receipts.markRead(conversation, 1);
  await fake.store.receipts.send();
  fake.store.add(entry(3, { from: "ann", to: "bob" }));
  fake.store.receipts.markRead(conversation, 3);
  fake.store.add(entry(4, { from: "ann", to: "bob" }));
  assert.deepEqual([rows[0].read, rows[0].unsent], [3, 0]);
  const again = new Store(/** @type {any} */ (fake.session));
  await again.restore();
  const loading = again.load();
  again.receipts.markRead(again.conversations.get(1), 4);
  asked[0].answer(listed({ unread: 1, read: 1, last: entry(5) }));
  await loading;
  assert.deepEqual([again.unread, again.conversations.get(1).read], [1, 1]);
});

it("what is read while the list is loaded stays read", async () => {
  const fake = fakeStore();
  const asked = withList(fake);
  const conversation = fake.store.add(entry(5));
  const loading = fake.store.load();
  await new Promise(setImmediate);
  fake.store.receipts.markRead(conversation, 5);
  asked[0].answer(listed({ unread: 1, read: 1, last: entry(5) }));
  await loading;
  assert.deepEqual([conversation.unread, conversation.read], [0, 5]);
});

it("read positions wait for a connection, also over a reload, and are sent before the list is loaded", async () => {
  const fake = fakeStore();
  const asked = withList(fake);
  const rows = savedConversations(fake);
  const read = [];
  let isLost = true;
  fake.session.messenger.read = async (conversation, id) => {
    if (isLost) throw new NotConnected("no answer in time");
    read.push([conversation, id, asked.length]);
  };
  const conversation = fake.store.add(entry(5));
  fake.store.receipts.markRead(conversation, 5);
  await fake.store.receipts.send();
  assert.deepEqual([read, rows[0].unsent], [[], 5]);
  const again = new Store(/** @type {any} */ (fake.session));
  await again.restore();
  isLost = false;
  const loading = again.load();
  await new Promise(setImmediate);
  asked[0].answer(listed({ unread: 0, read: 5, last: entry(5) }));
  await loading;
  assert.deepEqual([read, rows[0].unsent], [[[1, 5, 0]], 0]);
  await again.receipts.send();
  await fake.store.receipts.send();
  assert.deepEqual(read, [[1, 5, 0], [1, 5, 1]], "once by each");
});

it("older conversations continue after the last one that the server has listed, not after stored ones", async () => {
  const { store, session } = fakeStore();
  session.database.all = async () => [{ id: 7, group: true, peer: "", unread: 0, read: 0, position: 2, last: null }];
  const pages = { 0: [{ id: 1, position: 90 }, { id: 2, position: 80 }], 80: [{ id: 3, position: 70 }, { id: 7, position: 60 }] };
  const asked = [];
  session.messenger.conversations = async ({ before }) => {
    asked.push(before);
    return { conversations: (pages[before] ?? []).map(({ id, position }) => ({ id, kind: "group", unread: id, read: 0, place: position })), hasMore: Boolean(pages[before]) };
  };
  await store.restore();
  await store.load();
  await store.load(true);
  assert.deepEqual([asked, store.conversations.get(7).unread], [[0, 80], 7]);
  await store.load(true);
  assert.deepEqual([asked.at(-1), store.hasMore], [60, false]);
});

it("up to 1,000 older conversations are loaded at once, and what a lost connection has not brought is loaded later", async () => {
  const { store, session } = fakeStore();
  const asked = [];
  let isBroken = false;
  session.messenger.conversations = async ({ before, limit }) => {
    if (isBroken) throw new NotConnected("lost");
    asked.push([before, limit]);
    const id = before ? before - 1 : 99;
    return { conversations: [{ id, kind: "group", unread: 1, read: 0, place: id }], hasMore: true };
  };
  await store.load();
  isBroken = true;
  await store.loadRest();
  session.isOnline = isBroken = false;
  await store.loadRest();
  assert.deepEqual([asked, store.unread], [[[0, 50]], 1]);
  session.isOnline = true;
  await Promise.all([store.loadRest(), store.load(true), store.loadRest()]);
  assert.deepEqual(asked.slice(1), [99, 98, 97, 96, 95].map((before) => [before, 200]));
  await store.loadRest();
  assert.deepEqual([asked.length, store.unread], [6, 6]);
});

it("after the server has deleted entries nothing old is left, here and in the browser's storage", async () => {
  const { store, session, requests, saved, conversation } = await opened([entry(100), entry(101)]);
  const tables = { entries: saved, conversations: new Map() };
  session.database.clear = async (table) => tables[table].clear();
  session.messenger.conversations = async ({ before }) => ({ conversations: before ? [] : [listed({ last: entry(3), unread: 1, read: 2 })], hasMore: false });
  store.clear();
  assert.deepEqual([store.sorted, saved.size, store.isLoaded], [[], 0, false]);
  await store.load();
  const again = store.conversations.get(1);
  assert.notEqual(again, conversation);
  assert.deepEqual([again.unread, again.read, again.entries], [1, 2, null]);
  const opening = new History(store).open(again);
  requests.at(-2).answer([entry(1), entry(2)]);
  requests.at(-1).answer([entry(3)]);
  await opening;
  assert.deepEqual(texts(again), ["1", "2", "3"]);
});

it("a group counts the readers of our messages until all have read them; one reader is not all", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { store, session, requests } = fakeStore();
  const asked = [];
  let read = 1;
  session.messenger.receiptCounts = async (_, ids) => {
    asked.push(ids);
    return { counts: ids.map((id) => ({ id, members: 2, received: 2, read })) };
  };
  const own = (id) => entry(id, { to: undefined, from: "ann" });
  const group = store.add(own(1));
  const opening = new History(store).open(group);
  requests[0].answer([own(1), entry(2, { to: undefined }), own(3)]);
  await opening;
  const settle = async () => {
    context.mock.timers.tick(2_000);
    for (let turn = 0; turn < 5; turn++) await null;
  };
  await settle();
  assert.deepEqual(asked, [[1, 3]]);
  assert.deepEqual([group.counts.get(1).read, group.peerRead], [1, 0]);
  read = 2;
  for (const from of ["bob", "cat"]) store.receipts.apply({ from, conversation: 1, read: 3 });
  await settle();
  store.receipts.apply({ from: "bob", conversation: 1, read: 4 });
  await settle();
  assert.deepEqual(asked, [[1, 3], [1, 3]]);
});

it("pinned conversations come first, archived ones are apart, and their unread messages do not count", () => {
  const { store } = fakeStore();
  for (const id of [1, 2, 3, 4]) store.add(entry(10 + id, { conversation: id, from: `user ${id}` }));
  const more = (id, changes) => Object.assign(store.conversations.get(id), changes);
  more(1, { pin: 5 });
  more(2, { pin: 7 });
  more(3, { archived: true });
  more(4, { unread: 0, marked: true });
  const ids = (list) => list.map(({ id }) => id);
  assert.deepEqual([ids(store.lists.listed), ids(store.lists.archived), store.unread], [[2, 1, 4], [3], 3]);
});
