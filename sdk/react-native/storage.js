// @ts-check
/** Values that stay on the phone, in a storage that the app passes, such as AsyncStorage. */

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
export class StoredValue {
  #storage;
  #key;
  /** The value that is to be written; null: nothing. @type {{ value: T | null } | null} */
  #next = null;
  /** The write that runs; null: no write runs. @type {Promise<void> | null} */
  #writing = null;

  /**
   * @param {PhoneStorage} storage
   * @param {...(string | number)} key
   */
  constructor(storage, ...key) {
    this.#storage = storage;
    this.#key = `imserver ${JSON.stringify(key)}`;
  }

  /** @returns {Promise<T | null>} null: there is no value, or it is not JSON */
  async get() {
    const text = await this.#storage.getItem(this.#key);
    try {
      return text === null ? null : JSON.parse(text);
    } catch {
      return null;
    }
  }

  /**
   * @param {T | null} value  null: removes it
   * @returns {Promise<void>} resolved when this value, or a newer one, is stored
   */
  set(value) {
    this.#next = { value };
    const write = () => this.#write();
    return this.#writing ? this.#writing.then(write, write) : write();
  }

  /**
   * Writes the next value, unless another call writes.
   *
   * @returns {Promise<void>}
   */
  #write() {
    if (this.#writing) return this.#writing; // an earlier call has begun it, with the newest value
    if (!this.#next) return Promise.resolve();
    const { value } = this.#next;
    this.#next = null;
    const stored = value === null ? this.#storage.removeItem(this.#key) : this.#storage.setItem(this.#key, JSON.stringify(value));
    const end = () => { this.#writing = null; };
    this.#writing = Promise.resolve(stored).then(() => {});
    this.#writing.then(end, end);
    return this.#writing;
  }
}
