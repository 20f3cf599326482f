// @ts-check
/** A question as a message has it in `meta.ask`. What somebody else has written there may be anything. */

/** @typedef {{ user: string, value?: string, text?: string, time: number }} Answer */
/** @typedef {{ text: string, value: string }} Option */

/**
 * @typedef {object} Question
 * @property {Option[]} options
 * @property {boolean} text        answers in one's own words are allowed
 * @property {string[] | null} of  who may answer; null: everybody but the asker
 * @property {number} need         answers of different people until it is answered
 * @property {number} until        milliseconds since 1970; 0: no deadline
 * @property {"" | "answered" | "cancelled" | "expired"} state  empty: open
 * @property {Answer[]} answers
 * @property {Poll | null} poll    everybody votes, and may change that
 * @property {number[]} mine       the options of the poll that we had chosen when it was loaded, by their index
 */

/**
 * @typedef {object} Poll
 * @property {boolean} many
 * @property {boolean} anonymous
 * @property {number} voters
 * @property {number[]} counts   of each option
 * @property {string[][]} users  of each option, who has chosen it last
 * @property {number} time       of the count, in milliseconds since 1970; 0: nobody has voted
 */

const STATES = ["answered", "cancelled", "expired"];
const MOST_OPTIONS = 12;
/** The year 9999: a later time cannot be shown. */
const LATEST = 253_402_300_799_000;

/** @param {unknown} value */
const isText = (value) => typeof value === "string";
/** @param {unknown} value */
const isTime = (value) => typeof value === "number" && value > 0 && value <= LATEST;
/** @param {unknown} value @returns {number} */
const countOf = (value) => (typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : 0);
/** @param {unknown} value @returns {any[]} */
const arrayOf = (value) => (Array.isArray(value) ? value : []);
/** @param {unknown} value @returns {any[]} */
const listOf = (value) => (Array.isArray(value) ? value.filter((each) => each !== null && typeof each === "object") : []);

/**
 * @param {any} entry
 * @returns {Question | null} null: it is no question, or one that cannot be shown
 */
export function questionOf({ kind, meta }) {
  const ask = kind === "message" && meta?.ask;
  if (!ask || typeof ask !== "object") return null;
  const options = listOf(ask.options).filter(({ text, value }) => isText(text) && isText(value)).slice(0, MOST_OPTIONS);
  const answers = listOf(ask.answers).filter(({ user, value, text, time }) => isText(user) && (isText(value) || isText(text)) && isTime(time));
  const of = Array.isArray(ask.of) ? ask.of.filter(isText) : null;
  const mine = arrayOf(ask.mine).filter((/** @type {unknown} */ each) => Number.isSafeInteger(each));
  return {
    options,
    text: ask.text === true || !options.length,
    of,
    need: countOf(ask.need) || 1,
    until: isTime(ask.until) ? ask.until : 0,
    state: STATES.includes(ask.state) ? ask.state : "",
    answers,
    poll: pollOf(ask.poll),
    mine,
  };
}

/**
 * @param {any} poll
 * @returns {Poll | null}
 */
function pollOf(poll) {
  if (!poll || typeof poll !== "object") return null;
  return {
    many: poll.many === true,
    anonymous: poll.anonymous === true,
    voters: countOf(poll.voters),
    counts: arrayOf(poll.counts).map(countOf),
    users: arrayOf(poll.users).map((each) => arrayOf(each).filter(isText)),
    time: countOf(poll.time),
  };
}

/**
 * @param {Question} question
 * @param {any} entry
 * @param {string} user
 * @returns {boolean}
 */
export function mayAnswer({ state, of, answers }, { from }, user) {
  const isAsked = of ? of.includes(user) : from !== user;
  return !state && isAsked && !answers.some((each) => each.user === user);
}

/**
 * @param {Question} question
 * @param {Answer} answer
 * @returns {string} what it says
 */
export function textOf({ options }, { value, text }) {
  return options.find((each) => each.value === value)?.text ?? text ?? value ?? "";
}
