/** What several chosen messages are as a text. */
import assert from "node:assert/strict";
import { it } from "node:test";

import { copied } from "./static/messages/conversation/selection.js";

const words = { you: "You", messages_custom: "Other message" };
const session = { user: "1", language: "en", words, people: { nameOf: (user) => ({ 2: "Bob" })[user] } };

it("each message has its author, its time and its text, or what it is", () => {
  const time = new Date(2026, 10, 25, 8, 52).getTime();
  const entries = [
    { id: 1, kind: "message", from: "1", text: "tea?\nor coffee", time },
    { id: 2, kind: "message", from: "2", type: "poll", data: {}, time: time + 60_000 },
  ];
  const [first, second] = copied(entries, session).split("\n\n");
  assert.match(first, /^\[11\/25\/26, 08:52\] You\ntea\?\nor coffee$/);
  assert.match(second, /^\[11\/25\/26, 08:53\] Bob\nOther message$/);
});
