// The language of a text, and movements of what is drawn again.
import assert from "node:assert/strict";
import { it } from "node:test";

import { animate, languageOf } from "./static/messages/conversation/message-view.js";

it("fonts and screen readers know the language of a text that is not that of the page", () => {
  const texts = ["早上好 Ann", "おはよう漢字", "안녕하세요", "Good morning", "12:30 👍"];
  assert.deepEqual(texts.map((text) => languageOf(text, "zh-Hans")), [null, "ja", "ko", "", null]);
  assert.deepEqual(texts.map((text) => languageOf(text, "en")), ["zh-Hans", "ja", "ko", null, null]);
});

it("a few Chinese characters in a text of other letters do not change its font", () => {
  const texts = ["Let us eat 饺子 today", "饺子 today?", "看 Ann 的消息"];
  assert.deepEqual(texts.map((text) => languageOf(text, "en")), [null, "zh-Hans", "zh-Hans"]);
  assert.deepEqual(texts.map((text) => languageOf(text, "zh-CN")), ["", null, null]);
});

it("what is drawn again while it moves goes on from where it was", (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: 10_000 });
  const shown = (since) => {
    const classes = [];
    const moving = { classList: { add: (name) => classes.push(name) }, style: {} };
    animate(moving, "arrives", since);
    return [...classes, moving.style.animationDelay];
  };
  assert.deepEqual(shown(10_000), ["arrives", "0ms"]);
  assert.deepEqual(shown(9_900), ["arrives", "-100ms"]);
  assert.deepEqual(shown(9_000), [undefined]);
  assert.deepEqual(shown(undefined), [undefined]);
});
