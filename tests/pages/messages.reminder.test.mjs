// Reminders and scheduled messages, as the page of the feature `later` has them.
import assert from "node:assert/strict";
import { it } from "node:test";

it("a reminder of somebody who has no card is drawn once", async () => {
  const { start } = await import(`${process.cwd()}/imserver/messenger/later/page/page.js`);
  let makeCard, draws = 0;
  const link = { setAttribute() {} };
  start({ words: {}, addTool() {}, addCard: (made) => void (makeCard ??= made), fill: () => "", hear() {}, make: () => link, api: async () => ({ scheduled: [] }), redraw: (id) => { if (id) draw(); } });
  const session = { user: "ann", people: { nameOf: () => "", card: () => undefined, load: async () => {} } };
  const draw = () => draws++ < 9 && makeCard({ id: 5, kind: "message", meta: { reminder: { id: 1, conversation: 2, from: "bob" } } }, session);
  assert.equal(draw(), link);
  await new Promise((resolve) => setTimeout(resolve));
  assert.equal(draws, 1);
});

it("another text of a scheduled message mentions those whom it names still", async () => {
  const { changeText } = await import(`${process.cwd()}/imserver/messenger/later/page/dialogs.js`);
  const names = { 2: "Bob", 3: "Cid" };
  const people = { load: async () => {}, nameOf: (user) => names[user] ?? user };
  const sent = [];
  const page = { api: async (_method, _path, fields) => void sent.push(fields.mentions) };
  await changeText(page, { people }, { id: "a", mentions: ["2", "3", "@design"] }, "tea, @Bob and @design?");
  await changeText(page, { people }, { id: "a" }, "@Bob");
  assert.deepEqual(sent, [["2", "@design"], []]);
});

it("who presses twice, or again after an error, schedules once", async () => {
  const { openRemind } = await import(`${process.cwd()}/imserver/messenger/later/page/dialogs.js`);
  const presses = [], ids = [];
  const element = () => ({ append() {}, setAttribute() {}, addEventListener: (_event, press) => void presses.push(press), focus() {} });
  const api = async (_method, _path, fields) => {
    ids.push(fields.client_msg_id);
    throw new Error("no answer");
  };
  openRemind({ words: {}, button: element, make: element, openDialog: element, reason: String, api }, { language: "en" }, { id: 5 });
  for (const _ of [1, 2]) await presses[0]();
  assert.equal(ids.length, 2);
  assert.equal(new Set(ids).size, 1);
});
