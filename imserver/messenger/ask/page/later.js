// @ts-check
/** What menus have for questions and polls: ask one in a conversation; cancel one, remind those who have not answered, ask others, too. */

import { openPollForm } from "./poll-form.js";
import { questionOf } from "./question.js";
import { choosePeople, openWriting } from "./writing.js";

/** @param {any} page */
export function start(page) {
  const { addAction, addMessageAction, addNew, api, confirm, toast, words } = page;
  addAction((/** @type {any} */ session, /** @type {any} */ conversation) => {
    const may = !conversation.left && (conversation.group || conversation.peer);
    return may ? { key: "", sign: "question", word: words.ask_new, act: () => openWriting(page, session, conversation, "") } : null;
  });
  addAction((/** @type {any} */ session, /** @type {any} */ conversation) => {
    const may = !conversation.left && (conversation.group || conversation.peer);
    return may ? { key: "", sign: "poll", word: words.ask_poll_new, act: () => openPollForm(page, session, conversation, "") } : null;
  });
  addNew({ word: words.ask_new, sign: "question", act: (/** @type {any} */ session, /** @type {any} */ conversation) => openWriting(page, session, conversation, "") });
  addNew({ word: words.ask_poll_new, sign: "poll", act: (/** @type {any} */ session, /** @type {any} */ conversation) => openPollForm(page, session, conversation, "") });
  addMessageAction((/** @type {any} */ session, /** @type {any} */ conversation, /** @type {any} */ entry) => {
    const question = questionOf(entry);
    if (!question || question.state || entry.from !== session.user) return [];
    const tell = async (/** @type {string} */ path, /** @type {object} */ fields, /** @type {string} */ done) => {
      try {
        await api("POST", `asks/${path}`, { id: entry.id, ...fields });
        if (done) toast(done);
      } catch (error) {
        toast(page.reason(error));
      }
    };
    if (question.poll) {
      const close = async () => void ((await confirm(words.ask_poll_close_ask, { yes: words.ask_poll_close })) && tell("cancel", {}, ""));
      return [{ word: words.ask_poll_close, sign: "poll", act: close }];
    }
    const cancel = async () => void ((await confirm(words.ask_cancel_ask, { yes: words.ask_cancel, danger: true })) && tell("cancel", {}, ""));
    const rows = [{ word: words.ask_remind, sign: "bell", act: () => tell("remind", {}, words.ask_reminded) }];
    if (conversation.group && question.of) rows.push({ word: words.ask_others, sign: "person", act: () => choosePeople(page, session, conversation, question.of ?? [], (of) => tell("escalate", { of }, words.ask_told)) });
    return [...rows, { word: words.ask_cancel, sign: "remove", act: cancel, danger: true }];
  });
}
