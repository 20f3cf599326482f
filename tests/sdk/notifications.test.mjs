// Notifications of a browser: the module of pages, and the part of a service worker, both with a browser made of paper.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { beforeEach, it } from "node:test";
import { createContext, Script } from "node:vm";

import { ImClient } from "../../sdk/js/imserver.js";
import { disableNotifications, enableNotifications, notificationState, onNotification } from "../../sdk/js/notifications.js";

const source = await readFile(new URL("../../sdk/js/notifications-worker.js", import.meta.url), "utf-8");
const SCOPE = "https://shop.test/";
const KEY = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";
const OTHER_KEY = `BA${KEY.slice(2)}`;
const MESSAGE = {
  kind: "message", tag: "c1", title: "Bob", body: "hello", icon: "/media/bob.png", conversation: 1, id: 7, count: 2, time: 5, token: "t1",
};

/** The Cache storage that pages and workers share. */
class PaperCache {
  stored = new Map();
  put = async (name, response) => void this.stored.set(name, await response.text());
  match = async (name) => (this.stored.has(name) ? new Response(this.stored.get(name)) : undefined);
  delete = async (name) => this.stored.delete(name);
}

let cache, subscription, made, permission, answers, calls, heard;

const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64url")).buffer;
const pushManager = {
  getSubscription: async () => subscription,
  subscribe: async ({ applicationServerKey, userVisibleOnly }) => {
    assert.ok(userVisibleOnly);
    const key = typeof applicationServerKey === "string" ? bytes(applicationServerKey) : Uint8Array.from(new Uint8Array(applicationServerKey)).buffer;
    if (!subscription) subscription = newSubscription(key);
    return subscription;
  },
};
const newSubscription = (key) => {
  const endpoint = `https://push.test/${++made}`;
  return {
    endpoint, options: { applicationServerKey: key }, unsubscribe: async () => void (subscription = null),
    toJSON: () => ({ endpoint, expirationTime: null, keys: { p256dh: "p", auth: "a" } }),
  };
};

const newClient = (user = "ann") => new ImClient({
  url: "ws://im.test/acc", httpUrl: "https://im.test", app: "shop", user, token: "t", WebSocket: class {},
  fetch: async (url, { method, body }) => {
    const path = new URL(url).pathname.replace("/api/v1/notifications/", "");
    calls.push([method, path, body ? JSON.parse(body) : null]);
    const [status, answer] = answers[path] ?? [404, { code: "not_found" }];
    return new Response(JSON.stringify(answer), { status });
  },
});

beforeEach(() => {
  cache = new PaperCache();
  subscription = null;
  made = 0;
  permission = "granted";
  calls = [];
  heard = new Map();
  answers = { key: [200, { key: KEY }], endpoints: [201, { id: 9, endpoints: [{ id: 9, enabled: true }] }], "endpoints/remove": [200, { id: 9 }] };
  const registration = { scope: SCOPE, active: {}, pushManager, getNotifications: async () => [] };
  const serviceWorker = {
    register: async (worker, options) => (heard.set("registered", [worker, options]), registration), getRegistration: async () => registration,
    addEventListener: (_, listener) => heard.set("message", [...(heard.get("message") ?? []), listener]), startMessages: () => {},
    removeEventListener: (_, listener) => heard.set("message", heard.get("message").filter((each) => each !== listener)),
  };
  const put = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  put("navigator", { serviceWorker, userAgent: "Mozilla/5.0 (X11; Linux x86_64) Chrome/131.0 Safari/537.36", language: "en" });
  put("Notification", { get permission() { return permission; }, requestPermission: async () => permission });
  put("PushManager", class {});
  put("isSecureContext", true);
  put("caches", { open: async () => cache });
  put("document", { documentElement: { lang: "zh-CN" } });
});

const paths = () => calls.map(([, path]) => path);

// --- pages -----------------------------------------------------------------------------------------------------

it("a user switches notifications on and off", async () => {
  const client = newClient();
  const options = { worker: "/worker.js", page: "/chat?c={conversation}" };
  assert.equal(await notificationState(client, options), "off");
  assert.equal(await enableNotifications(client, options), "on");
  assert.deepEqual(heard.get("registered"), ["/worker.js", { updateViaCache: "none" }]);
  assert.deepEqual(calls.at(-1), ["POST", "endpoints", {
    app: "shop", user: "ann", endpoint: "https://push.test/1", keys: { p256dh: "p", auth: "a" }, device: "Chrome, Linux", language: "zh-CN",
  }]);
  assert.deepEqual(JSON.parse(cache.stored.get(SCOPE)), {
    url: "https://im.test", app: "shop", user: "ann", key: KEY, endpoint: "https://push.test/1", id: 9, page: "/chat?c={conversation}", language: "zh-CN",
  });
  assert.equal(await notificationState(client, options), "on");
  assert.equal(await notificationState(newClient("bob"), options), "off"); // it is another user's
  await disableNotifications(client);
  assert.deepEqual([subscription, cache.stored.size, calls.at(-1)], [null, 0, ["POST", "endpoints/remove", { app: "shop", user: "ann", id: 9 }]]);
  assert.equal(await notificationState(client, options), "off");
});

it("without the browser's or the user's consent there are none", async () => {
  permission = "denied";
  assert.equal(await notificationState(newClient()), "blocked");
  assert.equal(await enableNotifications(newClient()), "blocked");
  permission = "default";
  assert.equal(await enableNotifications(newClient()), "off");
  assert.ok(!paths().includes("endpoints"));
  globalThis.isSecureContext = false;
  assert.equal(await enableNotifications(newClient()), "unsupported");
  assert.equal(await notificationState(newClient()), "unsupported");
});

for (const [status, code] of [[404, "not_found"], [403, "notifications_off"]]) {
  it(`a server that answers ${status} has none`, async () => {
    answers.key = [status, { code }];
    assert.equal(await notificationState(newClient()), "unsupported");
    assert.equal(await enableNotifications(newClient()), "unsupported");
  });
}

it("a failure of the server is an error, and nothing is remembered", async () => {
  answers.key = [503, { code: "storage_unavailable" }];
  await assert.rejects(notificationState(newClient()), { status: 503 });
  answers.key = [200, { key: KEY }];
  answers.endpoints = [429, { code: "too_many_requests" }];
  await assert.rejects(enableNotifications(newClient()), { code: "too_many_requests" });
  assert.equal(await notificationState(newClient()), "off");
});

it("a start sends a subscription that the browser has made anew, and one for a new key of the server", async () => {
  const client = newClient();
  await enableNotifications(client);
  subscription = newSubscription(bytes(KEY));
  assert.equal(await notificationState(client), "on");
  assert.equal(calls.at(-1)[2].endpoint, "https://push.test/2");
  answers.key = [200, { key: OTHER_KEY }];
  assert.equal(await notificationState(client), "on");
  assert.equal(calls.at(-1)[2].endpoint, "https://push.test/3");
  assert.deepEqual(Buffer.from(subscription.options.applicationServerKey).toString("base64url"), OTHER_KEY);
  const { length } = calls;
  subscription = newSubscription(bytes(OTHER_KEY));
  for (const listen of heard.get("message")) listen({ data: { imserver: "renew" } });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(calls.slice(length).at(-1)[2].endpoint, "https://push.test/4");
});

it("a device that another one has removed stays off", async () => {
  const client = newClient();
  await enableNotifications(client);
  for (const endpoints of [[], [{ id: 9, enabled: false }]]) {
    answers.endpoints = [200, { endpoints }];
    assert.equal(await notificationState(client), "off");
  }
  assert.equal(calls.filter(([method, path]) => method === "POST" && path === "endpoints").length, 1);
});

it("a page without a worker must name one", async () => {
  navigator.serviceWorker.getRegistration = async () => undefined;
  assert.equal(await notificationState(newClient()), "off");
  await assert.rejects(enableNotifications(newClient()), TypeError);
});

it("a page answers its worker until it ends that", () => {
  const opened = [];
  const end = onNotification({ open: ({ id }) => id !== 9 && opened.push(id), shows: ({ conversation }) => conversation === 1 });
  const [listen] = heard.get("message");
  const ask = (imserver, shown) => {
    let answer;
    listen({ data: { imserver, shown }, ports: [{ postMessage: (data) => { answer = data; } }] });
    return answer;
  };
  assert.deepEqual([ask("shows", MESSAGE), ask("shows", { ...MESSAGE, conversation: 2 }), ask("open", MESSAGE), ask("open", { ...MESSAGE, id: 9 })], [true, false, true, false]);
  assert.deepEqual(opened, [7]);
  end();
  assert.deepEqual(heard.get("message"), []);
});

// --- the worker ------------------------------------------------------------------------------------------------

/** Answers in the same turn, so that no time limit ends before, however busy the machine is. */
class PaperChannel {
  port1 = { close: () => {} };
  port2 = { postMessage: (data) => queueMicrotask(() => this.port1.onmessage({ data })) };
}

/** A worker in a browser made of paper. `pages`: open windows, with their answers. */
function startWorker({ pages = [], answer = async () => new Response("{}"), userAgent = "Chrome/131.0 Safari/537.36", record = {} } = {}) {
  const listeners = {};
  const state = { showings: 0, shown: [], opened: [], sent: [], badge: null, listeners };
  const registration = {
    scope: SCOPE, pushManager,
    showNotification: async (title, options) => {
      state.showings += 1;
      state.shown = state.shown.filter(({ tag }) => tag !== options.tag);
      const each = { title, ...options, close: () => { state.shown = state.shown.filter((other) => other !== each); } };
      state.shown.push(each);
    },
    getNotifications: async ({ tag } = {}) => state.shown.filter((each) => !tag || each.tag === tag),
  };
  const clients = {
    matchAll: async () => pages.map((page) => ({
      url: `${SCOPE}chat`, focused: false, visibilityState: "hidden", ...page,
      focus: async () => void state.opened.push(["focus", page.url ?? "chat"]), navigate: async (url) => void state.opened.push(["navigate", url]),
      postMessage: (data, ports) => {
        state.opened.push([data.imserver, data.shown?.id]);
        if (page.answer !== undefined) ports?.[0].postMessage(page.answer);
      },
    })),
    openWindow: async (url) => void state.opened.push(["window", url]),
  };
  const scope = {
    registration, clients, location: { origin: "https://shop.test" }, URL, Response, MessageChannel: PaperChannel, setTimeout: (act, ms, ...more) => setTimeout(act, ms / 50, ...more),
    navigator: { userAgent, setAppBadge: async (count) => void (state.badge = count), clearAppBadge: async () => void (state.badge = 0) },
    caches: { open: async () => cache },
    fetch: async (url, options) => {
      state.sent.push([url, JSON.parse(options.body)]);
      return answer(state.sent.length);
    },
    addEventListener: (name, listener) => { listeners[name] = listener; },
  };
  scope.self = scope;
  if (record) cache.stored.set(SCOPE, JSON.stringify({ url: "https://im.test", key: KEY, page: "/chat?c={conversation}&m={id}", language: "en", ...record }));
  new Script(source).runInContext(createContext(scope));
  const hear = async (name, event = {}) => {
    const works = [];
    listeners[name]({ waitUntil: (work) => works.push(work), ...event });
    await Promise.all(works);
    return works.length;
  };
  return Object.assign(state, {
    push: (shown) => hear("push", { data: shown && { json: () => JSON.parse(typeof shown === "string" ? shown : JSON.stringify(shown)) } }),
    click: (action = "", reply = undefined, notification = state.shown.at(-1)) => hear("notificationclick", { notification, action, reply }),
    hear,
  });
}

it("a push is shown, and a later one of the conversation replaces it", async () => {
  const worker = startWorker();
  await worker.push(MESSAGE);
  await worker.push({ ...MESSAGE, id: 8, body: "and again", count: 3 });
  await worker.push({ kind: "push", tag: "order", title: "Order 7", url: "/orders/7" });
  const [first, second] = worker.shown;
  assert.equal(worker.shown.length, 2);
  assert.deepEqual([first.title, first.body, first.tag, first.renotify, first.icon, first.timestamp], ["Bob", "and again", "c1", true, "https://im.test/media/bob.png", 5]);
  assert.deepEqual([...first.actions].map(({ action, title, type }) => [action, title, type]), [["reply", "Reply", "text"], ["read", "Mark as read", undefined]]);
  assert.deepEqual([second.title, second.body, second.icon], ["Order 7", "", undefined]);
  assert.equal(worker.badge, 3);
});

it("an address that is none keeps no push from being shown and clicked", async () => {
  for (const address of ["//[", "https://[x", 7, {}, { toString: 1 }]) {
    const worker = startWorker();
    await worker.push({ ...MESSAGE, icon: address, url: address });
    assert.deepEqual(worker.shown.map(({ title, icon }) => [title, icon]), [["Bob", undefined]]);
    await worker.click();
    assert.deepEqual(worker.opened, [["window", SCOPE]]);
  }
});

it("actions have the words of the page", async () => {
  const words = { reply: "Répondre", read: "Lu", notSent: "{text}" };
  const cases = [[{ language: "zh-CN" }, "回复 标为已读"], [{ language: "fr" }, "Reply Mark as read"], [{ language: "fr", words }, "Répondre Lu"], [null, "Reply Mark as read"]];
  for (const [record, titles] of cases) {
    cache.stored.clear();
    const worker = startWorker({ record });
    await worker.push(MESSAGE);
    assert.equal(worker.shown[0].actions.map(({ title }) => title).join(" "), titles);
    await worker.push({ ...MESSAGE, token: undefined });
    assert.equal(worker.shown[0].actions.length, 0);
  }
});

it("what was read elsewhere goes", async () => {
  const worker = startWorker();
  await worker.push(MESSAGE);
  await worker.push({ ...MESSAGE, tag: "c2", count: 1 });
  await worker.push({ kind: "close", tag: "c1" });
  assert.deepEqual(worker.shown.map(({ tag }) => tag), ["c2"]);
  assert.equal(worker.badge, 1);
  await worker.push({ kind: "close", tag: "c2" });
  assert.deepEqual([worker.shown, worker.badge], [[], 0]);
});

it("Safari is shown something for each push", async () => {
  for (const [userAgent, count] of [["Version/18.1 Safari/605.1.15", 2], ["Chrome/131.0 Safari/537.36", 1]]) {
    const worker = startWorker({ userAgent });
    await worker.push(MESSAGE);
    await worker.push({ kind: "close", tag: "c1" });
    assert.deepEqual([worker.showings, worker.shown], [count, []]);
  }
});

for (const data of [null, "no JSON", "{}", '"text"', "null", JSON.stringify({ kind: "other", tag: "x" })]) {
  it(`a push of somebody else is left to others: ${data}`, async () => {
    const worker = startWorker();
    assert.equal(await worker.push(data), 0);
  });
}

it("a conversation that a visible page shows needs no notification", async () => {
  const visible = { visibilityState: "visible" };
  const cases = [[{ ...visible, answer: true }, 0], [{ ...visible, answer: false }, 1], [visible, 1], [{ answer: true }, 1], [{ ...visible, answer: true, url: "https://shop.other/" }, 1]];
  for (const [page, count] of cases) {
    const worker = startWorker({ pages: [page] });
    await worker.push(MESSAGE);
    assert.equal(worker.shown.length, count, JSON.stringify(page));
    assert.equal(worker.badge, page.url ? 2 : null); // open pages know it better
  }
});

it("an old push does not close the notification of a newer one", async () => {
  const page = { visibilityState: "visible", answer: true };
  const worker = startWorker({ pages: [page] });
  const old = worker.push(MESSAGE); // the page has still shown the conversation
  page.answer = false;
  await Promise.all([old, worker.push({ ...MESSAGE, id: 8 })]);
  assert.equal(worker.shown.length, 1);
});

it("a click opens the conversation in an open page, else in a new one", async () => {
  const cases = [
    [[], MESSAGE, [["window", "https://shop.test/chat?c=1&m=7"]]],
    [[], { kind: "push", tag: "o", title: "", url: "/orders/7" }, [["window", "https://shop.test/orders/7"]]],
    [[{ answer: true }], { kind: "push", tag: "o", title: "", url: "https://elsewhere.test/" }, [["window", "https://elsewhere.test/"]]],
    [[{ url: `${SCOPE}a` }, { url: `${SCOPE}b`, focused: true, answer: true }], MESSAGE, [["focus", `${SCOPE}b`], ["open", 7]]],
    [[{}], MESSAGE, [["focus", "chat"], ["open", 7], ["navigate", "https://shop.test/chat?c=1&m=7"]]],
  ];
  for (const [pages, shown, opened] of cases) {
    const worker = startWorker({ pages });
    await worker.push(shown);
    await worker.click();
    assert.deepEqual(worker.opened, opened);
    assert.deepEqual([worker.shown, worker.sent], [[], []]);
  }
});

it("actions are sent while no page is open", async () => {
  const worker = startWorker();
  await worker.push(MESSAGE);
  await worker.click("read");
  await worker.push(MESSAGE);
  await worker.click("reply", " on my way ");
  assert.deepEqual(worker.sent, [
    ["https://im.test/api/v1/notifications/act", { token: "t1", action: "read" }],
    ["https://im.test/api/v1/notifications/act", { token: "t1", action: "reply", text: "on my way" }],
  ]);
  assert.deepEqual([worker.opened, worker.shown, worker.badge], [[], [], 0]);
});

it("an option of a question answers it, and what came of it is shown", async () => {
  const question = { ...MESSAGE, body: "Deploy?", actions: [{ action: "answer:yes", title: "Yes" }, { action: "answer:", title: "?" }] };
  for (const text of ["You answered: Yes", "Bob answered: No"]) {
    const worker = startWorker({ answer: async () => new Response(JSON.stringify({ conversation: 1, read: 7, id: 0, text })) });
    await worker.push(question);
    assert.deepEqual(worker.shown[0].actions.map(({ title }) => title), ["Yes", "?"]);
    await worker.click("answer:yes");
    assert.deepEqual(worker.sent, [["https://im.test/api/v1/notifications/act", { token: "t1", action: "answer", value: "yes" }]]);
    assert.deepEqual(worker.shown.map(({ title, body, tag, silent, actions }) => [title, body, tag, silent, actions.length]), [["Bob", text, "c1", true, 0]]);
    assert.equal(worker.badge, 0);
    await worker.push({ kind: "close", tag: "c1" });
    assert.deepEqual(worker.shown, []);
  }
});

it("an answer that the server does not take opens the question", async () => {
  for (const answer of [async () => new Response("{}", { status: 404 }), async () => { throw new TypeError("no network"); }]) {
    const worker = startWorker({ answer });
    await worker.push({ ...MESSAGE, actions: [{ action: "answer:yes", title: "Yes" }] });
    await worker.click("answer:yes");
    assert.deepEqual([worker.opened, worker.shown], [[["window", "https://shop.test/chat?c=1&m=7"]], []]);
  }
});

it("a browser without a field for the reply opens the conversation", async () => {
  const worker = startWorker();
  for (const text of [undefined, null, "", "  "]) {
    await worker.push(MESSAGE);
    await worker.click("reply", text);
  }
  assert.equal(worker.opened.length, 4);
  assert.deepEqual(worker.sent, []);
});

it("an action of a push opens its own address", async () => {
  const worker = startWorker({ pages: [{ answer: true }] });
  await worker.push({ kind: "push", tag: "o", title: "", url: "/orders/7", actions: [{ action: "pay", title: "Pay", url: "/pay/7" }] });
  await worker.click("pay");
  assert.deepEqual(worker.opened, [["focus", "chat"], ["navigate", "https://shop.test/pay/7"]]);
});

it("an action is sent again until the server answers", async () => {
  const worker = startWorker({ answer: async (tries) => {
    if (tries === 1) throw new TypeError("no network");
    return new Response("{}", { status: tries === 2 ? 503 : 200 });
  } });
  await worker.push(MESSAGE);
  await worker.click("reply", "hi");
  assert.equal(worker.sent.length, 3);
  assert.deepEqual(worker.shown, []);
});

it("a reply that was not sent is shown, and a mark that was not opens the conversation", async () => {
  for (const [language, text] of [["en", "Not sent: hi $&"], ["zh-CN", "未发送：hi $&"]]) {
    const worker = startWorker({ answer: async () => new Response("{}", { status: 404 }), record: { language } });
    await worker.push(MESSAGE);
    await worker.click("reply", "hi $&");
    assert.deepEqual(worker.shown.map(({ title, body, actions }) => [title, body, actions.length]), [["Bob", text, 0]]);
    await worker.click();
    assert.deepEqual(worker.opened, [["window", "https://shop.test/chat?c=1&m=7"]]);
    await worker.push(MESSAGE);
    await worker.click("read");
    assert.equal(worker.opened.length, 2);
  }
});

it("a notification of the product is left to it", async () => {
  const worker = startWorker();
  assert.equal(await worker.click("", undefined, { data: { mine: true }, close: () => assert.fail() }), 0);
});

it("a subscription that the browser ends is made again, and open pages send it", async () => {
  const worker = startWorker({ pages: [{}] });
  await worker.hear("pushsubscriptionchange");
  assert.ok(subscription);
  assert.deepEqual(worker.opened, [["renew", undefined]]);
  const before = subscription;
  await worker.hear("pushsubscriptionchange", { newSubscription: before });
  assert.equal(subscription, before);
  subscription = null;
  const none = startWorker({ record: null });
  cache.stored.clear();
  await none.hear("pushsubscriptionchange");
  assert.equal(subscription, null);
});
