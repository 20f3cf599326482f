/** Values that stay on the phone, in a storage that the app passes, such as AsyncStorage. */
export type PhoneStorage = {
    getItem: (key: string) => Promise<string | null>;
    setItem: (key: string, value: string) => Promise<unknown>;
    removeItem: (key: string) => Promise<unknown>;
};
/**
 * @typedef {object} PhoneStorage
 * @property {(key: string) => Promise<string | null>} getItem
 * @property {(key: string, value: string) => Promise<unknown>} setItem
 * @property {(key: string) => Promise<unknown>} removeItem
 */
/**
 * A value of a storage. One write runs at a time; after it the newest value is written.
 *
 * @template T  what JSON can be
 */
export declare class StoredValue<T> {
    #private;
    /**
     * @param {PhoneStorage} storage
     * @param {...(string | number)} key
     */
    constructor(storage: PhoneStorage, ...key: (string | number)[]);
    /** @returns {Promise<T | null>} null: there is no value, or it is not JSON */
    get(): Promise<T | null>;
    /**
     * @param {T | null} value  null: removes it
     * @returns {Promise<void>} resolved when this value, or a newer one, is stored
     */
    set(value: T | null): Promise<void>;
}
