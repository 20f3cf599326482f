// @ts-check
/** The clock beside the text box, and the ways from reminders and saved messages to what they are of. */

import { scheduledOf } from "./scheduled.js";

/** @param {any} page */
export function start(page) {
  const { addCard, addTool, fill, make, words } = page;
  const scheduled = scheduledOf(page);
  addTool({
    icon: "clock", word: words.later_send,
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
    if (typeof from === "string" && !session.people.card(from)) {
      session.people.load([from]).then(() => {
        if (session.people.card(from)) page.redraw(entry.id); // without a card, redrawing would load it again, for ever
      });
    }
    const link = make("a", "later-link", fill(words.later_reminder, { name }));
    link.setAttribute("href", `#c/${conversation}/${id}`);
    return link;
  });
  addCard((/** @type {any} */ entry, /** @type {any} */ session) => {
    const { id } = Object(entry.meta?.forwarded);
    if (entry.from !== session.user || entry.to !== session.user || !Number.isSafeInteger(id)) return null;
    const link = page.button(words.later_original, "link later-link");
    link.addEventListener("click", async () => {
      try {
        const { thread } = await page.request("thread", { thread: id, limit: 1 }); // it says where the message is, to those who may read it
        session.open({ conversation: thread.conversation, message: id });
      } catch (error) {
        page.toast(page.reason(error));
      }
    });
    return link;
  });
}
