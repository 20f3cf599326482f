// @ts-check
/** Questions below their messages: buttons or a field, who may answer until when, and who has answered what. */

import { mayAnswer, questionOf, textOf } from "./question.js";

const MOST_CHARACTERS = 1000;
const MOST_SEEN = 1000;
const MOST_NAMES = 3;
const CLOCK = /** @type {const} */ ({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** @type {any} */
let page;
/** Message → our answer that is on its way. @type {Map<number, string>} */
const pending = new Map();
/** Message → what we have written, so that it outlasts the row. @type {Map<number, string>} */
const drafts = new Map();
/** Message → its state and number of answers when it was drawn last: a change is announced. @type {Map<number, string>} */
const seen = new Map();
/** People whose names were asked for. @type {Set<string>} */
const loaded = new Set();
/** Messages whose cards lack a name. @type {Set<number>} */
const nameless = new Set();
/** @type {HTMLElement | undefined} */
let announcer;
/** How polls are drawn; null: it is not loaded. @type {typeof import("./poll.js") | null} */
let polls = null;
/** @type {Promise<unknown> | null} */
let loadingPolls = null;

/** @typedef {(session: any, conversation: any, text: string, place: any) => Promise<void>} Command */

/** @param {any} additions */
export function start(additions) {
  page = additions;
  const { addCard, addCommand, registerView, words } = page;
  /** If the command fails, a notice says why. @type {(open: Command) => Command} */
  const withNotice = (open) => async (...given) => {
    try {
      await open(...given);
    } catch (error) {
      page.toast(page.reason(error));
    }
  };
  const openPoll = withNotice(async (session, conversation, text, place) => {
    const { openPollForm } = await import("./poll-form.js");
    await openPollForm(page, session, conversation, text, place);
  });
  const openQuestion = withNotice(async (session, conversation, text, place) => {
    const { openWriting } = await import("./writing.js");
    openWriting(page, session, conversation, text, place);
  });
  addCard(cardOf);
  addCommand({ command: "poll", word: words.ask_poll_new, sign: "poll", act: openPoll });
  registerView("text", { summary: (/** @type {any} */ entry, /** @type {any} */ _words, /** @type {string} */ plain) => summaryOf(entry, plain) });
  addCommand({ command: "question", word: words.ask_new, sign: "question", act: openQuestion });
}

/**
 * @param {any} entry
 * @param {string} plain  its text in one line
 * @returns {string | undefined} undefined: it is no question
 */
function summaryOf(entry, plain) {
  const question = questionOf(entry);
  if (!question) return undefined;
  const { words, fill } = page;
  const text = fill(question.poll ? words.ask_poll_summary : words.ask_summary, { text: plain });
  const state = question.poll ? words.ask_poll_closed : words[`ask_${question.state}`];
  return question.state ? `${text} · ${state}` : text;
}

/**
 * @param {any} entry
 * @param {any} session
 * @returns {HTMLElement | null} what stands below the message; null: it is no question, or is not sent yet
 */
function cardOf(entry, session) {
  const question = entry.id ? questionOf(entry) : null;
  if (!question) return null;
  const { make, words } = page;
  const { state, answers, poll } = question;
  if (poll) return polls ? polls.pollCard(entry, question, poll, session) : waitingCard(entry.id, question);
  loadNames(entry, question, session);
  announce(entry, question, session);
  const card = make("div", state ? `ask ask-${state}` : "ask");
  card.setAttribute("role", "group");
  card.setAttribute("aria-label", words.ask_card);
  if (!state) card.append(...controls(entry, question, session));
  if (answers.length) card.append(answersOf(question, session));
  const says = stateOf(question, entry, session);
  if (says.length) card.append(make("p", "ask-state", ...says));
  return card;
}

/**
 * The place of a poll until its module is loaded.
 *
 * @param {number} id
 * @param {import("./question.js").Question} question
 */
function waitingCard(id, { options }) {
  loadingPolls ??= import("./poll.js").then(async (module) => {
    await module.start(page);
    polls = module;
  }).catch(() => {
    loadingPolls = null; // the next card tries again
  });
  loadingPolls.then(() => {
    if (polls) page.redraw(id);
  });
  const card = page.make("div", "ask");
  card.style.minHeight = `${options.length * 3.5 + 4}rem`; // about the height of the poll, so that the rows below hardly move
  return card;
}

/**
 * The buttons and the field of an open question. They stay as long as it is open, also for those who may not answer.
 *
 * @param {any} entry
 * @param {import("./question.js").Question} question
 * @param {any} session
 * @returns {HTMLElement[]}
 */
function controls(entry, question, session) {
  const { button, make, words } = page;
  const isAllowed = mayAnswer(question, entry, session.user);
  const chosen = pending.get(entry.id) ?? question.answers.find(({ user }) => user === session.user)?.value;
  const isOff = !isAllowed || pending.has(entry.id);
  const rows = [];
  if (question.options.length) {
    rows.push(make("p", "ask-options", ...question.options.map((option, index) => {
      const key = button(option.text, "key");
      key.dir = "auto";
      key.dataset.key = `ask:${entry.id}:${index}`;
      key.setAttribute("aria-pressed", String(option.value === chosen));
      key.setAttribute("aria-disabled", String(isOff)); // it keeps the focus
      if (pending.get(entry.id) === option.value) key.setAttribute("aria-busy", "true");
      key.addEventListener("click", () => {
        if (!isOff) answer(entry, session, { value: option.value });
      });
      return key;
    })));
  }
  if (question.text && isAllowed) rows.push(fieldOf(entry, session, isOff));
  return rows;
}

/**
 * The field for an answer in one's own words, with its button.
 *
 * @param {any} entry
 * @param {any} session
 * @param {boolean} isOff
 */
function fieldOf(entry, session, isOff) {
  const { button, make, words } = page;
  const text = make("input", "");
  const value = drafts.get(entry.id) ?? "";
  Object.assign(text, { type: "text", maxLength: MOST_CHARACTERS, placeholder: words.ask_text, value, readOnly: isOff });
  Object.assign(text, { autocomplete: "off", enterKeyHint: "send", dir: "auto" });
  text.dataset.key = `ask:${entry.id}:text`;
  text.setAttribute("aria-label", words.ask_text);
  text.addEventListener("input", () => drafts.set(entry.id, text.value));
  text.addEventListener("keydown", (/** @type {Event} */ event) => event.stopPropagation()); // letters are no shortcuts here
  const send = button(words.ask_send, "wide");
  send.type = "submit";
  send.setAttribute("aria-disabled", String(isOff));
  const form = make("form", "ask-field", text, send);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const written = text.value.trim();
    if (!written) text.focus();
    else if (!isOff) answer(entry, session, { text: written });
  });
  return form;
}

/**
 * Sends our answer. If somebody has answered or closed the question before, a notice says so.
 *
 * @param {any} entry
 * @param {any} session
 * @param {{ value?: string, text?: string }} given
 */
async function answer(entry, session, given) {
  if (pending.has(entry.id)) return;
  const { api, redraw, reason, toast } = page;
  pending.set(entry.id, given.value ?? "");
  redraw(entry.id);
  try {
    const { accepted, ask } = await api("POST", "asks/answer", { id: entry.id, ...given }); // what it has changed comes as an entry, too
    if (!accepted) toast(whyTooLate(questionOf({ kind: "message", meta: { ask } }), session));
    drafts.delete(entry.id);
  } catch (error) {
    toast(reason(error));
  }
  pending.delete(entry.id);
  redraw(entry.id);
}

/**
 * @param {import("./question.js").Question | null} question  as it is now
 * @param {any} session
 * @returns {string} who has answered before us, or that the question is closed
 */
function whyTooLate(question, session) {
  const { fill, words } = page;
  const last = question?.answers.at(-1);
  if (!question || !last || question.state !== "answered") return words.ask_closed;
  return fill(words.ask_late, { name: session.people.nameOf(last.user), text: textOf(question, last) });
}

/**
 * @param {import("./question.js").Question} question
 * @param {any} session
 */
function answersOf(question, session) {
  const { make } = page;
  const clock = new Intl.DateTimeFormat(session.language, CLOCK);
  const list = make("ul", "ask-answers", ...question.answers.map((each) => {
    const text = make("bdi", "ask-said", textOf(question, each));
    const time = make("time", "", momentOf(each.time, session, clock));
    time.dateTime = new Date(each.time).toISOString();
    return make("li", "", make("b", "", make("bdi", "", nameOf(each.user, session))), text, time);
  }));
  list.setAttribute("role", "list");
  return list;
}

/**
 * @param {import("./question.js").Question} question
 * @param {any} entry
 * @param {any} session
 * @returns {(Node | string)[]} one line: what is to be done by whom until when, or how it has ended
 */
function stateOf({ state, of, need, until, answers }, { id, from }, session) {
  const { fill, make, words } = page;
  const answered = need > 1 ? fill(words.ask_need, { count: answers.length, need }) : "";
  if (state) return [make("b", "", words[`ask_${state}`]), ...(answered ? [` · ${answered}`] : [])];
  if (pending.has(id)) return [words.ask_pending];
  const parts = [];
  if (from === session.user && !answers.length && need === 1) parts.push(words.ask_waiting);
  if (of) parts.push(fill(words.ask_only, { names: namesOf(of, session) }));
  if (answered) parts.push(answered);
  if (until) parts.push(fill(words.ask_until, { time: momentOf(until, session, new Intl.DateTimeFormat(session.language, CLOCK)) }));
  return parts.length ? [parts.join(" · ")] : [];
}

/**
 * @param {string[]} users
 * @param {any} session
 */
function namesOf(users, session) {
  const { fill, words } = page;
  const names = users.slice(0, MOST_NAMES).map((user) => (user === session.user ? words.messages_you_inside : session.people.nameOf(user)));
  const more = users.length - names.length;
  return names.join(words.messages_and) + (more > 0 ? fill(words.messages_and_more, { count: more }) : "");
}

/**
 * @param {string} user
 * @param {any} session
 */
function nameOf(user, session) {
  return user === session.user ? page.words.you : session.people.nameOf(user);
}

/**
 * @param {number} time
 * @param {any} session
 * @param {Intl.DateTimeFormat} clock  for times of today
 */
function momentOf(time, session, clock) {
  const isToday = new Date(time).toDateString() === new Date().toDateString();
  if (isToday) return clock.format(time);
  return new Intl.DateTimeFormat(session.language, { day: "numeric", month: "short", ...CLOCK }).format(time);
}

/**
 * Asks once for the names of the people whom the card names. When they are here, all cards that lack one are drawn again.
 *
 * @param {any} entry
 * @param {import("./question.js").Question} question
 * @param {any} session
 */
function loadNames({ id }, { of, answers }, { people }) {
  const users = [...(of ?? []).slice(0, MOST_NAMES), ...answers.map(({ user }) => user)].filter((user) => !people.card(user));
  if (users.length) nameless.add(id);
  const unknown = users.filter((user) => !loaded.has(user));
  if (!unknown.length) return;
  for (const user of unknown) loaded.add(user);
  Promise.resolve(people.load(unknown)).then(() => {
    for (const each of nameless) page.redraw(each);
    nameless.clear();
  }, () => {});
}

/**
 * Tells screen readers what has changed since the card was drawn last.
 *
 * @param {any} entry
 * @param {import("./question.js").Question} question
 * @param {any} session
 */
function announce(entry, question, session) {
  const { fill, make, words } = page;
  const { state, answers } = question;
  const now = `${state} ${answers.length}`;
  const before = seen.get(entry.id);
  seen.delete(entry.id); // a map keeps the order of insertion: the entry becomes the newest
  seen.set(entry.id, now);
  if (seen.size > MOST_SEEN) seen.delete(/** @type {number} */ (seen.keys().next().value));
  if (before === undefined || before === now) return;
  /** @type {string[]} */
  const texts = [];
  const last = answers.at(-1);
  if (last && Number(before.split(" ")[1]) < answers.length) {
    const count = last.user === session.user ? 2 : 1; // the second form of the text is about ourselves
    texts.push(fill(words.ask_announced, { name: nameOf(last.user, session), text: textOf(question, last), count }));
  }
  if (state && state !== "answered") texts.push(words[`ask_${state}`]);
  if (!announcer) {
    announcer = /** @type {HTMLElement} */ (make("div", "heard"));
    announcer.setAttribute("aria-live", "polite");
    document.body.append(announcer);
  }
  const region = announcer;
  setTimeout(() => {
    region.textContent = texts.join(" ");
  }, 0); // a screen reader does not read the first content of a new region
}
