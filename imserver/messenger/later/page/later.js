// @ts-check
/** What menus have: save a message, be reminded of it, and see what waits in a conversation. */

import { openList, openRemind } from "./dialogs.js";
import { scheduledOf } from "./scheduled.js";

const BOOKMARK = "M7 4.5h10v15l-5-4-5 4z";
const CLOCK = "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M12 7.5V12l3 2";

/** @param {any} page */
export function start(page) {
  const { addAction, addMessageAction, toast, words } = page;
  const scheduled = scheduledOf(page);
  addMessageAction((/** @type {any} */ session, /** @type {any} */ conversation, /** @type {any} */ entry) => {
    if (!entry.id || entry.kind !== "message") return [];
    const save = () => {
      const { type, text, data, meta, from, id } = entry;
      const saved = session.store.withUser(session.user); // saved messages are the conversation with oneself
      session.outbox.add(saved, { type, text, data, forward: meta?.forwarded ?? { from, id } });
      const open = () => session.open(saved.id ? { conversation: saved.id } : { user: session.user });
      toast(words.later_saved, { label: words.later_open, act: open });
    };
    const isSaved = conversation.peer === session.user;
    const saving = isSaved ? [] : [{ word: words.later_save, sign: BOOKMARK, act: save }];
    return [...saving, { word: words.later_remind, sign: CLOCK, act: () => openRemind(page, session, entry) }];
  });
  addAction((/** @type {any} */ session, /** @type {any} */ conversation) => {
    if (!scheduled.of(conversation).length) return null;
    return { key: "", word: words.later_list, sign: CLOCK, act: () => openList(page, session, conversation) };
  });
}
