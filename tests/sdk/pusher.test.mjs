// Pusher's clients and its library for back ends, unmodified, against a real server.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, test } from "node:test";

import { once, options, smoke } from "./pusher_smoke.mjs";

const require = createRequire(new URL("../../sdk/package.json", import.meta.url));
const Pusher = require("pusher-js");
// Its CommonJS file cannot be loaded by Node.js, which takes it for a module.
const { default: Echo } = await import("../../sdk/node_modules/laravel-echo/dist/echo.js");
const BackEnd = require("pusher");

const place = JSON.parse(process.env.PUSHER_OPTIONS);
const settings = {
  appId: place.app_id,
  key: place.key,
  secret: place.secret,
  host: place.host,
  port: String(place.http_port),
  useTLS: false,
  encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString("base64"),
};
const back = new BackEnd(settings);
const clients = [];
after(() => clients.forEach((each) => each.disconnect()));

// It listens from the beginning: the server tries again ever more rarely what nobody takes.
const events = [];
const receiver = createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    const hook = back.webhook({ headers: request.headers, rawBody: body });
    events.push(...(hook.isValid() ? hook.getEvents() : [{ name: "invalid" }]));
    response.end();
  });
});
await new Promise((resolve) => receiver.listen(place.webhook_port, "127.0.0.1", resolve));
after(() => {
  receiver.close();
  receiver.closeAllConnections();
});

function client(user) {
  const made = new Pusher(place.key, {
    ...options(place, user),
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, callback) => {
        const data = channelName.startsWith("presence-") ? { user_id: user } : undefined;
        callback(null, back.authorizeChannel(socketId, channelName, data));
      },
    },
  });
  clients.push(made);
  return made;
}

const event = (channel, name) => once(`${name} in ${channel.name}`, (take) => channel.bind(name, take));
const subscribed = (channel) => event(channel, "pusher:subscription_succeeded");
const json = async (answer) => (await answer).json();

test("pusher-js and laravel-echo", async () => {
  assert.equal(await smoke(Pusher, Echo, place), "all is well");
});

test("a back end sends events", async () => {
  const ann = client("ann");
  const bob = client("bob");
  const channels = [ann.subscribe("news"), ann.subscribe("private-a"), bob.subscribe("news")];
  await Promise.all(channels.map(subscribed));
  const got = [event(channels[0], "one"), event(channels[1], "one")];
  let unwanted = 0;
  channels[2].bind("one", () => unwanted++);
  const answer = back.trigger(["news", "private-a"], "one", { a: 1 }, { socket_id: bob.connection.socket_id });
  assert.deepEqual(await json(answer), {});
  assert.deepEqual(await Promise.all(got), [{ a: 1 }, { a: 1 }]);

  const second = channels.map((channel) => event(channel, "two"));
  const batch = [
    { channel: "news", name: "two", data: { n: 2 }, info: "subscription_count" },
    { channel: "private-a", name: "two", data: "text" },
  ];
  assert.deepEqual(await json(back.triggerBatch(batch)), { batch: [{ subscription_count: 2 }, {}] });
  assert.deepEqual(await Promise.all(second), [{ n: 2 }, "text", { n: 2 }]);
  assert.equal(unwanted, 0);

  const info = back.trigger("news", "three", 1, { info: "subscription_count" });
  assert.deepEqual(await json(info), { channels: { news: { subscription_count: 2 } } });
});

test("encrypted channels and cache channels", async () => {
  const ann = client("ann");
  const secret = ann.subscribe("private-encrypted-a");
  await subscribed(secret);
  const got = event(secret, "whispered");
  await back.trigger("private-encrypted-a", "whispered", { a: "secret" });
  assert.deepEqual(await got, { a: "secret" });

  await back.trigger("cache-rates", "rate", { usd: 1 });
  await back.trigger("cache-rates", "rate", { usd: 2 });
  assert.deepEqual(await event(ann.subscribe("cache-rates"), "rate"), { usd: 2 });
  const found = await json(back.get({ path: "/channels/cache-rates", params: { info: "cache" } }));
  assert.equal(found.cache.data, '{"usd":2}');
  assert.ok(found.cache.ttl > 1700 && found.cache.ttl <= 1800);
});

test("a back end asks about channels, and ends connections", async () => {
  const ann = client("ann");
  const second = client("ann");
  const bob = client("bob");
  await Promise.all([ann, second, bob].map((each) => subscribed(each.subscribe("presence-r"))));
  const ask = (path, params) => json(back.get({ path, params }));
  assert.deepEqual(await ask("/channels", { filter_by_prefix: "presence-r", info: "user_count" }), {
    channels: { "presence-r": { user_count: 2 } },
  });
  const info = "user_count,subscription_count";
  assert.deepEqual(await ask("/channels/presence-r", { info }), {
    occupied: true,
    user_count: 2,
    subscription_count: 3,
  });
  assert.deepEqual(await ask("/channels/nobody", {}), { occupied: false });
  const { users } = await ask("/channels/presence-r/users");
  assert.deepEqual(users.map(({ id }) => id).sort(), ["ann", "bob"]);

  bob.signin();
  await bob.user.signinDonePromise;
  const told = event(bob.user, "for-you");
  const user = "#server-to-user-bob";
  await once("subscription", (take) => {
    const timer = setInterval(async () => {
      const { occupied } = await json(back.get({ path: `/channels/${encodeURIComponent(user)}` }));
      if (occupied) {
        clearInterval(timer);
        take();
      }
    }, 50);
  });
  await back.sendToUser("bob", "for-you", { x: 1 });
  assert.deepEqual(await told, { x: 1 });

  const gone = once("end", (take) => bob.connection.bind("disconnected", take));
  const error = once("error", (take) => bob.connection.bind("error", (each) => each.data && take(each.data.code)));
  await back.terminateUserConnections("bob");
  await gone;
  assert.equal(await error, 4009);
});

test("errors are those that the library expects", async () => {
  const status = (asked) => asked.then(() => 0, (error) => error.status);
  assert.equal(await status(back.trigger("news", "e", "x".repeat(10241))), 413);
  assert.equal(await status(back.trigger("news", "pusher:error", "x")), 400);
  assert.equal(await status(back.get({ path: "/channels", params: { info: "user_count" } })), 400);
  assert.equal(await status(back.get({ path: "/channels/news/users" })), 400);
  const thief = new BackEnd({ ...settings, secret: "x" });
  assert.equal(await status(thief.trigger("news", "e", "x")), 401);
});

test("the webhook is one of Pusher's", async () => {
  const zoe = client("zoe");
  const room = zoe.subscribe("presence-hooked");
  await subscribed(room);
  room.trigger("client-hello", { a: 1 });
  const cached = zoe.subscribe("cache-hooked");
  await event(cached, "pusher:cache_miss");
  zoe.unsubscribe("presence-hooked");
  const wanted = [
    ["channel_occupied", undefined],
    ["member_added", "zoe"],
    ["client_event", "zoe"],
    ["member_removed", "zoe"],
    ["channel_vacated", undefined],
  ];
  const found = (channel) => events.filter((each) => each.channel === channel);
  await once("all events", (take) => {
    const timer = setInterval(() => {
      if (found("presence-hooked").some((each) => each.name === "channel_vacated")) {
        clearInterval(timer);
        take();
      }
    }, 50);
  });
  assert.deepEqual(found("presence-hooked").map((each) => [each.name, each.user_id]), wanted);
  assert.deepEqual(found("cache-hooked").map((each) => each.name).sort(), ["cache_miss", "channel_occupied"]);
  const sent = found("presence-hooked")[2];
  assert.deepEqual([sent.event, sent.data, sent.socket_id], ["client-hello", '{"a":1}', zoe.connection.socket_id]);
  assert.ok(!events.some((each) => each.name === "invalid"));
});
