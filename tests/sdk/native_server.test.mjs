// imserver-react-native against a real server, whose addresses the environment names. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { afterEach, it } from "node:test";

import { Messenger } from "../../sdk/js/messenger.js";
import { createElement, useState } from "../../sdk/node_modules/react/index.js";
import { Chat } from "../../sdk/react-native/chat.js";
import { followAppState, PhoneMessenger, useNotificationOpened, usePhoneClient } from "../../sdk/react-native/index.js";
import { eventually, PaperPushSource, PaperStorage, response, Screen } from "./phone.mjs";
import { AppState } from "./react_native/index.js";

const { IM_HTTP: httpUrl, IM_WS: url } = process.env;
const ends = [];

afterEach(() => {
  AppState.move("active");
  for (const end of ends.splice(0)) end();
});

const options = (user) => ({ url, httpUrl, app: 101, user, timeoutMs: 60_000 });

function phone(user, storage, more = {}) {
  const messenger = new PhoneMessenger({ ...options(user), storage, ...more });
  ends.push(() => messenger.close());
  return messenger;
}

async function friend(user) {
  const messenger = new Messenger({ ...options(user), cursor: null });
  ends.push(() => messenger.close());
  await messenger.connect();
  return messenger;
}

/** The entries of an app, as a database has them. `texts`: in the order in which they were put. */
class PaperEntries {
  texts = [];
  failures = 0;
  put = async ({ text }) => {
    await null;
    if (this.failures-- > 0) throw new Error("the disk is full");
    this.texts.push(text);
  };
  clear = () => void (this.texts = []);
}

it("a phone in the background misses nothing, and gets nothing twice", async () => {
  const entries = new PaperEntries();
  const ann = phone("ann", new PaperStorage(), { entries });
  const bob = await friend("bob");
  const states = [];
  ann.on("state", ({ state }) => states.push(state));
  ends.push(followAppState(ann, AppState, { keepMs: 0 }));
  await ann.connect();
  await bob.send("ann", "one");
  await eventually(() => entries.texts.length === 1);
  AppState.move("inactive"); // the user looks at something else for a moment
  AppState.move("background");
  await eventually(() => ann.state.state === "closed");
  await bob.send("ann", "two");
  await bob.send("ann", "three");
  AppState.move("active");
  await eventually(() => entries.texts.length === 3);
  await bob.send("ann", "four");
  await eventually(() => entries.texts.length === 4);
  assert.deepEqual(entries.texts, ["one", "two", "three", "four"]);
  assert.deepEqual(states, ["connecting", "online", "closed", "connecting", "online"]);
});

it("a short look at another app keeps the connection", async () => {
  const ann = phone("ann", new PaperStorage());
  ends.push(followAppState(ann, AppState, { keepMs: 60_000 }));
  await ann.connect();
  AppState.move("background");
  AppState.move("active");
  await ann.probe();
  assert.equal(ann.state.state, "online");
});

it("a start goes on after the last entry that the app has stored", async () => {
  const storage = new PaperStorage();
  const entries = new PaperEntries();
  const cy = phone("cy", storage, { entries });
  const bob = await friend("bob");
  await cy.connect();
  await bob.send("cy", "one");
  await eventually(() => entries.texts.length === 1 && [...storage.values.values()].length);
  const killed = storage.copy(); // the phone ends the app
  cy.close();
  await bob.send("cy", "two");
  entries.failures = 1; // it is put again
  const again = phone("cy", killed, { entries });
  await again.connect();
  await eventually(() => entries.texts.length === 2);
  await again.send("bob", "three");
  assert.deepEqual(entries.texts, ["one", "two", "three"]);
  await again.forget();
  assert.equal(killed.values.size, 0);
});

it("a message that was written offline, or whose answer was lost with the app, is stored once", async () => {
  const storage = new PaperStorage();
  const dee = phone("dee", storage);
  const bob = await friend("bob");
  const received = [];
  bob.on("entry", ({ text, from }) => from === "dee" && received.push(text));
  await dee.outbox.send({ to: "bob" }, "offline");
  assert.deepEqual([dee.outbox.items.length, received], [1, []]);
  const killed = storage.copy();
  const again = phone("dee", killed);
  const own = [];
  again.on("entry", ({ text }) => own.push(text));
  await again.connect();
  await eventually(() => !again.outbox.items.length);
  await eventually(() => received.length);
  const resent = phone("dee", storage); // its storage has the message still
  await resent.connect();
  await eventually(() => !resent.outbox.items.length);
  await again.outbox.send({ to: "bob" }, "online");
  await eventually(() => received.length === 2);
  assert.deepEqual([received, own], [["offline", "online"], ["offline", "online"]]);
});

it("a message that the server refuses waits for the user", async () => {
  const eve = phone("eve", new PaperStorage());
  await eve.connect();
  const id = await eve.outbox.send({ conversation: 999_999 }, "to nobody");
  await eventually(() => eve.outbox.items[0].failed);
  assert.match(eve.outbox.items[0].reason, /refused/);
  await eve.outbox.send({ to: "bob" }, "goes on");
  await eventually(() => eve.outbox.items.length === 1);
  await eve.outbox.retry(id);
  await eventually(() => eve.outbox.items[0].failed);
  await eve.outbox.discard(id);
  assert.deepEqual(eve.outbox.items, []);
});

function App({ user, storage, source, keepMs = 60_000 }) {
  const { client, state } = usePhoneClient(() => new PhoneMessenger({ ...options(user), storage }), [user], { keepMs });
  const [place, setPlace] = useState(null);
  useNotificationOpened(source, httpUrl, ({ conversation }, { draft }) => setPlace({ conversation, draft }));
  return createElement(Chat, { messenger: client, state, place, onPlace: setPlace, nameOf: (id) => id.toUpperCase() });
}

function start(user, source = new PaperPushSource(), more = {}) {
  const screen = new Screen(App, { user, storage: new PaperStorage(), source, ...more });
  ends.push(() => screen.close());
  return screen;
}

it("two people chat on a screen", async () => {
  const bob = await friend("bob");
  await bob.send("fay", "hello");
  const screen = start("fay");
  await screen.shows("Conversations", "BOB", "hello", "1");
  const read = new Promise((resolve) => bob.on("receipt", ({ from, read }) => from === "fay" && read && resolve()));
  const typing = new Promise((resolve) => bob.on("typing", resolve));
  screen.press("BOB");
  await screen.shows("Back", "hello");
  await screen.write("hi there");
  screen.press("Send");
  await screen.shows("hi there");
  assert.equal(screen.input.value, "");
  await screen.hides("Waiting");
  const heard = await bob.history((await bob.conversations({ limit: 1 })).conversations[0].id, { limit: 5 });
  assert.deepEqual(heard.messages.map(({ text }) => text), ["hello", "hi there"]);
  await Promise.all([read, typing]);
  const sent = await bob.send("fay", "oops");
  await screen.shows("oops");
  await bob.recall(sent.id);
  await screen.shows("Message deleted");
  screen.press("Back");
  await screen.shows("Conversations");
  await bob.send("fay", "one more");
  await screen.shows("one more", "1");
});

it("in the background nothing is marked as read, until the user comes back", async () => {
  const bob = await friend("bob");
  const { conversation, id } = await bob.send("gus", "first");
  const screen = start("gus");
  await screen.shows("first");
  screen.press("BOB");
  await screen.shows("Back", "first");
  const readBy = async () => (await bob.receipts(conversation)).receipts[0]?.read;
  await eventually(async () => (await readBy()) === id);
  AppState.move("background"); // the connection stays for a while
  const second = await bob.send("gus", "second");
  await screen.shows("second");
  assert.equal(await readBy(), id);
  AppState.move("active");
  await eventually(async () => (await readBy()) === second.id);
});

it("a screen is up to date when the user comes back", async () => {
  const bob = await friend("bob");
  const { conversation } = await bob.send("gil", "first");
  const screen = start("gil", undefined, { keepMs: 0 });
  await screen.shows("first");
  screen.press("BOB");
  await screen.shows("Back", "first");
  AppState.move("background");
  await screen.shows("Waiting for the network…");
  const { id } = await bob.send("gil", "second");
  AppState.move("active");
  await screen.shows("first", "second");
  await screen.hides("Waiting for the network…");
  await eventually(async () => (await bob.receipts(conversation)).receipts[0]?.read === id);
  assert.equal(screen.texts.filter((text) => text === "second").length, 1);
});

it("a notification opens its conversation, at a cold start and while the app runs", async () => {
  const bob = await friend("bob");
  const cleo = await friend("cleo");
  const { conversation: ofBob } = await bob.send("hal", "from bob");
  const { conversation: ofCleo } = await cleo.send("hal", "from cleo");
  const source = new PaperPushSource();
  const notice = { kind: "message", tag: "t", conversation: ofBob, entry: 1, count: 1, token: "" };
  source.started = response(notice);
  const screen = start("hal", source);
  await screen.shows("Back", "from bob");
  screen.press("Back");
  await screen.shows("Conversations");
  source.respond(notice); // libraries report it twice
  source.respond({ ...notice, conversation: ofCleo }, "", "", "n2");
  await screen.shows("Back", "from cleo");
  assert.ok(!screen.texts.includes("from bob"));
});

it("a reply whose token is no longer valid is in the composer", async () => {
  const bob = await friend("bob");
  const { conversation } = await bob.send("ida", "coming?");
  const source = new PaperPushSource();
  const screen = start("ida", source);
  await screen.shows("coming?");
  source.respond({ kind: "message", tag: "t", conversation, entry: 1, count: 1, token: "of-no-notification" }, "reply", "on my way");
  await screen.shows("Back");
  assert.equal(screen.input.value, "on my way");
});
