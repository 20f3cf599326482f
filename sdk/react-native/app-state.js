// @ts-check
/** The connection while the app is in the background, and when it comes back. The module does not import React. */

/** @typedef {import("imserver-client").ImClient} ImClient */

/**
 * The part of React Native's `AppState` that is used.
 *
 * @typedef {object} AppStates
 * @property {string | null} [currentState]
 * @property {(kind: "change", listener: (state: any) => void) => { remove: () => void }} addEventListener
 */

/**
 * The part of `@react-native-community/netinfo` that is used.
 *
 * @typedef {{ addEventListener: (listener: (state: { isConnected: boolean | null }) => void) => () => void }} Network
 */

/**
 * @typedef {object} AppStateOptions
 * @property {number} [keepMs]   how long the connection stays in the background; default 15,000. Phones end it sooner or later
 * @property {Network} [network] such as NetInfo: the client does not wait for its next try when the network is back
 */

const KEEP_MS = 15_000;

/**
 * Closes the connection of a client in the background, and connects it at once when the app comes back. Without a connection the
 * user gets notifications.
 *
 * @param {ImClient} client
 * @param {AppStates} appState
 * @param {AppStateOptions} [options]
 * @returns {() => void} ends that
 */
export function followAppState(client, appState, { keepMs = KEEP_MS, network } = {}) {
  /** The client is closed, because the app is in the background. */
  let isAway = false;
  /** Runs from the move to the background until the client is closed. @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const leave = () => {
    timer = undefined;
    // A phone that has slept calls this when the app comes back.
    if (appState.currentState === "active") return;
    // A client that the server has refused, or the app has closed, must not connect when the app comes back.
    const { state } = client.state;
    if (state === "refused" || state === "closed") return;
    isAway = true;
    client.close();
  };
  const wake = () => {
    client.retryNow();
    client.probe();
  };
  const comeBack = () => {
    clearTimeout(timer);
    timer = undefined;
    if (!isAway) return wake();
    isAway = false;
    client.connect().catch(() => {}); // the state has the error
  };
  const change = (/** @type {string} */ state) => {
    if (state === "background" && !isAway) timer ??= setTimeout(leave, keepMs);
    if (state === "active") comeBack();
  };
  const subscription = appState.addEventListener("change", change);

  let wasConnected = true;
  const stopNetwork = network?.addEventListener(({ isConnected }) => {
    if (isConnected && !wasConnected && !isAway) wake();
    wasConnected = isConnected !== false;
  });

  if (appState.currentState === "background") change("background"); // the phone has started the app for a push
  return () => {
    clearTimeout(timer);
    subscription.remove();
    stopNetwork?.();
  };
}
