// The QR codes of invitation links, read by another library. Without a browser.
import assert from "node:assert/strict";
import { it } from "node:test";
import { decodeQR } from "../../sdk/node_modules/qr/decode.js";
import { encodeQR } from "../../sdk/node_modules/qr/index.js";
import { qrMatrix } from "../../static/messages/parts/qr.js";

/** Bytes that fit into each version at error correction level M. */
const CAPACITY = [14, 26, 42, 62, 84, 106, 122, 152, 180, 213];
const PIXELS = 4; // per module
const QUIET = 4;

const textOf = (bytes) => Array.from({ length: bytes }, (_, index) => String.fromCharCode(33 + ((index * 37) % 90))).join("");

/** The matrix as a picture, black on white. */
function drawn(matrix) {
  const width = (matrix.length + 2 * QUIET) * PIXELS;
  const data = new Uint8ClampedArray(width * width * 4).fill(255);
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < width; x++) {
      if (matrix[Math.floor(y / PIXELS) - QUIET]?.[Math.floor(x / PIXELS) - QUIET]) data.fill(0, (y * width + x) * 4, (y * width + x) * 4 + 3);
    }
  }
  return { width, height: width, data };
}

const decoded = (text) => decodeQR(drawn(qrMatrix(text)), { timeLimit: 60_000 });

for (const [index, capacity] of CAPACITY.entries()) {
  const version = index + 1;
  it(`a code of version ${version} says what it should, from its first to its last byte`, () => {
    for (const length of [index ? CAPACITY[index - 1] + 1 : 1, capacity]) {
      const text = textOf(length);
      const matrix = qrMatrix(text);
      assert.equal(matrix.length, 17 + 4 * version);
      assert.equal(decoded(text), text);
      // Every module is as another encoder draws it: a decoder would correct some wrong ones.
      const others = [0, 1, 2, 3, 4, 5, 6, 7].map((mask) => encodeQR(text, "raw", { ecc: "medium", encoding: "byte", version, mask, border: 1 }));
      const inner = (other) => other.slice(1, -1).map((row) => row.slice(1, -1));
      assert.ok(others.some((other) => JSON.stringify(inner(other)) === JSON.stringify(matrix)));
    }
  });
}

it("other scripts than Latin are UTF-8", () => {
  assert.equal(decoded("https://例子.test/#invite=茶 ☕"), "https://例子.test/#invite=茶 ☕");
});

it("a text that is too long is refused", () => {
  assert.throws(() => qrMatrix("x".repeat(214)), RangeError);
});
