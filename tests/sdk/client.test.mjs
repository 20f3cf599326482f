// The SDK's rules, driven by a socket made of paper and a clock that the test moves.
// Run by `node --test`; tests/sdk/test_sdk.py does so.
import assert from "node:assert/strict";
import { beforeEach, describe, it, mock } from "node:test";

import { fullJitter, ImClient, ImError, mayReconnect, newId, TalkClient } from "../../sdk/js/imserver.js";

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
    assert.match(seq, /^\d+-\d{6}$/);
    assert.deepEqual(request, { cmd: "login", data: { userID: "黄帝", appID: 101, serviceToken: "secret", device: "phone" } });
    assert.deepEqual(states.map((s) => s.state), ["connecting", "online"]);
    assert.equal(client.state.state, "online");
  });

  it("leaves token and device out when there are none", async () => {
    await logIn();
    assert.deepEqual(last().sent[0].data, { userID: "黄帝", appID: 101 });
  });

  for (const [code, text] of [[1001, "参数不合法"], [1002, "非法的用户ID"], [1003, "未授权"]]) {
    it(`refused with ${code} is refused for good`, async () => {
      const { client, states } = makeClient();
      const connected = client.connect();
      last().open();
      last().answer(code, text);
      await assert.rejects(connected, (error) => error instanceof ImError && error.code === code && error.message === text);
      assert.equal(states.at(-1).state, "refused");
      assert.equal(states.at(-1).code, code);
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
    assert.equal(client.state.state, "refused");
  });
});

describe("reconnecting", () => {
  for (const code of [1000, 1001, 1006, 1011, 1012, 4000, 4001, 4005, 4499]) {
    it(`a close with ${code} is followed by a new connection`, async () => {
      const { client } = await logIn();
      last().end(code);
      assert.equal(client.state.state, "waiting");
      assert.equal(client.state.code, code);
      mock.timers.tick(client.state.retryInMs);
      assert.equal(sockets.length, 2);
    });
  }

  for (const code of [4500, 4501, 4502, 4503, 4504, 4505, 4999]) {
    it(`a close with ${code} is the end`, async () => {
      const { client } = await logIn();
      last().end(code, "why");
      assert.deepEqual([client.state.state, client.state.code, client.state.reason], ["refused", code, "why"]);
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
    await assert.rejects(connected, ImError);
  });

  it("codes and pauses follow their rules", () => {
    assert.deepEqual([1000, 4499, 4500, 4999, 5000].map(mayReconnect), [true, true, false, false, true]);
    assert.equal(fullJitter(3, 1000, 30_000, () => 0.25), 2000);
    assert.equal(fullJitter(5000, 1000, 30_000, () => 0.5), 15_000);
    assert.equal(fullJitter(0, 1000, 30_000, () => 0), 0);
    assert.match(newId(), /^\d+-\d{6}$/);
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
    const loud = [];
    mock.method(globalThis, "queueMicrotask", (task) => loud.push(task));
    const heard = [];
    client.on("msg", () => { throw new Error("mine"); });
    client.on("msg", (event) => heard.push(event.text));
    last().hear(push("msg", "马远", "still"));
    mock.restoreAll();
    assert.deepEqual(heard, ["still"]);
    assert.throws(loud[0], /mine/);
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

  it("sendMessage names the receiver and makes a new id", async () => {
    const { calls, client } = withFetch({ code: 200, data: { sendResults: false } });
    assert.deepEqual(await client.sendMessage("马远", "hi"), { sendResults: false });
    const fields = new URLSearchParams(calls[0].body);
    assert.equal(fields.get("userID"), "马远");
    assert.match(fields.get("msgID"), /^\d+-\d{6}$/);
    assert.deepEqual(calls[0].headers, {});
  });

  it("userList and online ask for this app", async () => {
    const list = withFetch({ code: 200, data: { userCount: 1, userList: ["黄帝"] } });
    assert.deepEqual((await list.client.userList()).userList, ["黄帝"]);
    assert.equal(list.calls[0].url, "http://im.test/user/list?appID=101");
    const online = withFetch({ code: 200, data: { online: true, userID: "马远" } });
    assert.equal(await online.client.online("马远"), true);
    assert.equal(new URL(online.calls[0].url).searchParams.get("userID"), "马远");
  });

  it("a refusal, a status that is no 200, and no answer at all are errors with their code", async () => {
    const code = (expected) => (error) => error instanceof ImError && error.code === expected;
    await assert.rejects(withFetch({ code: 1003, msg: "未授权" }).client.userList(), code(1003));
    await assert.rejects(withFetch({ response: { ok: false, status: 502, statusText: "Bad Gateway" } }).client.userList(), code(502));
    await assert.rejects(withFetch(new TypeError("Failed to fetch")).client.userList(), code(0));
  });
});

describe("a client of the action dialect", () => {
  function makeTalk(options = {}) {
    return new TalkClient({ url: "ws://im.test/ws", app: 1, user: "1", peer: "2", WebSocket: PaperSocket, random: () => 0.5, ...options });
  }

  function answer(code = 200, msg = "Success") {
    const { seq, action } = last().sent.at(-1);
    last().hear({ seq, action, response: { code, msg, data: null } });
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
    assert.match(seq, /^\d+-\d{6}$/);
    assert.deepEqual(request, { action: "login", data: { userId: "1", appId: 1, toUid: "2", groupsId: "0", token: "secret" } });
    assert.equal(client.state.state, "online");
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
    await assert.rejects(connected, (error) => error instanceof ImError && error.code === 1002 && error.message === "非法的用户Id");
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
    await assert.rejects(refused, (error) => error.code === 1001 && error.message === "参数不合法");
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
      ["failed", "", "系统错误", "", 1_000_000],
      ["other", "", "success", "", 1_000_000],
    ]);
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
