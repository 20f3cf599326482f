// @ts-check
/** Words of the user that count as a mention where they stand in messages to groups. */

/** Signs of scripts that put no spaces between words: there, a part of a text is a word. */
const SPACELESS = /[\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]/;
/** Of a message so much is looked through. */
const LOOKED_CHARACTERS = 4000;

/**
 * @param {import("../parts/entries.js").Entry} entry
 * @param {string[]} keywords
 * @param {string} self  our user
 * @returns {boolean} whether it has one of these words
 */
export function hasKeyword({ to, from, text = "" }, keywords = [], self) {
  return keywords.length > 0 && !to && from !== self && patternOf(keywords).test(text.slice(0, LOOKED_CHARACTERS));
}

/**
 * @param {string[]} keywords
 * @returns {RegExp}
 */
function patternOf(keywords) {
  const patterns = keywords.map((word) => {
    const [first, last] = [word[0], word.at(-1) ?? ""].map((sign) => SPACELESS.test(sign));
    return `${first ? "" : "(?<![\\p{L}\\p{N}_])"}${word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")}${last ? "" : "(?![\\p{L}\\p{N}_])"}`;
  });
  return new RegExp(patterns.join("|"), "iu");
}
