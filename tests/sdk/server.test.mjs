// The SDK against a real server, whose addresses the environment names. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { after, it } from "node:test";

import { ImClient, ImError } from "../../sdk/js/imserver.js";

const { IM_HTTP: httpUrl, IM_WS: url } = process.env;
const clients = [];

function makeClient(user, options = {}) {
  const client = new ImClient({ url, httpUrl, app: 101, user, ...options });
  clients.push(client);
  return client;
}

function next(client, kind, wanted = () => true) {
  return new Promise((resolve) => {
    const off = client.on(kind, (detail) => {
      if (!wanted(detail)) return;
      off();
      resolve(detail);
    });
  });
}

after(() => clients.forEach((client) => client.close()));

it("two users see each other come, talk and go", async () => {
  const ann = makeClient("ann");
  const bob = makeClient("bob", { device: "phone" });
  await ann.connect();
  const entered = next(ann, "enter");
  await bob.connect();
  assert.deepEqual([(await entered).from, (await entered).text], ["bob", "哈喽~"]);
  assert.deepEqual((await ann.userList()).userList.sort(), ["ann", "bob"]);
  assert.equal(await ann.online("bob"), true);

  const heard = next(bob, "msg");
  assert.deepEqual(await ann.sendMessageAll("你好 <b>&+", "id-1"), { sendResults: true });
  assert.deepEqual(await heard, { from: "ann", text: "你好 <b>&+", id: "id-1" });
  assert.deepEqual(await ann.sendMessageAll("again", "id-1"), {});

  const alone = next(ann, "msg");
  assert.deepEqual(await bob.sendMessage("ann", "psst"), { sendResults: true });
  assert.equal((await alone).text, "psst");
  assert.deepEqual(await bob.sendMessage("nobody", "psst"), { sendResults: false });

  const left = next(ann, "exit");
  bob.close();
  assert.equal((await left).from, "bob");
  assert.equal(await ann.online("bob"), false);
});

it("requests are answered by seq, heartbeat and ping included", async () => {
  const client = makeClient("cy", { heartbeatMs: 20 });
  await client.connect();
  const answers = await Promise.all([client.request("ping"), client.request("heartbeat", {}), client.request("none")]);
  assert.deepEqual(answers.map((answer) => answer.code), [200, 200, 1010]);
  assert.equal(answers[0].data, "pong");
  await new Promise((resolve) => setTimeout(resolve, 100)); // some heartbeats of its own
  assert.equal(client.state.state, "online");
});

it("a login that the server refuses is over", async () => {
  for (const [user, app, code] of [["a".repeat(20), 101, 1002], ["dee", 999, 1003]]) {
    const client = makeClient(user, { app });
    await assert.rejects(client.connect(), (error) => error instanceof ImError && error.code === code);
    assert.equal(client.state.state, "refused");
  }
});

it("a kick is the end", async () => {
  const client = makeClient("eve");
  await client.connect();
  const refused = next(client, "state", ({ state }) => state === "refused");
  await fetch(`${httpUrl}/user/kick`, { method: "POST", body: new URLSearchParams({ appID: "101", userID: "eve" }) });
  assert.equal((await refused).code, 4502);
});
