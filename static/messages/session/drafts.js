// @ts-check
/**
 * Texts that are not sent yet, one for each conversation. They survive a reload. Tabs share what the browser stores; the inbox
 * shares them with other devices.
 */

import { listOf, numberOf, recordOf, textOf } from "../../text.js";

/** @typedef {{ text: string, replyTo?: number, mentions?: [name: string, user: string][] }} Draft */

/** Drafts are saved so long after the first of several changes. */
const SAVE_AFTER_MS = 300;
/** An empty draft. @type {Draft} */
const NONE = { text: "" };

export class Drafts {
  /** `unsent`: other devices do not have it yet. @type {Map<string, Draft & { unsent?: true }>} */
  #drafts;
  /** Conversations whose drafts are not saved. @type {Set<string>} */
  #unsaved = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;

  /** @param {string} key  of the browser's storage */
  constructor(key) {
    this.key = key;
    this.#drafts = this.#stored();
    /** Called when other devices should get drafts; `now`: without waiting for more of the text. @type {(now: boolean) => void} */
    this.onUnsent = () => {};
  }

  /**
   * @param {string} conversation  see `keyOf` of the store
   * @returns {Draft}
   */
  get(conversation) {
    const { unsent, ...draft } = { ...NONE, ...this.#drafts.get(conversation) };
    return draft;
  }

  /**
   * Remembers what is typed. A draft that has become empty is sent at once.
   *
   * @param {string} conversation
   * @param {Draft} typed
   */
  set(conversation, typed) {
    const isEmpty = !typed.text.trim() && !typed.replyTo;
    const draft = isEmpty ? NONE : typed;
    if (isSame(draft, this.get(conversation))) return;
    this.#put(conversation, { ...draft, unsent: true });
    this.onUnsent(isEmpty);
  }

  /** @returns {string[]} conversations whose drafts other devices do not have yet */
  get unsent() {
    return [...this.#drafts].filter(([, { unsent }]) => unsent).map(([conversation]) => conversation);
  }

  /**
   * Other devices have a draft.
   *
   * @param {string} conversation
   * @param {Draft} draft  as it was sent; it may have changed since
   */
  sent(conversation, draft) {
    if (isSame(draft, this.get(conversation))) this.#put(conversation, draft);
  }

  /**
   * Takes a draft of another device, unless a draft of this device was not sent yet.
   *
   * @param {string} conversation
   * @param {Draft} draft
   * @returns {boolean} whether it is another one now
   */
  receive(conversation, draft) {
    if (this.#drafts.get(conversation)?.unsent || isSame(draft, this.get(conversation))) return false;
    this.#put(conversation, draft);
    return true;
  }

  /**
   * @param {string} conversation
   * @param {Draft & { unsent?: true }} draft
   */
  #put(conversation, draft) {
    if (isSame(draft, NONE)) this.#drafts.delete(conversation);
    else this.#drafts.set(conversation, draft);
    this.#unsaved.add(conversation);
    this.#saving ??= setTimeout(() => this.#save(), SAVE_AFTER_MS);
  }

  /** Saves and sends all drafts now, because the page may go away. */
  save() {
    this.#save();
    if (this.unsent.length) this.onUnsent(true);
  }

  /** Saves the drafts that have changed here. For all other conversations, the drafts that other tabs have saved are kept. */
  #save() {
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

  /** @returns {Map<string, Draft & { unsent?: true }>} */
  #stored() {
    try {
      const stored = Object.entries(recordOf(JSON.parse(localStorage.getItem(this.key) ?? "{}")));
      return new Map(stored.map(([conversation, draft]) => [conversation, draftOf(draft)]));
    } catch {
      return new Map(this.#drafts); // no storage, or not written by this page
    }
  }

  /** Another user may use this browser next. */
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

/**
 * @param {any} stored  by this version of the page or an earlier one
 * @returns {Draft & { unsent?: true }}
 */
function draftOf(stored) {
  const { text: typed, replyTo, mentions, unsent } = recordOf(stored);
  const isPair = (/** @type {any} */ pair) => Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === "string");
  const pairs = listOf(mentions).filter(isPair);
  return { text: textOf(typed), ...(numberOf(replyTo) && { replyTo }), ...(pairs.length && { mentions: pairs }), ...(unsent === true && { unsent }) };
}

/**
 * @param {Draft} one
 * @param {Draft} other
 */
function isSame(one, other) {
  const key = (/** @type {any} */ { text, replyTo = 0, mentions = [], unsent = false }) => JSON.stringify([text, replyTo, mentions, unsent]);
  return key(one) === key(other);
}
