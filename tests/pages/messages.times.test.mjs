// Times as the pages show them.
import assert from "node:assert/strict";
import { it } from "node:test";

import { shortTimes } from "./static/messages/session/first-view.js";
import { MessageView } from "./static/messages/conversation/message-view.js";
import { moments } from "./static/text.js";

for (const language of ["en", "zh"]) {
  it(`a minute after midnight is 00:01 (${language})`, () => {
    const midnight = new Date().setHours(0, 1);
    assert.equal(shortTimes(language)(midnight), "00:01");
    assert.equal(new MessageView(/** @type {any} */ ({ language }), /** @type {any} */ ({})).clock.format(midnight), "00:01");
  });
}

it("a day with its time has the hours of the rows", () => {
  const time = new Date(2026, 10, 5, 15, 7);
  assert.deepEqual(["en", "zh-CN", "de"].map((language) => moments(language).format(time)), ["Nov 5, 2026, 15:07", "2026年11月5日 15:07", "05.11.2026, 15:07"]);
});

it("a list names the year of a day only if it is long ago", () => {
  const when = shortTimes("en");
  assert.match(when(Date.now() - 20 * 86_400_000), /^[A-Z][a-z]{2} \d+$/);
  assert.equal(when(new Date(2020, 1, 3).getTime()), "Feb 3, 2020");
});
