import assert from "node:assert/strict";
import { it } from "node:test";

import { marked } from "./static/messages/conversation/formatting.js";

/** A text in which what is selected stands between two bars. */
function formatted(text, format) {
  const start = text.indexOf("|");
  const after = marked({ text: text.replaceAll("|", ""), start, end: text.lastIndexOf("|") - 1 }, format);
  return `${after.text.slice(0, after.start)}|${after.text.slice(after.start, after.end)}|${after.text.slice(after.end)}`;
}

it("what is selected gets marks, or loses them", () => {
  for (const [before, format, after] of [
    ["a |tea| b", "bold", "a *|tea|* b"],
    ["a *|tea|* b", "bold", "a |tea| b"],
    ["a |*tea*| b", "bold", "a |tea| b"],
    ["a| tea |b", "italic", "a _|tea|_ b"],
    ["a ||", "struck", "a ~~||~~"],
    ["|x = 1\ny = 2|", "code", "```\n|x = 1\ny = 2|\n```"],
    ["a\nb|c\n\nd|e", "list", "a\n|- bc\n\n- de|"],
    ["a\n|- bc\n\n- de|", "list", "a\n|bc\n\nde|"],
    ["to|be|", "quote", "> tobe||"],
    ["see |the map|", "link", "see [the map](|https://|)"],
    ["|https://a.example|", "link", "[||](https://a.example)"],
  ]) assert.equal(formatted(before, format), after, `${before} ${format}`);
});
