// What a TypeScript program of a user may write, checked by tests/sdk/test_packages.py. It is not run.
import { ImClient, ImError, LoginRefused, TalkClient, type Push, type StateChange } from "imserver-client";
import { CLOSE_CODES } from "imserver-client/errors";
import { Messenger, type Entry } from "imserver-client/messenger";
import { disableNotifications, enableNotifications, notificationState, onNotification, type NotificationState } from "imserver-client/notifications";
import "imserver-client/notifications-worker";
import { useConversation, useConversations, useImClient, useMessages, useNotifications, usePresence } from "imserver-react";
import { WebSocket as NodeSocket } from "ws";

export async function use(token: string): Promise<Entry[]> {
  const options = { url: "wss://im.example.com/acc", httpUrl: "https://im.example.com", app: "default", user: "ann", token };
  const client = new ImClient({ ...options, WebSocket: NodeSocket, fetch });
  const stop: () => void = client.on("msg", (push: Push) => push.text.length + push.from.length);
  client.on("state", (change: StateChange) => change.error?.remedy);
  // @ts-expect-error: there is no such event
  client.on("message", () => {});
  // @ts-expect-error: only a Messenger has entries
  client.on("entry", () => {});
  // @ts-expect-error: an app is required
  new ImClient({ url: "", user: "ann" });
  // @ts-expect-error: a token is a text
  client.token = 7;
  client.token = () => token;
  // @ts-expect-error: this is inside
  client.emit("msg", {});
  const found: Record<string, boolean> = await client.presence(["bob"]);
  const sent: boolean | undefined = (await client.sendMessage("bob", "hi")).sendResults;

  const messenger = new Messenger({ ...options, cursor: null });
  messenger.on("entry", ({ id, text }) => id.toFixed() + text?.trim());
  messenger.on("msg", ({ text }) => text.trim());
  messenger.on("receipt", ({ read }) => read?.toFixed());
  const { id, repeated } = await messenger.send("bob", undefined, { data: { found, sent } });

  const groups: unknown = await client.api("GET", "groups/show", { group: "1" });
  // @ts-expect-error: no other method
  client.api("PUT", "groups/show");
  const state: NotificationState = await notificationState(messenger, { worker: "/worker.js", page: "/chat?c={conversation}" });
  if (state === "off") await enableNotifications(client, { worker: "/worker.js", scope: "/", device: "Ann's laptop", language: "en" });
  // @ts-expect-error: there is no such option
  enableNotifications(client, { path: "/worker.js" });
  const end: () => void = onNotification({ open: ({ conversation, id, url }) => console.log(conversation, id, url, groups), shows: ({ tag }) => tag === "" });
  end();
  await disableNotifications(client);

  const talk = new TalkClient({ ...options, token: async () => token, room: "7", WebSocket });
  talk.on("said", ({ at }) => at.toFixed());
  // @ts-expect-error: an event of the other dialect
  talk.on("msg", () => {});
  try {
    await talk.say("hello");
  } catch (error) {
    if (error instanceof LoginRefused) error.code.toFixed();
    if (error instanceof ImError) console.log(error.code, error.text, error.remedy, CLOSE_CODES[4502]);
  }
  stop();
  return repeated ? [] : (await messenger.history(id, { limit: 5 })).messages;
}

export function Page({ token }: { token: string }) {
  const options = { url: "", app: 101, user: "ann", token };
  const { client, state } = useImClient(() => new Messenger(options), [token]);
  const live = useImClient(() => new ImClient(options), [token]);
  const { entries, send, typingUser, error } = useConversation(client, { to: "bob" });
  const messages: Push[] = useMessages(live.client);
  const { state: notified, enable, disable } = useNotifications(live.client, { worker: "/worker.js" });
  const { conversations, loadMore } = useConversations(client);
  const bob: boolean | undefined = usePresence(client, ["bob"])["bob"];
  // @ts-expect-error: a conversation needs a Messenger
  useConversation(live.client, { to: "bob" });
  return [state.state, entries.map(({ text }) => text), send("hi"), typingUser, error?.message, messages.length, conversations[0]?.last?.text, loadMore(), bob, notified === "off" ? enable() : disable()];
}
