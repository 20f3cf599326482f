/** All emoji: their tables, their tones, and the search. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { it } from "node:test";

import { searched, toned } from "./static/messages/conversation/emoji-picker.js";

const [en, zh] = ["en", "zh"].map((language) => JSON.parse(readFileSync(new URL(`./static/messages/emoji/${language}.json`, import.meta.url), "utf8")));

it("both languages have the same emoji in the same groups", () => {
  const shape = (table) => table.map((rows) => rows.map(([emoji, , , tones, version]) => [emoji, tones, version]));
  assert.deepEqual(shape(en), shape(zh));
  assert.ok(en.flat().length > 1800);
  assert.ok([...en, ...zh].flat().every(([emoji, name]) => emoji && name));
});

it("a tone is put behind the first character", () => {
  assert.equal(toned("👋", 0), "👋");
  assert.equal(toned("👋", 5), "👋🏿");
  assert.equal(toned("✌️", 1), "✌🏻");
  assert.equal(toned("👩‍⚕️", 3), "👩🏽‍⚕️");
});

it("names and keywords of each language find an emoji, those whose name begins with the query first", () => {
  const found = (query, ...tables) => searched(tables[0], query, tables.slice(1)).map(([emoji]) => emoji);
  assert.equal(found("rocket", en)[0], "🚀");
  assert.equal(found("火箭", zh)[0], "🚀");
  assert.deepEqual(found("火箭", en), []);
  assert.equal(found("火箭", en, zh)[0], "🚀");
  assert.ok(found("LOL", en).includes("😂"));
  assert.ok(found("cat joy", en).includes("😹"));
  assert.deepEqual(found("🐉", en), ["🐉"]);
  assert.deepEqual(found("no such emoji", en), []);
});
