// @ts-check
/**
 * React hooks for the clients of `imserver-client`.
 *
 *     const { client, state } = useImClient(() => new Messenger({ url, httpUrl, app, user, token, cursor: null }), [user]);
 *     const { entries, send } = useConversation(client, { to: "bob" });
 *
 * @module hooks
 */

import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from "react";

import { disableNotifications, enableNotifications, notificationState } from "imserver-client/notifications";

import { Conversation } from "./conversation.js";
import { Conversations } from "./conversations.js";

export { storedEntry } from "./conversation.js";

/** @typedef {import("imserver-client").ImClient} ImClient */
/** @typedef {import("imserver-client").Push} Push */
/** @typedef {import("imserver-client").StateChange} StateChange */
/** @typedef {import("imserver-client/messenger").Entry} Entry */
/** @typedef {import("imserver-client/messenger").Messenger} Messenger */
/** @typedef {import("imserver-client/notifications").NotificationOptions} NotificationOptions */
/** @typedef {import("imserver-client/notifications").NotificationState} NotificationState */
/** @typedef {import("./conversation.js").ConversationView} ConversationView */
/** @typedef {import("./conversation.js").Where} Where */
/** @typedef {import("./conversations.js").ConversationsView} ConversationsView */

/** The state before there is a client. @type {StateChange} */
const NOT_STARTED = { state: "idle", attempt: 0, retryInMs: 0, code: 0, reason: "", error: null };

/**
 * Makes a client, connects it, and closes it when the component is unmounted or a dependency changes.
 *
 * @template {ImClient} C
 * @param {() => C} make
 * @param {readonly unknown[]} deps  as of `useEffect`: what `make` depends on
 * @returns {{ client: C | null, state: StateChange }} `client` is null until the component is mounted
 */
export function useImClient(make, deps) {
  const [client, setClient] = useState(/** @type {C | null} */ (null));
  useEffect(() => {
    const newClient = make();
    setClient(newClient);
    // StrictMode mounts twice. The timer prevents a socket that is opened only to be closed. The state has the error.
    const timer = setTimeout(() => newClient.connect().catch(() => {}), 0);
    return () => {
      clearTimeout(timer);
      newClient.close();
    };
  }, deps);
  const subscribe = useCallback((/** @type {() => void} */ changed) => client?.on("state", changed) ?? (() => {}), [client]);
  const state = useSyncExternalStore(subscribe, () => client?.state ?? NOT_STARTED, () => NOT_STARTED);
  return { client, state };
}

/**
 * The live messages (event `msg`) that have arrived since the component was mounted.
 *
 * @param {ImClient | null} client
 * @param {number} [limit]  how many of them are kept, the newest ones
 * @returns {Push[]} the oldest first
 */
export function useMessages(client, limit = 200) {
  const [messages, setMessages] = useState(/** @type {Push[]} */ ([]));
  useEffect(() => {
    setMessages([]);
    return client?.on("msg", (push) => setMessages((before) => [...before, push].slice(-limit)));
  }, [client, limit]);
  return messages;
}

/**
 * Which users are online. It follows the notices of logins and logouts. Since a server sends no notices in large apps, it
 * also asks after each login and every `everyMs`.
 *
 * @param {ImClient | null} client
 * @param {string[]} users
 * @param {number} [everyMs]
 * @returns {Record<string, boolean>} user → whether they are online; a user is missing if it is not known
 */
export function usePresence(client, users, everyMs = 30_000) {
  const [onlineByUser, setOnlineByUser] = useState(/** @type {Record<string, boolean>} */ ({}));
  const names = JSON.stringify(users); // a dependency that stays when the list is a new one with the same users
  useEffect(() => {
    setOnlineByUser({});
    if (!client) return;
    /** @type {string[]} */
    const wanted = JSON.parse(names);
    let isMounted = true;
    const show = (/** @type {Record<string, boolean>} */ found) => {
      if (isMounted) setOnlineByUser(found);
    };
    const ask = () => {
      if (client.state.state !== "online" || !wanted.length) return;
      client.presence(wanted).then(show, () => {}); // no answer: asked again later
    };
    const setUser = (/** @type {string} */ user, /** @type {boolean} */ isOnline) => {
      if (wanted.includes(user)) setOnlineByUser((before) => ({ ...before, [user]: isOnline }));
    };
    const stops = [
      client.on("enter", ({ from }) => setUser(from, true)),
      client.on("exit", ({ from }) => setUser(from, false)),
      client.on("state", ask),
    ];
    const timer = setInterval(ask, everyMs);
    ask();
    return () => {
      isMounted = false;
      clearInterval(timer);
      for (const stop of stops) stop();
    };
  }, [client, names, everyMs]);
  return onlineByUser;
}

/**
 * A stored conversation with a user or of a group.
 *
 * @param {Messenger | null} messenger
 * @param {Where} where
 * @param {number} [pageSize]  messages that are loaded at a time, at most 200
 * @returns {ConversationView & { questions: Entry[] } & Pick<Conversation, "loadEarlier" | "send" | "edit" | "recall" | "answer" | "markRead" | "typing">}
 *   `questions`: the open questions in `entries`; `meta.ask` says what is asked
 */
export function useConversation(messenger, where, pageSize = 50) {
  // Dependencies that stay when `where` is a new object with the same fields.
  const to = "to" in where ? where.to : "";
  const number = "to" in where ? 0 : where.conversation;
  const conversation = useMemo(
    () => new Conversation(messenger, to ? { to } : { conversation: number }, pageSize), [messenger, to, number, pageSize],
  );
  useEffect(() => conversation.start(), [conversation]);
  const view = useSyncExternalStore(conversation.subscribe, () => conversation.view, () => conversation.view);
  const { loadEarlier, send, edit, recall, answer, markRead, typing } = conversation;
  const questions = useMemo(() => view.entries.filter(isOpenQuestion), [view.entries]);
  return { ...view, questions, loadEarlier, send, edit, recall, answer, markRead, typing };
}

/**
 * The user's conversations, the one with the newest entry first.
 *
 * @param {Messenger | null} messenger
 * @param {number} [pageSize]  conversations that are loaded at a time, at most 200
 * @returns {ConversationsView & Pick<Conversations, "loadMore">}
 */
export function useConversations(messenger, pageSize = 50) {
  const list = useMemo(() => new Conversations(messenger, pageSize), [messenger, pageSize]);
  useEffect(() => list.start(), [list]);
  const view = useSyncExternalStore(list.subscribe, () => list.view, () => list.view);
  return { ...view, loadMore: list.loadMore };
}

/**
 * Notifications of the user on this device. Call `enable` when the user has clicked: browsers ask at no other time.
 *
 * @param {ImClient | null} client
 * @param {NotificationOptions} [options]  the options of the first call count
 * @returns {{ state: NotificationState | null, enable: () => Promise<void>, disable: () => Promise<void> }} `state` is null until it is
 *   known. Both functions are rejected with the errors of requests
 */
export function useNotifications(client, options) {
  const [state, setState] = useState(/** @type {NotificationState | null} */ (null));
  const [firstOptions] = useState(options);
  useEffect(() => {
    setState(null);
    if (!client) return;
    let isMounted = true;
    const show = (/** @type {NotificationState} */ found) => {
      if (isMounted) setState(found);
    };
    notificationState(client, firstOptions).then(show, () => {}); // no answer: it stays unknown
    return () => { isMounted = false; };
  }, [client, firstOptions]);
  const enable = useCallback(async () => {
    if (client) setState(await enableNotifications(client, firstOptions));
  }, [client, firstOptions]);
  const disable = useCallback(async () => {
    if (!client) return;
    await disableNotifications(client, firstOptions);
    setState("off");
  }, [client, firstOptions]);
  return { state, enable, disable };
}

/** @param {Entry} entry */
function isOpenQuestion({ kind, meta }) {
  const ask = kind === "message" && meta?.ask;
  return Boolean(ask && !ask.state);
}
