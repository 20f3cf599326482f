/** The connection while the app is in the background, and when it comes back. The module does not import React. */
export type ImClient = import("imserver-client").ImClient;
export type AppStates = {
    currentState?: string | null;
    addEventListener: (kind: "change", listener: (state: any) => void) => {
        remove: () => void;
    };
};
export type Network = {
    addEventListener: (listener: (state: {
        isConnected: boolean | null;
    }) => void) => () => void;
};
export type AppStateOptions = {
    /**
     * how long the connection stays in the background; default 15,000. Phones end it sooner or later
     */
    keepMs?: number;
    /**
     * such as NetInfo: the client does not wait for its next try when the network is back
     */
    network?: Network;
};
/**
 * Closes the connection of a client in the background, and connects it at once when the app comes back. Without a connection the
 * user gets notifications.
 *
 * @param {ImClient} client
 * @param {AppStates} appState
 * @param {AppStateOptions} [options]
 * @returns {() => void} ends that
 */
export declare function followAppState(client: ImClient, appState: AppStates, { keepMs, network }?: AppStateOptions): () => void;
