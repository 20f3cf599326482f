// @ts-check
/** How names are compared: word by word, without case and accents. */

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

/** @param {string} text */
function wordsOf(text) {
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
