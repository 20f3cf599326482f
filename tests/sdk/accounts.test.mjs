// Logging in with a provider, against a real server that the environment names. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { it } from "node:test";

import { Accounts } from "../../sdk/js/accounts.js";
import { NotConnected, RequestRefused } from "../../sdk/js/errors.js";

const url = process.env.IM_HTTP;
const app = "shop";

/** The browser of a user who agrees everywhere. */
async function agree({ url: address, shown }) {
  const page = await fetch(address);
  const text = await page.text();
  assert.ok(text.includes(shown));
  const hidden = [...text.matchAll(/name="(code)" value="([^"]+)"/g)].map(([, name, value]) => [name, value]);
  const done = await fetch(page.url.split("?")[0], { method: "POST", body: new URLSearchParams([...hidden, ["agreed", "yes"]]) });
  assert.equal(done.status, 200);
}

it("a user logs in with a provider, and sees their links", async () => {
  const accounts = new Accounts({ url: `${url}/`, app });
  assert.deepEqual((await accounts.oauthProviders()).map(({ provider }) => provider), ["main"]);
  const { token, user, nickname } = await accounts.oauthLogin("main", { show: agree, device: "node" });
  assert.ok(user);
  assert.equal(nickname, "Ann Lee");
  accounts.token = token;
  assert.deepEqual((await accounts.links()).map(({ provider }) => provider), ["main"]);
  await assert.rejects(accounts.unlink("main"), { code: "last_login" });
  const started = await accounts.oauthStart("main", { link: true });
  assert.equal(await accounts.oauthFinish(started), null);
  const bob = { app, name: "bob", password: "correct horse" };
  const registered = await fetch(`${url}/api/v1/accounts/register`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(bob) });
  accounts.token = (await registered.json()).token;
  await assert.rejects(accounts.oauthLink("main", { show: agree }), { code: "wrong_login" });
  await assert.rejects(accounts.oauthLink("main", { show: agree, password: bob.password }), { code: "link_taken" });
});

it("a login outlasts a request that is never answered", async (test) => {
  const { fetch } = globalThis;
  let silent = 0;
  test.mock.method(globalThis, "fetch", (address, options) => {
    if (!String(address).endsWith("oauth/finish") || silent++) return fetch(address, options);
    return new Promise((_, reject) => options.signal?.addEventListener("abort", () => reject(options.signal.reason)));
  });
  const accounts = new Accounts({ url, app, timeoutMs: 2_000 });
  const { user } = await accounts.oauthLogin("main", { show: agree });
  assert.ok(user && silent > 1);
});

it("what the server refuses is an error with its code", async () => {
  const accounts = new Accounts({ url, app });
  await assert.rejects(accounts.oauthStart("other"), (error) => error instanceof RequestRefused && error.code === "unknown_provider");
  await assert.rejects(accounts.requestReset("ann"), { code: "not_implemented" });
  await assert.rejects(accounts.finishReset("x", "battery staple"), { code: "unknown_reset" });
  await assert.rejects(new Accounts({ url: "http://127.0.0.1:1" }).oauthProviders(), NotConnected);
});
