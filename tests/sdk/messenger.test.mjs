// The messenger's rules, driven by a socket made of paper and a clock that the test moves.
import assert from "node:assert/strict";
import { beforeEach, it, mock } from "node:test";

import { Messenger } from "../../sdk/js/messenger.js";

let sockets = [];

class PaperSocket {
  readyState = 0;
  sent = [];

  constructor() {
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = 1;
    this.onopen?.();
  }

  end(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code, reason: "" });
  }

  hear(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** Answers the newest request of this command. */
  async answer(cmd, data = null, code = 200) {
    const { seq } = this.sent.findLast((frame) => frame.cmd === cmd);
    this.hear({ seq, cmd, response: { code, codeMsg: "", data } });
    await settled();
  }

  async tell(id) {
    this.hear({ seq: "1", cmd: "message", response: { code: 200, codeMsg: "Ok", data: entry(id) } });
    await settled();
  }

  asked(cmd) {
    return this.sent.filter((frame) => frame.cmd === cmd).map(({ data }) => data);
  }
}

const last = () => sockets.at(-1);
const settled = () => new Promise((resolve) => setImmediate(resolve));
const entry = (id) => ({ id, conversation: 1, seq: id, kind: "message", from: "bob", text: String(id), time: 1 });

const newMessenger = (options = {}) => new Messenger({
  url: "ws://im.test/acc", httpUrl: "http://im.test", app: 101, user: "ann", WebSocket: PaperSocket, random: () => 0, ...options,
});

async function logIn(options = {}, answer = { recovered: true }) {
  const messenger = newMessenger(options);
  const heard = [];
  messenger.on("entry", ({ id }) => heard.push(id));
  messenger.on("anew", () => heard.push("anew"));
  messenger.connect().catch(() => {});
  last().open();
  await settled(); // of a function for the token
  await last().answer("login", answer);
  return { messenger, heard };
}

async function comeBack(answer = { recovered: true }) {
  mock.timers.tick(0);
  last().open();
  await settled();
  await last().answer("login", answer);
}

beforeEach(() => {
  sockets = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
});

it("the login says where it stands, each time anew", async () => {
  const { heard } = await logIn({ cursor: 5 });
  assert.deepEqual([last().asked("login")[0].cursor, last().asked("login")[0].acks], [5, true]);
  await last().tell(6);
  await last().tell(6);
  assert.deepEqual(heard, [6]);
  last().end();
  await comeBack();
  assert.equal(last().asked("login")[0].cursor, 6);
});

it("pages are asked for until there are no more, and what is told beside them comes again", async () => {
  const { heard } = await logIn({ cursor: 1 }, { recovered: false });
  await last().tell(9);
  await last().answer("sync", { messages: [entry(2), entry(3)], hasMore: true });
  await last().answer("sync", { messages: [entry(9)], hasMore: false });
  await last().tell(10);
  assert.deepEqual(heard, [2, 3, 9, 10]);
  assert.deepEqual(last().asked("sync").map(({ cursor }) => cursor), [1, 3]);
});

it("close() in a listener ends the entries of a page, and the cursor stays at the last one", async () => {
  const { messenger, heard } = await logIn({ cursor: 1 }, { recovered: false });
  const stop = messenger.on("entry", ({ id }) => id === 3 && messenger.close());
  await last().answer("sync", { messages: [2, 3, 4, 5].map(entry), hasMore: true });
  assert.deepEqual([heard, messenger.cursor], [[2, 3], 3]);
  stop();
  messenger.connect();
  last().open();
  await last().answer("login", { recovered: false });
  await last().answer("sync", { messages: [4, 5].map(entry), hasMore: false });
  assert.deepEqual(heard, [2, 3, 4, 5]);
});

it("a void cursor begins anew", async () => {
  const { heard } = await logIn({ cursor: 100 }, { recovered: false });
  await last().answer("sync", { messages: [entry(101)], hasMore: false, beginAnew: true });
  await last().answer("sync", { messages: [entry(1)], hasMore: false });
  assert.deepEqual(heard, ["anew", 1]);
});

it("from now on asks where that is", async () => {
  const { messenger } = await logIn({ cursor: null }, null);
  assert.equal("cursor" in last().asked("login")[0], false);
  await last().answer("conversations", { conversations: [{ id: 1, last: entry(7), place: 8 }], hasMore: true });
  assert.equal(last().asked("sync")[0].cursor, 8);
  await last().answer("sync", { messages: [], hasMore: false });
  assert.equal(messenger.cursor, 8);
});

it("a database that does not answer is tried over another connection", async () => {
  const { messenger } = await logIn({ cursor: 1 }, { recovered: false });
  await last().answer("sync", null, 1008);
  assert.equal(messenger.state.state, "waiting");
  await comeBack();
  assert.equal(messenger.state.state, "online");
});

it("a page that does not come is asked for over another connection", async () => {
  const { messenger, heard } = await logIn({ cursor: 1, timeoutMs: 1000 }, { recovered: false });
  mock.timers.tick(1000);
  await settled();
  assert.equal(messenger.state.state, "waiting");
  await comeBack({ recovered: false });
  await last().answer("sync", { messages: [entry(2)], hasMore: false });
  await last().tell(3);
  assert.deepEqual(heard, [2, 3]);
});

it("pages of a connection that is gone do not count", async () => {
  const { heard } = await logIn({ cursor: 1 }, { recovered: false });
  last().end();
  await comeBack({ recovered: false });
  await last().answer("sync", { messages: [entry(2)], hasMore: false });
  assert.deepEqual(heard, [2]);
});

it("what has come is acknowledged within a second, many at once", async () => {
  await logIn();
  await last().tell(3);
  await last().tell(4);
  assert.deepEqual(last().asked("ack"), []);
  mock.timers.tick(1000);
  assert.deepEqual(last().asked("ack"), [{ id: 4 }]);
  await last().tell(4);
  mock.timers.tick(1000);
  assert.deepEqual(last().asked("ack"), [{ id: 4 }, { id: 4 }]);
  for (let id = 5; id < 505; id++) last().hear({ seq: "1", cmd: "message", response: { code: 200, data: entry(id) } });
  await settled();
  assert.deepEqual(last().asked("ack").at(-1), { id: 504 });
});

it("what is sent goes again over the next connections, in its order and under its ids", async () => {
  const { messenger } = await logIn();
  const first = messenger.send("bob", "one");
  const second = messenger.send("bob", "two");
  const sent = last().asked("send");
  last().end();
  const third = messenger.send("bob", "three");
  await comeBack();
  const again = last().asked("send");
  assert.deepEqual(again.slice(0, 2), sent);
  assert.deepEqual(again.map(({ text }) => text), ["one", "two", "three"]);
  last().sent.filter(({ cmd }) => cmd === "send").forEach(({ seq, cmd }, index) =>
    last().hear({ seq, cmd, response: { code: 200, data: { id: index + 1, conversation: 1, seq: index + 1, repeated: false } } }));
  assert.deepEqual((await Promise.all([first, second, third])).map(({ id }) => id), [1, 2, 3]);
  assert.equal(messenger.cursor, 3);
});

it("what is not answered in time goes over a new connection", async () => {
  const { messenger } = await logIn();
  const sending = messenger.send("bob", "one");
  const reading = messenger.read(1, 1);
  mock.timers.tick(5000);
  mock.timers.tick(5000);
  await settled();
  assert.deepEqual([messenger.state.state, messenger.state.code, sockets.length], ["waiting", 1006, 1]);
  await comeBack();
  assert.deepEqual(last().asked("send"), sockets[0].asked("send"));
  await last().answer("send", { id: 1, conversation: 1, seq: 1, repeated: false });
  await last().answer("read");
  assert.equal((await sending).id, 1);
  await reading;
});

it("a command of a client that was never connected says so after its time", async () => {
  const given = assert.rejects(newMessenger().send("bob", "one"), { name: "NotConnected", text: "send: no answer in time: connect() was not called" });
  mock.timers.tick(30_000);
  await given;
});

it("a connection that answers heartbeats stays, however long a command takes", async () => {
  const { messenger } = await logIn({ heartbeatMs: 3_600_000 });
  const sending = messenger.send("bob", "slow");
  const later = async (ms) => {
    mock.timers.tick(ms);
    await settled();
    assert.equal(messenger.state.state, "online");
  };
  for (let ms = 0; ms < 25_000; ms += 5000) {
    await later(5000);
    await last().answer("heartbeat");
  }
  await last().answer("send", { id: 1, conversation: 1, seq: 1, repeated: false });
  assert.equal((await sending).id, 1);
  const givenUp = assert.rejects(messenger.send("bob", "slower"), { name: "NotConnected", text: "send: no answer in time" });
  for (let ms = 0; ms < 30_000; ms += 5000) {
    await later(5000);
    await last().answer("heartbeat");
  }
  await givenUp;
  await later(15_000);
  assert.deepEqual([sockets.length, last().asked("send").length], [1, 2]);
});

it("slow commands of one connection share its heartbeats, which end with the last answer", async () => {
  const { messenger } = await logIn({ heartbeatMs: 3_600_000 });
  const slow = [1, 2, 3].map((conversation) => messenger.history(conversation));
  const later = async (heartbeats) => {
    mock.timers.tick(5000);
    await settled();
    assert.equal(last().asked("heartbeat").length, heartbeats);
    if (heartbeats) await last().answer("heartbeat");
  };
  const answerTo = async (number) => {
    const { seq, cmd } = last().sent.filter(({ cmd }) => cmd === "history")[number];
    last().hear({ seq, cmd, response: { code: 200, data: { messages: [], hasMore: false } } });
    await slow[number];
  };
  await later(1);
  await answerTo(0);
  await later(2);
  await answerTo(2);
  await later(3);
  await answerTo(1);
  await later(3);
  messenger.read(1, 1).catch(() => {}); // sent again after the reconnect
  await later(4);
  last().end();
  await comeBack();
  await later(1);
  await last().answer("read");
  await later(1);
  assert.equal(sockets.length, 2);
});

it("the close code of a connection that the server is closing counts, also if something is sent meanwhile", async () => {
  const { messenger } = await logIn();
  last().readyState = 2;
  const sending = assert.rejects(messenger.send("bob", "one"), { name: "Closed", code: 4500 });
  await settled();
  last().end(4500);
  await sending;
});

it("many messages go few at a time, and more slowly after a rate limit until none waits", async () => {
  const messenger = newMessenger({ heartbeatMs: 3_600_000, carryMs: 3_600_000 });
  const sending = Promise.all(Array.from({ length: 30 }, (_, number) => messenger.send("bob", String(number))));
  messenger.connect();
  last().open();
  await last().answer("login", { recovered: true });
  const texts = () => last().asked("send").map(({ text }) => Number(text));
  assert.deepEqual(texts(), Array.from({ length: 20 }, (_, number) => number));
  const answer = () => last().answer("send", { id: texts().at(-1) + 1, conversation: 1, seq: 1, repeated: false });
  await answer();
  assert.equal(texts().at(-1), 20);
  last().end(4003);
  await comeBack();
  assert.deepEqual(texts(), [0]);
  await answer();
  mock.timers.tick(49);
  await settled();
  assert.deepEqual(texts(), [0]);
  for (let left = 28; left; left--) {
    mock.timers.tick(50);
    await settled();
    await answer();
  }
  assert.deepEqual((await sending).map(({ id }) => id), Array.from({ length: 30 }, (_, number) => number + 1));
  for (let spacing = 50; spacing; spacing >>= 1) {
    mock.timers.tick(spacing);
    await settled();
    messenger.send("bob", "30");
    await answer();
  }
  for (let number = 0; number < 3; number++) messenger.send("bob", "31").catch(() => {}); // rejected by close()
  assert.equal(texts().filter((number) => number === 31).length, 3);
  messenger.close();
});

it("a command without an answer for a second lets the next one be sent, also after a rate limit", async () => {
  const { messenger } = await logIn({ heartbeatMs: 3_600_000 });
  const later = async (ms) => {
    mock.timers.tick(ms);
    await settled();
  };
  const sending = Array.from({ length: 20 }, (_, number) => messenger.send("bob", String(number)));
  const reading = messenger.read(1, 1);
  const { ready } = messenger.subscribe("orders:17");
  await later(999);
  assert.deepEqual([last().asked("send").length, last().asked("read").length, last().asked("subscribe").length], [20, 0, 0]);
  await later(1);
  assert.deepEqual([last().asked("send").length, last().asked("read").length, last().asked("subscribe").length], [20, 1, 1]);
  await last().answer("read");
  await last().answer("subscribe", { channel: "orders:17" });
  await Promise.all([reading, ready]);
  last().end(4003);
  await comeBack();
  await last().answer("subscribe", { channel: "orders:17" });
  await later(50);
  assert.equal(last().asked("send").length, 1);
  await later(1000);
  await later(49);
  assert.equal(last().asked("send").length, 1);
  await later(1);
  assert.equal(last().asked("send").length, 2);
  for (const send of sending) send.catch(() => {}); // rejected by close()
  messenger.close();
});

it("no more commands wait for an answer than the server takes from one connection", async () => {
  const { messenger } = await logIn({ heartbeatMs: 3_600_000, timeoutMs: 3_600_000 });
  const sending = Array.from({ length: 230 }, (_, number) => messenger.send("bob", String(number)));
  for (let second = 0; second < 20; second++) {
    mock.timers.tick(1000);
    await settled();
  }
  const sent = last().sent.filter(({ cmd }) => cmd === "send");
  assert.equal(sent.length, 200);
  for (const { seq, cmd } of sent.slice(0, 2)) {
    last().hear({ seq, cmd, response: { code: 200, data: { id: 1, conversation: 1, seq: 1, repeated: false } } });
  }
  await settled();
  assert.deepEqual(last().asked("send").slice(200).map(({ text }) => text), ["200", "201"]);
  for (const send of sending) send.catch(() => {}); // rejected by close()
  messenger.close();
});

it("a late answer to a command that has lost its turn frees no second one", async () => {
  const { messenger } = await logIn({ heartbeatMs: 3_600_000 });
  for (let number = 0; number < 42; number++) messenger.send("bob", String(number)).catch(() => {}); // rejected by close()
  mock.timers.tick(1000);
  await settled();
  assert.equal(last().asked("send").length, 40);
  const [{ seq, cmd }] = last().sent.filter(({ cmd }) => cmd === "send");
  last().hear({ seq, cmd, response: { code: 200, data: { id: 1, conversation: 1, seq: 1, repeated: false } } });
  await settled();
  assert.equal(last().asked("send").length, 40);
  await last().answer("send", { id: 2, conversation: 1, seq: 2, repeated: false });
  assert.equal(last().asked("send").length, 41);
  messenger.close();
});

it("what is sent while the token expires is stored under the next one", async () => {
  const { messenger } = await logIn({ token: () => "fresh" });
  const before = messenger.send("bob", "one");
  last().end(4504);
  const after = messenger.send("bob", "two");
  await comeBack();
  assert.deepEqual(last().asked("send").map(({ text }) => text), ["one", "two"]);
  for (const { seq, cmd } of last().sent.filter(({ cmd }) => cmd === "send")) {
    last().hear({ seq, cmd, response: { code: 200, data: { id: 1, conversation: 1, seq: 1, repeated: false } } });
  }
  await Promise.all([before, after]);
});

it("a database that cannot take it is asked again, a refusal is final", async () => {
  const { messenger } = await logIn();
  const sending = messenger.send("bob", "one");
  await last().answer("send", null, 1008);
  assert.equal(last().asked("send").length, 1);
  mock.timers.tick(500);
  assert.equal(last().asked("send").length, 2);
  const refused = assert.rejects(sending, { name: "CommandRefused", code: 1003, message: "send refused: 1003 not authorized" });
  await last().answer("send", null, 1003);
  await refused;
});

it("the error of a rejected message says why", async () => {
  const { messenger } = await logIn();
  const sending = messenger.send("bob", "buy now");
  const rejected = assert.rejects(sending, {
    name: "CommandRefused", code: 1003, reason: "No advertising", remedy: "Change the message.",
    message: "send refused: 1003 the back end rejected the message: No advertising",
  });
  await last().answer("send", { reason: "No advertising" }, 1003);
  await rejected;
});

it("a message that is too large is not sent again, and others are", async () => {
  const { messenger } = await logIn();
  const short = messenger.send("bob", "x".repeat(20));
  const large = assert.rejects(messenger.send("bob", "大".repeat(10)), { name: "Closed", code: 1009 });
  last().end(1009);
  await large;
  await comeBack();
  assert.deepEqual(last().asked("send").map(({ text }) => text), ["x".repeat(20)]);
  await last().answer("send", { id: 1, conversation: 1, seq: 1, repeated: false });
  assert.equal((await short).id, 1);
});

it("a message without content, or that cannot be JSON, is refused at once", async () => {
  const { messenger } = await logIn();
  await assert.rejects(messenger.send("bob"), { name: "TypeError", message: "send: pass a text, or more.data" });
  await assert.rejects(messenger.edit(1), { name: "TypeError", message: "edit: pass a text, or more.data" });
  await assert.rejects(messenger.send("bob", undefined, { data: 1n }), TypeError);
  assert.deepEqual(last().asked("send"), []);
  messenger.close();
});

it("what takes too long is given up", async () => {
  const { messenger } = await logIn({ carryMs: 5000 });
  const sending = messenger.send("bob", "one");
  last().end();
  mock.timers.tick(5000);
  await assert.rejects(sending, { name: "NotConnected", code: "not_connected" });
  await comeBack();
  assert.deepEqual(last().asked("send"), []);
});

it("who closes waits for nothing", async () => {
  const { messenger } = await logIn();
  const sending = messenger.send("bob", "one");
  messenger.close();
  await assert.rejects(sending, { name: "Closed", code: 1000 });
  await assert.rejects(messenger.history(1), { name: "Closed", code: 1000 });
  const neverConnected = newMessenger();
  const queued = neverConnected.send("bob", "one");
  neverConnected.close();
  await assert.rejects(queued, { name: "Closed", code: 1000 });
});

it("an answer to typing is no signal", async () => {
  const { messenger } = await logIn();
  const signals = [];
  messenger.on("typing", (signal) => signals.push(signal));
  messenger.typing({ to: "bob" });
  await last().answer("typing");
  last().hear({ seq: "9", cmd: "typing", response: { code: 200, data: { from: "bob", to: "ann" } } });
  assert.deepEqual(signals, [{ from: "bob", to: "ann" }]);
});

it("what comes at once with the answer before it is heard in its order", async () => {
  const messenger = new Messenger({
    url: "ws://im.test/acc", httpUrl: "http://im.test", app: 101, user: "ann", WebSocket: PaperSocket, cursor: 3,
  });
  const heard = [];
  messenger.on("entry", ({ id }) => heard.push(id));
  messenger.connect();
  last().open();
  const hearAll = (...frames) => frames.forEach((frame) => last().hear(frame)); // as one read of a socket brings them
  const told = (id) => ({ seq: "1", cmd: "message", response: { code: 200, codeMsg: "Ok", data: entry(id) } });
  const answer = (cmd, data) => ({ seq: last().sent.findLast((frame) => frame.cmd === cmd).seq, cmd, response: { code: 200, data } });
  hearAll(answer("login", { recovered: true }), told(4), told(5));
  await settled();
  assert.deepEqual(heard, [4, 5]);
  last().end();
  mock.timers.tick(2000);
  last().open();
  hearAll(answer("login", { recovered: false }));
  hearAll(answer("sync", { messages: [entry(6)], hasMore: false }), told(7));
  await settled();
  assert.deepEqual(heard, [4, 5, 6, 7]);
  const sending = messenger.send("bob", "mine");
  hearAll(answer("send", { id: 8, conversation: 1, seq: 8, repeated: false }), told(9));
  await sending;
  assert.deepEqual([heard.at(-1), messenger.cursor], [9, 9]);
});

it("an unknown event is refused, and the error lists the known ones", async () => {
  const { messenger } = await logIn();
  assert.throws(() => messenger.on("message", () => {}), {
    name: "TypeError", message: 'unknown event "message"; known events: state, enter, exit, msg, entry, anew, typing, receipt, hidden, contact, piece, arrangement, folders, wish, threadMark',
  });
});

it("a malformed entry loses the fields of other types, and malformed signals are ignored", async () => {
  const values = [null, true, -1, 0.5, 2 ** 53, 1e308, 8_640_000_000_000_001, "x", [], [null], [["x"]], {}, { toString: 1 }, { length: 2 }];
  const fields = ["seq", "kind", "from", "to", "type", "text", "data", "base64", "clientMsgID", "about", "time", "meta", "reactions"];
  const metas = ["mentions", "users", "bots", "edited", "reacted", "count", "members", "forwarded", "buttons", "command", "change", "__proto__"];
  const { messenger } = await logIn({ cursor: 0 });
  const entries = [];
  messenger.on("entry", (each) => entries.push(each));
  let id = 0;
  const hear = (cmd, data) => last().hear({ seq: "1", cmd, response: { code: 200, codeMsg: "Ok", data } });
  for (const value of values) {
    for (const name of fields) hear("message", { ...entry(++id), [name]: value });
    for (const name of metas) hear("message", { ...entry(++id), meta: JSON.parse(`{ "${name}": ${JSON.stringify(value)}, "more": 1 }`) });
    if (typeof value !== "number") for (const data of [value, { ...entry(1), id: value }, { ...entry(1), conversation: value }]) hear("message", data);
    for (const cmd of ["receipt", "hidden", "contact", "piece", "arrangement", "folders", "wish", "publication", "msg"]) hear(cmd, value);
    hear("msg", { from: value, msg: value });
    hear("publication", { channel: value, data: value, from: value });
    for (const name of ["ids", "conversation", "stream"]) for (const cmd of ["hidden", "receipt", "piece", "wish"]) hear(cmd, { [name]: value });
  }
  hear("message", entry(++id));
  await settled();
  const isText = (each) => each === undefined || typeof each === "string";
  assert.deepEqual(entries.at(-1), entry(id));
  assert.ok(entries.length >= values.length * (fields.length + metas.length));
  for (const { time, from, kind, to, type, text, about = 0, meta = {}, reactions = [] } of entries) {
    assert.ok([from, kind, to, type, text].every(isText));
    assert.ok(new Date(time).toISOString() && Number.isSafeInteger(about));
    assert.ok([...(meta.mentions ?? []), ...(meta.users ?? [])].every(isText) && (meta.buttons ?? []).every(Array.isArray) && Array.isArray(reactions));
  }
});

it("a malformed conversation has the counts 0", async () => {
  const { messenger } = await logIn({ cursor: 0 }, {});
  const conversations = [-1, 0.5, "x", {}].map((value, index) => ({ id: index + 1, kind: "user", peer: value, unread: value, read: value, last: value }));
  const page = messenger.conversations();
  await last().answer("conversations", { conversations: [null, { id: "1" }, ...conversations], hasMore: false });
  const rows = (await page).conversations;
  assert.deepEqual(rows.map(({ id, unread, read }) => [id, unread, read]), [1, 2, 3, 4].map((id) => [id, 0, 0]));
  assert.ok(rows.every(({ peer, last: newest }) => (peer === undefined || peer === "x") && newest === undefined));
});

it("pages of malformed entries end the catch-up", async () => {
  const { heard } = await logIn({ cursor: 0 }, {});
  await last().answer("sync", { messages: [null, { id: "1" }, { ...entry(2), time: {} }], hasMore: true });
  await last().answer("sync", { messages: [{ id: 3 }], hasMore: true });
  await last().tell(4);
  assert.deepEqual(heard, [2, 4]);
});
