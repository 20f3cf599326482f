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
const VOTERS_PAGE = 50;

/** @type {any} */
let page;
/** @type {Map<number, Own>} */
const own = new Map();
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
    if (!Number.isSafeInteger(id) || !Array.isArray(choices) || own.get(id)?.isSending) return;
    keep(own, id, { choices, counted: choices, time: 0, isSending: false });
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
  const voters = Math.max(poll.voters + Number(mine.choices.length > 0) - Number(mine.counted.length > 0), ...counts);
  const before = shown.get(id);
  const shares = counts.map((count) => (voters ? count / voters : 0));
  keep(shown, id, shares);
  loadNames(id, poll, session);
  const isOpen = !question.state;
  const most = Math.max(...counts);
  const numbers = new Intl.NumberFormat(session.language);
  const rows = question.options.map(({ text }, index) => {
    const isMine = mine.choices.includes(index);
    const bar = make("span", "poll-bar");
    bar.style.setProperty("--share", String((before ?? shares)[index]));
    if (before && before[index] !== shares[index]) requestAnimationFrame(() => bar.style.setProperty("--share", String(shares[index])));
    const faces = make("span", "poll-faces", ...usersOf(poll, index, isMine, session.user).map((user) => session.people.avatar(user)));
    const total = make("span", "poll-count", numbers.format(counts[index]));
    for (const each of [faces, total]) each.setAttribute("aria-hidden", "true"); // the next one says it
    const row = button("", `poll-option${!isOpen && most && counts[index] === most ? " poll-most" : ""}`);
    row.append(make("span", `poll-mark${poll.many ? " poll-box" : ""}`), make("span", "poll-text", make("bdi", "", text)), faces, total, make("span", "heard", `, ${page.fill(words.ask_poll_votes, { count: counts[index] })}`), bar);
    row.dataset.key = `poll:${id}:${index}`;
    row.setAttribute("aria-pressed", String(isMine));
    if (isOpen) row.addEventListener("click", () => vote(id, mine, poll.many ? toggled(mine.choices, index) : isMine ? [] : [index]));
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
  const kind = [words.ask_poll, ...(poll.anonymous ? [words.ask_poll_anonymous] : []), ...(poll.many ? [words.ask_poll_many] : [])].join(" · ");
  const card = make("div", `ask poll${isOpen ? "" : " poll-closed"}`, make("p", "poll-kind", kind), make("div", "poll-options", ...rows), foot);
  card.setAttribute("role", "group");
  card.setAttribute("aria-label", words.ask_poll);
  return card;
}

/**
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
 * @param {number} index
 */
function toggled(choices, index) {
  return choices.includes(index) ? choices.filter((each) => each !== index) : [...choices, index].sort((one, other) => one - other);
}

/**
 * @param {number} id
 * @param {Question} question
 * @param {Poll} poll
 * @returns {Own}
 */
function oursIn(id, { mine }, { time }) {
  const now = own.get(id) ?? { choices: mine, counted: mine, time, isSending: false };
  if (time > now.time && !now.isSending) Object.assign(now, { counted: now.choices, time });
  return now;
}

/**
 * @param {Question} question
 * @param {Poll} poll
 * @param {Own} mine
 * @returns {number[]} of each option, with our votes that are not counted yet
 */
function countsOf({ options }, { counts }, { choices, counted }) {
  return options.map((_, index) => Math.max((counts[index] ?? 0) + Number(choices.includes(index)) - Number(counted.includes(index)), 0));
}

/**
 * Votes. What is pressed while an answer is on its way is sent behind it.
 *
 * @param {number} id
 * @param {Own} now
 * @param {number[]} choices
 */
async function vote(id, now, choices) {
  keep(own, id, now);
  now.choices = choices;
  page.redraw(id);
  if (now.isSending) return;
  now.isSending = true;
  try {
    /** @type {number[] | null} */
    let sent = null;
    while (sent !== now.choices) {
      sent = now.choices;
      const { ask, id: counted } = await page.request("answer", { id, choices: sent });
      const time = questionOf({ kind: "message", meta: { ask } })?.poll?.time ?? 0;
      now.time = counted ? time - 1 : time; // the totals of this time have our votes, or may lack them
    }
  } catch (error) {
    own.delete(id);
    page.toast(page.reason(error));
  }
  now.isSending = false;
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
  return [...(isMine ? [self] : []), ...others].slice(0, 3);
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
  return new Intl.DateTimeFormat(language, { ...(!isToday && { day: "numeric", month: "short" }), hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(time);
}

/**
 * Asks for the names of those whose faces are shown, once.
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
 * Shows who has voted for what.
 *
 * @param {number} id
 * @param {Question} question
 * @param {number[]} counts
 * @param {any} session
 */
function openVoters(id, { options }, counts, session) {
  const { button, fill, make, openDialog, words } = page;
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
        list.append(...users.map((/** @type {string} */ user) => make("li", "", session.people.avatar(user), make("bdi", "", user === session.user ? words.you : session.people.nameOf(user)))));
        after = users.at(-1) ?? after;
        more.hidden = !hasMore;
      } catch (error) {
        page.toast(page.reason(error));
      }
      more.disabled = false;
    };
    more.addEventListener("click", load);
    load();
    return [make("section", "poll-part", make("h3", "", make("bdi", "", text), make("span", "", fill(words.ask_poll_votes, { count: counts[choice] }))), list, more)];
  });
  openDialog(words.ask_poll_who, make("div", "poll-who", ...parts));
}
