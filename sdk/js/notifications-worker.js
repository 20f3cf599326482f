// @ts-check
/**
 * The part of a service worker that shows notifications. A worker includes it with one line:
 *
 *     importScripts("https://im.example.com/sdk/notifications-worker.js");
 *
 * or, as a module of a bundle, `import "imserver-client/notifications-worker";`. It listens to `push`, `notificationclick`,
 * `notificationclose` and `pushsubscriptionchange`. Actions work while no page is open. A click goes to an open page, whose
 * `onNotification` answers, or opens a page.
 *
 * @module notifications-worker
 */

{
  /** @typedef {import("./notifications.js").Shown} Shown */
  /** @typedef {import("./notifications.js").NotificationRecord} NotificationRecord */
  /**
   * An open page, as far as it is used.
   *
   * @typedef {object} Page
   * @property {string} url
   * @property {boolean} focused
   * @property {string} visibilityState
   * @property {() => Promise<unknown>} focus
   * @property {(url: string) => Promise<unknown>} navigate
   * @property {(data: any, transfer?: any[]) => void} postMessage
   */

  /** The cache with the record of this worker. notifications.js writes it. */
  const CACHE = "imserver:notifications";
  /** How long a page may take to answer. */
  const ANSWER_MS = 500;
  /** The action of an option of a question is this prefix and the value of the option. */
  const ANSWER_PREFIX = "answer:";
  /** Pauses between tries to send an action. */
  const RETRIES_MS = [1_000, 4_000, 15_000];
  const TOO_MANY_REQUESTS = 429;
  /** @type {Record<string, import("./notifications.js").NotificationWords>} */
  const WORDS = {
    en: { reply: "Reply", read: "Mark as read", notSent: "Not sent: {text}" },
    zh: { reply: "回复", read: "标为已读", notSent: "未发送：{text}" },
  };

  /** TypeScript's types of pages do not have the scope of a worker. @type {any} */
  const scope = self;
  /** Safari ends the subscription of a worker that gets a push and shows nothing. */
  const mustShow = /Version\/[\d.]+.*Safari/.test(scope.navigator?.userAgent ?? "");

  /**
   * Ends when all pushes so far are handled. A push waits for the push before it, so that an old push closes no newer notification.
   *
   * @type {Promise<void>}
   */
  let handled = Promise.resolve();

  scope.addEventListener("push", (/** @type {any} */ event) => {
    const shown = shownIn(event.data);
    if (!shown) return;
    const handle = () => handlePush(shown);
    handled = handled.then(handle, handle);
    event.waitUntil(handled);
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
      const isOurs = typeof shown?.tag === "string" && ["message", "push", "close", "test"].includes(shown.kind);
      return isOurs ? shown : null;
    } catch {
      return null;
    }
  };

  /**
   * Shows a notification. A push of the kind `close` closes it, and so does a message that a visible page shows.
   *
   * @param {Shown} shown
   */
  const handlePush = async (shown) => {
    const isNeeded = shown.kind !== "close" && !(await isVisible(shown));
    if (isNeeded) {
      await show(shown);
    } else {
      if (mustShow) await scope.registration.showNotification(shown.title ?? "", { tag: shown.tag, silent: true });
      await close(shown.tag);
    }
    await showBadge();
  };

  /** @param {Shown} shown */
  const show = async (shown) => {
    const { tag, title = "", body = "", icon, time, count = 0 } = shown;
    const known = await record();
    const server = known?.url ?? location.origin;
    const isPath = typeof icon === "string" && /^\/(?!\/)/.test(icon);
    const picture = addressOf(isPath ? server + icon : icon, server); // the server may be below a path
    await scope.registration.showNotification(title, {
      body,
      tag,
      actions: shown.actions ?? usualActions(shown, known),
      renotify: !shown.silent,
      silent: shown.silent === true,
      timestamp: time || Date.now(),
      dir: "auto",
      lang: known?.language ?? "",
      ...(picture && { icon: picture.href }),
      data: { imserver: shown, count },
    });
  };

  /**
   * The actions of a message. Without a token the worker cannot carry them out.
   *
   * @param {Shown} shown
   * @param {NotificationRecord | null} known
   */
  const usualActions = ({ kind, token }, known) => {
    if (kind !== "message" || !token) return [];
    const { reply, read } = wordsOf(known);
    return [{ action: "reply", title: reply, type: "text", placeholder: reply }, { action: "read", title: read }];
  };

  /**
   * @param {unknown} address  that somebody has chosen
   * @param {string} base
   * @returns {URL | null} null: it is no address
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
   * Shows the number of unread messages that notifications are about, on the icon of the application. An open page knows it better.
   */
  const showBadge = async () => {
    const { navigator } = scope;
    if (!navigator.setAppBadge || (await pages()).length) return;
    const notifications = await scope.registration.getNotifications();
    const count = notifications.reduce((/** @type {number} */ sum, /** @type {any} */ { data }) => sum + (data?.count ?? 0), 0);
    const changed = count ? navigator.setAppBadge(count) : navigator.clearAppBadge();
    await changed.catch(() => {}); // the application is not installed
  };

  /**
   * Carries out the action of a click. Without one, or if it fails, a page shows what the notification is about.
   *
   * @param {Shown} shown
   * @param {string} action  empty: a click beside the actions
   * @param {string} [text]  of the reply, where the browser has a field for it
   */
  const click = async (shown, action, text) => {
    const isReply = action === "reply" && Boolean(text);
    if (shown.token && action.startsWith(ANSWER_PREFIX)) return answer(shown, action.slice(ANSWER_PREFIX.length));
    if (shown.token && (action === "read" || isReply)) {
      const result = await act({ token: shown.token, action, ...(isReply && { text }) });
      if (result) return showBadge();
      if (!isReply) return open(shown, "");
      // The text must not be lost: a notification shows it, and a click on that opens the conversation.
      const { notSent } = wordsOf(await record());
      return show({ ...shown, body: notSent.replace("{text}", () => text ?? ""), actions: [] });
    }
    const chosen = shown.actions?.find((each) => each.action === action);
    await open(shown, chosen?.url ?? "");
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
    for (const pauseMs of [...RETRIES_MS, 0]) {
      const response = await fetch(`${url}/api/v1/notifications/act`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(action), credentials: "omit",
      }).catch(() => null);
      if (response?.ok) return response.json().catch(() => ({}));
      const isRefused = response && response.status < 500 && response.status !== TOO_MANY_REQUESTS;
      if (isRefused) return null;
      if (pauseMs) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
    return null;
  };

  /**
   * Shows what a notification is about: in an open page, or in a new one.
   *
   * @param {Shown} shown
   * @param {string} url  of an action; empty: the address of the notification
   */
  const open = async (shown, url) => {
    const { conversation = 0, id = 0 } = shown;
    const { page = scope.registration.scope } = (await record()) ?? {};
    const wanted = url || shown.url || page.replace("{conversation}", String(conversation)).replace("{id}", String(id));
    const { href: address, origin } = addressOf(wanted, scope.registration.scope) ?? new URL(scope.registration.scope);
    const [firstPage] = origin === location.origin ? await pages() : [];
    if (!firstPage) return scope.clients.openWindow(address);
    await firstPage.focus().catch(() => {}); // the browser may not allow it
    if (!url && (await answerOf(firstPage, { imserver: "open", shown }))) return;
    await firstPage.navigate(address).catch(() => scope.clients.openWindow(address)); // a page that another worker controls
  };

  /**
   * Asks the visible pages whether one of them shows the message.
   *
   * @param {Shown} shown
   */
  const isVisible = async (shown) => {
    const visiblePages = (await pages()).filter(({ visibilityState }) => visibilityState === "visible");
    const answers = await Promise.all(visiblePages.map((page) => answerOf(page, { imserver: "shows", shown })));
    return answers.includes(true);
  };

  /** @returns {Promise<Page[]>} open pages of this worker, the one with the focus first, then visible ones */
  const pages = async () => {
    const rankOf = (/** @type {Page} */ { focused, visibilityState }) => {
      if (focused) return 0;
      return visibilityState === "visible" ? 1 : 2;
    };
    /** @type {Page[]} */
    const all = await scope.clients.matchAll({ type: "window", includeUncontrolled: true });
    const inScope = all.filter(({ url }) => url.startsWith(scope.registration.scope));
    return inScope.sort((one, other) => rankOf(one) - rankOf(other));
  };

  /**
   * Asks a page a question, which its `onNotification` answers.
   *
   * @param {Page} page
   * @param {any} question
   * @returns {Promise<any>} undefined: the page has not answered in time
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
   * Subscribes again after the browser has ended the subscription. An open page sends the new subscription to the server. If no page
   * is open, the next page does so when it starts.
   *
   * @param {any} event
   */
  const renew = async ({ oldSubscription, newSubscription }) => {
    const { registration } = scope;
    const known = await record();
    const applicationServerKey = oldSubscription?.options?.applicationServerKey ?? known?.key;
    if (!known || !applicationServerKey) return;
    if (!newSubscription) await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
    for (const page of await pages()) page.postMessage({ imserver: "renew" });
  };

  /** @returns {Promise<NotificationRecord | null>} null: the page has not subscribed */
  const record = async () => {
    const cache = await caches.open(CACHE);
    const stored = await cache.match(scope.registration.scope);
    return stored ? stored.json() : null;
  };
}
