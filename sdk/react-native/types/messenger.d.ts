/**
 * A messenger whose outbox and position stay on the phone when the phone ends the app.
 *
 * @module messenger
 */
import { Messenger } from "imserver-client/messenger";
import { Outbox } from "./outbox.js";
export type Entry = import("imserver-client/messenger").Entry;
export type MessengerOptions = import("imserver-client/messenger").MessengerOptions;
export type More = import("imserver-client/messenger").More;
export type Sent = import("imserver-client/messenger").Sent;
export type PhoneStorage = import("./storage.js").PhoneStorage;
export type EntryStore = {
    /**
     * stores an entry by its `id`. Called for one entry after the other, in order. It is called
     * again a second later if it is rejected, and perhaps at the next start if the app ends meanwhile
     */
    put: (entry: Entry) => unknown;
    /**
     * deletes all entries: the server has begun anew, and sends what it still has
     */
    clear: () => unknown;
};
export type PhoneExtra = {
    /**
     * such as AsyncStorage
     */
    storage: PhoneStorage;
    /**
     * keeps the entries. With it the messenger goes on at a start after the last one that was stored;
     * without it a start begins at the newest entry, and conversations load what they show
     */
    entries?: EntryStore;
};
export type PhoneOptions = Omit<MessengerOptions, "cursor"> & PhoneExtra;
/**
 * A {@link Messenger} with an outbox. It emits `entry` also for messages that we send, edit and recall here. After `close()` it goes
 * on with the next `connect()`.
 */
export declare class PhoneMessenger extends Messenger {
    #private;
    /** Our messages that the server has not stored yet. */
    outbox: Outbox;
    /** @param {PhoneOptions} options */
    constructor({ storage, entries, ...options }: PhoneOptions);
    /**
     * Connects, with the cursor and the outbox that the last start has left on the phone.
     *
     * @override
     */
    connect(): Promise<void>;
    /** @override */
    close(): void;
    /** Closes the messenger, and removes what it has stored on the phone: for a logout. */
    forget(): Promise<void>;
    /**
     * @override
     * @param {string} to
     * @param {string} [text]
     * @param {More} [more]
     */
    send(to: string, text?: string, { clientMsgID, ...more }?: More): Promise<import("imserver-client").Sent>;
    /**
     * @override
     * @param {number} id
     * @param {string} [text]
     * @param {Parameters<Messenger["edit"]>[2]} [more]
     */
    edit(id: number, text?: string, more?: Parameters<Messenger["edit"]>[2]): Promise<import("imserver-client").Sent>;
    /**
     * @override
     * @param {number} id
     */
    recall(id: number): Promise<import("imserver-client").Sent>;
    /**
     * Emits an entry of ours once.
     *
     * @override
     * @protected
     * @param {string} kind
     * @param {any} detail
     */
    protected emit(kind: string, detail: any): void;
}
