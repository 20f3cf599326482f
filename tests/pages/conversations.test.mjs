// The conversations of the page of stored messages, with requests and entries in any order. Without a browser or server.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { it } from "node:test";

// Node would read a .js file as CommonJS; a data URL is read as a module.
const source = readFileSync(new URL("../../static/conversations.js", import.meta.url));
const { ConversationStore } = await import(`data:text/javascript;base64,${source.toString("base64")}`);

const entry = (id, more = {}) => ({ id, conversation: 1, seq: id, kind: "message", from: "bob", to: "ann", text: String(id), time: 1, ...more });

/** A messenger whose history requests are answered by the test, in any order. */
function fakeMessenger() {
  const requests = [];
  const history = (conversation, page) => new Promise((resolve) => {
    requests.push({ before: page.before ?? 0, answer: (messages, hasMore = false) => resolve({ messages, hasMore }) });
  });
  const receipts = async () => ({ receipts: [], hasMore: false });
  return { requests, messenger: { user: "ann", history, receipts } };
}

/** A conversation with these pages of history, the newest first. */
async function loaded(...pages) {
  const { requests, messenger } = fakeMessenger();
  const store = new ConversationStore(/** @type {any} */ (messenger));
  const conversation = store.add(entry(100));
  const opening = store.loadHistory(conversation);
  requests[0].answer(pages[0], pages.length > 1);
  await opening;
  for (const [index, page] of pages.slice(1).entries()) {
    const reading = store.loadOlder(conversation);
    requests[index + 1].answer(page, index + 2 < pages.length);
    await reading;
  }
  return { requests, store, conversation };
}

const texts = ({ entries }) => entries.map(({ text }) => text);

it("a late entry is inserted at its position, once", async () => {
  const { store, conversation } = await loaded([entry(100)]);
  store.add(entry(105, { from: "ann", to: "bob" }));
  store.add(entry(103));
  store.add(entry(103));
  assert.deepEqual(texts(conversation), ["100", "103", "105"]);
});

it("a history that is requested twice at once loses no entry that arrives meanwhile", async () => {
  const { requests, messenger } = fakeMessenger();
  const store = new ConversationStore(/** @type {any} */ (messenger));
  const conversation = store.add(entry(1));
  const first = store.loadHistory(conversation);
  store.add(entry(2));
  const second = store.loadHistory(conversation);
  requests[0].answer([entry(1)]);
  await first;
  store.add(entry(3));
  requests[1]?.answer([entry(1), entry(2)]);
  await second;
  assert.deepEqual(texts(conversation), ["1", "2", "3"]);
});

it("a message that is edited while the history loads is edited", async () => {
  const { requests, messenger } = fakeMessenger();
  const store = new ConversationStore(/** @type {any} */ (messenger));
  const conversation = store.add(entry(1));
  const opening = store.loadHistory(conversation);
  store.add(entry(2));
  store.add(entry(3, { kind: "edit", about: 2, text: "two" }));
  store.add(entry(4, { kind: "edit", about: 1, text: "one" }));
  requests[0].answer([entry(1)]);
  await opening;
  assert.deepEqual(texts(conversation), ["one", "two"]);
});

it("an older page that is requested twice is added once", async () => {
  const { requests, store, conversation } = await loaded([entry(51), entry(100)], [entry(50)]);
  conversation.hasMore = true;
  const both = [store.loadOlder(conversation), store.loadOlder(conversation)];
  requests.slice(2).forEach(({ answer }) => answer([entry(48), entry(49)], true));
  await Promise.all(both);
  assert.deepEqual(texts(conversation), ["48", "49", "50", "51", "100"]);
});

it("a page of edits only leads to the page before it", async () => {
  const edits = [entry(60, { kind: "edit", about: 3 }), entry(100, { kind: "edit", about: 3 })];
  const { requests, conversation } = await loaded(edits, [entry(3)]);
  assert.deepEqual(requests.map(({ before }) => before), [0, 60]);
  assert.deepEqual(texts(conversation), ["3"]);
});

it("a conversation that is not open keeps only its last entry", () => {
  const store = new ConversationStore(/** @type {any} */ (fakeMessenger().messenger));
  const conversation = store.add(entry(1));
  for (let id = 2; id < 100; id++) store.add(entry(id));
  assert.equal(conversation.last?.id, 99);
  assert.equal(conversation.unread, 99);
  assert.equal(Object.values(conversation).filter(Array.isArray).flat().length, 0);
});
