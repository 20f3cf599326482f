// @ts-check
/** How names are compared: word by word, without case and accents. And who is mentioned by a name. */

/** What a mention of all is called in a text, in each language of the page: who reads it may use another one. */
export const ALL_NAMES = ["all", "所有人", "alle", "الكل"];

/** What stands between the words of a name. */
const BETWEEN = /[\s\p{P}]+/u;

/**
 * @param {string} text
 * @returns {string} as searches compare it
 */
export function folded(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

/** Letters that are no letter with an accent for Unicode. @type {Record<string, string>} */
const PLAIN = { ł: "l", ø: "o", đ: "d", ð: "d", ħ: "h", ı: "i", ß: "ss", æ: "ae", œ: "oe", þ: "th" };

/**
 * @param {string} text
 * @returns {string[]} its words, as searches compare them
 */
export function wordsOf(text) {
  return folded(text).replace(/[łøđðħıßæœþ]/g, (letter) => PLAIN[letter]).split(BETWEEN).filter(Boolean);
}

/**
 * How names fit what is typed.
 *
 * @param {string} names
 * @param {string} typed
 * @returns {0 | 1 | 2} 0: in them words begin with each typed word; 1: they contain them; 2: they do not
 */
export function fitOf(names, typed) {
  const text = ` ${wordsOf(names).join(" ")}`;
  const wanted = wordsOf(typed);
  if (wanted.every((word) => text.includes(` ${word}`))) return 0;
  return wanted.every((word) => text.includes(word)) ? 1 : 2;
}

/**
 * @param {{ mentions?: string[], handles?: string[] }} meta  of a message
 * @param {(user: string) => string} nameOf
 * @returns {[name: string, user: string][]} what stands behind an `@` in its text; of a group, `user` is its handle behind an `@`
 */
export function namesIn({ mentions = [], handles = [] }, nameOf) {
  const users = [...mentions, ...handles.map((handle) => `@${handle}`)];
  return users.flatMap((user) => {
    const names = user === "all" ? ALL_NAMES : [nameOf(user).replace(/^@/, "")];
    return names.map((name) => /** @type {[string, string]} */ ([name, user]));
  });
}

/**
 * @param {Map<string, string>} mentioned  the user, or handle behind an `@`, by name
 * @param {string} text
 * @returns {[name: string, user: string][]} those whom the text names behind an `@`; with `@Anna`, Ann is none of them
 */
export function namedIn(mentioned, text) {
  const longestFirst = [...mentioned].sort(([one], [other]) => other.length - one.length);
  let remaining = text;
  return longestFirst.filter(([name]) => {
    const before = remaining;
    remaining = before.replaceAll(`@${name}`, " ");
    return remaining !== before;
  });
}

/** The module `conversation/kinds.js`, once it is loaded. @type {{ kinds: any }} */
export const loaded = { kinds: null };
