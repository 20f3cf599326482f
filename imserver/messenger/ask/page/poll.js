// @ts-check
/**
 * A poll below its message: its options are buttons with bars, counts and faces. A press votes, another one takes it back.
 * Loaded with the first poll.
 */

import { questionOf } from "./question.js";

/** @typedef {import("./question.js").Question} Question */
/** @typedef {import("./question.js").Poll} Poll */

/**
 * What we have chosen in a poll since the page was loaded.
 *
 * @typedef {object} Own
 * @property {number[]} choices
 * @property {number[]} counted  those of ours that the totals have
 * @property {number} time       of the last totals that may lack ours
 * @property {boolean} isSending
 */

/** Of polls and their form. */
export const STYLE = new URL("./poll.css", import.meta.url);
const MOST_KEPT = 1000;
const MOST_FACES = 3;
const VOTERS_PAGE = 50;

/** @type {any} */
let page;
/** Message → our votes in its poll. @type {Map<number, Own>} */
const ownVotes = new Map();
/** Message → the shares that were drawn last: from these the bars grow. @type {Map<number, number[]>} */
const shown = new Map();
/** People whose names were asked for. @type {Set<string>} */
const loaded = new Set();

/**
 * @param {any} additions
 * @returns {Promise<unknown>} its style is loaded, or cannot be
 */
export function start(additions) {
  page = additions;
  page.hear("vote", ({ id, choices }) => { // of another device of ours
    if (!Number.isSafeInteger(id) || !Array.isArray(choices) || ownVotes.get(id)?.isSending) return;
    keep(ownVotes, id, { choices, counted: choices, time: 0, isSending: false });
    page.redraw(id);
  });
  return page.loadStyle(STYLE);
}

/**
 * @param {any} entry
 * @param {Question} question
 * @param {Poll} poll
 * @param {any} session
 * @returns {HTMLElement}
 */
export function pollCard(entry, question, poll, session) {
  const { button, make, words } = page;
  const { id } = entry;
  const mine = oursIn(id, question, poll);
  const counts = countsOf(question, poll, mine);
  const otherVoters = poll.voters - Number(mine.counted.length > 0);
  const voters = Math.max(otherVoters + Number(mine.choices.length > 0), ...counts);
  const shares = counts.map((count) => (voters ? count / voters : 0));
  const sharesBefore = shown.get(id) ?? shares;
  keep(shown, id, shares);
  loadNames(id, poll, session);
  const isOpen = !question.state;
  const most = Math.max(...counts);
  const numbers = new Intl.NumberFormat(session.language);
  const rows = question.options.map(({ text }, index) => {
    const isMine = mine.choices.includes(index);
    const isWinner = !isOpen && most > 0 && counts[index] === most;
    const bar = make("span", "poll-bar");
    const setShare = (/** @type {number} */ share) => bar.style.setProperty("--share", String(share));
    setShare(sharesBefore[index]);
    if (sharesBefore[index] !== shares[index]) requestAnimationFrame(() => setShare(shares[index]));
    const faces = make("span", "poll-faces", ...usersOf(poll, index, isMine, session.user).map((user) => session.people.avatar(user)));
    const total = make("span", "poll-count", numbers.format(counts[index]));
    const heardTotal = make("span", "heard", `, ${page.fill(words.ask_poll_votes, { count: counts[index] })}`);
    for (const each of [faces, total]) each.setAttribute("aria-hidden", "true"); // heardTotal says it

    const row = button("", isWinner ? "poll-option poll-most" : "poll-option");
    const mark = make("span", poll.many ? "poll-mark poll-box" : "poll-mark");
    row.append(mark, make("span", "poll-text", make("bdi", "", text)), faces, total, heardTotal, bar);
    row.dataset.key = `poll:${id}:${index}`;
    row.setAttribute("aria-pressed", String(isMine));
    if (isOpen) row.addEventListener("click", () => vote(id, mine, choicesAfter(mine.choices, index, poll)));
    else row.setAttribute("aria-disabled", "true");
    return row;
  });
  const foot = make("p", "poll-foot", make("span", "", footOf(question, voters, session)));
  if (!poll.anonymous && voters) {
    const who = button(words.ask_poll_who, "link");
    who.dataset.key = `poll:${id}:who`;
    who.addEventListener("click", () => openVoters(id, question, counts, session));
    foot.append(who);
  }
  const kinds = [words.ask_poll];
  if (poll.anonymous) kinds.push(words.ask_poll_anonymous);
  if (poll.many) kinds.push(words.ask_poll_many);
  const options = make("div", "poll-options", ...rows);
  const card = make("div", isOpen ? "ask poll" : "ask poll poll-closed", make("p", "poll-kind", kinds.join(" · ")), options, foot);
  card.setAttribute("role", "group");
  card.setAttribute("aria-label", words.ask_poll);
  return card;
}

/**
 * Sets an entry of a map as its newest one. The oldest is dropped if there are too many.
 *
 * @template T
 * @param {Map<number, T>} map
 * @param {number} id
 * @param {T} value
 */
function keep(map, id, value) {
  map.delete(id);
  map.set(id, value);
  if (map.size > MOST_KEPT) map.delete(/** @type {number} */ (map.keys().next().value));
}

/**
 * @param {number[]} choices
 * @param {number} index  of the option that is pressed
 * @param {Poll} poll
 * @returns {number[]} the choices after the press, in the order of the options
 */
function choicesAfter(choices, index, { many }) {
  if (choices.includes(index)) return choices.filter((each) => each !== index);
  return many ? [...choices, index].sort((one, other) => one - other) : [index];
}

/**
 * Our votes in a poll. Totals that are newer than the last ones we know have all votes that were sent.
 *
 * @param {number} id
 * @param {Question} question
 * @param {Poll} poll
 * @returns {Own}
 */
function oursIn(id, { mine }, { time }) {
  const votes = ownVotes.get(id) ?? { choices: mine, counted: mine, time, isSending: false };
  if (time > votes.time && !votes.isSending) Object.assign(votes, { counted: votes.choices, time });
  return votes;
}

/**
 * @param {Question} question
 * @param {Poll} poll
 * @param {Own} mine
 * @returns {number[]} of each option, with our votes that are not counted yet
 */
function countsOf({ options }, { counts }, { choices, counted }) {
  return options.map((_, index) => {
    const others = (counts[index] ?? 0) - Number(counted.includes(index));
    return Math.max(others + Number(choices.includes(index)), 0);
  });
}

/**
 * Votes. If options are pressed while a request is on its way, the last choices are sent after it.
 *
 * @param {number} id
 * @param {Own} votes
 * @param {number[]} choices
 */
async function vote(id, votes, choices) {
  keep(ownVotes, id, votes);
  votes.choices = choices;
  page.redraw(id);
  if (votes.isSending) return;
  votes.isSending = true;
  try {
    /** @type {number[] | null} */
    let sent = null;
    while (sent !== votes.choices) {
      sent = votes.choices;
      const { ask, id: counted } = await page.request("answer", { id, choices: sent });
      const time = questionOf({ kind: "message", meta: { ask } })?.poll?.time ?? 0;
      votes.time = counted ? time - 1 : time; // the totals of this time have our votes, or may lack them
    }
  } catch (error) {
    ownVotes.delete(id);
    page.toast(page.reason(error));
  }
  votes.isSending = false;
  page.redraw(id);
}

/**
 * @param {Poll} poll
 * @param {number} index  of an option
 * @param {boolean} isMine  we have chosen it
 * @param {string} self
 * @returns {string[]} who has chosen it last, ourselves first
 */
function usersOf({ users, anonymous }, index, isMine, self) {
  if (anonymous) return [];
  const others = (users[index] ?? []).filter((user) => user !== self);
  return [...(isMine ? [self] : []), ...others].slice(0, MOST_FACES);
}

/**
 * @param {Question} question
 * @param {number} voters
 * @param {any} session
 */
function footOf({ state, until }, voters, { language }) {
  const { fill, words } = page;
  const parts = [voters ? fill(words.ask_poll_voters, { count: voters }) : words.ask_poll_none];
  if (state) parts.unshift(words.ask_poll_closed);
  else if (until) parts.push(fill(words.ask_poll_until, { time: momentOf(until, language) }));
  return parts.join(" · ");
}

/**
 * @param {number} time
 * @param {string} language
 */
function momentOf(time, language) {
  const isToday = new Date(time).toDateString() === new Date().toDateString();
  /** @type {Intl.DateTimeFormatOptions} */
  const day = isToday ? {} : { day: "numeric", month: "short" };
  return new Intl.DateTimeFormat(language, { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(time);
}

/**
 * Asks once for the names of the people whose faces are shown.
 *
 * @param {number} id
 * @param {Poll} poll
 * @param {any} session
 */
function loadNames(id, { users }, { people }) {
  const unknown = users.flat().filter((user) => !people.card(user) && !loaded.has(user));
  if (!unknown.length) return;
  for (const user of unknown) loaded.add(user);
  Promise.resolve(people.load(unknown)).then(() => page.redraw(id), () => {});
}

/**
 * Shows in a dialog who has voted for each option.
 *
 * @param {number} id
 * @param {Question} question
 * @param {number[]} counts
 * @param {any} session
 */
function openVoters(id, { options }, counts, session) {
  const { button, fill, make, openDialog, words } = page;
  const rowOf = (/** @type {string} */ user) => {
    const name = user === session.user ? words.you : session.people.nameOf(user);
    return make("li", "", session.people.avatar(user), make("bdi", "", name));
  };
  const parts = options.flatMap(({ text }, choice) => {
    if (!counts[choice]) return [];
    const list = make("ul", "poll-voters");
    list.setAttribute("role", "list");
    const more = button(words.more, "link");
    let after = "";
    const load = async () => {
      more.disabled = true;
      try {
        const { users, more: hasMore } = await page.api("POST", "asks/voters", { id, choice, after, limit: VOTERS_PAGE });
        await session.people.load(users);
        list.append(...users.map(rowOf));
        after = users.at(-1) ?? after;
        more.hidden = !hasMore;
      } catch (error) {
        page.toast(page.reason(error));
      }
      more.disabled = false;
    };
    more.addEventListener("click", load);
    load();
    const heading = make("h3", "", make("bdi", "", text), make("span", "", fill(words.ask_poll_votes, { count: counts[choice] })));
    return [make("section", "poll-part", heading, list, more)];
  });
  openDialog(words.ask_poll_who, make("div", "poll-who", ...parts));
}
