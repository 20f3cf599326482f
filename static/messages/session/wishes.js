// @ts-check
/** What the user wishes to be notified of: of each conversation, as the server said last, and on this device. */

import { fieldsLike, listOf, numberOf, recordOf, textOf } from "../../text.js";
import { Stored } from "./saved-login.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {"all" | "mentions" | "nothing"} Level */
/** @typedef {{ groups: Level, keywords: string[] }} General  for all groups without a wish of their own; words that count as a mention */
/** @typedef {{ level: Level, until: number }} Wish  `until`: no notifications until then, in Unix seconds; 0: not muted */

/**
 * @typedef {object} DeviceWishes
 * @property {boolean} on       notifications of this user come to this device
 * @property {number} question  when the page asked last, in milliseconds since 1970; 0: never
 * @property {boolean} sound
 */

/** Owns the wishes, which the browser remembers until the server answers. */
export class Wishes {
  /** @type {Map<number, Wish>} */
  #conversations;
  /** @type {DeviceWishes} */
  #device;
  /** As the server said since the page was loaded. @type {General} */
  general = { groups: "all", keywords: [] };

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.stored = new Stored(`imserver:wishes:${session.app}:${session.user}`);
    const { conversations, device } = recordOf(this.stored.get());
    this.#conversations = new Map(listOf(conversations).map((pair) => {
      const level = /** @type {Level} */ (textOf(pair?.[1]?.level) || "all");
      return [numberOf(pair?.[0]), { level, until: numberOf(pair?.[1]?.until) }];
    }));
    const defaults = { on: false, question: 0, sound: true };
    this.#device = { ...defaults, ...fieldsLike(device, defaults) };
  }

  /**
   * @param {number} conversation
   * @returns {Wish} its own, or the general one of groups; a mute that has ended counts as none
   */
  of(conversation) {
    const isGroup = this.session.store.conversations.get(conversation)?.group;
    const { level, until } = this.#conversations.get(conversation) ?? { level: isGroup ? this.general.groups : "all", until: 0 };
    return { level, until: until * 1000 > Date.now() ? until : 0 };
  }

  /**
   * @param {number} conversation
   * @param {boolean} [isMention]  the message mentions us
   * @returns {boolean} whether nothing is said of its messages
   */
  isQuiet(conversation, isMention = false) {
    const { level, until } = this.of(conversation);
    return until > 0 || level === "nothing" || (level === "mentions" && !isMention);
  }

  /** @returns {DeviceWishes} */
  get device() {
    return this.#device;
  }

  /** @param {Partial<DeviceWishes>} changes */
  set device(changes) {
    this.#device = { ...this.#device, ...changes };
    this.#save();
  }

  /** Loads the wishes. Never rejected: after a failure, the wishes that the browser remembers stay. */
  async load() {
    if (!this.session.hasNotifications) return;
    const page = await this.session.api("GET", "notifications/conversations").catch(() => null);
    if (!page) return;
    // A node of the release before has none.
    if (page.keywords) this.general = page;
    this.#conversations.clear();
    for (const row of page.conversations) this.#put(row);
    this.#changed();
  }

  /**
   * Changes the wish of a conversation on the server. Rejected with ApiError.
   *
   * @param {number} conversation
   * @param {{ level?: Level, mute_until?: number }} changes
   */
  async change(conversation, changes) {
    this.#put(await this.session.api("POST", "notifications/conversations", { conversation, ...changes }));
    this.#changed();
  }

  /**
   * Takes what any of our devices has changed.
   *
   * @param {import("../../../sdk/messenger.js").Wish} wish
   */
  receive({ conversation, level, muteUntil }) {
    if (!conversation) this.load(); // the general wish has changed
    else this.#put({ conversation, level, mute_until: muteUntil });
    this.#changed();
  }

  /** @param {{ conversation: number, level: Level, mute_until: number }} row  not remembered if it is the default */
  #put({ conversation, level, mute_until: until }) {
    const isDefault = level === "all" && !until && this.general.groups === "all";
    if (isDefault) this.#conversations.delete(conversation);
    else this.#conversations.set(conversation, { level, until });
  }

  #changed() {
    this.#save();
    this.session.changed();
  }

  #save() {
    this.stored.set({ conversations: [...this.#conversations], device: this.#device });
  }
}
