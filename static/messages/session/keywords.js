// @ts-check
/** Words of the user that count as a mention where they stand in messages to groups. */

/** Signs of scripts that put no spaces between words: there, a part of a text is a word. */
const SPACELESS = /[\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]/;
/** How much of a message is looked through. */
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
 * @returns {RegExp} matches each of them where no letter stands before or behind it
 */
function patternOf(keywords) {
  const patterns = keywords.map((word) => {
    const begin = SPACELESS.test(word[0]) ? "" : "(?<![\\p{L}\\p{N}_])";
    const end = SPACELESS.test(word.at(-1) ?? "") ? "" : "(?![\\p{L}\\p{N}_])";
    return begin + word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&") + end;
  });
  return new RegExp(patterns.join("|"), "iu");
}
