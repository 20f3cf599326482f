// Formatting as typed, links and mentions.
import assert from "node:assert/strict";
import { it } from "node:test";

import { parse } from "./static/messages/format.js";

const shown = (text, names) => parse(text, names).map(({ kind, text: content }) => (kind === "text" ? content : `<${kind}>${content}`));

it("formats what is typed", () => {
  for (const [text, ...parts] of [
    ["*bold* and `co*d*e`", "<bold>bold", " and ", "<code>co*d*e"],
    ["2*3*4 * 5 a*b*c", "2*3*4 * 5 a*b*c"],
    ["箱子*湿透*了", "箱子", "<bold>湿透", "了"],
    ["```\na *b*\n  c\n```\nafter", "<block>a *b*\n  c", "after"],
    ["see https://a.example/x_(y)?q=1#z.", "see ", "<link>https://a.example/x_(y)?q=1#z", "."],
    ["(http://a.example/b)", "(", "<link>http://a.example/b", ")"],
    ["看https://a.example/路，好", "看", "<link>https://a.example/路", "，好"],
    ["javascript:alert(1) ftp://a https://", "javascript:alert(1) ftp://a https://"],
    ["<b>&amp;</b> `", "<b>&amp;</b> `"],
    ["", ...[]],
  ]) assert.deepEqual(shown(text), parts, text);
});

it("marks the names of mentioned people, the longest first", () => {
  assert.deepEqual(shown("hi @Ann Lee, @Ann and @Bob", ["Ann", "Ann Lee"]), ["hi ", "<mention>@Ann Lee", ", ", "<mention>@Ann", " and @Bob"]);
});
