// What a seal shows of a name.
import assert from "node:assert/strict";
import { it } from "node:test";

import { signsOf } from "./static/messages/session/seal.js";

it("Chinese names are at most four characters, whatever follows them", () => {
  assert.deepEqual(signsOf("王小明"), { script: "characters", signs: ["王", "小", "明"] });
  assert.deepEqual(signsOf("北京大学校友会").signs, ["北", "京", "大", "学"]);
  assert.deepEqual(signsOf("🎉 小波 (Bob)").signs, ["小", "波"]);
  assert.deepEqual(signsOf("が행").signs, ["が", "행"]);
});

it("Latin names are the initials of their first and last word, without accents", () => {
  assert.deepEqual(signsOf("ann"), { script: "letters", signs: ["A"] });
  assert.deepEqual(signsOf("Élodie de la Tour").signs, ["E", "T"]);
  assert.deepEqual(signsOf("42 Club").signs, ["4", "C"]);
  assert.deepEqual(signsOf("Bob 小波").signs, ["B"]);
});

it("other names are their first sign, and a name without one is a question mark", () => {
  assert.deepEqual(signsOf("иван"), { script: "other", signs: ["И"] });
  assert.deepEqual(signsOf("🎉").signs, ["🎉"]);
  assert.deepEqual(signsOf("  ").signs, ["?"]);
});
