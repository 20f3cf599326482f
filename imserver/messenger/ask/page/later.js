// @ts-check
/** What menus have for questions and polls: ask one in a conversation; cancel one, remind those who have not answered, ask others, too. */

import { openPollForm } from "./poll-form.js";
import { questionOf } from "./question.js";
import { choosePeople, openWriting } from "./writing.js";

/** @param {any} page */
export function start(page) {
  const { addAction, addMessageAction, addNew, api, confirm, toast, words } = page;
  for (const { word, sign, open } of [
    { word: words.ask_new, sign: "question", open: openWriting },
    { word: words.ask_poll_new, sign: "poll", open: openPollForm },
  ]) {
    addAction((/** @type {any} */ session, /** @type {any} */ conversation) => {
      const canSend = !conversation.left && (conversation.group || conversation.peer);
      return canSend ? { key: "", sign, word, act: () => open(page, session, conversation, "") } : null;
    });
    addNew({ word, sign, act: (/** @type {any} */ session, /** @type {any} */ conversation) => open(page, session, conversation, "") });
  }
  addMessageAction((/** @type {any} */ session, /** @type {any} */ conversation, /** @type {any} */ entry) => {
    const question = questionOf(entry);
    if (!question || question.state || entry.from !== session.user) return [];
    const post = async (/** @type {string} */ path, /** @type {object} */ fields = {}, notice = "") => {
      try {
        await api("POST", `asks/${path}`, { id: entry.id, ...fields });
        if (notice) toast(notice);
      } catch (error) {
        toast(page.reason(error));
      }
    };
    if (question.poll) {
      const close = async () => {
        if (await confirm(words.ask_poll_close_ask, { yes: words.ask_poll_close })) post("cancel");
      };
      return [{ word: words.ask_poll_close, sign: "poll", act: close }];
    }
    const cancel = async () => {
      if (await confirm(words.ask_cancel_ask, { yes: words.ask_cancel, danger: true })) post("cancel");
    };
    const askOthers = async () => {
      choosePeople(page, session, conversation, question.of ?? [], (of) => post("escalate", { of }, words.ask_told));
    };
    const rows = [{ word: words.ask_remind, sign: "bell", act: () => post("remind", {}, words.ask_reminded) }];
    if (conversation.group && question.of) rows.push({ word: words.ask_others, sign: "person", act: askOthers });
    return [...rows, { word: words.ask_cancel, sign: "remove", act: cancel, danger: true }];
  });
}
