/** What is typed into a search: its words and filters. */
import assert from "node:assert/strict";
import { it } from "node:test";

import { byName, letterOf } from "./static/messages/people/directory.js";
import { dateText, hitsIn, isFiltered, parse, timeOf, withFilter, withoutContent } from "./static/messages/search/search-query.js";

const day = (year, month, date = 1) => new Date(year, month - 1, date).getTime();

it("filters are read in both languages, and the rest are the words", () => {
  const { open, faults, ...query } = parse('tea from:"Ada L" time has:file HAS:Image before:2026-11-01 after:2025 in:club ');
  assert.deepEqual(query, { words: "tea time", from: "Ada L", in: "club", has: ["file", "picture"], since: day(2025, 1), until: day(2026, 11) });
  assert.deepEqual([open, faults], [null, []]);
  const chinese = parse("来自：小明 茶 包含：文件 含:链接 早于：2026年11月1日 晚于:2025/3 ");
  assert.deepEqual([chinese.words, chinese.from, chinese.has, chinese.until, chinese.since], ["茶", "小明", ["file", "link"], day(2026, 11), day(2025, 3)]);
  assert.equal(parse("https://example.org/from:ada a:b within:x").words, "https://example.org/from:ada a:b within:x");
  assert.deepEqual([parse("tea"), parse("has:link ")].map(isFiltered), [false, true]);
});

it("the filter at the end is open while it is typed, and means nothing wrong then", () => {
  assert.deepEqual(parse("tea from:ad").open, { name: "from", value: "ad", start: 4 });
  assert.deepEqual(parse('from:"Ada L').open, { name: "from", value: "Ada L", start: 0 });
  assert.equal(parse('from:"Ada L"').open, null);
  assert.deepEqual([parse("has:fi").faults, parse("has:fi ").faults, parse("before:2026-02-30 x").faults], [[], ["has:fi"], ["before:2026-02-30"]]);
});

it("dates are years, months and days", () => {
  assert.deepEqual(["2026", "2026-11", "2026.11.3", "2026年11月3日"].map(timeOf), [day(2026, 1), day(2026, 11), day(2026, 11, 3), day(2026, 11, 3)]);
  assert.deepEqual(["", "26", "2026-13", "2026-02-30", "tomorrow"].map(timeOf), [0, 0, 0, 0, 0]);
  assert.equal(dateText(new Date(2026, 0, 9)), "2026-01-09");
});

it("a chip types a filter, in place of one that is open, and takes it away", () => {
  assert.equal(withFilter("tea", "from", ""), "tea from:");
  assert.equal(withFilter("tea from:ad", "from", "Ada L"), 'tea from:"Ada L" ');
  assert.equal(withFilter("", "has", "file"), "has:file ");
  assert.equal(withoutContent("has:file tea 含:文件 has:link", "file"), "tea has:link");
});

it("words are marked where the server finds them", () => {
  const marks = (text, words) => hitsIn(text, words).map(([start, end]) => text.slice(start, end));
  assert.deepEqual(marks("Two École, ecoles and scole", 'ecole "two x"'), ["Two", "École", "ecole"]);
  assert.deepEqual(marks("今天晚上八点在老地方见", "地方 点"), ["点", "地方"]);
  assert.deepEqual(marks("ＦＵＬＬ 👍 e\u0301tude", "full etude 👍"), ["ＦＵＬＬ", "👍", "e\u0301tude"]);
  assert.deepEqual(marks("a.b", "? ("), []);
});

it("names stand below their letters: Chinese ones below those of pinyin, on a Chinese page", () => {
  const names = ["Anna", "安然", "赵强", "Zoe", "吕布", "Élan"];
  const people = { nameOf: (user) => user };
  const ordered = byName({ language: "zh-CN", people }, names);
  assert.deepEqual(ordered.map((name) => letterOf(name, "zh-CN")), ["A", "A", "E", "L", "Z", "Z"]);
  assert.deepEqual(ordered.slice(2, 4), ["Élan", "吕布"]);
  assert.equal(letterOf("吕布", "en"), "文");
});
