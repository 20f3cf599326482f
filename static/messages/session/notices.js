// @ts-check
/** Notifications of this login on this device: the question at a good moment, the sound, and what a click on a notification opens. */

import { disableNotifications, enableNotifications, hasNotifications, notificationState, onNotification } from "../../../sdk/notifications.js";
import { element, make, ROOT } from "../../text.js";
import { ApiError } from "../parts/api.js";
import { mentions } from "../parts/entries.js";
import { attempt, loadStyle } from "../parts/form.js";
import { button } from "../parts/panel.js";
import { hasKeyword } from "./keywords.js";
import { playSound } from "./sound.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {import("../../../sdk/notifications.js").NotificationState} NotificationState */

/** After "Not now" the page asks again so much later: 30 days. */
const QUESTION_MS = 30 * 86_400_000;

/** Owns the question, and answers the service worker. */
export class Notices {
  /** @type {HTMLElement | null} */
  #question = null;
  #isAsking = false;
  #end;

  /**
   * @param {Session} session
   * @param {() => Conversation | null} open  the conversation that the page shows
   */
  constructor(session, open) {
    this.session = session;
    this.open = open;
    this.#end = onNotification({
      open: ({ conversation, id }) => {
        if (!conversation) return false;
        session.open({ conversation, message: id });
      },
      shows: ({ conversation = 0 }) => conversation > 0 && this.#isSeen(conversation),
    });
    if (session.wishes.device.on) stateHere(session).catch(() => {}); // renews the subscription; after a failure, at the next start
    else if (hasNotifications() && Notification.permission === "granted") disableOthers(session);
  }

  stop() {
    this.#end();
    this.#close();
  }

  /** @param {number} conversation */
  #isSeen(conversation) {
    return !document.hidden && this.open()?.id === conversation;
  }

  /**
   * A message of another user has come: plays the sound, unless the user sees the message or wishes none.
   *
   * @param {Entry} entry
   */
  heard(entry) {
    const { wishes, user } = this.session;
    const { conversation } = entry;
    if (this.#isSeen(conversation) || !wishes.device.sound) return;
    const isMention = mentions(entry, user) || hasKeyword(entry, wishes.general.keywords, user);
    if (!wishes.isQuiet(conversation, isMention)) playSound();
  }

  /** The user has sent a message: asks whether notifications should come, unless they have answered. */
  async sent() {
    const { on, question } = this.session.wishes.device;
    const hasAnswered = on || Date.now() - question < QUESTION_MS;
    if (hasAnswered || this.#question || this.#isAsking || !hasNotifications() || Notification.permission === "denied") return;
    this.#isAsking = true;
    const state = await stateHere(this.session).catch(() => null);
    if (state === "off") await this.#ask();
    this.#isAsking = false;
  }

  /** Shows the question above the text box. */
  async #ask() {
    const { words, wishes } = this.session;
    await loadStyle(new URL("../later/notices.css", import.meta.url));
    const text = make("p", "", make("b", "", words.messages_notify_question), " ", make("span", "", words.messages_notify_question_more));
    const yes = button(words.messages_notify_yes, "wide");
    const no = button(words.messages_notify_no, "quiet");
    const bar = make("div", "ask-bar", text, yes, no);
    bar.id = "notify-question";
    bar.setAttribute("role", "region");
    bar.setAttribute("aria-label", words.messages_notify);
    this.#question = bar;
    element("composer", HTMLElement).before(bar);
    element("announce", HTMLElement).textContent = text.textContent;
    no.addEventListener("click", () => {
      wishes.device = { question: Date.now() };
      this.#close();
    });
    yes.addEventListener("click", () => attempt(yes, null, words, async () => {
      const state = await enable(this.session);
      if (state === "on") return this.#close();
      wishes.device = { question: Date.now() };
      text.textContent = state === "blocked" ? words.messages_notify_blocked : words.messages_notify_unanswered;
      text.setAttribute("role", "alert");
      yes.remove();
      no.textContent = words.messages_close;
      no.focus();
    }));
  }

  #close() {
    const hadFocus = this.#question?.contains(document.activeElement);
    this.#question?.remove();
    this.#question = null;
    if (hadFocus) element("message", HTMLElement).focus();
  }
}

/**
 * The options of the SDK's functions for notifications.
 *
 * @param {Session} session
 */
function optionsOf({ login, language }) {
  const scope = `${ROOT}/home/messages`;
  const page = `${scope}?lang=${language.split("-")[0]}#c/{conversation}/{id}`;
  const name = login.device?.replace(/ #\w+$/, ""); // without the mark that `deviceName` has added
  return { scope, page, language, ...(login.device && { device: name }) };
}

/**
 * Asks the browser whether it is subscribed, and remembers the answer.
 *
 * @param {Session} session
 * @returns {Promise<NotificationState>} rejected with errors of requests
 */
export async function stateHere(session) {
  const state = await notificationState(session.messenger, optionsOf(session));
  session.wishes.device = { on: state === "on" };
  return state;
}

/**
 * Turns notifications on. Call it when the user has clicked: only then may a page ask for the permission.
 *
 * @param {Session} session
 * @returns {Promise<NotificationState>} rejected with errors of requests, and with ApiError if the browser does not subscribe
 */
export async function enable(session) {
  const state = await enableNotifications(session.messenger, optionsOf(session)).catch((error) => {
    if (error instanceof DOMException) throw new ApiError("no_push_service", error.message);
    throw error;
  });
  session.wishes.device = { on: state === "on" };
  return state;
}

/** @param {Session} session */
export async function disable(session) {
  session.wishes.device = { on: false };
  await disableNotifications(session.messenger, optionsOf(session));
}

/**
 * Ends the notifications of another user who used this browser before.
 *
 * @param {Session} session
 */
async function disableOthers(session) {
  const state = await notificationState(session.messenger, optionsOf(session)).catch(() => null);
  if (state === "off") await disable(session);
}
