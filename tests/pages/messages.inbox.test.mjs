// Pins, archived conversations, marks and drafts of the messages page, beside other devices.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { CommandRefused, NotConnected } from "./sdk/errors.js";
import { Drafts } from "./static/messages/session/drafts.js";
import { Inbox } from "./static/messages/session/inbox.js";

const rows = new Map();
globalThis.localStorage = /** @type {any} */ ({
  getItem: (key) => rows.get(key) ?? null,
  setItem: (key, value) => rows.set(key, value),
  removeItem: (key) => rows.delete(key),
});

beforeEach(() => rows.clear());

const TEA = { id: 7, group: true, peer: "", position: 20, last: { id: 20 }, read: 20 };
const row = (version, more = {}) => ({ conversation: 7, version, pinned: 0, archived: 0, marked: 0, ...more });
const settled = () => new Promise((resolve) => setTimeout(resolve));

/** An inbox whose requests the test answers. */
function fake(conversations = [TEA]) {
  const requests = [];
  const shown = [];
  const session = {
    app: "shop", user: "ann", isOnline: true, hasNotifications: false, quiet: false, shown, requests,
    drafts: new Drafts("drafts"),
    wishes: { isQuiet: () => session.quiet },
    store: { conversations: new Map(conversations.map((each) => [each.id, each])), withKey: (key) => session.store.conversations.get(Number(key)) },
    changed() {},
    draftChanged: (key) => shown.push(key),
    messenger: {
      arrange: (conversation, change) => new Promise((resolve, reject) => requests.push({ change, answer: (version, more) => resolve(row(version, more)), fail: reject })),
      arrangements: async () => ({ arrangements: [], version: 0, hasMore: false }),
    },
  };
  session.inbox = new Inbox(/** @type {any} */ (session));
  return session;
}

it("a change is shown at once, and taken back if it is refused", async () => {
  const { inbox, requests } = fake();
  const pin = inbox.change(TEA, { pinned: 5 });
  assert.equal(inbox.pinOf(TEA), 5);
  requests[0].answer(1, { pinned: 5 });
  await pin;
  const archive = inbox.change(TEA, { archived: 20 });
  assert.deepEqual([inbox.isArchived(TEA), inbox.pinOf(TEA)], [true, 0]);
  requests[1].fail(new CommandRefused("arrange", 1006, ""));
  await assert.rejects(archive, CommandRefused);
  assert.deepEqual([inbox.isArchived(TEA), inbox.pinOf(TEA)], [false, 5]);
  assert.equal(fake().inbox.pinOf(TEA), 5, "the browser has stored it");
});

it("a group that was left can go from the list, and comes back when it is joined again", async () => {
  const { inbox, requests } = fake();
  const tea = { ...TEA, left: true };
  const removal = inbox.remove(/** @type {any} */ (tea));
  requests[0].answer(1, requests[0].change);
  await removal;
  assert.deepEqual([inbox.isGone(tea), inbox.isArchived(tea)], [true, false], "it is in neither list");
  const again = { ...tea, left: false };
  assert.deepEqual([inbox.isGone(again), inbox.isArchived(again)], [false, false]);
});

it("an earlier change that comes later changes nothing", () => {
  const { inbox } = fake();
  inbox.receive(row(2, { pinned: 2 }));
  inbox.receive(row(1, { pinned: 1 }));
  assert.equal(inbox.pinOf(TEA), 2);
});

it("an archived conversation comes back with a new message, unless it is muted", () => {
  const session = fake();
  session.inbox.receive(row(1, { archived: 20 }));
  assert.equal(session.inbox.isArchived(TEA), true);
  const later = { ...TEA, last: { id: 21 } };
  assert.equal(session.inbox.isArchived(later), false);
  session.quiet = true;
  assert.equal(session.inbox.isArchived(later), true);
});

it("a mark ends when a newer message was read", () => {
  const { inbox } = fake();
  inbox.receive(row(1, { marked: 20 }));
  assert.deepEqual([inbox.isMarked(TEA), inbox.isMarked({ ...TEA, read: 21 })], [true, false]);
});

it("a draft of another device is shown, but not over one that was not sent yet", () => {
  const { inbox, drafts, shown } = fake();
  inbox.receive(row(1, { draft: { text: "@Bob", replyTo: 3, mentions: [{ name: "Bob", user: "2" }] } }));
  assert.deepEqual(drafts.get("7"), { text: "@Bob", replyTo: 3, mentions: [["Bob", "2"]] });
  assert.deepEqual(shown, ["7"]);
  inbox.receive(row(2));
  assert.equal(drafts.get("7").text, "");
  drafts.set("7", { text: "here" });
  inbox.receive(row(3, { draft: { text: "there" } }));
  assert.equal(drafts.get("7").text, "here");
  assert.deepEqual(shown, ["7", "7"]);
});

it("a draft of a conversation that is not loaded is shown when it is", () => {
  const { inbox, drafts, store } = fake([]);
  inbox.receive(row(1, { draft: { text: "tea" } }));
  assert.equal(drafts.get("7").text, "");
  store.conversations.set(7, TEA);
  inbox.settle();
  assert.equal(drafts.get("7").text, "tea");
});

it("a draft is sent when the page goes away or the text was sent, and again after a lost connection", async () => {
  const { inbox, drafts, requests } = fake();
  drafts.set("7", { text: "tea", mentions: [["Bob", "2"]] });
  drafts.save();
  await settled();
  assert.deepEqual(requests[0].change, { draft: { text: "tea", mentions: [{ name: "Bob", user: "2" }] } });
  requests[0].fail(new NotConnected("lost"));
  await settled();
  assert.deepEqual(drafts.unsent, ["7"]);
  await inbox.load();
  await settled();
  requests[1].answer(1, { draft: { text: "tea" } });
  await settled();
  assert.deepEqual(drafts.unsent, []);
  drafts.set("7", { text: "" });
  await settled();
  assert.deepEqual(requests[2].change, { draft: {} });
  requests[2].answer(2);
  await settled();
  assert.deepEqual([drafts.unsent, drafts.get("7").text, requests.length], [[], "", 3]);
});

it("what was written while a draft was sent is sent, too", async () => {
  const { drafts, requests } = fake();
  drafts.set("7", { text: "tea" });
  drafts.save();
  await settled();
  drafts.set("7", { text: "tea at six" });
  requests[0].answer(1, { draft: { text: "tea" } });
  await settled();
  assert.deepEqual([drafts.unsent, drafts.get("7").text], [["7"], "tea at six"]);
});

it("a draft that the server refuses stays on this device", async () => {
  const { drafts, requests } = fake();
  drafts.set("7", { text: "long" });
  drafts.save();
  await settled();
  requests[0].fail(new CommandRefused("arrange", 1001, ""));
  await settled();
  assert.deepEqual([drafts.unsent, drafts.get("7").text], [[], "long"]);
});

it("a server without the feature is not asked again", async () => {
  const { inbox, messenger } = fake();
  let questions = 0;
  messenger.arrangements = async () => {
    questions += 1;
    throw new CommandRefused("arrangements", 1010, "");
  };
  await inbox.load();
  await inbox.load();
  assert.deepEqual([inbox.isOffered, questions], [false, 1]);
});
