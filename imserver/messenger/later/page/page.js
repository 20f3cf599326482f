// @ts-check
/** The clock beside the text box, and what reminders say of themselves. */

import { scheduledOf } from "./scheduled.js";

/** @param {any} page */
export function start(page) {
  const { addCard, addTool, fill, make, words } = page;
  const scheduled = scheduledOf(page);
  addTool({
    sign: "clock", word: words.later_send,
    count: (/** @type {any} */ conversation) => scheduled.of(conversation).length,
    act: async (/** @type {any} */ session, /** @type {any} */ conversation, /** @type {any} */ content, /** @type {() => void} */ clear) => {
      try {
        const { openList, openSchedule } = await import("./dialogs.js");
        if (content) openSchedule(page, session, conversation, content, clear);
        else openList(page, session, conversation);
      } catch (error) {
        page.toast(page.reason(error));
      }
    },
  });
  addCard((/** @type {any} */ entry, /** @type {any} */ session) => {
    const { id, conversation, from } = Object(entry.meta?.reminder);
    if (entry.kind !== "message" || !Number.isSafeInteger(id) || !Number.isSafeInteger(conversation)) return null;
    const name = typeof from === "string" && from !== session.user ? session.people.nameOf(from) : words.you;
    if (typeof from === "string" && !session.people.card(from)) session.people.load([from]).then(() => session.people.card(from) && page.redraw(entry.id)); // else it would go on for ever
    const link = make("a", "later-link", fill(words.later_reminder, { name }));
    link.setAttribute("href", `#c/${conversation}/${id}`);
    return link;
  });
}
