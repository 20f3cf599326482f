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
 * Who may be meant by what is typed after an `@`: first who has written lately, then those in whose names a word begins with it, then the
 * others whose names contain it; all of a group at the end. Of two words, which may be a mention and a text, the first one is a whole
 * word of the name, and another word begins with the second one.
 *
 * @param {string[]} members
 * @param {string} typed
 * @param {(user: string) => string} nameOf
 * @param {number} most
 * @param {string[]} [writers]  who has written lately, the last one first
 * @returns {string[]}
 */
export function mentionable(members, typed, nameOf, most, writers = []) {
  const before = typed.split(" ").slice(0, -1).flatMap(wordsOf);
  const fit = (/** @type {string} */ user) => {
    const fits = fitOf(nameOf(user), typed);
    return before.length && (fits || !before.every((word) => wordsOf(nameOf(user)).includes(word))) ? 2 : fits;
  };
  const fits = new Map(members.map((user) => [user, fit(user)]));
  const recent = writers.filter((user) => fits.has(user));
  const ordered = [...new Set([...recent, ...members.filter((user) => fits.get(user) === 0), ...members])].filter((user) => fits.get(user) !== 2);
  const all = fit("all") < 2 ? ["all"] : [];
  return [...ordered.slice(0, most - all.length), ...all];
}

/** What `conversation/kinds.js` has, once it is loaded. @type {{ kinds: any }} */
export const loaded = { kinds: null };
