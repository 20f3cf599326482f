// @ts-check
/** Texts that are not sent yet, one for each conversation. They survive a reload. Tabs share what the browser stores. */

/** @typedef {{ text: string, replyTo?: number, mentions?: [name: string, user: string][] }} Draft */

const SAVE_AFTER_MS = 300;

export class Drafts {
  /** @type {Map<string, Draft>} */
  #drafts;
  /** Conversations whose drafts are not saved. @type {Set<string>} */
  #unsaved = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;

  /** @param {string} key  of the browser's storage */
  constructor(key) {
    this.key = key;
    this.#drafts = this.#stored();
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
    const isEmpty = !draft.text.trim() && !draft.replyTo;
    if (JSON.stringify(isEmpty ? undefined : draft) === JSON.stringify(this.#drafts.get(conversation))) return;
    if (isEmpty) this.#drafts.delete(conversation);
    else this.#drafts.set(conversation, draft);
    this.#unsaved.add(conversation);
    this.#saving ??= setTimeout(() => this.save(), SAVE_AFTER_MS);
  }

  /** Saves now, because the page may go away. Drafts that other tabs have saved are kept. */
  save() {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    if (!this.#unsaved.size) return;
    const stored = this.#stored();
    for (const conversation of this.#unsaved) {
      const draft = this.#drafts.get(conversation);
      if (draft) stored.set(conversation, draft);
      else stored.delete(conversation);
    }
    this.#drafts = stored;
    this.#unsaved.clear();
    try {
      localStorage.setItem(this.key, JSON.stringify(Object.fromEntries(stored)));
    } catch {
      // no storage
    }
  }

  /** @returns {Map<string, Draft>} */
  #stored() {
    try {
      return new Map(Object.entries(JSON.parse(localStorage.getItem(this.key) ?? "{}")));
    } catch {
      return new Map(this.#drafts); // no storage, or not written by this page
    }
  }

  forget() {
    clearTimeout(this.#saving);
    this.#drafts.clear();
    this.#unsaved.clear();
    try {
      localStorage.removeItem(this.key);
    } catch {
      // no storage
    }
  }
}
