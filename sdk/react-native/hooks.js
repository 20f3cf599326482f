// @ts-check
/** React hooks for apps. */

import { useImClient } from "imserver-react";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { AppState, Platform } from "react-native";

import { followAppState } from "./app-state.js";
import { onNotificationOpened, PushTokens } from "./push.js";

/** @typedef {import("imserver-client").ImClient} ImClient */
/** @typedef {import("imserver-client").StateChange} StateChange */
/** @typedef {import("imserver-client/notifications").NotificationState} NotificationState */
/** @typedef {import("./app-state.js").AppStateOptions} AppStateOptions */
/** @typedef {import("./messenger.js").PhoneMessenger} PhoneMessenger */
/** @typedef {import("./outbox.js").Unsent} Unsent */
/** @typedef {import("./push.js").Notice} Notice */
/** @typedef {import("./push.js").Opened} Opened */
/** @typedef {import("./push.js").PushOptions} PushOptions */
/** @typedef {import("./push.js").PushSource} PushSource */

/** Always this list, since React compares. @type {readonly Unsent[]} */
const NOTHING_WAITS = [];
/** The longest name of a device, in characters. */
const NAME_LENGTH = 64;

/**
 * `useImClient` in an app: the connection ends in the background, and comes back with the app.
 *
 * @template {ImClient} C
 * @param {() => C} make
 * @param {readonly unknown[]} deps  as of `useEffect`: what `make` depends on
 * @param {AppStateOptions} [options]  the options of the first call count
 * @returns {{ client: C | null, state: StateChange }} `client` is null until the component is mounted
 */
export function usePhoneClient(make, deps, options) {
  const { client, state } = useImClient(make, deps);
  const [firstOptions] = useState(options);
  useEffect(() => {
    if (client) return followAppState(client, AppState, firstOptions);
  }, [client, firstOptions]);
  return { client, state };
}

/** @returns {boolean} whether the user sees the app */
export function useIsActive() {
  return useSyncExternalStore(followActive, isActive, isActive);
}

/**
 * Our messages that the server has not stored yet.
 *
 * @param {PhoneMessenger | null} messenger
 * @returns {readonly Unsent[]}
 */
export function useOutbox(messenger) {
  const subscribe = useCallback((/** @type {() => void} */ changed) => messenger?.outbox.subscribe(changed) ?? (() => {}), [messenger]);
  const items = () => messenger?.outbox.items ?? NOTHING_WAITS;
  return useSyncExternalStore(subscribe, items, items);
}

/**
 * Push notifications of the user on this phone.
 *
 * @param {ImClient | null} client
 * @param {PushSource} source
 * @param {PushOptions} options  the options of the first call count
 * @returns {{ state: NotificationState | null, enable: () => Promise<void>, disable: () => Promise<void> }} `state` is null until it is
 *   known. Both functions are rejected with the errors of requests
 */
export function usePushNotifications(client, source, options) {
  const [state, setState] = useState(/** @type {NotificationState | null} */ (null));
  const [firstOptions] = useState({ device: phoneName(), ...options });
  const tokens = useMemo(() => client && new PushTokens(client, source, firstOptions), [client, source, firstOptions]);
  useEffect(() => {
    setState(null);
    if (!tokens) return;
    let isMounted = true;
    const show = (/** @type {NotificationState} */ found) => {
      if (isMounted) setState(found);
    };
    tokens.state().then(show, () => {}); // no answer: it stays unknown
    const stop = tokens.follow();
    return () => {
      isMounted = false;
      stop();
    };
  }, [tokens]);
  const enable = useCallback(async () => {
    if (tokens) setState(await tokens.enable());
  }, [tokens]);
  const disable = useCallback(async () => {
    if (!tokens) return;
    await tokens.disable();
    setState("off");
  }, [tokens]);
  return { state, enable, disable };
}

/**
 * Opens what notifications are about, and carries out their actions.
 *
 * @param {PushSource} source
 * @param {string} httpUrl
 * @param {(notice: Notice, opened: Opened) => unknown} open  the function of the last call counts
 */
export function useNotificationOpened(source, httpUrl, open) {
  const newestOpen = useRef(open);
  newestOpen.current = open;
  useEffect(() => {
    return onNotificationOpened(source, { httpUrl, open: (notice, opened) => newestOpen.current(notice, opened) });
  }, [source, httpUrl]);
}

const isActive = () => AppState.currentState === "active";

/** @param {() => void} changed */
function followActive(changed) {
  const subscription = AppState.addEventListener("change", changed);
  return () => subscription.remove();
}

/** @returns {string} the model of an Android phone; iOS does not say it */
function phoneName() {
  if (Platform.OS === "ios") return "iOS";
  const { Model } = /** @type {{ Model?: string }} */ (Platform.constants);
  return (Model ?? "Android").slice(0, NAME_LENGTH);
}
