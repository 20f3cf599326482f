// The SDK against a real server, whose addresses the environment names. tests/sdk/test_sdk.py runs it.
import assert from "node:assert/strict";
import { after, it } from "node:test";

import { ImClient, ImError } from "../../sdk/js/imserver.js";
import { Messenger } from "../../sdk/js/messenger.js";

const { IM_HTTP: httpUrl, IM_WS: url } = process.env;
const clients = [];

function makeClient(user, options = {}) {
  const client = new ImClient({ url, httpUrl, app: 101, user, timeoutMs: 60_000, ...options });
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

function makeMessenger(user, options = {}) {
  const messenger = new Messenger({ url, httpUrl, app: 102, user, timeoutMs: 60_000, ...options });
  clients.push(messenger);
  return messenger;
}

it("what is sent is stored once and told, with its marks", async () => {
  const ann = makeMessenger("js-ann");
  const bob = makeMessenger("js-bob");
  await Promise.all([ann.connect(), bob.connect()]);
  const heard = next(bob, "entry");
  const sent = await ann.send("js-bob", "你好", { mentions: ["js-bob"] });
  const entry = await heard;
  assert.deepEqual(
    [entry.id, entry.seq, entry.kind, entry.from, entry.to, entry.text, entry.meta.mentions],
    [sent.id, sent.seq, "message", "js-ann", "js-bob", "你好", ["js-bob"]],
  );
  assert.equal(bob.cursor, sent.id);
  assert.equal(ann.cursor, sent.id);
  assert.equal((await ann.send("js-bob", "again", { clientMsgID: "js-1" })).repeated, false);
  assert.equal((await ann.send("js-bob", "again", { clientMsgID: "js-1" })).repeated, true);

  const receipt = next(ann, "receipt", ({ read }) => read);
  await bob.read(sent.conversation, sent.id);
  assert.deepEqual([(await receipt).from, (await receipt).read], ["js-bob", sent.id]);
  const typing = next(bob, "typing");
  ann.typing({ to: "js-bob" });
  assert.equal((await typing).from, "js-ann");
  const reacted = next(bob, "entry", ({ kind }) => kind === "reaction");
  const own = next(ann, "entry", ({ kind }) => kind === "reaction");
  const change = await ann.react(sent.id, "👍");
  assert.deepEqual([(await reacted).id, (await own).id], [change.id, change.id]);
  assert.deepEqual([(await own).text, (await own).type, (await own).meta.count], ["👍", "add", 1]);
  assert.deepEqual(await ann.react(sent.id, "👍"), { conversation: sent.conversation });
  await bob.pin(sent.id);
  const [pinned] = (await ann.pins(sent.conversation)).messages;
  assert.deepEqual([pinned.id, pinned.reactions], [sent.id, [{ emoji: "👍", count: 1, users: ["js-ann"], mine: true }]]);
  const forwarded = await bob.forward(sent.id, "js-cid");
  const copies = (await bob.history(forwarded.conversation, { after: 0, limit: 1 })).messages;
  assert.deepEqual([copies[0].text, copies[0].meta.forwarded], ["你好", { from: "js-ann", id: sent.id }]);
  assert.deepEqual((await bob.history(sent.conversation, { types: ["picture"] })).messages, []);
  await bob.pin(sent.id, { remove: true });
  assert.notEqual((await ann.react(sent.id, "👍", { remove: true })).id, undefined);
  await assert.rejects(ann.react(forwarded.id, "👍"), { name: "CommandRefused", code: 1005 });
  const edited = next(bob, "entry", ({ kind }) => kind === "edit");
  await ann.edit(sent.id, "hello");
  assert.deepEqual([(await edited).about, (await edited).text], [sent.id, "hello"]);
  const recalled = next(bob, "entry", ({ kind }) => kind === "recall");
  await ann.recall(sent.id);
  assert.equal((await recalled).about, sent.id);
  await bob.hide([(await recalled).id]);
  assert.deepEqual((await bob.marks()).hidden, [(await recalled).id]);
  const phone = makeMessenger("js-bob");
  await phone.connect();
  const arranged = next(phone, "arrangement");
  const draft = { text: "tea @Ann", replyTo: sent.id, mentions: [{ name: "Ann", user: "js-ann" }] };
  assert.deepEqual(await bob.arrange(sent.conversation, { pinned: 5, draft }), await arranged);
  assert.deepEqual((await phone.arrangements()).arrangements, [{ conversation: sent.conversation, version: 1, pinned: 5, archived: 0, marked: 0, draft }]);
  const listed = next(phone, "folders");
  assert.deepEqual(await bob.setFolders([{ id: 7, name: "Team" }]), await listed);
  assert.deepEqual((await phone.arrangements(1)).folders, await listed);
  phone.close();
  assert.equal((await bob.conversations()).conversations[0].peer, "js-ann");
  assert.equal((await ann.receipts(sent.conversation)).receipts[0].user, "js-bob");
  assert.deepEqual((await bob.search("AGAIN")).messages.map(({ clientMsgID }) => clientMsgID), ["js-1"]);
  assert.deepEqual((await bob.search("", { from: "js-bob", link: true })).messages, []);
  assert.equal((await ann.send("js-ann", "to myself")).seq > 0, true);
  await assert.rejects(ann.setFolders([{ id: 7, name: "" }]), (error) => error instanceof ImError && error.code === 1001);
});

it("a question is answered once", async () => {
  const ann = makeMessenger("js-ann");
  const bob = makeMessenger("js-bob");
  await Promise.all([ann.connect(), bob.connect()]);
  const heard = next(bob, "entry", ({ kind, meta }) => kind === "message" && meta?.ask);
  const options = [{ text: "Yes", value: "yes" }, { text: "No", value: "no" }];
  const body = JSON.stringify({ app: "102", user: "js-ann", to: "js-bob", text: "Tea?", options });
  const made = await fetch(`${httpUrl}/api/v1/asks/create`, { method: "POST", headers: { "content-type": "application/json" }, body });
  const { id } = await made.json();
  const question = await heard;
  assert.deepEqual([question.id, question.meta.ask.options], [id, options]);
  const told = next(ann, "entry", ({ kind, type }) => kind === "press" && type === "answer");
  const answer = await bob.answer(id, { value: "yes" });
  assert.deepEqual([(await told).id, (await told).about, (await told).meta.ask], [answer.id, id, { answers: answer.ask.answers, state: "answered" }]);
  await assert.rejects(bob.answer(id, { value: "no" }), (error) => error instanceof ImError && error.refused === "answered");
});

it("a bot answers commands, presses and streams", async () => {
  const post = async (route, body, token) => {
    const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
    const answer = await fetch(`${httpUrl}/api/v1/${route}`, { method: "POST", headers, body: JSON.stringify(body) });
    assert.ok(answer.ok, route);
    return answer.json();
  };
  const { account, token } = await post("accounts/register", { name: "js-person", password: "correct horse" });
  const made = await post("bots", { name: "js-bot" }, token);
  await post("bots/commands", { commands: [{ name: "ask" }] }, made.token);
  const person = makeMessenger(account.user, { app: "gochat", token });
  const bot = makeMessenger(made.id, { app: "gochat", token: made.token });
  await Promise.all([person.connect(), bot.connect()]);
  const asked = next(bot, "entry");
  const { conversation } = await person.send(made.id, "/ask the way");
  assert.deepEqual((await asked).meta.command, { bot: made.id, name: "ask", text: "the way" });
  assert.deepEqual((await person.botCommands(conversation)).commands.map(({ bot: id, command }) => [id, command]), [[made.id, "ask"]]);
  const shown = next(person, "entry");
  const buttons = [[{ text: "Yes", value: "y" }]];
  const { id } = await bot.send(account.user, "Sure?", { buttons });
  assert.deepEqual((await shown).meta.buttons, buttons);
  const pressed = next(bot, "entry", ({ kind }) => kind === "press");
  assert.equal((await person.press(id, "y")).id, (await pressed).id);
  assert.deepEqual([(await pressed).about, (await pressed).text], [id, "y"]);
  await assert.rejects(person.streamOpen({ to: made.id }), { name: "CommandRefused", code: 1003 });
  const pieces = [];
  person.on("piece", (piece) => pieces.push(piece));
  const { stream } = await bot.streamOpen({ to: account.user }, { text: "Le" });
  assert.equal((await bot.streamAppend([{ stream, piece: 1, text: "ft" }])).results[0].status, "appended");
  const ended = next(person, "entry", ({ clientMsgID }) => clientMsgID === stream);
  const closed = await bot.streamClose(stream);
  assert.deepEqual([(await ended).id, (await ended).text], [closed.id, "Left"]);
  assert.deepEqual(pieces.map(({ piece, text, whole = false }) => [piece, text, whole]), [[0, "Le", true], [1, "ft", false]]);
});

it("what was missed comes in order, and from now on nothing of before", async () => {
  const cat = makeMessenger("js-cat");
  await cat.connect();
  const texts = Array.from({ length: 450 }, (_, number) => String(number)); // more than two pages
  const sent = await Promise.all(texts.map((text) => cat.send("js-dog", text)));
  assert.deepEqual(sent.map(({ seq }) => seq), texts.map((_, number) => number + 1));

  const heard = [];
  const dog = makeMessenger("js-dog", { cursor: sent[9].id });
  dog.on("entry", ({ text }) => heard.push(text));
  const all = next(dog, "entry", ({ text }) => text === "449");
  await dog.connect();
  await all;
  assert.deepEqual(heard, texts.slice(10));
  dog.close();

  const late = makeMessenger("js-dog", { cursor: null });
  const first = next(late, "entry");
  await late.connect();
  await late.conversations(); // asked behind what catches up
  await cat.send("js-dog", "newest");
  assert.equal((await first).text, "newest");
  late.close();

  const lost = makeMessenger("js-dog", { cursor: 10 ** 12 });
  const anew = next(lost, "anew");
  const begins = next(lost, "entry");
  await lost.connect();
  await anew;
  assert.equal((await begins).text, "0");
});

it("subscribers of a channel see publications, and what they missed, once and in order", async () => {
  const api = async (route, body) => {
    const answer = await fetch(`${httpUrl}/api/v1/${route}`, { method: "POST", body: JSON.stringify(body) });
    assert.ok(answer.ok, await answer.text());
  };
  const orders = { history_size: 50, history_seconds: 60, publish: "subscribers", presence: true, join_leave: true };
  await api("apps/create", { app: "sdk-channels", settings: { open: true, channels: { orders } } });
  const ann = makeClient("ann", { app: "sdk-channels", retryBaseMs: 60_000, random: () => 1 });
  const bob = makeClient("bob", { app: "sdk-channels" });
  await Promise.all([ann.connect(), bob.connect()]);

  const heard = [];
  let waiting = () => {};
  const until = (text) => new Promise((resolve) => { waiting = () => heard.includes(text) && resolve(); waiting(); });
  const note = (word) => { heard.push(word); waiting(); };
  const mine = ann.subscribe("orders:17", {
    onPublication: ({ text, data }) => note(text ?? data.n),
    onJoin: ({ user }) => note(`+${user}`),
    onReload: () => note("reload"),
  });
  await mine.ready;
  const theirs = bob.subscribe("orders:17");
  await theirs.ready;
  await until("+bob");
  await theirs.publish({ n: 1 });
  await until(1);
  assert.equal((await mine.presence()).total, 2);

  ann.reconnect(1006, "");
  assert.equal(ann.state.state, "waiting");
  for (const text of ["two", "three"]) await theirs.publish(text);
  ann.retryNow();
  await until("three");
  await api("channels/publish", { app: "sdk-channels", channel: "orders:17", text: "four" });
  await until("four");
  assert.deepEqual(heard, ["+bob", 1, "two", "three", "four"]);
  assert.deepEqual((await theirs.history({ limit: 2, reverse: true })).publications.map(({ offset }) => offset), [4, 3]);
  await mine.unsubscribe();
  assert.equal((await theirs.presence()).total, 1);
});
