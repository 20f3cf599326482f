// @ts-check
/** What the browser stores of one login in IndexedDB. Without IndexedDB everything works, but nothing is there when offline. */

import { entryOf } from "../../../sdk/messenger.js";

const VERSION = 1;
/** If the browser does not open the database within this time, the page works without it until it is open. */
const OPEN_MS = 10_000;

/** @typedef {"conversations" | "entries" | "outbox"} Table */

export class Database {
  /** null: it is not open yet, or cannot be opened. @type {Promise<IDBDatabase | null>} */
  #database;

  /** @param {string} name */
  constructor(name) {
    this.name = name;
    const opened = open(name);
    const timeout = new Promise((/** @type {(none: null) => void} */ resolve) => {
      const timer = setTimeout(() => resolve(null), OPEN_MS);
      opened.then(() => clearTimeout(timer));
    });
    this.#database = Promise.race([opened, timeout]);
    /** Resolved with true when the browser has opened it late: until then, reads have found nothing. */
    this.isLate = this.#database.then(async (database) => {
      if (database || !(await opened)) return false;
      this.#database = opened;
      return true;
    });
  }

  /**
   * All rows of a table, in the order of their keys.
   *
   * @param {Table} table
   * @returns {Promise<any[]>}
   */
  async all(table) {
    return (await this.#run(table, "readonly", (rows) => rows.getAll())) ?? [];
  }

  /**
   * @param {Table} table
   * @param {string | number} key
   * @returns {Promise<any>} undefined: there is none
   */
  async get(table, key) {
    return this.#run(table, "readonly", (rows) => rows.get(key));
  }

  /**
   * @param {Table} table
   * @param {any[]} rows
   * @returns {Promise<boolean>} whether the browser has stored them
   */
  async put(table, rows) {
    if (!rows.length) return false;
    const key = await this.#run(table, "readwrite", (store) => rows.map((row) => store.put(row)).at(-1));
    return key !== undefined;
  }

  /**
   * @param {Table} table
   * @param {(string | number)[]} keys
   */
  async delete(table, keys) {
    if (!keys.length) return;
    await this.#run(table, "readwrite", (store) => keys.map((key) => store.delete(key)).at(-1));
  }

  /** @param {Table} table  of which all rows are deleted */
  async clear(table) {
    await this.#run(table, "readwrite", (store) => store.clear());
  }

  /**
   * The entries of a conversation on one side of an id.
   *
   * @param {number} conversation
   * @param {{ before?: number, after?: number, limit: number }} page  without `after`: the newest before `before`
   * @returns {Promise<import("../../../sdk/messenger.js").Entry[]>} in order
   */
  async entries(conversation, { before = Infinity, after, limit }) {
    const database = await this.#database;
    if (!database) return [];
    // Both ranges leave out the id itself.
    const range = after === undefined
      ? IDBKeyRange.bound([conversation, 0], [conversation, before], false, true)
      : IDBKeyRange.bound([conversation, after], [conversation, Infinity], true);
    return new Promise((resolve) => {
      /** @type {any[]} */
      const found = [];
      const index = database.transaction("entries").objectStore("entries").index("conversation");
      const cursors = index.openCursor(range, after === undefined ? "prev" : "next");
      cursors.onerror = () => resolve([]);
      cursors.onsuccess = () => {
        const cursor = cursors.result;
        if (!cursor || found.length === limit) return resolve(after === undefined ? found.reverse() : found);
        const entry = entryOf(cursor.value);
        if (entry) found.push(entry);
        cursor.continue();
      };
    });
  }

  /** Deletes everything, after a logout. */
  async forget() {
    (await this.#database)?.close();
    try {
      indexedDB.deleteDatabase(this.name);
    } catch {
      // it is forbidden: nothing was stored
    }
  }

  /**
   * Runs requests in one transaction.
   *
   * @param {Table} table
   * @param {IDBTransactionMode} mode
   * @param {(store: IDBObjectStore) => IDBRequest | undefined} work  returns the request whose result is wanted
   * @returns {Promise<any>} undefined: the browser could not do it
   */
  async #run(table, mode, work) {
    const database = await this.#database;
    if (!database) return undefined;
    return new Promise((resolve) => {
      try {
        const transaction = database.transaction(table, mode);
        const request = work(transaction.objectStore(table));
        // A full disk is noticed after the requests.
        transaction.oncomplete = () => resolve(request?.result);
        transaction.onabort = () => resolve(undefined);
      } catch {
        resolve(undefined); // closed by a logout in another tab, or the disk is full
      }
    });
  }
}

/**
 * Opens a database, and creates its tables at the first time.
 *
 * @param {string} name
 * @returns {Promise<IDBDatabase | null>} null: the browser cannot open it
 */
function open(name) {
  return new Promise((resolve) => {
    try {
      const request = indexedDB.open(name, VERSION);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("conversations", { keyPath: "id" });
        request.result.createObjectStore("outbox", { keyPath: "id" });
        const entries = request.result.createObjectStore("entries", { keyPath: "id" });
        entries.createIndex("conversation", ["conversation", "id"]);
      };
      request.onsuccess = () => {
        // Another tab deletes it, or a later version of the page in another tab needs more tables.
        request.result.onversionchange = () => request.result.close();
        resolve(request.result);
      };
      request.onerror = () => resolve(null);
      request.onblocked = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
}
