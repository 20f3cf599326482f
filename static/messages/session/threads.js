// @ts-check
/** What we keep about threads: which we follow, and what of them is unread. It draws nothing. */

import { mentions } from "../parts/entries.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("../../../sdk/messenger.js").ThreadMark} ThreadMark */

/** After a reply in a thread that is not known, the server may know that we follow it. */
const LOAD_AFTER_MS = 300;

/** @type {WeakMap<Session, Threads>} */
const known = new WeakMap();

/**
 * @param {Session} session
 * @returns {Threads}
 */
export function threadsOf(session) {
  const threads = known.get(session) ?? new Threads(session);
  known.set(session, threads);
  return threads;
}

/** Owns the marks of one login: those of the threads with the newest replies. They are loaded when the first thread is shown. */
class Threads {
  /** By the id of the first message. @type {Map<number, ThreadMark>} */
  #marks = new Map();
  #isLoaded = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #loading;

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    session.on("state", ({ state }) => {
      if (state === "online") this.#isLoaded = false; // it may have changed meanwhile
      else clearTimeout(this.#loading);
    });
    session.on("entry", (entry) => this.#onEntry(entry));
    session.on("threadMark", (mark) => this.receive(mark));
  }

  /**
   * @param {number} root
   * @returns {ThreadMark | undefined} undefined: we do not follow it, as far as the page knows
   */
  of(root) {
    this.load();
    return this.#marks.get(root);
  }

  /** @returns {number} unread replies in all threads that we follow */
  get unread() {
    this.load();
    return [...this.#marks.values()].reduce((sum, { follows, unread }) => sum + (follows ? unread : 0), 0);
  }

  /** Whether we follow any. */
  get isUsed() {
    this.load();
    return [...this.#marks.values()].some(({ follows }) => follows);
  }

  /** Loads the marks, unless they are loaded. */
  load() {
    if (this.#isLoaded || !this.session.isOnline) return;
    this.#isLoaded = true;
    clearTimeout(this.#loading);
    const take = (/** @type {{ threads: ThreadMark[] }} */ { threads }) => threads.forEach((mark) => this.receive(mark));
    this.session.messenger.threads().then(take, () => { this.#isLoaded = false; });
  }

  /** @param {ThreadMark} mark  of the server, perhaps set on another device */
  receive(mark) {
    const before = this.#marks.get(mark.thread);
    // The answer to an earlier request.
    const isOld = before && (mark.last < before.last || mark.read < before.read);
    if (isOld && mark.follows === before.follows) return;
    this.#marks.set(mark.thread, mark);
    this.session.changed();
  }

  /**
   * The user has seen the end of a thread.
   *
   * @param {number} root
   */
  markRead(root) {
    const mark = this.#marks.get(root);
    if (!mark?.unread) return;
    this.receive({ ...mark, unread: 0, read: mark.last });
    // The next connection shows it as unread.
    this.session.messenger.readThread(root, mark.last).catch(() => {});
  }

  /**
   * Counts a reply. If it may have made us follow its thread, the marks are loaded again: we have written it, or it mentions us.
   *
   * @param {Entry} entry
   */
  #onEntry(entry) {
    const { id, kind, from, meta } = entry;
    const { user } = this.session;
    const root = meta?.thread;
    if (kind !== "message" || !root) return;
    const isOurs = from === user;
    const mark = this.#marks.get(root);
    if (mark && id > mark.last) this.receive({ ...mark, last: id, unread: mark.unread + Number(mark.follows && !isOurs) });
    const mayFollow = !mark || (!mark.follows && (isOurs || mentions(entry, user)));
    if (!mayFollow) return;
    this.#isLoaded = false;
    clearTimeout(this.#loading);
    this.#loading = setTimeout(() => this.load(), LOAD_AFTER_MS);
  }
}
