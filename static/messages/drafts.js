// @ts-check
/** Texts that are not sent yet, one for each conversation. They survive a reload. */

/** @typedef {{ text: string, replyTo?: number }} Draft */

const SAVE_AFTER_MS = 300;

export class Drafts {
  /** @type {Map<string, Draft>} */
  #drafts = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;

  /** @param {string} key  of the browser's storage */
  constructor(key) {
    this.key = key;
    try {
      this.#drafts = new Map(Object.entries(JSON.parse(localStorage.getItem(key) ?? "{}")));
    } catch {
      // no storage, or not written by this page
    }
  }

  /**
   * @param {string} conversation  see `keyOf` of the store
   * @returns {Draft}
   */
  get(conversation) {
    return this.#drafts.get(conversation) ?? { text: "" };
  }

  /**
   * @param {string} conversation
   * @param {Draft} draft
   */
  set(conversation, draft) {
    if (draft.text.trim() || draft.replyTo) this.#drafts.set(conversation, draft);
    else this.#drafts.delete(conversation);
    this.#saving ??= setTimeout(() => this.save(), SAVE_AFTER_MS);
  }

  /** Saves now, because the page may go away. */
  save() {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    try {
      localStorage.setItem(this.key, JSON.stringify(Object.fromEntries(this.#drafts)));
    } catch {
      // no storage
    }
  }

  forget() {
    clearTimeout(this.#saving);
    this.#drafts.clear();
    try {
      localStorage.removeItem(this.key);
    } catch {
      // no storage
    }
  }
}
