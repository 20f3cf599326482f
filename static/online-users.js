// @ts-check
/**
 * The list of online users. It is read half a second after each login; then notices keep it up to date. In a big app
 * the server sends no notices: then the list is read every minute.
 */

import { avatar } from "./page-parts.js";
import { fill, make } from "./text.js";

const FIRST_READ_MS = 500;
const READ_EACH_MS = 60_000;
const RETRY_MS = 10_000;
/** Several changes within this time are drawn at once. */
const DRAW_MS = 50;
const MAX_ROWS = 300;

/** @typedef {import("../sdk/imserver.js").ImClient} ImClient */

/** @typedef {{ list: HTMLElement, note: HTMLElement, counts: HTMLElement[] }} Elements */

/** Owns the names of the online users and their list. */
export class OnlineUsers {
  /** @type {Set<string>} */
  #names = new Set();
  #count = 0;
  /** @type {Map<string, boolean> | null} changes during a request: true for a login, false for a logout */
  #pending = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** Whether a drawing is scheduled. */
  #drawing = false;
  /** Whether this page is connected. */
  #online = false;
  /** Whether the list was read. */
  #known = false;
  /** Whether the last request for the list has failed. */
  #failed = false;

  /**
   * @param {ImClient} client
   * @param {Elements} elements
   * @param {Record<string, string>} words
   * @param {{ noticeMembers: number, language: string }} page
   * @param {(alone: boolean) => void} onAlone  called when the list is drawn: whether no other user is online
   */
  constructor(client, elements, words, { noticeMembers, language }, onAlone) {
    this.client = client;
    this.elements = elements;
    this.words = words;
    this.onAlone = onAlone;
    this.noticeMembers = noticeMembers;
    this.collator = new Intl.Collator(language, { numeric: true });
    client.on("enter", ({ from }) => this.#move(from, true));
    client.on("exit", ({ from }) => this.#move(from, false));
    client.on("state", ({ state }) => this.#follow(state === "online"));
  }

  /** @param {boolean} online */
  #follow(online) {
    if (this.#online === online) return;
    this.#online = online;
    clearTimeout(this.#timer);
    if (online) {
      this.#move(this.client.user, true);
      this.#timer = setTimeout(() => this.#read(), FIRST_READ_MS);
    }
    this.#draw();
  }

  /** Reads the list. Users who come or leave during the request are added or removed afterwards. */
  async #read() {
    const pending = new Map();
    this.#pending = pending;
    try {
      const { userList, userCount } = await this.client.userList();
      this.#names = new Set(userList.map(String));
      this.#count = Math.max(userCount, this.#names.size);
      this.#known = true;
      this.#failed = false;
      this.#pending = null;
      for (const [name, isOnline] of pending) this.#move(name, isOnline);
      if (this.#online) this.#move(this.client.user, true);
    } catch {
      this.#pending = null;
      this.#known = false;
      this.#failed = true;
    }
    this.#draw();
    if (this.#online) this.#schedule();
  }

  /** Reads the list again after a while: if the last request has failed, or in a big app. */
  #schedule() {
    clearTimeout(this.#timer);
    const read = () => this.#read();
    // The pages of a big app shall not all ask in the same second.
    const spreadMs = READ_EACH_MS * (0.9 + 0.2 * Math.random());
    if (!this.#known) this.#timer = setTimeout(read, RETRY_MS);
    else if (this.#isBig()) this.#timer = setTimeout(read, spreadMs);
  }

  #isBig() {
    return this.#count >= this.noticeMembers;
  }

  /**
   * @param {string} name
   * @param {boolean} isOnline
   */
  #move(name, isOnline) {
    this.#pending?.set(name, isOnline);
    const wasBig = this.#isBig();
    if (isOnline && !this.#names.has(name)) {
      this.#names.add(name);
      this.#count += 1;
    } else if (!isOnline && this.#names.delete(name)) {
      this.#count -= 1;
    }
    if (!wasBig && this.#isBig() && this.#known && this.#online) this.#schedule();
    this.#draw();
  }

  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    setTimeout(() => {
      this.#drawing = false;
      this.#render();
    }, DRAW_MS);
  }

  #render() {
    const self = this.client.user;
    const names = [...this.#names].sort((one, other) => Number(other === self) - Number(one === self) || this.collator.compare(one, other));
    const rows = names.slice(0, MAX_ROWS).map((name) => {
      const row = make("li", "", avatar(name), make("bdi", "", name));
      if (name === self) row.append(make("small", "", this.words.self_mark));
      return row;
    });
    this.elements.list.replaceChildren(...rows);
    for (const count of this.elements.counts) count.textContent = String(this.#count);
    this.onAlone(this.#isAlone());
    this.elements.list.classList.toggle("stale", !this.#online);
    const notes = this.#notes();
    this.elements.note.textContent = notes;
    this.elements.note.hidden = !notes;
  }

  #isAlone() {
    return this.#online && this.#known && this.#names.size === 1 && this.#count === 1;
  }

  /** @returns {string} what stands below the list; empty: nothing */
  #notes() {
    const words = this.words;
    if (this.#online && !this.#known) {
      const hasOthers = this.#names.size > 1;
      return this.#failed && !hasOthers ? words.people_failed : "";
    }
    if (!this.#names.size) return words.people_waiting;
    if (this.#isAlone()) return words.people_alone;
    const notes = [];
    const hidden = this.#count - Math.min(this.#names.size, MAX_ROWS);
    if (hidden > 0) notes.push(fill(words.people_more, { count: hidden }));
    if (this.#isBig()) notes.push(words.people_each_minute);
    return notes.join(" · ");
  }
}
