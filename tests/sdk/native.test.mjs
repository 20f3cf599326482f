// The rules of imserver-react-native that need no server: what the phone stores, push tokens, notifications, libraries. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { beforeEach, it } from "node:test";

import { ImClient } from "../../sdk/js/imserver.js";
import { createElement } from "../../sdk/node_modules/react/index.js";
import { act, expo, firebase, followAppState, noticeIn, onNotificationOpened, PhoneMessenger, PushTokens, usePushNotifications } from "../../sdk/react-native/index.js";
import { StoredValue } from "../../sdk/react-native/storage.js";
import { eventually, PaperPushSource, PaperStorage, response, Screen } from "./phone.mjs";

const NOTICE = { kind: "message", id: "9", tag: "shop:7", conversation: 7, entry: 5, count: 2, token: "t1" };

let storage, source, calls, answers;

const fetch = async (url, { method, body }) => {
  const path = new URL(url).pathname.replace("/api/v1/notifications/", "");
  calls.push([method, path, body ? JSON.parse(body) : null]);
  const answer = answers[path]?.shift?.() ?? answers[path] ?? { code: "not_found" };
  if (answer instanceof Error) throw answer;
  return new Response(JSON.stringify(answer), { status: answer.code ? answer.status ?? 404 : 200 });
};
const newClient = (user = "ann") => new ImClient({ url: "ws://im.test/acc", httpUrl: "https://im.test", app: "shop", user, token: "t", WebSocket: class {}, fetch });
const newTokens = (user) => new PushTokens(newClient(user), source, { storage, device: "Pixel 9", language: "en" });

beforeEach(() => {
  storage = new PaperStorage();
  source = new PaperPushSource();
  calls = [];
  answers = { endpoints: { id: 9, endpoints: [{ id: 9, enabled: true }] }, "endpoints/remove": { id: 9 }, act: { conversation: 7 } };
});

// --- what the phone stores ---------------------------------------------------------------------------------------

it("a value is written by one call at a time, and the newest one counts", async () => {
  let writing = 0;
  const slow = new PaperStorage();
  slow.setItem = async (key, value) => {
    assert.equal(++writing, 1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    writing--;
    slow.values.set(key, value);
  };
  const value = new StoredValue(slow, "x", 1);
  await Promise.all([1, 2, 3].map((each) => value.set(each)));
  assert.equal(await value.get(), 3);
  await value.set(null);
  assert.equal(await value.get(), null);
});

it("a value that cannot be written is an error, and the next one is written", async () => {
  const value = new StoredValue(storage, "x");
  storage.failure = new Error("full");
  await assert.rejects(value.set(1), /full/);
  storage.failure = null;
  await value.set(2);
  assert.equal(await value.get(), 2);
  storage.values.set([...storage.values.keys()][0], "no json");
  assert.equal(await value.get(), null);
});

it("a message that the phone cannot store is not sent", async () => {
  const messenger = new PhoneMessenger({ url: "ws://im.test", httpUrl: "https://im.test", app: "shop", user: "ann", storage, WebSocket: class {} });
  storage.failure = new Error("full");
  await assert.rejects(messenger.outbox.send({ to: "bob" }, "hi"), /full/);
  assert.deepEqual(messenger.outbox.items, []);
});

it("a messenger that is closed before the phone has answered does not connect", async () => {
  let sockets = 0;
  const messenger = new PhoneMessenger({ url: "ws://im.test", httpUrl: "https://im.test", app: "shop", user: "ann", storage, WebSocket: class { constructor() { sockets++; } } });
  const connected = messenger.connect();
  messenger.close();
  await assert.rejects(connected, { code: 1000 });
  assert.deepEqual([sockets, messenger.state.state], [0, "closed"]);
});

// --- background and foreground -----------------------------------------------------------------------------------

it("a client that the server has refused stays so, and the network wakes one that waits", async () => {
  const listeners = [];
  const appState = { currentState: "active", addEventListener: (_, listener) => (listeners.push(listener), { remove: () => listeners.push("removed") }) };
  let hear;
  const network = { addEventListener: (listener) => (hear = listener, () => listeners.push("network")) };
  const done = [];
  const client = { state: { state: "refused" }, close: () => done.push("close"), connect: async () => done.push("connect"), retryNow: () => done.push("retry"), probe: async () => done.push("probe") };
  const stop = followAppState(client, appState, { keepMs: 0, network });
  const move = async (state) => {
    appState.currentState = state;
    listeners[0](state);
    await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await move("background");
  await move("active");
  assert.deepEqual(done.splice(0), ["retry", "probe"]);
  for (const isConnected of [true, null, false, true]) hear({ isConnected });
  assert.deepEqual(done.splice(0), ["retry", "probe"]);
  client.state = { state: "waiting" };
  await move("background");
  hear({ isConnected: false });
  hear({ isConnected: true });
  await move("active");
  assert.deepEqual(done, ["close", "connect"]);
  stop();
  assert.deepEqual(listeners.slice(1), ["removed", "network"]);
});

// --- tokens ------------------------------------------------------------------------------------------------------

it("a user switches notifications on, gets a new token, and logs out", async () => {
  const tokens = newTokens();
  const stop = tokens.follow();
  source.refresh("token-0");
  assert.equal(await tokens.state(), "off");
  assert.deepEqual(calls, []);
  assert.equal(await tokens.enable(), "on");
  assert.deepEqual(calls.pop(), ["POST", "endpoints", { app: "shop", user: "ann", endpoint: "fcm:token-0", device: "Pixel 9", language: "en" }]);
  assert.equal(await newTokens().state(), "on"); // the next start
  assert.deepEqual(calls.pop().slice(0, 2), ["GET", "endpoints"]);
  source.refresh("token-2");
  await eventually(() => calls.length);
  assert.deepEqual(calls.pop()[2], { app: "shop", user: "ann", endpoint: "fcm:token-2", device: "Pixel 9", language: "en", replaces: "fcm:token-0" });
  assert.equal(await newTokens("bob").state(), "off"); // it is another user's
  stop();
  source.refresh("token-3");
  assert.equal(await newTokens().state(), "on"); // a token that has changed while the app was away
  assert.equal(calls.pop()[2].replaces, "fcm:token-2");
  await tokens.disable();
  assert.deepEqual(calls.pop(), ["POST", "endpoints/remove", { app: "shop", user: "ann", id: 9 }]);
  assert.deepEqual([source.removed, storage.values.size, await newTokens().state()], [1, 0, "off"]);
});

it("a logout without a network ends the token", async () => {
  const tokens = newTokens();
  await tokens.enable();
  answers["endpoints/remove"] = new Error("no network");
  await tokens.disable();
  assert.deepEqual([source.removed, storage.values.size], [1, 0]);
});

it("a phone that another device has removed stays off", async () => {
  const tokens = newTokens();
  await tokens.enable();
  for (const endpoints of [[], [{ id: 9, enabled: false }]]) {
    answers.endpoints = { endpoints };
    assert.equal(await tokens.state(), "off");
  }
});

it("without the user's consent, or the server's, there are none", async () => {
  source.allows = false;
  assert.equal(await newTokens().enable(), "blocked");
  source.allows = true;
  answers.endpoints = { code: "notifications_off", status: 403 };
  assert.equal(await newTokens().enable(), "unsupported");
  answers.endpoints = { code: "invalid_request", status: 400, message: "`endpoint`: this server has no push service 'fcm'" };
  await assert.rejects(newTokens().enable(), /no push service/);
  assert.equal(storage.values.size, 0);
});

it("a hook has the state", async () => {
  const states = [];
  let hook;
  const client = newClient();
  const App = () => {
    hook = usePushNotifications(client, source, { storage });
    if (states[states.length - 1] !== hook.state) states.push(hook.state);
    return createElement("Text", {}, hook.state);
  };
  const screen = new Screen(App);
  await screen.shows("off");
  await hook.enable();
  await screen.shows("on");
  assert.equal(calls.find(([, path]) => path === "endpoints")[2].device, "Pixel 9"); // what the phone says
  await hook.disable();
  await screen.shows("off");
  screen.close();
  assert.deepEqual([states, source.tokenListeners.size], [[null, "off", "on", "off"], 0]);
});

// --- notifications -----------------------------------------------------------------------------------------------

it("a notice is in what each library hands over", () => {
  const text = JSON.stringify(NOTICE);
  for (const payload of [
    { data: { imserver: text } }, // Firebase
    { imserver: NOTICE }, // APNs
    { data: text }, // Huawei
    { notification: { data: { imserver: text } }, pressAction: { id: "reply" }, input: "hi" }, // Notifee
    { notification: { request: { content: { data: { imserver: text } } } } }, // Expo
    { notification: { request: { content: { data: null }, trigger: { payload: { imserver: NOTICE } } } } },
    { notification: { request: { content: { data: {} }, trigger: { remoteMessage: { data: { imserver: text } } } } } },
  ]) {
    const { conversation, entry, count, token } = noticeIn(payload);
    assert.deepEqual([conversation, entry, count, token], [7, 5, 2, "t1"]);
  }
  for (const payload of [null, undefined, "x", {}, { data: { imserver: "{" } }, { imserver: 5 }, { imserver: { kind: 5 } }, { data: { other: "y" } }]) assert.equal(noticeIn(payload), null);
  assert.deepEqual(noticeIn({ imserver: { kind: "push", conversation: "x", actions: "y", url: 5, data: { order: 17 } } }), {
    kind: "push", tag: "", conversation: 0, entry: 0, count: 0, title: "", body: "", url: "", actions: [], token: "", data: { order: 17 },
  });
});

it("actions are carried out, and everything else is opened once", async () => {
  const opened = [];
  source.started = response(NOTICE);
  const stop = onNotificationOpened(source, { httpUrl: "https://im.test/", fetch, open: ({ conversation }, more) => opened.push([conversation, more]) });
  await eventually(() => opened.length);
  source.respond(NOTICE); // the library reports it again
  source.respond(NOTICE, "read");
  source.respond(NOTICE, "reply", " on my way ");
  await eventually(() => calls.length === 2);
  assert.deepEqual(calls, [["POST", "act", { token: "t1", action: "read" }], ["POST", "act", { token: "t1", action: "reply", text: " on my way " }]]);
  source.respond({ ...NOTICE, conversation: 0, url: "/orders/17", actions: [{ action: "pay", title: "Pay", url: "/pay/17" }] }, "pay", "", "n2");
  source.respond({ ...NOTICE, url: "/orders/17" }, "", "", "n3");
  source.respond(NOTICE, "reply", " ", "n4"); // nothing was written
  answers.act = { code: "unknown_notification" };
  source.respond(NOTICE, "reply", "too late", "n5");
  await eventually(() => opened.length === 5);
  assert.deepEqual(opened, [[7, {}], [0, { url: "/pay/17" }], [7, { url: "/orders/17" }], [7, {}], [7, { draft: "too late" }]]);
  source.responseListeners.forEach((listener) => listener({ payload: { data: {} }, id: "n6", action: "", text: "" })); // of somebody else
  stop();
  assert.equal(source.responseListeners.size, 0);
  assert.equal(opened.length, 5);
});

it("an action is sent again until the server answers", async () => {
  answers.act = [new Error("no network"), { conversation: 7 }];
  assert.equal(await act(NOTICE, "read", { httpUrl: "https://im.test", fetch }), true);
  assert.equal(calls.length, 2);
});

it("Firebase", async () => {
  const heard = [];
  const messaging = {
    requestPermission: async () => 1, getToken: async () => "f1", deleteToken: async () => heard.push("deleted"),
    onTokenRefresh: (listener) => (listener("f2"), () => heard.push("ended")), getInitialNotification: async () => null,
    onNotificationOpenedApp: (listener) => (listener({ messageId: "m1", data: { imserver: JSON.stringify(NOTICE) } }), () => {}),
  };
  const { permit, token, onToken, remove, first, onResponse } = firebase(messaging);
  assert.deepEqual([await permit(), await token(), await first()], [true, { service: "fcm", token: "f1" }, null]);
  onToken((each) => heard.push(each))();
  onResponse(({ id, payload }) => heard.push([id, noticeIn(payload).conversation]));
  await remove();
  assert.deepEqual(heard, [{ service: "fcm", token: "f2" }, "ended", ["m1", 7], "deleted"]);
  messaging.requestPermission = async () => 0;
  assert.equal(await permit(), false);
});

it("Expo", async () => {
  const heard = [];
  const answer = (actionIdentifier, userText) => ({ actionIdentifier, userText, notification: { request: { identifier: "e1", content: { data: { imserver: JSON.stringify(NOTICE) } } } } });
  const notifications = {
    DEFAULT_ACTION_IDENTIFIER: "default", requestPermissionsAsync: async () => ({ granted: true }), getDevicePushTokenAsync: async () => ({ type: "ios", data: "a1" }),
    addPushTokenListener: (listener) => (listener({ type: "android", data: "g2" }), { remove: () => heard.push("ended") }),
    unregisterForNotificationsAsync: async () => heard.push("unregistered"), getLastNotificationResponseAsync: async () => answer("default"),
    clearLastNotificationResponseAsync: async () => heard.push("cleared"),
    addNotificationResponseReceivedListener: (listener) => (listener(answer("reply", "hi")), { remove: () => {} }),
  };
  const { permit, token, onToken, remove, first, onResponse } = expo(notifications);
  assert.deepEqual([await permit(), await token()], [true, { service: "apns", token: "a1" }]);
  onToken((each) => heard.push(each))();
  const { id, action, text, payload } = await first();
  assert.deepEqual([id, action, text, noticeIn(payload).conversation], ["e1", "", "", 7]);
  onResponse((each) => heard.push([each.action, each.text]));
  await remove();
  assert.deepEqual(heard, [{ service: "fcm", token: "g2" }, "ended", "cleared", ["reply", "hi"], "unregistered"]);
});
