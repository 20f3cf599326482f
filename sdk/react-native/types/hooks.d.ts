/** React hooks for apps. */
export type ImClient = import("imserver-client").ImClient;
export type StateChange = import("imserver-client").StateChange;
export type NotificationState = import("imserver-client/notifications").NotificationState;
export type AppStateOptions = import("./app-state.js").AppStateOptions;
export type PhoneMessenger = import("./messenger.js").PhoneMessenger;
export type Unsent = import("./outbox.js").Unsent;
export type Notice = import("./push.js").Notice;
export type Opened = import("./push.js").Opened;
export type PushOptions = import("./push.js").PushOptions;
export type PushSource = import("./push.js").PushSource;
/**
 * `useImClient` in an app: the connection ends in the background, and comes back with the app.
 *
 * @template {ImClient} C
 * @param {() => C} make
 * @param {readonly unknown[]} deps  as of `useEffect`: what `make` depends on
 * @param {AppStateOptions} [options]  the options of the first call count
 * @returns {{ client: C | null, state: StateChange }} `client` is null until the component is mounted
 */
export declare function usePhoneClient<C extends ImClient>(make: () => C, deps: readonly unknown[], options?: AppStateOptions): {
    client: C | null;
    state: StateChange;
};
/** @returns {boolean} whether the user sees the app */
export declare function useIsActive(): boolean;
/**
 * Our messages that the server has not stored yet.
 *
 * @param {PhoneMessenger | null} messenger
 * @returns {readonly Unsent[]}
 */
export declare function useOutbox(messenger: PhoneMessenger | null): readonly Unsent[];
/**
 * Push notifications of the user on this phone.
 *
 * @param {ImClient | null} client
 * @param {PushSource} source
 * @param {PushOptions} options  the options of the first call count
 * @returns {{ state: NotificationState | null, enable: () => Promise<void>, disable: () => Promise<void> }} `state` is null until it is
 *   known. Both functions are rejected with the errors of requests
 */
export declare function usePushNotifications(client: ImClient | null, source: PushSource, options: PushOptions): {
    state: NotificationState | null;
    enable: () => Promise<void>;
    disable: () => Promise<void>;
};
/**
 * Opens what notifications are about, and carries out their actions.
 *
 * @param {PushSource} source
 * @param {string} httpUrl
 * @param {(notice: Notice, opened: Opened) => unknown} open  the function of the last call counts
 */
export declare function useNotificationOpened(source: PushSource, httpUrl: string, open: (notice: Notice, opened: Opened) => unknown): void;
