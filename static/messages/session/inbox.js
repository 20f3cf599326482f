// @ts-check
/** What the user keeps about conversations, for themselves on all devices: pins, archived ones, marks as unread, folders, drafts. */

import { CommandRefused } from "../../../sdk/errors.js";
import { fieldsLike, listOf, numberOf, recordOf, textOf } from "../../text.js";
import { Stored } from "./saved-login.js";
import { keyOf } from "./store.js";

/** @typedef {import("../../../sdk/messenger.js").Arrangement} Arrangement */
/** @typedef {import("../../../sdk/messenger.js").Draft} UnsentDraft */
/** @typedef {import("./drafts.js").Draft} Draft */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */
/** @typedef {{ pinned?: number, archived?: number, marked?: number, folders?: number[] }} Change */
/** @typedef {import("../../../sdk/messenger.js").FolderList} FolderList */

/** A draft is sent when it has not changed for so long. */
const DRAFT_AFTER_MS = 1_500;
/** The server refuses longer drafts, and closes the connection of a much longer one. Bytes of JSON. */
const MOST_DRAFT_BYTES = 16_384;
/** Answer code of a server that does not know the command. */
const UNKNOWN_COMMAND = 1010;
/** `archived` of a conversation that the user has left and removed from the list: no entry has such an id. */
const GONE = 2 ** 52;
/** Nothing is arranged: the fields of an arrangement, with their types. */
const NONE = { version: 0, pinned: 0, archived: 0, marked: 0 };

/** Owns the arrangements. The browser stores them, so that the list is right before the server answers. */
export class Inbox {
  /** @type {Map<number, Arrangement>} */
  #rows;
  /** The server's changes are loaded up to this version. */
  #version;
  /** @type {FolderList} */
  #folders;
  /** Arrangements with drafts whose conversations were not loaded when they came. @type {Set<number>} */
  #early = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #sending;
  /** Whether this server arranges conversations. */
  isOffered = true;

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.stored = new Stored(`imserver:inbox:${session.app}:${session.user}`);
    const { version, rows, folders } = recordOf(this.stored.get());
    this.#version = numberOf(version);
    const list = listOf(folders?.folders).map((folder) => ({ id: numberOf(folder?.id), name: textOf(folder?.name) }));
    this.#folders = { version: numberOf(folders?.version), folders: list };
    this.#rows = new Map(listOf(rows).map((row) => {
      const conversation = numberOf(row?.conversation);
      return [conversation, { ...row, conversation, ...NONE, ...fieldsLike(row, NONE), folders: listOf(row?.folders) }];
    }));
    session.drafts.onUnsent = (now) => this.#sendDraftsLater(now);
  }

  /**
   * @param {number} conversation
   * @returns {Arrangement}
   */
  of(conversation) {
    return this.#rows.get(conversation) ?? { conversation, ...NONE };
  }

  /**
   * @param {Conversation} conversation
   * @returns {number} the greatest comes first; 0: it is not pinned
   */
  pinOf(conversation) {
    return this.of(conversation.id).pinned;
  }

  /**
   * Whether a conversation is in the archive. A new message brings it back to the list, unless it is muted.
   *
   * @param {Conversation} conversation
   */
  isArchived({ id, last, position }) {
    const { archived } = this.of(id); // the id of its newest entry at that time
    return archived > 0 && archived < GONE && ((last?.id ?? position) <= archived || this.session.wishes.isQuiet(id, true));
  }

  /**
   * Whether we have left a group, and removed it from the list. It comes back when we join again.
   *
   * @param {Conversation} conversation
   */
  isGone({ id, left }) {
    return left && this.of(id).archived >= GONE;
  }

  /**
   * Removes a group from the list that we have left.
   *
   * @param {Conversation} conversation
   */
  remove(conversation) {
    return this.change(conversation, { archived: GONE });
  }

  /**
   * Whether the list marks a conversation, because the user has marked it or was added to it. The mark ends when the user opens the
   * conversation, or reads a newer message on any device.
   *
   * @param {Conversation} conversation
   */
  isMarked({ id, read, added }) {
    const { marked } = this.of(id);
    return added || (marked > 0 && read <= marked);
  }

  /** @returns {FolderList["folders"]} in their order */
  get folders() {
    return this.#folders.folders;
  }

  /**
   * @param {Conversation} conversation
   * @returns {number[]} the folders in which it is
   */
  foldersOf({ id }) {
    return this.of(id).folders ?? [];
  }

  /** @param {FolderList} list  of the server */
  receiveFolders(list) {
    if (list.version <= this.#folders.version) return;
    this.#folders = list;
    this.#save();
    this.session.changed();
  }

  /**
   * Changes an arrangement. It is shown at once, and taken back if the server refuses it.
   *
   * @param {Conversation} conversation
   * @param {Change} change
   */
  async change({ id }, change) {
    const before = this.of(id);
    // A conversation cannot be both. The server ends the other one, too.
    const ends = { ...(change.archived && { pinned: 0 }), ...(change.pinned && { archived: 0 }) };
    this.#put({ ...before, ...ends, ...change });
    try {
      this.receive(await this.session.messenger.arrange(id, change));
    } catch (error) {
      if (this.of(id).version === before.version) this.#put(before);
      throw error;
    }
  }

  /** Loads what has changed on other devices, and sends drafts that they do not have. Never rejected. */
  async load() {
    const { messenger } = this.session;
    try {
      for (let hasMore = this.isOffered; hasMore;) {
        const page = await messenger.arrangements(this.#version);
        page.arrangements.forEach((row) => this.receive(row));
        if (page.folders) this.receiveFolders(page.folders);
        this.#version = page.version;
        hasMore = page.hasMore;
      }
      this.#save();
      this.#sendDraftsLater(true);
    } catch (error) {
      if (error instanceof CommandRefused && error.code === UNKNOWN_COMMAND) this.isOffered = false;
    }
  }

  /**
   * Takes an arrangement of the server.
   *
   * @param {Arrangement} row
   */
  receive(row) {
    // A later arrangement has overtaken it.
    if (row.version < this.of(row.conversation).version) return;
    this.#put(row);
    this.#early.add(row.conversation);
    this.settle();
  }

  /** Shows the drafts of conversations that are loaded now. Called when arrangements or conversations have come. */
  settle() {
    const { store, drafts } = this.session;
    for (const id of this.#early) {
      const conversation = store.conversations.get(id);
      if (!conversation) continue;
      this.#early.delete(id);
      const key = keyOf(conversation);
      if (drafts.receive(key, draftOf(this.of(id).draft))) this.session.draftChanged(key);
    }
  }

  /** @param {boolean} now  else after a pause, which begins anew with each change */
  #sendDraftsLater(now) {
    clearTimeout(this.#sending);
    this.#sending = setTimeout(() => this.#sendDrafts(), now ? 0 : DRAFT_AFTER_MS);
  }

  /** Sends the drafts that other devices do not have. Without a connection they wait for the next one. */
  async #sendDrafts() {
    const { drafts, isOnline } = this.session;
    if (this.isOffered && isOnline) await Promise.all(drafts.unsent.map((key) => this.#sendDraft(key)));
  }

  /**
   * Sends one draft. An empty draft deletes the one of the server.
   *
   * @param {string} key  see `keyOf`
   */
  async #sendDraft(key) {
    const { drafts, messenger, store } = this.session;
    const conversation = store.withKey(key);
    if (!conversation?.id) return; // it begins with its first message
    const draft = drafts.get(key);
    const known = this.of(conversation.id).draft;
    const unsent = unsentOf(draft);
    // It stays on this device, and no other draft replaces it.
    if (new Blob([JSON.stringify(unsent)]).size > MOST_DRAFT_BYTES) return;
    try {
      if (known || draft.text || draft.replyTo) this.receive(await messenger.arrange(conversation.id, { draft: unsent }));
    } catch (error) {
      if (!(error instanceof CommandRefused)) return;
    }
    drafts.sent(key, draft); // one that the server refuses stays on this device
  }

  /** Another user may use this browser next. */
  forget() {
    clearTimeout(this.#sending);
    this.stored.forget();
  }

  /** @param {Arrangement} row */
  #put(row) {
    this.#rows.set(row.conversation, row);
    this.#save();
    this.session.changed();
  }

  #save() {
    this.stored.set({ version: this.#version, rows: [...this.#rows.values()], folders: this.#folders });
  }
}

/**
 * @param {UnsentDraft | undefined} unsent  as the server stores it
 * @returns {Draft} as text boxes use it
 */
function draftOf(unsent) {
  const { text: typed, replyTo: id, mentions } = recordOf(unsent);
  const [text, replyTo] = [textOf(typed), numberOf(id)];
  /** @type {[string, string][]} */
  const pairs = listOf(mentions).map((each) => [textOf(each?.name), textOf(each?.user)]);
  return { text, ...(replyTo && { replyTo }), ...(pairs.length && { mentions: pairs }) };
}

/**
 * @param {Draft} draft
 * @returns {UnsentDraft}
 */
function unsentOf({ text, replyTo, mentions: pairs }) {
  const mentions = pairs?.map(([name, user]) => ({ name, user }));
  return { ...(text && { text }), ...(replyTo && { replyTo }), ...(mentions && { mentions }) };
}
