// @ts-check
/**
 * Seals: what stands for somebody, or for a group, without a picture. A seal is carved from the name, so it is the same everywhere,
 * and needs no request. Chinese names (also Japanese and Korean ones) are characters, at most four, read from the right column to the
 * left; Latin names are their initials, in letters of straight cuts. Half of the seals are white on vermilion, the others vermilion
 * on white.
 */

import { hashOf } from "../../text.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_CHARACTERS = 4;
/** One character of a Chinese, Japanese or Korean name. */
const CHARACTER = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/gu;
/** Accents, which NFKD parts from their letters. */
const ACCENT = /[\u0300-\u036f]/g;
const MOST_INITIALS = 2;
/** Side of a seal, where its content begins, and the side of its content, in units of its drawing. */
const SIDE = 64;
const EDGE = 11;
const INSIDE = SIDE - 2 * EDGE;
/** Of a character: where its base line is, as a part of its height. */
const BASE_LINE = 0.88;
/** How many drawings the page remembers. */
const MOST_KNOWN = 500;

/**
 * Letters as cuts through points of a grid, x from 0 to 4 and y from 0 to 6: `"0006 0333"` is a stroke from (0, 0) to (0, 6), and another.
 *
 * @type {Record<string, string>}
 */
const LETTERS = {
  A: "0602204246 0444", B: "000636454433030333 3342413000", C: "4130100105163645", D: "00062644422000", E: "40000646 0333", F: "400006 0333",
  G: "41301001051636454323", H: "0006 4046 0343", I: "1030 2026 1636", J: "1040 3035260605", K: "0006 400346", L: "000646", M: "0600234046", N: "06004640",
  O: "100105163645413010", P: "06003041423303", Q: "100105163645413010 2446", R: "06003041423303 2346", S: "413010010213334445361605", T: "0040 2026",
  U: "000516364540", V: "0003264340", W: "0006234640", X: "0046 4006", Y: "002340 2326", Z: "00400646", 0: "100105163645413010 1432", 1: "112026 1636",
  2: "01103041420646", 3: "004023334445361605", 4: "36300444", 5: "400003334445360605", 6: "301001051636454433 3303", 7: "004016", 8: "13020110304142331304051636454433", 9: "16364541301001021343",
};

/** Name and variant → its drawing. @type {Map<string, SVGElement>} */
const known = new Map();

/**
 * The signs of a name that a seal shows. Of Latin names they are the first and the last initial.
 *
 * @param {string} name
 * @returns {{ script: "characters" | "letters" | "other", signs: string[] }} in the order in which they are read
 */
export function signsOf(name) {
  const parts = name.normalize("NFKD").replace(ACCENT, "").normalize("NFC").match(/[\p{L}\p{N}]+/gu) ?? [];
  const first = Array.from(parts[0] ?? name.trim())[0] ?? "?";
  const characters = parts.join("").match(CHARACTER) ?? [];
  if (characters[0] === first) return { script: "characters", signs: characters.slice(0, MOST_CHARACTERS) };
  const initials = parts.map((word) => Array.from(word)[0].toUpperCase()).filter((sign) => sign in LETTERS);
  if (initials[0] !== first.toUpperCase()) return { script: "other", signs: [first.toUpperCase()] };
  const [initial, ...others] = initials;
  return { script: "letters", signs: [initial, ...others.slice(1 - MOST_INITIALS)] };
}

/**
 * @param {string} name
 * @returns {SVGElement} for screen readers it is nothing: the name is beside it
 */
export function seal(name) {
  const found = known.get(name) ?? carve(name);
  if (!known.has(name)) {
    if (known.size >= MOST_KNOWN) known.clear();
    known.set(name, found);
  }
  return /** @type {SVGElement} */ (found.cloneNode(true));
}

/**
 * Draws the seal of a name: its block, and the signs in it.
 *
 * @param {string} name
 */
function carve(name) {
  const hash = hashOf(name);
  // The block is full, and the signs are cut out of it. Else they and its outline are lines.
  const isFull = (hash & 1) === 0;
  const { script, signs } = signsOf(name);
  const drawing = node("svg", { class: `seal ${isFull ? "full" : "lined"}`, viewBox: `0 0 ${SIDE} ${SIDE}`, "aria-hidden": "true" });
  drawing.append(node("path", { class: "block", d: blockOf(hash, isFull ? 1.5 : 3.25) }));
  if (script === "letters") drawing.append(lettersOf(signs));
  else if (script === "characters") drawing.append(...cellsOf(signs.length).map((cell, index) => signIn(signs[index], ...cell)));
  else drawing.append(signIn(signs[0], EDGE + 4, EDGE + 2, INSIDE - 8, INSIDE - 8));
  return drawing;
}

/**
 * One wide letter, or two beside each other.
 *
 * @param {string[]} letters
 */
function lettersOf(letters) {
  const isOne = letters.length === 1;
  const width = isOne ? INSIDE - 12 : (INSIDE - 14) / 2;
  const cuts = letters.map((letter, index) => {
    const indent = isOne ? 6 : 2 + index * (width + 10);
    return cutsOf(LETTERS[letter], EDGE + indent, EDGE + 3, width, INSIDE - 6);
  });
  return node("path", { class: isOne ? "cut wide" : "cut", d: cuts.join("") });
}

/**
 * Where the characters are: one column for two of them; else the right column first.
 *
 * @param {number} count  1 to 4
 * @returns {[x: number, y: number, width: number, height: number][]}
 */
function cellsOf(count) {
  const all = INSIDE + 4;
  const half = all / 2;
  const start = EDGE - 2;
  if (count === 1) return [[start, start, all, all]];
  if (count === 2) return [[start + 3, start, all - 6, half], [start + 3, start + half, all - 6, half]];
  const left = /** @type {[number, number, number, number][]} */ ([[start, start, half, half], [start, start + half, half, half]]);
  if (count === 3) return [[start + half, start, half, all], ...left];
  return [[start + half, start, half, half], [start + half, start + half, half, half], ...left];
}

/**
 * A character that fills its cell.
 *
 * @param {string} sign
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 */
function signIn(sign, x, y, width, height) {
  const size = Math.min(width, height);
  const place = `translate(${x + width / 2} ${y + height * BASE_LINE}) scale(${width / size} ${height / size})`;
  const made = node("text", { class: "sign", transform: place, "font-size": String(size), "text-anchor": "middle" });
  made.textContent = sign;
  return made;
}

/**
 * @param {string} letter  the cuts of one of {@link LETTERS}
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 * @returns {string} a path
 */
function cutsOf(letter, x, y, width, height) {
  const pointOf = (/** @type {string[]} */ [, across, down]) => (
    `${round(x + (Number(across) * width) / 4)} ${round(y + (Number(down) * height) / 6)}`
  );
  return letter.split(" ").map((points) => `M${[...points.matchAll(/(.)(.)/g)].map(pointOf).join("L")}`).join("");
}

/**
 * The outline of the block, worn a little, as stone is.
 *
 * @param {number} hash
 * @param {number} edge  distance from the edge of the drawing
 */
function blockOf(hash, edge) {
  const far = SIDE - edge;
  const steps = 7;
  let seed = hash;
  // A linear congruential generator: the outline of a name is the same everywhere.
  const wear = () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return ((seed >>> 16) % 100) / 100;
  };
  /** @type {string[]} */
  const points = [];
  // A point of a side, which is the upper one turned clockwise `side` times.
  const add = (/** @type {number} */ side, /** @type {number} */ along, /** @type {number} */ deep) => {
    const point = [[along, deep], [SIDE - deep, along], [SIDE - along, SIDE - deep], [deep, SIDE - along]][side];
    points.push(point.map(round).join(" "));
  };
  for (let side = 0; side < 4; side++) {
    add(side, edge + 3 + wear() * 2, edge); // corners are cut
    for (let step = 1; step < steps; step++) {
      const along = edge + ((far - edge) * (step + (wear() - 0.5) * 0.6)) / steps;
      add(side, along, edge + wear() * wear() * 1.5);
    }
    add(side, far - 3 - wear() * 2, edge);
  }
  return `M${points.join("L")}Z`;
}

/** @param {number} number */
function round(number) {
  return Math.round(number * 100) / 100;
}

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @returns {SVGElement}
 */
function node(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
