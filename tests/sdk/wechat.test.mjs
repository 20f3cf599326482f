// The bundle for mini-programs with a stub of `wx`. The stub follows the documentation of wx.connectSocket, SocketTask and
// wx.request (developers.weixin.qq.com); none of this has run in WeChat itself. tests/sdk/test_packages.py runs it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, it } from "node:test";
import vm from "node:vm";

/** A mini-program has no WebSocket, fetch, URLSearchParams, AbortSignal, crypto, location or queueMicrotask. */
const GLOBALS = { setTimeout, clearTimeout, setInterval, clearInterval, console };
const sandbox = vm.createContext({ ...GLOBALS, module: { exports: {} } });
vm.runInContext(readFileSync(new URL("../../sdk/js/miniprogram_dist/index.js", import.meta.url), "utf-8"), sandbox);
const { ImClient, Messenger, wechat } = sandbox.module.exports;

class StubTask {
  sent = [];
  listeners = {};

  constructor(options) {
    this.options = options;
  }

  onOpen(listener) { this.listeners.open = listener; }
  onMessage(listener) { this.listeners.message = listener; }
  onError(listener) { this.listeners.error = listener; }
  onClose(listener) { this.listeners.close = listener; }

  send({ data }) {
    this.sent.push(JSON.parse(data));
  }

  close({ code }) {
    this.closedWith = code;
    setTimeout(() => this.listeners.close({ code, reason: "" }));
  }

  /** Answers the newest request. */
  answer(code, data = null) {
    const { seq, cmd } = this.sent.at(-1);
    this.listeners.message({ data: JSON.stringify({ seq, cmd, response: { code, codeMsg: "", data } }) });
  }
}

class StubWx {
  tasks = [];
  requests = [];

  connectSocket(options) {
    this.tasks.push(new StubTask(options));
    return this.tasks.at(-1);
  }

  request(options) {
    this.requests.push(options);
  }
}

let wx;
const settled = () => new Promise((resolve) => setImmediate(resolve));
const make = (Client, options = {}) => new Client({
  ...wechat(wx), url: "wss://im.test/acc", httpUrl: "https://im.test", app: "default", user: "安", token: "t", ...options,
});

async function logIn(client) {
  const connected = client.connect();
  wx.tasks.at(-1).listeners.open({ header: {} });
  wx.tasks.at(-1).answer(200, { recovered: true });
  await connected;
  return wx.tasks.at(-1);
}

beforeEach(() => {
  wx = new StubWx();
});

it("logs in, receives and closes over a SocketTask", async () => {
  const client = make(ImClient);
  const received = [];
  client.on("msg", ({ text }) => received.push(text));
  const task = await logIn(client);
  assert.equal(task.options.url, "wss://im.test/acc");
  assert.deepEqual(task.sent[0].data, { userID: "安", app: "default", serviceToken: "t" });
  task.listeners.message({ data: JSON.stringify({ seq: "1", cmd: "msg", response: { code: 200, data: { from: "bob", msg: "hi" } } }) });
  assert.deepEqual(received, ["hi"]);
  client.close();
  assert.equal(task.closedWith, 1000);
  assert.equal(client.state.state, "closed");
});

it("sends requests over HTTP by wx.request", async () => {
  const client = make(ImClient);
  const sending = client.sendMessage("bob", "a b&c 你好", "7");
  const { url, method, data, header, timeout, success } = wx.requests[0];
  assert.deepEqual([url, method, timeout], ["https://im.test/user/sendMessage", "POST", 10_000]);
  assert.deepEqual({ ...header }, { "Content-Type": "application/x-www-form-urlencoded", Authorization: "Bearer t" });
  assert.deepEqual(Object.fromEntries(new URLSearchParams(data)), { appID: "default", userID: "bob", msgID: "7", message: "a b&c 你好" });
  success({ statusCode: 200, data: { code: 200, data: { sendResults: true } }, header: {} });
  assert.equal((await sending).sendResults, true);

  const asking = client.userList();
  assert.equal(wx.requests[1].url, "https://im.test/user/list?appID=default");
  wx.requests[1].success({ statusCode: 200, data: { code: 1003, msg: "未授权" } });
  await assert.rejects(asking, { name: "CommandRefused", code: 1003 });

  const failing = client.userList();
  wx.requests[2].fail({ errMsg: "request:fail timeout" });
  await assert.rejects(failing, { name: "NotConnected", code: "not_connected" });

  const broken = client.userList();
  wx.requests[3].success({ statusCode: 502, data: "<html>" });
  await assert.rejects(broken, { name: "RequestRefused", status: 502 });
});

it("reconnects when the connection is lost or cannot be made, and not when it is refused", async () => {
  const client = make(ImClient, { random: () => 0 });
  const task = await logIn(client);
  task.listeners.error({ errMsg: "Software caused connection abort" });
  task.listeners.close({ code: 1006, reason: "abnormal closure" });
  assert.equal(client.state.state, "waiting");
  client.retryNow();
  assert.equal(wx.tasks.length, 2);
  wx.tasks[1].options.fail({ errMsg: "connectSocket:fail" });
  while (wx.tasks.length < 3) await new Promise((resolve) => setTimeout(resolve, 20));
  wx.tasks.at(-1).listeners.close({ code: 4502, reason: "kicked" });
  assert.deepEqual([client.state.state, client.state.code, client.state.error.name], ["refused", 4502, "Closed"]);
});

it("closes a SocketTask that opens after it was closed", async () => {
  const client = make(ImClient);
  client.connect().catch(() => {});
  const [task] = wx.tasks;
  client.close();
  delete task.closedWith; // a task that was not open yet ignores close()
  task.listeners.open({ header: {} });
  assert.equal(task.closedWith, 1000);
  assert.deepEqual(task.sent, []);
});

it("stores messages with ids of its own", async () => {
  const messenger = make(Messenger, { cursor: 0 });
  const task = await logIn(messenger);
  const sending = [messenger.send("bob", "one"), messenger.send("bob", "two")];
  await settled();
  const [first, second] = task.sent.slice(1).map(({ data }) => data.clientMsgID);
  assert.match(first, /^\d+(-[0-9a-z]+){3}$/);
  assert.notEqual(first, second);
  for (const { seq, cmd } of task.sent.slice(1)) {
    task.listeners.message({ data: JSON.stringify({ seq, cmd, response: { code: 200, data: { id: 1, conversation: 1, seq: 1, repeated: false } } }) });
  }
  assert.equal((await sending[0]).id, 1);
  messenger.close();
});
