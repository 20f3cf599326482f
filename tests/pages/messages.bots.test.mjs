// Commands of bots as the text of a field.
import assert from "node:assert/strict";
import { it } from "node:test";

import { commandsIn } from "./static/messages/bots.js";

it("the lines of a text are commands", () => {
  assert.deepEqual(commandsIn("/help  Show what I can do\n\n today\n"), [{ name: "help", description: "Show what I can do" }, { name: "today", description: "" }]);
  assert.deepEqual(commandsIn(""), []);
  assert.equal(commandsIn("/Help me"), null);
});
