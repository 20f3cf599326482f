// @ts-check
/**
 * The part of a service worker that shows notifications. A worker includes it with one line:
 *
 *     importScripts("https://im.example.com/sdk/notifications-worker.js");
 *
 * or, as a module of a bundle, `import "imserver-client/notifications-worker";`. It hears `push`, `notificationclick` and
 * `pushsubscriptionchange`. Actions work while no page is open. A click goes to an open page, whose `onNotification` answers, or
 * opens one.
 *
 * @module notifications-worker
 */

{
  /** @typedef {import("./notifications.js").Shown} Shown */
  /** @typedef {import("./notifications.js").NotificationRecord} NotificationRecord */
  /** @typedef {{ url: string, focused: boolean, visibilityState: string, focus: () => Promise<unknown>, navigate: (url: string) => Promise<unknown>, postMessage: (data: any, transfer?: any[]) => void }} Page */

  /** The cache with the record of this worker. notifications.js writes it. */
  const CACHE = "imserver:notifications";
  /** How long a page may take to answer. */
  const ANSWER_MS = 500;
  /** The action of an option of a question has its value behind this. */
  const ANSWER = "answer:";
  /** Pauses between tries to send an action. */
  const RETRIES_MS = [1_000, 4_000, 15_000];
  /** @type {Record<string, import("./notifications.js").NotificationWords>} */
  const WORDS = {
    en: { reply: "Reply", read: "Mark as read", notSent: "Not sent: {text}" },
    zh: { reply: "回复", read: "标为已读", notSent: "未发送：{text}" },
  };

  /** TypeScript's types of pages do not have the scope of a worker. @type {any} */
  const scope = self;
  /** Safari ends the subscription of a worker that gets a push and shows nothing. */
  const mustShow = /Version\/[\d.]+.*Safari/.test(scope.navigator?.userAgent ?? "");

  /** The push before is handled: one after the other, so that an old one closes no newer notification. @type {Promise<void>} */
  let received = Promise.resolve();

  scope.addEventListener("push", (/** @type {any} */ event) => {
    const shown = shownIn(event.data);
    if (shown) event.waitUntil(received = received.then(() => receive(shown), () => receive(shown)));
  });
  scope.addEventListener("notificationclick", (/** @type {any} */ event) => {
    const { notification, action, reply } = event;
    const shown = notification.data?.imserver;
    if (!shown) return; // of the product itself
    notification.close();
    event.waitUntil(click(shown, action, reply?.trim()));
  });
  scope.addEventListener("notificationclose", (/** @type {any} */ event) => event.waitUntil(showBadge()));
  scope.addEventListener("pushsubscriptionchange", (/** @type {any} */ event) => event.waitUntil(renew(event)));

  /**
   * @param {{ json: () => any } | null} data
   * @returns {Shown | null} null: it is a push of somebody else
   */
  const shownIn = (data) => {
    try {
      const shown = data?.json();
      return typeof shown?.tag === "string" && ["message", "push", "close", "test"].includes(shown.kind) ? shown : null;
    } catch {
      return null;
    }
  };

  /** @param {Shown} shown */
  const receive = async (shown) => {
    const silent = shown.kind === "close" || (await isVisible(shown));
    if (!silent) await show(shown);
    else {
      if (mustShow) await scope.registration.showNotification(shown.title ?? "", { tag: shown.tag, silent: true });
      await close(shown.tag);
    }
    await showBadge();
  };

  /** @param {Shown} shown */
  const show = async (shown) => {
    const { kind, tag, title = "", body = "", icon, time, count = 0, token } = shown;
    const known = await record();
    const server = known?.url ?? location.origin;
    const isPath = typeof icon === "string" && /^\/(?!\/)/.test(icon);
    const picture = addressOf(isPath ? server + icon : icon, server); // the server may be below a path
    const mayAnswer = kind === "message" && Boolean(token);
    await scope.registration.showNotification(title, {
      body,
      tag,
      actions: shown.actions ?? (mayAnswer ? answersOf(known) : []),
      renotify: !shown.silent,
      silent: shown.silent === true,
      timestamp: time || Date.now(),
      dir: "auto",
      lang: known?.language ?? "",
      ...(picture && { icon: picture.href }),
      data: { imserver: shown, count },
    });
  };

  /** @param {NotificationRecord | null} known  @returns buttons of a message that may be answered from its notification */
  const answersOf = (known) => {
    const { reply, read } = wordsOf(known);
    return [{ action: "reply", title: reply, type: "text", placeholder: reply }, { action: "read", title: read }];
  };

  /**
   * @param {unknown} address  that somebody has chosen
   * @param {string} base
   * @returns {URL | null} null: it is none, and the notification goes without it
   */
  const addressOf = (address, base) => {
    try {
      return typeof address === "string" && address ? new URL(address, base) : null;
    } catch {
      return null;
    }
  };

  /** @param {NotificationRecord | null} known */
  const wordsOf = (known) => known?.words ?? WORDS[known?.language.split("-")[0] ?? "en"] ?? WORDS.en;

  /** @param {string} tag */
  const close = async (tag) => {
    for (const each of await scope.registration.getNotifications({ tag })) each.close();
  };

  /**
   * The number of unread messages that notifications are about, on the icon of the application. Open pages know it better.
   */
  const showBadge = async () => {
    const { navigator } = scope;
    if (!navigator.setAppBadge || (await pages()).length) return;
    const left = await scope.registration.getNotifications();
    const count = left.reduce((/** @type {number} */ sum, /** @type {any} */ { data }) => sum + (data?.count ?? 0), 0);
    await (count ? navigator.setAppBadge(count) : navigator.clearAppBadge()).catch(() => {}); // it is not installed
  };

  /**
   * @param {Shown} shown
   * @param {string} action  empty: a click beside the actions
   * @param {string} [text]  of the reply, where the browser has a field for it
   */
  const click = async (shown, action, text) => {
    const isReply = action === "reply" && Boolean(text);
    if (shown.token && action.startsWith(ANSWER)) return answer(shown, action.slice(ANSWER.length));
    if (shown.token && (action === "read" || isReply)) {
      const done = await act({ token: shown.token, action, ...(isReply && { text }) });
      if (done) return showBadge();
      if (!isReply) return open(shown, "");
      // the text must not be lost: a click on it opens the conversation
      return show({ ...shown, body: wordsOf(await record()).notSent.replace("{text}", () => text ?? ""), actions: [] });
    }
    await open(shown, shown.actions?.find((each) => each.action === action)?.url ?? "");
    await showBadge();
  };

  /**
   * Answers a question, and shows what came of it: somebody else may have been faster.
   *
   * @param {Shown} shown
   * @param {string} value  of an option
   */
  const answer = async (shown, value) => {
    const result = await act({ token: shown.token ?? "", action: "answer", value });
    const body = typeof result?.text === "string" ? result.text : "";
    if (!body) return open(shown, "");
    await show({ ...shown, body, actions: [], silent: true, count: 0 });
    await showBadge();
  };

  /**
   * Sends an action. The server carries out a repeated one once.
   *
   * @param {{ token: string, action: string, text?: string, value?: string }} action
   * @returns {Promise<any>} what the server has answered; null: it refuses the action, or does not answer
   */
  const act = async (action) => {
    const { url } = (await record()) ?? { url: location.origin };
    for (const pause of [...RETRIES_MS, 0]) {
      const answer = await fetch(`${url}/api/v1/notifications/act`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(action), credentials: "omit",
      }).catch(() => null);
      if (answer?.ok) return answer.json().catch(() => ({}));
      if (answer && answer.status < 500 && answer.status !== 429) return null;
      if (pause) await new Promise((resolve) => setTimeout(resolve, pause));
    }
    return null;
  };

  /**
   * Shows what a notification is about: in an open page, or in a new one.
   *
   * @param {Shown} shown
   * @param {string} url  of an action; empty: that of the notification
   */
  const open = async (shown, url) => {
    const { conversation = 0, id = 0 } = shown;
    const { page = scope.registration.scope } = (await record()) ?? {};
    const wanted = url || shown.url || page.replace("{conversation}", String(conversation)).replace("{id}", String(id));
    const { href: address, origin } = addressOf(wanted, scope.registration.scope) ?? new URL(scope.registration.scope);
    const [first] = origin === location.origin ? await pages() : [];
    if (!first) return scope.clients.openWindow(address);
    await first.focus().catch(() => {}); // the browser may not allow it
    if (!url && (await answerOf(first, { imserver: "open", shown }))) return;
    await first.navigate(address).catch(() => scope.clients.openWindow(address)); // a page that another worker controls
  };

  /** @param {Shown} shown */
  const isVisible = async (shown) => {
    const visible = (await pages()).filter(({ visibilityState }) => visibilityState === "visible");
    const answers = await Promise.all(visible.map((each) => answerOf(each, { imserver: "shows", shown })));
    return answers.includes(true);
  };

  /** @returns {Promise<Page[]>} open pages of this worker, the one with the focus first, then visible ones */
  const pages = async () => {
    const rank = (/** @type {Page} */ { focused, visibilityState }) => {
      if (focused) return 0;
      return visibilityState === "visible" ? 1 : 2;
    };
    const all = await scope.clients.matchAll({ type: "window", includeUncontrolled: true });
    const own = all.filter((/** @type {Page} */ { url }) => url.startsWith(scope.registration.scope));
    return own.sort((/** @type {Page} */ one, /** @type {Page} */ other) => rank(one) - rank(other));
  };

  /**
   * @param {Page} page
   * @param {any} question
   * @returns {Promise<any>} undefined: the page has not answered
   */
  const answerOf = (page, question) => new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    const end = (/** @type {any} */ answer) => {
      port1.close();
      resolve(answer);
    };
    port1.onmessage = ({ data }) => end(data);
    setTimeout(end, ANSWER_MS, undefined);
    page.postMessage(question, [port2]);
  });

  /**
   * The browser has ended the subscription. An open page sends the new one to the server; else the next page does when it starts.
   *
   * @param {any} event
   */
  const renew = async ({ oldSubscription, newSubscription }) => {
    const { registration } = scope;
    const known = await record();
    const applicationServerKey = oldSubscription?.options?.applicationServerKey ?? known?.key;
    if (!known || !applicationServerKey) return;
    if (!newSubscription) await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
    for (const each of await pages()) each.postMessage({ imserver: "renew" });
  };

  /** @returns {Promise<NotificationRecord | null>} null: the page has not subscribed */
  const record = async () => {
    const stored = await (await caches.open(CACHE)).match(scope.registration.scope);
    return stored ? stored.json() : null;
  };
}
