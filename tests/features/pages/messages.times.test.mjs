// Times as the pages show them.
import assert from "node:assert/strict";
import { it } from "node:test";

import { shortTimes } from "./static/messages/first-view.js";
import { MessageView } from "./static/messages/message-view.js";

for (const language of ["en", "zh"]) {
  it(`a minute after midnight is 00:01 (${language})`, () => {
    const midnight = new Date().setHours(0, 1);
    assert.equal(shortTimes(language)(midnight), "00:01");
    assert.equal(new MessageView(/** @type {any} */ ({ language }), /** @type {any} */ ({})).clock.format(midnight), "00:01");
  });
}
