// The SDK's rules, driven by a socket made of paper and a clock that the test moves.
// Run by `node --test`; tests/sdk/test_sdk.py does so.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, describe, it, mock } from "node:test";

import {
  Closed, CommandRefused, fullJitter, ImClient, ImError, LoginRefused, mayReconnect, newId, NotConnected, RequestRefused, TalkClient,
} from "../../sdk/js/imserver.js";

/** The events in the wire samples of a dialect that has a word for them. */
function samplesOf(dialect) {
  const { samples } = JSON.parse(readFileSync(new URL(`../vectors/${dialect}.json`, import.meta.url), "utf8"));
  return samples.filter(({ event, frame }) => event && frame);
}

/** What the client made, newest last. */
let sockets = [];

class PaperSocket {
  readyState = 0;
  sent = [];

  constructor(url) {
    this.url = url;
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 3;
    this.closedWith = code;
  }

  /** The handshake is over. */
  open() {
    this.readyState = 1;
    this.onopen?.();
  }

  /** The server ends the connection. */
  end(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  hear(frame) {
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  /** Answers the newest request. */
  answer(code = 200, codeMsg = "Success", data = null) {
    const { seq, cmd } = this.sent.at(-1);
    this.hear({ seq, cmd, response: { code, codeMsg, data } });
  }
}

const last = () => sockets.at(-1);
const settled = () => new Promise((resolve) => setImmediate(resolve));

function makeClient(options = {}) {
  const client = new ImClient({
    url: "ws://im.test/acc", httpUrl: "http://im.test", app: 101, user: "黄帝", WebSocket: PaperSocket, random: () => 0.5, ...options,
  });
  const states = [];
  client.on("state", (change) => states.push(change));
  return { client, states };
}

async function logIn(options) {
  const made = makeClient(options);
  const connected = made.client.connect();
  last().open();
  last().answer();
  await connected;
  return made;
}

beforeEach(() => {
  sockets = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
});

describe("login", () => {
  it("sends user, app, token and device and is online after the answer 200", async () => {
    const { client, states } = await logIn({ token: "secret", device: "phone" });
    const { seq, ...request } = last().sent[0];
    assert.ok(seq);
    assert.deepEqual(request, { cmd: "login", data: { userID: "黄帝", appID: 101, serviceToken: "secret", device: "phone" } });
    assert.deepEqual(states.map((s) => s.state), ["connecting", "online"]);
    assert.equal(client.state.state, "online");
  });

  it("leaves token and device out when there are none", async () => {
    await logIn();
    assert.deepEqual(last().sent[0].data, { userID: "黄帝", appID: 101 });
  });

  for (const [code, text, english] of [
    [1001, "参数不合法", "a parameter is invalid"],
    [1002, "非法的用户ID", "the user id is empty or too long"],
    [1003, "未授权", "not authorized"],
  ]) {
    it(`refused with ${code} is refused for good`, async () => {
      const { client, states } = makeClient();
      const connected = client.connect();
      last().open();
      last().answer(code, text);
      const refused = await connected.catch((error) => error);
      assert.ok(refused instanceof LoginRefused && refused instanceof ImError);
      assert.deepEqual([refused.name, refused.code, refused.message], ["LoginRefused", code, `login refused: ${code} ${english}`]);
      assert.ok(refused.remedy);
      const { error, ...change } = states.at(-1);
      assert.deepEqual(change, { state: "refused", attempt: 0, retryInMs: 0, code, reason: english });
      assert.equal(error, refused);
      mock.timers.tick(3_600_000);
      assert.equal(sockets.length, 1);
    });
  }

  it("refused with 1004 (the server's trouble) is tried again", async () => {
    const { client } = makeClient();
    client.connect();
    last().open();
    last().answer(1004, "系统错误");
    await settled();
    assert.equal(client.state.state, "waiting");
    assert.equal(client.state.code, 1004);
    mock.timers.tick(client.state.retryInMs);
    assert.equal(client.state.state, "connecting");
  });

  it("without an answer in time counts as a lost connection", async () => {
    const { client } = makeClient();
    client.connect();
    last().open();
    mock.timers.tick(10_000);
    await settled();
    assert.equal(client.state.state, "waiting");
  });

  it("an address that no socket can be made for is refused, not retried", async () => {
    const { client } = makeClient({ WebSocket: class { constructor() { throw new SyntaxError("bad address"); } } });
    await assert.rejects(client.connect(), /bad address/);
    assert.ok(client.state.error instanceof NotConnected);
    assert.equal(client.state.state, "refused");
  });
});

describe("options", () => {
  it("that are missing are named", async () => {
    for (const name of ["url", "app", "user"]) {
      assert.throws(() => makeClient({ [name]: undefined }), { name: "TypeError", message: `the option ${name} is missing` });
    }
    const talk = { url: "ws://im.test/ws", app: 1, user: "1", WebSocket: PaperSocket };
    for (const name of ["url", "app", "user"]) {
      assert.throws(() => new TalkClient({ ...talk, [name]: undefined }), { name: "TypeError", message: `the option ${name} is missing` });
    }
    assert.throws(() => makeClient({ token: 7 }), { name: "TypeError", message: "the token is neither a string nor a function" });
    assert.throws(() => { makeClient().client.token = null; }, TypeError);
    await assert.rejects(makeClient({ httpUrl: "" }).client.userList(), { name: "TypeError", message: "the option httpUrl is missing" });
  });
});

describe("without a global WebSocket", () => {
  it("a client needs the option, and says so", () => {
    const { WebSocket } = globalThis;
    try {
      delete globalThis.WebSocket;
      assert.throws(() => makeClient({ WebSocket: undefined }), { name: "TypeError", message: /pass the option WebSocket/ });
    } finally {
      globalThis.WebSocket = WebSocket;
    }
  });
});

describe("reconnecting", () => {
  for (const code of [1000, 1001, 1006, 1011, 1012, 4000, 4001, 4005, 4499]) {
    it(`a close with ${code} is followed by a new connection`, async () => {
      const { client } = await logIn();
      last().end(code);
      assert.equal(client.state.state, "waiting");
      assert.equal(client.state.code, code);
      if (code === 1006) assert.equal(client.state.reason, "the connection was lost");
      mock.timers.tick(client.state.retryInMs);
      assert.equal(sockets.length, 2);
    });
  }

  for (const code of [4500, 4501, 4502, 4503, 4504, 4505, 4999]) {
    it(`a close with ${code} is the end`, async () => {
      const { client } = await logIn();
      last().end(code, "why");
      const { state, reason, error } = client.state;
      assert.deepEqual([state, client.state.code, reason, error.code], ["refused", code, "why", code]);
      assert.ok(error instanceof Closed && error.remedy);
      mock.timers.tick(3_600_000);
      assert.equal(sockets.length, 1);
    });
  }

  it("pauses longer with each failure, up to the cap", () => {
    const { client } = makeClient();
    client.connect();
    const pauses = [];
    for (let failure = 0; failure < 8; failure++) {
      last().end(1006);
      pauses.push(client.state.retryInMs);
      mock.timers.tick(client.state.retryInMs);
    }
    assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
  });

  it("starts with a short pause again after a connection that lasted, not after one that flapped", async () => {
    const { client } = makeClient();
    client.connect();
    const comeBack = async () => {
      last().open();
      last().answer();
      await settled();
      assert.equal(client.state.state, "online");
    };
    for (const expected of [500, 1000]) {
      await comeBack();
      last().end(1006);
      assert.equal(client.state.retryInMs, expected);
      mock.timers.tick(expected);
    }
    await comeBack();
    mock.timers.tick(10_000);
    last().end(1006);
    assert.equal(client.state.retryInMs, 500);
  });

  it("retryNow cuts the pause short", async () => {
    const { client } = await logIn();
    last().end(1006);
    client.retryNow();
    assert.equal(client.state.state, "connecting");
    mock.timers.tick(60_000);
    assert.ok(sockets.length >= 2);
  });

  it("logs in with the token of the moment", async () => {
    const { client } = await logIn({ token: "old" });
    client.token = "new";
    last().end(1001);
    client.retryNow();
    last().open();
    assert.equal(last().sent[0].data.serviceToken, "new");
  });

  it("asks a function for the token of each login, also of the one after its expiry", async () => {
    let number = 0;
    const { client, states } = makeClient({ token: () => Promise.resolve(`token ${++number}`) });
    const connected = client.connect();
    for (const [token, code] of [["token 1", 4504], ["token 2", 1001], ["token 3", 0]]) {
      last().open();
      await settled();
      assert.equal(last().sent[0].data.serviceToken, token);
      last().answer();
      await settled();
      if (code) last().end(code);
      client.retryNow();
    }
    await connected;
    const round = ["connecting", "online", "waiting"];
    assert.deepEqual(states.map(({ state }) => state), [...round, ...round, "connecting", "online"]);
    assert.equal(states[2].reason, "the session token is wrong or has expired");
  });

  it("tries again when the function for the token fails, and is refused with the token that it gives", async () => {
    const answers = [() => { throw new Error("away"); }, () => Promise.reject(new Error("away")), () => 7, () => undefined];
    const { client } = makeClient({ token: () => answers.shift()() });
    const connected = client.connect();
    for (const reason of ["Error: away", "Error: away", "TypeError: it has not returned a string"]) {
      last().open();
      await settled();
      assert.deepEqual([client.state.state, client.state.reason], ["waiting", `the token function failed: ${reason}`]);
      assert.deepEqual(last().sent, []);
      mock.timers.tick(client.state.retryInMs);
    }
    last().open();
    await settled();
    assert.equal("serviceToken" in last().sent[0].data, false);
    last().answer(1003);
    await assert.rejects(connected, { name: "LoginRefused", code: 1003 });
    assert.equal(client.state.state, "refused");
  });

  it("does not wait for the function for the token for ever, or after close()", async () => {
    const given = [];
    const { client } = makeClient({ token: () => new Promise((resolve) => given.push(resolve)) });
    client.connect();
    last().open();
    mock.timers.tick(10_000);
    assert.deepEqual([client.state.state, client.state.reason], ["waiting", "connect timeout"]);
    client.retryNow();
    last().open();
    client.close();
    for (const give of given) give("late");
    await settled();
    assert.deepEqual(sockets.map(({ sent }) => sent), [[], []]);
    assert.equal(client.state.state, "closed");
  });

  it("logs in with the token of the function that replaces a running one", async () => {
    const given = [];
    const slow = () => new Promise((resolve) => given.push(resolve));
    const { client } = makeClient({ token: slow });
    const connected = client.connect();
    last().open();
    client.token = async () => "new";
    given[0]("old");
    await settled();
    assert.deepEqual(last().sent.map(({ data }) => data.serviceToken), ["new"]);
    last().answer();
    await connected;
  });

  it("gives up a connection that does not open in time", () => {
    const { client } = makeClient();
    client.connect();
    mock.timers.tick(10_000);
    assert.equal(client.state.state, "waiting");
    assert.equal(sockets[0].closedWith, 1000);
    sockets[0].open();
    assert.deepEqual(sockets[0].sent, []);
  });

  it("an error that no close follows counts as one; a close that follows counts once", () => {
    const { client, states } = makeClient();
    client.connect();
    last().onerror();
    mock.timers.tick(50);
    assert.equal(client.state.state, "waiting");
    mock.timers.tick(500);
    last().onerror();
    last().end(4001);
    mock.timers.tick(50);
    assert.deepEqual(states.map((s) => s.state), ["connecting", "waiting", "connecting", "waiting"]);
    assert.equal(client.state.code, 4001);
  });

  it("close() ends it, and connect() starts it again", async () => {
    const { client } = await logIn();
    client.close();
    assert.equal(client.state.state, "closed");
    assert.equal(sockets[0].closedWith, 1000);
    mock.timers.tick(3_600_000);
    assert.equal(sockets.length, 1);
    client.connect();
    assert.equal(sockets.length, 2);
  });

  it("close() while it waits stops the waiting", async () => {
    const { client } = await logIn();
    last().end(1006);
    client.close();
    mock.timers.tick(3_600_000);
    assert.equal(sockets.length, 1);
  });

  it("close() before the login rejects connect()", async () => {
    const { client } = makeClient();
    const connected = client.connect();
    client.close();
    await assert.rejects(connected, { name: "Closed", code: 1000 });
  });

  it("close() in a listener of the state ends it, whatever the state is", async () => {
    for (const [state, made] of [["connecting", 0], ["online", 1], ["waiting", 1]]) {
      sockets = [];
      const { client, states } = makeClient();
      client.on("state", (change) => change.state === state && client.close());
      const outcome = client.connect().catch((error) => error);
      last()?.open();
      last()?.answer();
      await settled();
      last()?.end(1006);
      mock.timers.tick(3_600_000);
      assert.deepEqual([states.at(-1).state, client.state.state, sockets.length], ["closed", "closed", made], state);
      assert.deepEqual(sockets.flatMap(({ sent }) => sent.map(({ cmd }) => cmd)), made ? ["login"] : [], state);
      if (state !== "waiting") assert.ok((await outcome) instanceof Closed, state);
    }
  });

  it("close() and connect() in a listener make one connection", async () => {
    const { client } = makeClient();
    let again = true;
    client.on("state", ({ state }) => {
      if (state !== "connecting" || !again) return;
      again = false;
      client.close();
      client.connect();
    });
    const first = client.connect().catch((error) => error);
    assert.ok((await first) instanceof Closed);
    assert.equal(sockets.length, 1);
    last().open();
    last().answer();
    await settled();
    assert.equal(client.state.state, "online");
  });

  it("all listeners hear the states in their order, also if one of them connects again", async () => {
    const { client } = makeClient();
    const stop = client.on("state", ({ state }) => state === "closed" && client.connect());
    const heard = [];
    client.on("state", ({ state }) => heard.push(state));
    client.connect().catch(() => {});
    client.close();
    stop();
    assert.deepEqual([heard, sockets.length], [["connecting", "closed", "connecting"], 2]);
  });

  it("close() of a client that was never connected ends it, and connect() starts it", async () => {
    const { client, states } = makeClient();
    client.close();
    client.close();
    assert.deepEqual(states.map(({ state }) => state), ["closed"]);
    assert.ok(client.state.error instanceof Closed);
    const connected = client.connect();
    last().open();
    last().answer();
    await connected;
    assert.equal(client.state.state, "online");
  });

  it("close() in the listener of an event that comes together with the answer to the login ends it", async () => {
    const { client, states } = makeClient();
    client.on("msg", () => client.close());
    const connected = client.connect().catch((error) => error);
    last().open();
    last().answer();
    last().hear({ seq: "1", cmd: "msg", response: { code: 200, data: { from: "ann", msg: "hi" } } });
    assert.ok((await connected) instanceof Closed);
    await settled();
    mock.timers.tick(3_600_000);
    assert.deepEqual(states.map(({ state }) => state), ["connecting", "closed"]);
    assert.equal(sockets.length, 1);
  });

  it("codes and pauses follow their rules", () => {
    assert.deepEqual([1000, 4499, 4500, 4999, 5000].map(mayReconnect), [true, true, false, false, true]);
    assert.equal(fullJitter(3, 1000, 30_000, () => 0.25), 2000);
    assert.equal(fullJitter(5000, 1000, 30_000, () => 0.5), 15_000);
    assert.equal(fullJitter(0, 1000, 30_000, () => 0), 0);
  });

  it("ids are different, also without crypto.randomUUID", () => {
    mock.method(crypto, "randomUUID", () => "a UUID");
    assert.equal(newId(), "a UUID");
    mock.restoreAll();
    const { crypto: original } = globalThis;
    Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
    try {
      const ids = Array.from({ length: 20_000 }, newId);
      assert.equal(new Set(ids).size, ids.length);
      assert.ok(ids.every((id) => id.length <= 64), ids[0]); // the longest that the protobuf dialect takes
    } finally {
      Object.defineProperty(globalThis, "crypto", { value: original, configurable: true });
    }
  });
});

describe("events", () => {
  it("with unknown names are refused, and the error lists the known ones", () => {
    const { client } = makeClient();
    assert.throws(() => client.on("nope", () => {}), { name: "TypeError", message: 'unknown event "nope"; known events: state, enter, exit, msg' });
    assert.throws(() => client.on("said", () => {}), TypeError);
    const talk = new TalkClient({ url: "ws://im.test/ws", app: 1, user: "1", peer: "2", WebSocket: PaperSocket });
    assert.throws(() => talk.on("msg", () => {}), { message: 'unknown event "msg"; known events: state, welcome, said, left, failed, other' });
  });

  it("of the wire samples are those that the server meant", async () => {
    const { client } = await logIn();
    for (const { name, event, frame } of samplesOf("cmd")) {
      const heard = [];
      const stop = client.on(event.kind, ({ from, text }) => heard.push([from, text]));
      last().hear(frame);
      stop();
      assert.deepEqual(heard, [[event.sender, event.text]], name);
    }
  });

  it("stop when the returned function is called", async () => {
    const { client } = await logIn();
    const received = [];
    const stop = client.on("msg", ({ text }) => received.push(text));
    const message = (msg) => last().hear({ seq: "1", cmd: "msg", response: { code: 200, data: { from: "ann", msg } } });
    message("one");
    stop();
    message("two");
    assert.deepEqual(received, ["one"]);
  });
});

describe("heartbeat", () => {
  it("is sent every 30 s while online", async () => {
    const { client } = await logIn();
    for (let beat = 1; beat <= 3; beat++) {
      mock.timers.tick(30_000);
      assert.equal(last().sent.length, 1 + beat);
      assert.equal(last().sent.at(-1).cmd, "heartbeat");
      last().answer();
      await settled();
    }
    client.close();
    mock.timers.tick(300_000);
    assert.equal(sockets[0].sent.length, 4);
  });

  it("asked for by the page, without an answer in its time, makes a new connection at once", async () => {
    const { client } = await logIn();
    client.probe(1_000);
    last().answer();
    await settled();
    mock.timers.tick(1_000);
    assert.equal(client.state.state, "online");
    client.probe(1_000);
    mock.timers.tick(1_000);
    await settled();
    assert.equal(client.state.state, "waiting");
    client.probe();
    assert.equal(sockets.length, 1);
  });

  it("without an answer makes a new connection also if the socket is closing and does not close", async () => {
    const { client } = await logIn();
    client.probe(1_000);
    last().readyState = 2;
    mock.timers.tick(1_000);
    await settled();
    assert.equal(client.state.state, "online"); // its close code may come
    mock.timers.tick(2_000);
    assert.equal(client.state.state, "waiting");
  });

  it("without an answer makes a new connection", async () => {
    const { client } = await logIn();
    mock.timers.tick(30_000);
    mock.timers.tick(10_000);
    await settled();
    assert.equal(client.state.state, "waiting");
    assert.equal(sockets[0].closedWith, 1000);
  });

  it("answered 1000 (not logged in) makes a new connection", async () => {
    const { client } = await logIn();
    mock.timers.tick(30_000);
    last().answer(1000, "未登录");
    await settled();
    assert.equal(client.state.state, "waiting");
  });
});

describe("requests", () => {
  it("find their answers by seq, in any order", async () => {
    const { client } = await logIn();
    const first = client.request("ping");
    const second = client.request("ping");
    const [one, two] = last().sent.slice(1);
    assert.notEqual(one.seq, two.seq);
    last().hear({ seq: two.seq, cmd: "ping", response: { code: 200, codeMsg: "Success", data: "2" } });
    last().hear({ seq: one.seq, cmd: "ping", response: { code: 200, codeMsg: "Success", data: "1" } });
    assert.deepEqual([(await first).data, (await second).data], ["1", "2"]);
  });

  it("that are refused resolve with the code", async () => {
    const { client } = await logIn();
    const asked = client.request("nonsense");
    last().answer(1010, "路由不存在");
    assert.equal((await asked).code, 1010);
  });

  it("fail when not connected, when nobody answers, and when the connection is lost", async () => {
    const { client } = makeClient();
    await assert.rejects(client.request("ping"), /not connected/);
    const online = (await logIn()).client;
    const unanswered = online.request("ping");
    mock.timers.tick(10_000);
    await assert.rejects(unanswered, /no answer to ping/);
    const cut = online.request("ping");
    last().end(1001);
    await assert.rejects(cut, /connection lost/);
  });

  it("are not answered by somebody's message with the same seq", async () => {
    const { client } = await logIn();
    const heard = [];
    client.on("msg", (push) => heard.push(push));
    const asked = client.request("ping");
    const { seq } = last().sent.at(-1);
    last().hear({ seq, cmd: "msg", response: { code: 200, codeMsg: "Ok", data: { from: "x", msg: "forged" } } });
    last().answer(200, "Success", "pong");
    assert.equal((await asked).data, "pong");
    assert.equal(heard.length, 1);
  });
});

describe("events", () => {
  const push = (cmd, from, msg) => ({ seq: "7", cmd, response: { code: 200, codeMsg: "Ok", data: { target: "", type: "text", msg, from } } });

  it("reach their listeners until those are taken off", async () => {
    const { client } = await logIn();
    const heard = [];
    const offs = ["enter", "exit", "msg"].map((kind) => client.on(kind, (event) => heard.push([kind, event])));
    last().hear(push("enter", "马远", "哈喽~"));
    last().hear(push("msg", "马远", "<b>hi</b>"));
    last().hear(push("exit", "马远", "用户已经离开~"));
    offs.forEach((off) => off());
    last().hear(push("msg", "马远", "unheard"));
    assert.deepEqual(heard, [
      ["enter", { from: "马远", text: "哈喽~", id: "7" }],
      ["msg", { from: "马远", text: "<b>hi</b>", id: "7" }],
      ["exit", { from: "马远", text: "用户已经离开~", id: "7" }],
    ]);
  });

  it("of unknown kind and frames that make no sense are ignored", async () => {
    const { client } = await logIn();
    for (const odd of ["数据不合法", "null", "[]", "7", '{"cmd":"msg"}', { seq: "1", cmd: "future", response: {} }, { seq: 1 }]) last().hear(odd);
    assert.equal(client.state.state, "online");
  });

  it("a listener that fails stops neither the others nor the connection", async () => {
    const { client } = await logIn();
    const heard = [];
    client.on("msg", () => { throw new Error("mine"); });
    client.on("msg", (event) => heard.push(event.text));
    last().hear(push("msg", "马远", "still"));
    assert.deepEqual(heard, ["still"]);
    assert.throws(() => mock.timers.tick(1), /mine/);
  });
});

describe("http", () => {
  function withFetch(answer, options = {}) {
    const calls = [];
    const fetch = async (url, init) => {
      calls.push({ url, ...init, body: init.body?.toString() });
      if (answer instanceof Error) throw answer;
      return { ok: true, status: 200, json: async () => answer, ...answer.response };
    };
    return { calls, client: makeClient({ fetch, ...options }).client };
  }

  it("sendMessageAll posts a form in the user's name, with the token as bearer", async () => {
    const { calls, client } = withFetch({ code: 200, data: { sendResults: true } }, { token: "t", httpUrl: "http://im.test/" });
    assert.deepEqual(await client.sendMessageAll("a&b=c 你好\n", "7-000001"), { sendResults: true });
    const [call] = calls;
    assert.equal(call.url, "http://im.test/user/sendMessageAll");
    assert.equal(call.method, "POST");
    assert.equal(call.headers.Authorization, "Bearer t");
    assert.deepEqual(Object.fromEntries(new URLSearchParams(call.body)),
      { appID: "101", userID: "黄帝", msgID: "7-000001", message: "a&b=c 你好\n" });
  });

  it("asks a function for a fresh token unless the connection has one", async () => {
    let made = 0;
    const { calls, client } = withFetch({ code: 200, data: {} }, { token: async () => String(++made) });
    const bearer = async () => (await client.userList(), calls.at(-1).headers.Authorization);
    assert.deepEqual([await bearer(), await bearer()], ["Bearer 1", "Bearer 2"]);
    client.connect();
    last().open();
    await settled();
    last().answer();
    await settled();
    assert.deepEqual([await bearer(), await bearer()], ["Bearer 3", "Bearer 3"]);
    last().end(1006);
    assert.equal(await bearer(), "Bearer 4");
    client.close();
    assert.equal(await bearer(), "Bearer 5");
    client.token = () => { throw new Error("away"); };
    await assert.rejects(client.userList(), { name: "NotConnected", text: "the token function failed: Error: away" });
  });

  it("uses the token of the latest call of the function, and does not wait for one for ever", async () => {
    const given = [];
    const { calls, client } = withFetch({ code: 200, data: {} }, { token: () => new Promise((resolve) => given.push(resolve)) });
    const asked = [client.userList(), client.userList()];
    given[1]("newer");
    await asked[1];
    given[0]("older");
    await asked[0];
    assert.deepEqual(calls.map(({ headers }) => headers.Authorization), ["Bearer newer", "Bearer newer"]);
    const late = assert.rejects(client.userList(), { name: "NotConnected", text: "the token function failed: Error: no token in time" });
    mock.timers.tick(10_000);
    await settled();
    await late;
  });

  it("uses the token that replaces a running function, also one that fails later", async () => {
    const { calls, client } = withFetch({ code: 200, data: {} });
    for (const token of [() => "new", "new"]) {
      for (const end of ["resolve", "reject"]) {
        const running = {};
        client.token = () => new Promise((resolve, reject) => Object.assign(running, { resolve, reject }));
        const asked = client.userList();
        client.token = token;
        running[end]("old");
        await asked;
        assert.equal(calls.at(-1).headers.Authorization, "Bearer new");
      }
    }
  });

  it("uses the token of a running function that is set again", async () => {
    const given = [];
    const { calls, client } = withFetch({ code: 200, data: {} }, { token: () => new Promise((resolve) => given.push(resolve)) });
    const asked = [client.userList(), client.userList()];
    given[1]("newer");
    await asked[1];
    client.token = client.token;
    given[0]("older");
    await asked[0];
    assert.deepEqual(calls.map(({ headers }) => headers.Authorization), ["Bearer newer", "Bearer older"]);
  });

  it("sendMessage names the receiver and makes a new id", async () => {
    const { calls, client } = withFetch({ code: 200, data: { sendResults: false } });
    assert.deepEqual(await client.sendMessage("马远", "hi"), { sendResults: false });
    const fields = new URLSearchParams(calls[0].body);
    assert.equal(fields.get("userID"), "马远");
    assert.ok(fields.get("msgID"));
    assert.deepEqual(calls[0].headers, { "Content-Type": "application/x-www-form-urlencoded" });
  });

  it("userList and online ask for this app", async () => {
    const list = withFetch({ code: 200, data: { userCount: 1, userList: ["黄帝"] } });
    assert.deepEqual((await list.client.userList()).userList, ["黄帝"]);
    assert.equal(list.calls[0].url, "http://im.test/user/list?appID=101");
    const online = withFetch({ code: 200, data: { online: true, userID: "马远" } });
    assert.equal(await online.client.online("马远"), true);
    assert.equal(new URL(online.calls[0].url).searchParams.get("userID"), "马远");
  });

  it("presence asks about many users at once", async () => {
    const userList = [{ online: true, userID: "马远" }, { online: false, userID: "__proto__" }];
    const { calls, client } = withFetch({ code: 200, data: { onlineCount: 1, userList } });
    const found = await client.presence(["马远", "__proto__"]);
    assert.deepEqual(Object.entries(found), [["马远", true], ["__proto__", false]]);
    assert.equal(calls[0].url, "http://im.test/user/onlineBatch");
    assert.deepEqual([...new URLSearchParams(calls[0].body)], [["appID", "101"], ["userIDs", "马远"], ["userIDs", "__proto__"]]);
  });

  it("presence asks for cards in an app with accounts", async () => {
    const users = Array.from({ length: 101 }, (_, number) => String(number));
    const asked = [];
    const body = { status: 200, cards: [{ user: "1", presence: "online" }, { user: "2", presence: "offline" }, { user: "3", presence: "" }] };
    const { client } = makeClient({
      app: "gochat",
      token: "t",
      fetch: async (url, init) => {
        if (url.endsWith("/user/onlineBatch")) return { ok: true, json: async () => ({ code: 1003 }) };
        asked.push([url, init.headers, JSON.parse(init.body)]);
        return { ok: body.status === 200, status: body.status, json: async () => body };
      },
    });
    assert.deepEqual(await client.presence(users), { 1: true, 2: false });
    const headers = { "Content-Type": "application/json", Authorization: "Bearer t" };
    assert.deepEqual(asked, [users.slice(0, 100), ["100"]].map((some) =>
      ["http://im.test/api/v1/accounts/cards", headers, { app: "gochat", users: some }]));
    body.status = 403;
    await assert.rejects(client.presence(["1"]), { name: "CommandRefused", code: 1003 });
  });

  it("userList asks for the page after a cursor; an app may have a name", async () => {
    const { calls, client } = withFetch({ code: 200, data: { userCount: 0, userList: [] } }, { app: "my shop" });
    await client.userList("a+b");
    assert.deepEqual([...new URL(calls[0].url).searchParams], [["appID", "my shop"], ["cursor", "a+b"]]);
  });

  it("a text with half a character is sent with a replacement, not refused", async () => {
    const { calls, client } = withFetch({ code: 200, data: {} });
    await client.sendMessageAll("a\ud83d 😀", "1");
    assert.equal(new URLSearchParams(calls[0].body).get("message"), "a\ufffd 😀");
  });

  it("a refusal, a status that is no 200, and no answer at all are errors with their code", async () => {
    const failed = (answer) => withFetch(answer).client.userList().catch((error) => error);
    const refused = await failed({ code: 1003, msg: "未授权" });
    assert.ok(refused instanceof CommandRefused);
    assert.deepEqual([refused.code, refused.cmd, refused.message], [1003, "/user/list", "/user/list refused: 1003 not authorized"]);
    assert.equal(refused.reason, null);
    const rejected = await failed({ code: 1003, msg: "未授权", data: { reason: "No advertising" } });
    assert.deepEqual([rejected.reason, rejected.message, rejected.remedy],
      ["No advertising", "/user/list refused: 1003 the back end rejected the message: No advertising", "Change the message."]);
    const unknown = await failed({ code: 1999, msg: "new" });
    assert.deepEqual([unknown.code, unknown.message, unknown.remedy], [1999, "/user/list refused: 1999 new", "Update imserver-client."]);
    const gateway = await failed({ response: { ok: false, status: 502, statusText: "Bad Gateway", json: async () => JSON.parse("<html>") } });
    assert.ok(gateway instanceof RequestRefused);
    assert.deepEqual([gateway.status, gateway.code, gateway.message], [502, "unknown", "502 unknown: Bad Gateway"]);
    const problem = { code: "too_many_requests", message: "Slow down.", temporary: true };
    const limited = await failed({ ...problem, response: { ok: false, status: 429, json: async () => problem } });
    assert.deepEqual([limited.code, limited.temporary, limited.remedy], ["too_many_requests", true, "Send more slowly."]);
    const lost = await failed(new TypeError("Failed to fetch"));
    assert.ok(lost instanceof NotConnected);
    assert.deepEqual([lost.code, lost.cause.message], ["not_connected", "Failed to fetch"]);
    assert.ok((await failed({ response: { json: async () => JSON.parse("<html>") } })) instanceof NotConnected);
  });
});

describe("a client of the action dialect", () => {
  function makeTalk(options = {}) {
    return new TalkClient({ url: "ws://im.test/ws", app: 1, user: "1", peer: "2", WebSocket: PaperSocket, random: () => 0.5, ...options });
  }

  function answer(code = 200, msg = "Success", data = null) {
    const { seq, action } = last().sent.at(-1);
    last().hear({ seq, action, response: { code, msg, data } });
  }

  async function begin(options) {
    const client = makeTalk(options);
    const connected = client.connect();
    last().open();
    last().hear({ code: 200, msg: "success", data: { action: "enter", content: "连接成功", from: "", to: "" } });
    answer();
    await connected;
    return client;
  }

  it("logs in with its peer, and says so in the address", async () => {
    const client = await begin({ token: "secret" });
    assert.equal(last().url, "ws://im.test/ws?uid=1&to_uid=2&appname=1");
    const { seq, ...request } = last().sent[0];
    assert.ok(seq);
    assert.deepEqual(request, { action: "login", data: { userId: "1", appId: 1, toUid: "2", groupsId: "0", token: "secret" } });
    assert.equal(client.state.state, "online");
  });

  it("hears the wire samples as the server meant them", async () => {
    const client = await begin();
    for (const { name, event, frame } of samplesOf("action")) {
      const heard = [];
      const stop = client.on(event.kind === "msg" ? "said" : event.kind, ({ from, type, text }) => heard.push([from, type, text]));
      last().hear(frame);
      stop();
      assert.deepEqual(heard, [[event.sender, event.type ?? "text", event.text || event.data]], name);
    }
  });

  it("asks a function for its token", async () => {
    const client = makeTalk({ token: async () => "fresh" });
    client.connect();
    last().open();
    await settled();
    assert.equal(last().sent[0].data.token, "fresh");
  });

  it("encodes what is in its address", async () => {
    await begin({ user: "a&b", peer: "c d", app: "e&f=g" });
    assert.equal(last().url, "ws://im.test/ws?uid=a%26b&to_uid=c%20d&appname=e%26f%3Dg");
  });

  it("logs in with its room", async () => {
    await begin({ peer: undefined, room: "群 1" });
    assert.equal(new URL(last().url).searchParams.get("groups_id"), "群 1");
    assert.deepEqual(last().sent[0].data, { userId: "1", appId: 1, toUid: "0", groupsId: "群 1" });
  });

  it("refused with 1002 is refused for good", async () => {
    const client = makeTalk({ user: "null" });
    const connected = client.connect();
    last().open();
    answer(1002, "非法的用户Id");
    await assert.rejects(connected, { name: "LoginRefused", code: 1002 });
    assert.equal(client.state.state, "refused");
  });

  it("says something, and says when it was not taken", async () => {
    const client = await begin();
    const said = client.say("你好", "text", "id-1");
    assert.deepEqual(last().sent.at(-1), {
      seq: "id-1", action: "sendmsg", data: { msgType: "text", message: "你好", userId: "1", appId: 1, toUid: "2", groupsId: "0" },
    });
    answer();
    await said;
    const refused = client.say("x");
    answer(1001, "参数不合法");
    await assert.rejects(refused, { name: "CommandRefused", code: 1001, message: "sendmsg refused: 1001 a parameter is invalid" });
  });

  it("says why the back end has rejected a message", async () => {
    const client = await begin();
    const rejected = client.say("buy now");
    answer(1003, "未授权", { reason: "" });
    await assert.rejects(rejected, { reason: "", message: "sendmsg refused: 1003 the back end rejected the message" });
  });

  it("tells what is said, who has left, and what failed", async () => {
    const client = await begin();
    const heard = [];
    for (const kind of ["said", "left", "failed", "other"]) client.on(kind, ({ from, text, type, at }) => heard.push([kind, from, text, type, at]));
    const data = { msgId: "7", msgType: "image", content: "/a.png", from: "2", to: "1", msgTimestamp: "1795156528" };
    last().hear({ code: 200, msg: "success", data: { action: "sendmsg", ...data } });
    last().hear({ code: 200, msg: "success", data: { action: "exit", ...data, msgType: "text", content: "用户已经离开" } });
    last().hear({ code: 1004, msg: "系统错误", data: null });
    last().hear({ code: 200, msg: "success", data: { action: "news" } });
    last().hear("数据不合法");
    last().hear("null");
    assert.deepEqual(heard, [
      ["said", "2", "/a.png", "image", 1_795_156_528_000],
      ["left", "2", "用户已经离开", "text", 1_795_156_528_000],
      ["failed", "", "the server failed", "", 1_000_000],
      ["other", "", "success", "", 1_000_000],
    ]);
  });

  it("notices that nobody answers when it says something, before its next heartbeat", async () => {
    const client = await begin();
    const said = assert.rejects(client.say("x"), { name: "NotConnected" });
    mock.timers.tick(5_000);
    assert.equal(last().sent.at(-1).action, "heartbeat");
    mock.timers.tick(5_000);
    await said;
    assert.equal(client.state.state, "waiting");
  });

  it("stays while heartbeats are answered, however late an answer is", async () => {
    const client = await begin({ timeoutMs: 40_000 });
    const said = client.say("x");
    const { seq } = last().sent.at(-1);
    mock.timers.tick(20_000);
    answer();
    await settled();
    mock.timers.tick(19_000);
    last().hear({ seq, action: "sendmsg", response: { code: 200, msg: "Success", data: null } });
    await said;
    assert.equal(client.state.state, "online");
  });

  it("beats, and comes back when it is lost", async () => {
    const client = await begin();
    mock.timers.tick(30_000);
    assert.deepEqual(last().sent.at(-1).action, "heartbeat");
    last().end(1006);
    assert.equal(client.state.state, "waiting");
    mock.timers.tick(1_000);
    assert.equal(sockets.length, 2);
  });
});

describe("a subscription", () => {
  const OPTIONS = { channel: "orders:17", epoch: "e", offset: 3 };
  const publication = (offset, more = {}) => ({ channel: "orders:17", epoch: "e", offset, type: "text", text: `p${offset}`, ...more });
  const hearing = (cmd, data) => last().hear({ seq: "1", cmd, response: { code: 200, codeMsg: "Ok", data } });
  const asked = (cmd) => last().sent.filter((frame) => frame.cmd === cmd).map(({ data }) => data);

  async function connected({ client } = makeClient()) {
    client.connect();
    last().open();
    last().answer();
    await settled();
    return client;
  }

  /** Subscribes; collects what the listeners get. */
  function listen(client, options = {}) {
    const heard = [];
    const subscription = client.subscribe("orders:17", {
      onPublication: ({ offset, text, data }) => heard.push(offset ?? text ?? data),
      onJoin: ({ user }) => heard.push(`+${user}`),
      onLeave: ({ user }) => heard.push(`-${user}`),
      onReload: () => heard.push("reload"),
      onEnd: (error) => heard.push(error ? error.code : "ended"),
      ...options,
    });
    return { subscription, heard };
  }

  async function answer(data = OPTIONS, code = 200) {
    last().answer(code, "", data);
    await settled();
  }

  it("is made when the client is connected", async () => {
    const made = makeClient();
    const { subscription, heard } = listen(made.client, { token: () => Promise.resolve("t") });
    await connected(made);
    assert.deepEqual(asked("subscribe"), [{ channel: "orders:17", token: "t" }]);
    await answer();
    await subscription.ready;
    hearing("publication", publication(4));
    hearing("join", { channel: "orders:17", info: { user: "bob", client: "c" } });
    hearing("leave", { channel: "orders:17", info: { user: "bob", client: "c" } });
    assert.deepEqual(heard, [4, "+bob", "-bob"]);
    assert.deepEqual(subscription.position, { epoch: "e", offset: 4 });
  });

  it("gives the text so far of streamed messages, and their ends", async () => {
    const updates = [];
    const onStream = ({ stream, text, done, incomplete }) => updates.push([stream, text, done, incomplete]);
    const { heard } = listen(await connected(), { onStream });
    await answer();
    const piece = (number, text, more = {}) =>
      hearing("stream", { channel: "orders:17", stream: "s", piece: number, text, ...more });
    piece(3, "lost"); // the whole text comes next
    piece(3, "abc", { whole: true, from: "bot" });
    piece(4, "d");
    piece(4, "d");
    piece(6, "f");
    piece(6, "abcdef", { whole: true, from: "bot" });
    hearing("publication", publication(4, { text: "abcdefg", stream: "s", incomplete: true }));
    piece(0, "", { stream: "t", whole: true });
    piece(0, "", { stream: "t", whole: true, done: true });
    piece(7, "late");
    assert.deepEqual(updates, [
      ["s", "abc", false, false],
      ["s", "abcd", false, false],
      ["s", "abcdef", false, false],
      ["s", "abcdefg", true, true],
      ["t", "", false, false],
      ["t", "", true, false],
    ]);
    assert.deepEqual(heard, [4]);
  });

  it("forgets streamed messages that are not open any more when it comes back", async () => {
    const updates = [];
    listen(await connected(), { onStream: ({ text }) => updates.push(text) });
    await answer();
    hearing("stream", { channel: "orders:17", stream: "s", piece: 1, text: "a", whole: true });
    last().end(1006);
    mock.timers.tick(1_000);
    last().open();
    last().answer();
    await settled();
    await answer({ ...OPTIONS, recovered: true });
    hearing("stream", { channel: "orders:17", stream: "s", piece: 2, text: "b" });
    hearing("stream", { channel: "orders:17", stream: "s", piece: 2, text: "ab", whole: true });
    assert.deepEqual(updates, ["a", "ab"]);
  });

  it("comes back with its position, and hands out what it missed once and in order", async () => {
    const { heard, subscription } = listen(await connected());
    await answer();
    hearing("publication", publication(4));
    last().end(1006);
    mock.timers.tick(1_000);
    last().open();
    last().answer();
    await settled();
    assert.deepEqual(asked("subscribe"), [{ channel: "orders:17", epoch: "e", offset: 4 }]);
    await answer({ ...OPTIONS, offset: 6, recovered: true, publications: [publication(5), publication(6)] });
    hearing("publication", publication(6));
    hearing("publication", publication(7));
    assert.deepEqual(heard, [4, 5, 6, 7]);
    assert.equal(subscription.position.offset, 7);
  });

  for (const [name, first, second] of [
    ["the history has not all", OPTIONS, { channel: "orders:17", epoch: "f", offset: 1, recovered: false }],
    ["the channel has no history", { channel: "orders:17" }, { channel: "orders:17" }],
  ]) {
    it(`tells that it must reload if ${name}`, async () => {
      const { heard, subscription } = listen(await connected());
      await answer(first);
      assert.deepEqual(heard, []);
      last().end(1006);
      mock.timers.tick(1_000);
      last().open();
      last().answer();
      await settled();
      await answer(second);
      assert.deepEqual(heard, ["reload"]);
      assert.deepEqual(subscription.position, second.epoch ? { epoch: "f", offset: 1 } : null);
    });
  }

  it("hands out nothing after close(), and keeps the position of the last publication that it handed out", async () => {
    const client = await connected();
    const { heard, subscription } = listen(client, {
      since: { epoch: "e", offset: 1 },
      onPublication: ({ offset }) => heard.push(offset) && offset === 3 && client.close(),
      onSubscribed: () => heard.push("subscribed"),
    });
    await answer({ ...OPTIONS, offset: 5, recovered: true, publications: [2, 3, 4, 5].map((offset) => publication(offset)) });
    assert.deepEqual([heard, subscription.position.offset], [[2, 3], 3]);
  });

  it("begins with the position of an earlier run", async () => {
    const { heard } = listen(await connected(), { since: { epoch: "e", offset: 1 } });
    assert.deepEqual(asked("subscribe"), [OPTIONS].map((one) => ({ ...one, offset: 1 })));
    await answer({ ...OPTIONS, recovered: true, publications: [publication(2), publication(3)] });
    assert.deepEqual(heard, [2, 3]);
  });

  it("subscribes to few channels at a time, and more slowly after each rate limit", async () => {
    const { client } = makeClient({ heartbeatMs: 3_600_000 });
    for (let number = 0; number < 22; number++) client.subscribe(`c${number}`);
    await connected({ client });
    assert.equal(asked("subscribe").length, 20);
    const answerTo = (channel) => {
      const { seq, cmd } = last().sent.find(({ data }) => data.channel === channel);
      last().hear({ seq, cmd, response: { code: 200, codeMsg: "Ok", data: { channel } } });
      return settled();
    };
    await answerTo("c7");
    assert.deepEqual(asked("subscribe").slice(20), [{ channel: "c20" }]);
    for (const spacing of [50, 100, 200, 400, 800, 1_000, 1_000]) {
      last().end(4003);
      mock.timers.tick(30_000);
      last().open();
      last().answer();
      await settled();
      assert.deepEqual(asked("subscribe"), [{ channel: "c0" }]);
      await answerTo("c0");
      mock.timers.tick(spacing - 1);
      await settled();
      assert.equal(asked("subscribe").length, 1);
      mock.timers.tick(1);
      await settled();
      assert.deepEqual(asked("subscribe").at(-1), { channel: "c1" });
    }
  });

  it("says when it has subscribed, with the number of publications that it had missed", async () => {
    const { client } = await logIn();
    const { heard } = listen(client, { onSubscribed: (recovered) => heard.push(`subscribed ${recovered}`) });
    await settled();
    last().answer(200, "Success", OPTIONS);
    client.close();
    await connected({ client });
    last().answer(200, "Success", { ...OPTIONS, offset: 5, recovered: true, publications: [publication(4), publication(5)] });
    assert.deepEqual(heard, ["subscribed 0", 4, 5, "subscribed 2"]);
  });

  it("says why a channel is refused", async () => {
    const { subscription } = listen(await connected());
    await settled();
    last().answer(1009, "操作失败", { refused: "full" });
    await assert.rejects(subscription.ready, (error) => error instanceof CommandRefused && error.refused === "full");
  });

  it("subscribes again when the server has lost publications, and ends when the server ends it", async () => {
    const client = await connected();
    const { heard } = listen(client);
    await answer();
    hearing("unsubscribed", { channel: "orders:17", code: 2500 });
    await settled();
    assert.deepEqual(asked("subscribe").at(-1), OPTIONS);
    await answer({ ...OPTIONS, offset: 9, recovered: false });
    hearing("unsubscribed", { channel: "orders:17", code: 2000 });
    assert.deepEqual(heard, ["reload", "ended"]);
    listen(client);
  });

  it("ends when the server refuses it, and tries again when the history does not answer", async () => {
    const client = await connected();
    const { heard, subscription } = listen(client);
    await answer({ refused: "unavailable" }, 1008);
    assert.equal(asked("subscribe").length, 1);
    mock.timers.tick(1_000);
    await settled();
    assert.equal(asked("subscribe").length, 2);
    await answer({ refused: "denied" }, 1003);
    await assert.rejects(subscription.ready, (error) => error instanceof CommandRefused && error.code === 1003);
    assert.deepEqual(heard, [1003]);
  });

  it("is one for each channel, until it is ended", async () => {
    const client = await connected();
    const { heard, subscription } = listen(client);
    assert.throws(() => client.subscribe("orders:17"), /already subscribed/);
    await answer();
    const ended = subscription.unsubscribe();
    await settled();
    assert.deepEqual(asked("unsubscribe"), [{ channel: "orders:17" }]);
    await answer(null);
    await ended;
    await subscription.unsubscribe();
    assert.equal(asked("unsubscribe").length, 1);
    assert.deepEqual(heard, []);
    listen(client);
  });

  it("reconnects when the answer does not come", async () => {
    const client = await connected();
    listen(client);
    await settled();
    mock.timers.tick(10_000);
    await settled();
    assert.equal(client.state.state, "waiting");
  });

  it("asks for a token again when that fails, but not after its end", async () => {
    const token = mock.fn(() => Promise.reject(new Error("the back end is away")));
    const { subscription } = listen(await connected(), { token });
    await settled();
    mock.timers.tick(1_000);
    await settled();
    assert.equal(token.mock.callCount(), 2);
    subscription.unsubscribe();
    mock.timers.tick(9_000);
    assert.equal(token.mock.callCount(), 2);
  });

  it("publishes texts and JSON, and reads the history and who is there", async () => {
    const { subscription } = listen(await connected());
    await answer();
    const said = subscription.publish("hi");
    assert.deepEqual(asked("publish"), [{ channel: "orders:17", text: "hi" }]);
    await answer(null);
    await said;
    const refused = assert.rejects(subscription.publish({ n: 1 }, "count"), CommandRefused);
    assert.deepEqual(asked("publish").at(-1), { channel: "orders:17", data: { n: 1 }, type: "count" });
    await answer({ refused: "denied" }, 1003);
    await refused;
    const page = subscription.history({ since: { epoch: "e", offset: 2 }, limit: 5 });
    assert.deepEqual(asked("channelHistory"), [{ channel: "orders:17", limit: 5, epoch: "e", offset: 2 }]);
    await answer({ ...OPTIONS, publications: [publication(3)] });
    assert.equal((await page).publications[0].text, "p3");
    const there = subscription.presence({ limit: 1 });
    await answer({ channel: "orders:17", total: 1, subscribers: [{ connection: "c", user: "ann" }] });
    assert.equal((await there).total, 1);
  });

  it("leaves publications of other channels to the event msg", async () => {
    const client = await connected();
    const heard = [];
    client.on("msg", (push) => heard.push(push));
    listen(client);
    await answer();
    hearing("publication", { channel: "other", from: "shop", id: "7", type: "custom", data: { n: 1 } });
    assert.deepEqual(heard, [{ from: "shop", text: '{"n":1}', id: "7" }]);
  });
});
