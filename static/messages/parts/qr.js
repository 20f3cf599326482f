// @ts-check
/**
 * QR codes (ISO/IEC 18004): one segment of bytes, error correction level M, versions 1 to 10. That is enough for 213 bytes.
 *
 * docs/dependencies.md says why this is no library.
 */

/** Codewords of a symbol, of data and error correction together, by version. */
const CODEWORDS = [0, 26, 44, 70, 100, 134, 172, 196, 242, 292, 346];
/** Error correction codewords per block at level M, by version. */
const CORRECTION = [0, 10, 16, 26, 18, 24, 16, 18, 22, 22, 26];
/** Blocks at level M, by version. */
const BLOCKS = [0, 1, 1, 1, 2, 2, 4, 4, 4, 5, 5];
/** Row and column of the last alignment pattern, by version. From version 7 on there is one halfway, too. */
const LAST_ALIGNMENT = [0, 0, 18, 22, 26, 30, 34, 38, 42, 46, 50];
const LAST_VERSION = 10;
/** From this version on, the symbol contains its version. */
const FIRST_WITH_VERSION = 7;
/** Modules of white around the symbol. */
const QUIET = 4;
/** The mode of a segment of bytes, as the symbol names it. */
const BYTE_MODE = 4;
/** Codewords that fill the rest of the symbol, in turn. */
const PADDING = [0xec, 0x11];

/** Mask number → whether the mask inverts a module. @type {((row: number, column: number) => boolean)[]} */
const MASKS = [
  (row, column) => (row + column) % 2 === 0,
  (row) => row % 2 === 0,
  (_, column) => column % 3 === 0,
  (row, column) => (row + column) % 3 === 0,
  (row, column) => (Math.floor(row / 2) + Math.floor(column / 3)) % 2 === 0,
  (row, column) => ((row * column) % 2) + ((row * column) % 3) === 0,
  (row, column) => (((row * column) % 2) + ((row * column) % 3)) % 2 === 0,
  (row, column) => (((row + column) % 2) + ((row * column) % 3)) % 2 === 0,
];

/**
 * The modules of the QR code of a text: rows of booleans, true is dark. The white frame is not part of it.
 *
 * @param {string} text  encoded as UTF-8
 * @returns {boolean[][]}
 * @throws {RangeError} if the text has more than 213 bytes
 */
export function qrMatrix(text) {
  const bytes = new TextEncoder().encode(text);
  const version = versionFor(bytes.length);
  const codewords = interleave(version, dataCodewords(version, bytes));
  const masked = MASKS.map((_, mask) => drawSymbol(version, codewords, mask));
  const penalties = masked.map(penaltyOf);
  return masked[penalties.indexOf(Math.min(...penalties))];
}

/**
 * A picture of the QR code of a text, always dark on white.
 *
 * @param {string} text
 * @param {string} label  says to screen readers what it is
 * @returns {SVGElement}
 */
export function qrPicture(text, label) {
  const matrix = qrMatrix(text);
  const size = matrix.length + 2 * QUIET;
  const squareAt = (/** @type {number} */ x, /** @type {number} */ y) => `M${x + QUIET} ${y + QUIET}h1v1h-1z`;
  const dark = matrix.flatMap((row, y) => row.map((isDark, x) => (isDark ? squareAt(x, y) : "")));
  const picture = svg("svg", { class: "qr", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" });
  picture.append(svg("rect", { width: size, height: size, fill: "#fff" }), svg("path", { d: dark.join(""), fill: "#000" }));
  return picture;
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @returns {SVGElement}
 */
function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return /** @type {SVGElement} */ (made);
}

// --- codewords --------------------------------------------------------------------------------------------------

/** @param {number} version  whose number of codewords of data is returned */
const dataLength = (version) => CODEWORDS[version] - CORRECTION[version] * BLOCKS[version];

/** @param {number} version  in which the number of bytes has so many bits */
const lengthBits = (version) => (version < 10 ? 8 : 16);

/**
 * The smallest version for this number of bytes.
 *
 * @param {number} length
 * @returns {number}
 */
function versionFor(length) {
  for (let version = 1; version <= LAST_VERSION; version++) {
    if (4 + lengthBits(version) + 8 * length <= 8 * dataLength(version)) return version;
  }
  throw new RangeError(`${length} bytes are too many for a QR code`);
}

/**
 * Mode, length, bytes, terminator and padding.
 *
 * @param {number} version
 * @param {Uint8Array} bytes
 * @returns {number[]}
 */
function dataCodewords(version, bytes) {
  /** @type {number[]} */
  const bits = [];
  const append = (/** @type {number} */ value, /** @type {number} */ length) => {
    for (let bit = length - 1; bit >= 0; bit--) bits.push((value >> bit) & 1);
  };
  append(BYTE_MODE, 4);
  append(bytes.length, lengthBits(version));
  for (const byte of bytes) append(byte, 8);
  append(0, 4); // the terminator: mode, length and bytes end in the middle of a codeword, so it always fits
  const codewords = [];
  for (let at = 0; at < bits.length; at += 8) codewords.push(Number.parseInt(bits.slice(at, at + 8).join(""), 2));
  for (let pad = 0; codewords.length < dataLength(version); pad++) codewords.push(PADDING[pad % 2]);
  return codewords;
}

/**
 * Splits the data into blocks, and takes turns with the codewords of the blocks: first of data, then of error correction.
 *
 * @param {number} version
 * @param {number[]} data
 * @returns {number[]}
 */
function interleave(version, data) {
  const count = BLOCKS[version];
  const shortLength = Math.floor(data.length / count);
  const shortCount = count - (data.length % count); // the blocks after them have a codeword more
  const blocks = [];
  for (let index = 0, at = 0; index < count; index++) {
    const length = index < shortCount ? shortLength : shortLength + 1;
    blocks.push(data.slice(at, at + length));
    at += length;
  }
  const corrections = blocks.map((block) => remainder(block, CORRECTION[version]));
  return [...takeTurns(blocks), ...takeTurns(corrections)];
}

/** @param {number[][]} lists */
function takeTurns(lists) {
  const longest = Math.max(...lists.map(({ length }) => length));
  const turns = Array.from({ length: longest }, (_, index) => lists.filter(({ length }) => index < length).map((list) => list[index]));
  return turns.flat();
}

/**
 * The error correction codewords of a block: the remainder of its polynomial by the Reed-Solomon generator of this degree.
 *
 * @param {number[]} block
 * @param {number} degree
 * @returns {number[]}
 */
function remainder(block, degree) {
  let generator = [1];
  let root = 1;
  for (let power = 0; power < degree; power++) {
    const shifted = [0, ...generator.map((value) => multiply(value, root))];
    generator = [...generator, 0].map((value, index) => value ^ shifted[index]);
    root = multiply(root, 2);
  }
  const dividend = [...block, ...Array(degree).fill(0)];
  for (let at = 0; at < block.length; at++) {
    const factor = dividend[at];
    generator.forEach((value, index) => { dividend[at + index] ^= multiply(value, factor); });
  }
  return dividend.slice(block.length);
}

/**
 * Multiplies in the field of 256 elements of QR codes.
 *
 * @param {number} one
 * @param {number} other
 * @returns {number}
 */
function multiply(one, other) {
  let product = 0;
  for (let bit = 7; bit >= 0; bit--) {
    product = (product << 1) ^ ((product >> 7) * 0x11d);
    product ^= ((other >> bit) & 1) * one;
  }
  return product;
}

// --- the symbol -------------------------------------------------------------------------------------------------

/**
 * The modules of a symbol with one of the masks.
 *
 * @param {number} version
 * @param {number[]} codewords
 * @param {number} mask  its number
 * @returns {boolean[][]}
 */
function drawSymbol(version, codewords, mask) {
  const size = 17 + 4 * version;
  /** Undefined: free for codewords. @type {(boolean | undefined)[][]} */
  const modules = Array.from({ length: size }, () => Array(size).fill(undefined));
  drawPatterns(modules, version);
  drawFormat(modules, mask);
  if (version >= FIRST_WITH_VERSION) drawVersion(modules, version);
  drawCodewords(modules, codewords, mask);
  return /** @type {boolean[][]} */ (modules);
}

/**
 * Timing, finder and alignment patterns.
 *
 * @param {(boolean | undefined)[][]} modules
 * @param {number} version
 */
function drawPatterns(modules, version) {
  const size = modules.length;
  for (let at = 0; at < size; at++) {
    const isDark = at % 2 === 0;
    modules[6][at] = isDark;
    modules[at][6] = isDark;
  }
  for (const [row, column] of [[3, 3], [3, size - 4], [size - 4, 3]]) drawSquares(modules, row, column, 4, [2, 4]);
  const last = LAST_ALIGNMENT[version];
  if (!last) return;
  const places = version < FIRST_WITH_VERSION ? [6, last] : [6, (6 + last) / 2, last];
  for (const row of places) {
    for (const column of places) {
      const isFinder = (row === 6 && column === 6) || (row === 6 && column === last) || (row === last && column === 6);
      if (!isFinder) drawSquares(modules, row, column, 2, [1]);
    }
  }
}

/**
 * Squares around a module. All are dark but those at the distances in `light`.
 *
 * @param {(boolean | undefined)[][]} modules
 * @param {number} row
 * @param {number} column
 * @param {number} reach  of the largest
 * @param {number[]} light
 */
function drawSquares(modules, row, column, reach, light) {
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const line = modules[row + y];
      const distance = Math.max(Math.abs(x), Math.abs(y));
      if (line && column + x in line) line[column + x] = !light.includes(distance);
    }
  }
}

/**
 * Error correction level and mask, twice.
 *
 * @param {(boolean | undefined)[][]} modules
 * @param {number} mask
 */
function drawFormat(modules, mask) {
  const size = modules.length;
  const bits = ((mask << 10) | checkBits(mask, 10, 0x537)) ^ 0x5412; // level M is 00
  for (let bit = 0; bit < 15; bit++) {
    const dark = ((bits >> bit) & 1) === 1;
    // Bit 0 is at the top of column 8, bit 14 at the left of row 8. Row 6 and column 6 are timing patterns.
    if (bit < 8) modules[bit < 6 ? bit : bit + 1][8] = modules[8][size - 1 - bit] = dark;
    else modules[8][bit === 8 ? 7 : 14 - bit] = modules[size - 15 + bit][8] = dark;
  }
  modules[size - 8][8] = true;
}

/**
 * The version, twice.
 *
 * @param {(boolean | undefined)[][]} modules
 * @param {number} version
 */
function drawVersion(modules, version) {
  const bits = (version << 12) | checkBits(version, 12, 0x1f25);
  for (let bit = 0; bit < 18; bit++) {
    const [near, far] = [Math.floor(bit / 3), modules.length - 11 + (bit % 3)];
    modules[near][far] = modules[far][near] = ((bits >> bit) & 1) === 1;
  }
}

/**
 * The remainder of a value, shifted left by `length` bits, by a generator of a BCH code.
 *
 * @param {number} value
 * @param {number} length
 * @param {number} generator
 * @returns {number}
 */
function checkBits(value, length, generator) {
  let remaining = value;
  for (let bit = 0; bit < length; bit++) remaining = (remaining << 1) ^ ((remaining >> (length - 1)) * generator);
  return remaining;
}

/**
 * Fills the free modules, from the right, in columns of two that go up and down in turn.
 *
 * @param {(boolean | undefined)[][]} modules
 * @param {number[]} codewords
 * @param {number} mask
 */
function drawCodewords(modules, codewords, mask) {
  const size = modules.length;
  let bit = 0;
  let up = true;
  for (let right = size - 1; right > 0; right -= 2, up = !up) {
    if (right === 6) right = 5; // column 6 is a timing pattern
    for (let step = 0; step < size; step++) {
      const row = up ? size - 1 - step : step;
      for (const column of [right, right - 1]) {
        if (modules[row][column] !== undefined) continue;
        const dark = (((codewords[bit >> 3] ?? 0) >> (7 - (bit & 7))) & 1) === 1;
        modules[row][column] = dark !== MASKS[mask](row, column);
        bit += 1;
      }
    }
  }
}

/**
 * How hard a symbol is to read, by the four rules of the standard.
 *
 * @param {boolean[][]} modules
 * @returns {number}
 */
function penaltyOf(modules) {
  const size = modules.length;
  const rows = modules.map((row) => row.map(Number).join(""));
  const columns = rows.map((_, x) => rows.map((row) => row[x]).join(""));
  let penalty = 0;
  for (const line of [...rows, ...columns]) {
    for (const { length } of line.match(/0{5,}|1{5,}/g) ?? []) penalty += length - 2;
    for (let at = 0; at + 11 <= size; at++) {
      if (/^(10111010000|00001011101)/.test(line.slice(at, at + 11))) penalty += 40; // like a finder pattern
    }
  }
  let dark = 0;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const isDark = modules[y][x];
      if (isDark) dark += 1;
      const isSquare = x && y && [modules[y - 1][x], modules[y][x - 1], modules[y - 1][x - 1]].every((other) => other === isDark);
      if (isSquare) penalty += 3;
    }
  }
  return penalty + 10 * Math.floor(Math.abs((dark * 20) / (size * size) - 10));
}
