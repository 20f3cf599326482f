// @ts-check
/** Forwards messages to one or several conversations, also to people of the directory. */

import { fill, make } from "../../text.js";
import { fitOf } from "../parts/names.js";
import { toast } from "../parts/panel.js";
import { summaryOf } from "../parts/summary.js";
import { keyOf } from "../session/store.js";
import { FoundPeople } from "./directory.js";
import { openPicker } from "./picker.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("./picker.js").Choices} Choices */

/** Most conversations at once. */
const MOST_CHOSEN = 10;

/**
 * Asks for conversations. The messages go through the outbox, in order.
 *
 * @param {Session} session
 * @param {Entry[]} entries  in order
 * @returns {Promise<boolean>} false: the user has cancelled
 */
export async function openForward(session, entries) {
  const { words, store } = session;
  const about = entries.length > 1 ? fill(words.messages_select_count, { count: entries.length }) : summaryOf(entries[0], words);
  /** @type {Conversation[]} */
  let targets = [];
  const dialog = openPicker(session, {
    title: words.messages_forward_to,
    head: [make("p", "muted one-line", about)],
    most: MOST_CHOSEN,
    go: (count) => (count ? fill(words.messages_forward_send, { count }) : words.messages_forward),
    choices: (changed) => new Conversations(session, changed),
    act: (keys) => { targets = keys.map((key) => conversationOf(session, key)); },
  });
  await dialog.closed;
  if (!targets.length) return false;
  for (const target of targets) {
    for (const { type, text, data, meta, from, id } of entries) {
      const forward = meta?.forwarded ?? { from, id }; // a message that is forwarded again keeps its first writer
      session.outbox.add(target, { type, text, data, forward });
    }
  }
  const [first] = targets;
  if (targets.length === 1) session.open(first.id ? { conversation: first.id } : { user: first.peer });
  else toast(fill(words.messages_forward_sent, { count: targets.length }));
  return true;
}

/**
 * @param {Session} session
 * @param {string} key
 * @returns {Conversation} that of somebody of the directory may be new
 */
function conversationOf({ store }, key) {
  return store.withKey(key) ?? store.withUser(key.slice(1));
}

/** The conversations of the user, and people of the directory who are found. @implements {Choices} */
class Conversations {
  /**
   * @param {Session} session
   * @param {() => void} changed
   */
  constructor(session, changed) {
    this.session = session;
    this.found = new FoundPeople(session, changed);
    session.store.loadRest().then(changed);
  }

  /** @param {string} text */
  list(text) {
    const { store, user: self } = this.session;
    const open = store.sorted.filter((each) => (each.group || each.peer) && !each.left);
    const fitting = [store.withUser(self), ...open].filter((each) => fitOf(store.nameOf(each), text) < 2); // 2: it does not fit
    const named = fitting.map(keyOf);
    const others = this.found.users.filter((user) => user !== self).map((user) => `@${user}`);
    return [...new Set([...named, ...others])].map((id) => ({ key: id, id }));
  }

  /** @param {string} text */
  find(text) {
    this.found.find(text);
  }

  more() {
    this.found.more();
  }

  /** @param {string} text */
  isLoading(text) {
    return Boolean(text) && !this.found.isDone;
  }

  stop() {
    this.found.stop();
  }

  /** @param {string} key */
  show(key) {
    const { store, people } = this.session;
    const conversation = conversationOf(this.session, key);
    const look = conversation.avatar || people.card(conversation.peer)?.avatar;
    return { name: store.nameOf(conversation), look, face: () => people.face(conversation) };
  }
}
