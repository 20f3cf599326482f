// Which e-mail addresses a text or a file has.
import assert from "node:assert/strict";
import { it } from "node:test";

import { addressesIn } from "./static/messages/people/invite.js";

it("finds the addresses of lists, of spreadsheets and of mail programs, each once", () => {
  for (const [text, ...addresses] of [
    ["ann@example.com, bob@example.com\neve@example.com;ann@EXAMPLE.com", "ann@example.com", "bob@example.com", "eve@example.com"],
    ["Name;Mail\r\n\"Lee, Ann\";\"ann.lee+chat@mail.example.org\"\r\nBob;bob@example.com", "ann.lee+chat@mail.example.org", "bob@example.com"],
    ["Ann <ann@example.com>, 李雷 <lei@例子.中国>. (bob@example.com)", "ann@example.com", "lei@例子.中国", "bob@example.com"],
    ["Write to ann@example.com.", "ann@example.com"],
    ["mailto:ann@example.com\tann at example.com @ann ann@ ann@localhost", "ann@example.com"],
  ]) assert.deepEqual(addressesIn(text), addresses, text);
});
