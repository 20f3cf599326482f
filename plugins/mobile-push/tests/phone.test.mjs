// An app of React Native with a node that has the plug-in, and Google's fake. What the fake has taken is in a file. test_mobile_node.py runs it.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, it } from "node:test";

import { Messenger } from "../../../sdk/js/messenger.js";
import { createElement, useState } from "../../../sdk/node_modules/react/index.js";
import { Chat } from "../../../sdk/react-native/chat.js";
import { PhoneMessenger, useNotificationOpened, usePhoneClient, usePushNotifications } from "../../../sdk/react-native/index.js";
import { eventually, PaperPushSource, PaperStorage, Screen } from "../../../tests/sdk/phone.mjs";
import { AppState } from "../../../tests/sdk/react_native/index.js";

const { IM_HTTP: httpUrl, IM_WS: url, IM_TAKEN: file, IM_TOKENS } = process.env;
const tokens = JSON.parse(IM_TOKENS);
const options = (user) => ({ url, httpUrl, app: "shop", user, token: tokens[user] });
const storage = new PaperStorage();
const source = new PaperPushSource();
const bob = new Messenger({ ...options("bob"), cursor: null });
let app, push;

function App() {
  const { client, state } = usePhoneClient(() => new PhoneMessenger({ ...options("ann"), storage }), [], { keepMs: 0 });
  const [place, setPlace] = useState(null);
  app = client;
  push = usePushNotifications(client, source, { storage });
  useNotificationOpened(source, httpUrl, ({ conversation }, { draft }) => setPlace({ conversation, draft }));
  return createElement(Chat, { messenger: client, state, place, onPlace: setPlace });
}

/** The endpoints of ann, as the server lists them. */
const phones = async () => (await app.api("GET", "notifications/endpoints", { user: "ann" })).endpoints;

/** What the phone with this token has got from Google that has this word. */
const delivered = (token, word) => eventually(async () => {
  const messages = JSON.parse(await readFile(file, "utf-8"));
  return messages.find((each) => each.token === token && JSON.stringify(each).includes(word));
}, `${word} for ${token}`);

const away = async () => {
  AppState.move("background");
  await eventually(() => app.state.state === "closed");
};

after(() => bob.close());

it("from the first token to the logout", async () => {
  source.current = { service: "fcm", token: "dGhlIGZpcnN0IHRva2Vu:APA91first" };
  const screen = new Screen(App);
  await bob.connect();
  await eventually(() => app && push.state === "off");
  assert.deepEqual(await phones(), []);
  await push.enable();
  const [{ id, ...phone }] = await phones();
  assert.deepEqual([phone.host, phone.device, phone.enabled], ["fcm/shop", "Pixel 9", true]);
  source.refresh("dGhlIHNlY29uZCB0b2tlbg:APA91second");
  const { token } = source.current;
  await eventually(async () => [...storage.values.values()].some((value) => value.includes(token)));
  assert.deepEqual((await phones()).map((each) => each.id), [id]); // it is the same phone

  await away();
  const { conversation } = await bob.send("ann", "tea?");
  const tea = await delivered(token, "tea?");
  assert.equal(tea.notification.title, "bob");
  AppState.move("active");
  for (const listener of source.responseListeners) listener({ payload: tea, id: "g1", action: "", text: "" });
  await screen.shows("Back", "tea?");
  const isRead = async (last) => (await bob.receipts(conversation)).receipts[0]?.read === last;
  const [newest] = (await bob.history(conversation, { limit: 1 })).messages;
  await eventually(() => isRead(newest.id), "ann has read it");

  await away();
  await bob.send("ann", "or coffee?");
  const coffee = await delivered(token, "or coffee?");
  const reply = new Promise((resolve) => bob.on("entry", ({ from, text }) => from === "ann" && resolve(text)));
  for (const listener of source.responseListeners) listener({ payload: coffee, id: "g2", action: "reply", text: "coffee" });
  assert.equal(await reply, "coffee"); // nobody has come to the foreground for that
  assert.equal(app.state.state, "closed");
  AppState.move("active");
  await screen.shows("tea?", "or coffee?", "coffee");

  await push.disable();
  assert.deepEqual(await phones(), []);
  await app.forget();
  screen.close();
  assert.deepEqual([storage.values.size, source.removed], [0, 1]);
});
