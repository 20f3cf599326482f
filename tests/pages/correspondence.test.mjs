// What the page of kept messages knows, whatever comes while it reads: no drawing, no server.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { it } from "node:test";

// Pages say themselves that their scripts are modules; node is not told by the name of the file.
const source = readFileSync(new URL("../../static/correspondence.js", import.meta.url));
const { Correspondence } = await import(`data:text/javascript;base64,${source.toString("base64")}`);

const entry = (id, more = {}) => ({ id, conversation: 1, seq: id, kind: "message", from: "bob", to: "ann", text: String(id), time: 1, ...more });

/** A messenger whose histories are answered by the test, in any order. */
function paper() {
  const asked = [];
  const history = (conversation, page) => new Promise((resolve) => {
    asked.push({ before: page.before ?? 0, answer: (messages, hasMore = false) => resolve({ messages, hasMore }) });
  });
  const receipts = async () => ({ receipts: [], hasMore: false });
  return { asked, messenger: { user: "ann", history, receipts } };
}

/** A conversation that shows what was in these pages, the newest first. */
async function opened(...pages) {
  const { asked, messenger } = paper();
  const correspondence = new Correspondence(/** @type {any} */ (messenger));
  const talk = correspondence.take(entry(100));
  const opening = correspondence.open(talk);
  asked[0].answer(pages[0], pages.length > 1);
  await opening;
  for (const [index, page] of pages.slice(1).entries()) {
    const reading = correspondence.earlier(talk);
    asked[index + 1].answer(page, index + 2 < pages.length);
    await reading;
  }
  return { asked, correspondence, talk };
}

const texts = ({ entries }) => entries.map(({ text }) => text);

it("what comes late stands in its place, and once", async () => {
  const { correspondence, talk } = await opened([entry(100)]);
  correspondence.take(entry(105, { from: "ann", to: "bob" }));
  correspondence.take(entry(103));
  correspondence.take(entry(103));
  assert.deepEqual(texts(talk), ["100", "103", "105"]);
});

it("a conversation that is opened twice at once loses nothing of what comes meanwhile", async () => {
  const { asked, messenger } = paper();
  const correspondence = new Correspondence(/** @type {any} */ (messenger));
  const talk = correspondence.take(entry(1));
  const first = correspondence.open(talk);
  correspondence.take(entry(2));
  const second = correspondence.open(talk);
  asked[0].answer([entry(1)]);
  await first;
  correspondence.take(entry(3));
  asked[1]?.answer([entry(1), entry(2)]);
  await second;
  assert.deepEqual(texts(talk), ["1", "2", "3"]);
});

it("what is changed while the past is read is changed", async () => {
  const { asked, messenger } = paper();
  const correspondence = new Correspondence(/** @type {any} */ (messenger));
  const talk = correspondence.take(entry(1));
  const opening = correspondence.open(talk);
  correspondence.take(entry(2));
  correspondence.take(entry(3, { kind: "edit", about: 2, text: "two" }));
  correspondence.take(entry(4, { kind: "edit", about: 1, text: "one" }));
  asked[0].answer([entry(1)]);
  await opening;
  assert.deepEqual(texts(talk), ["one", "two"]);
});

it("who asks twice for what was earlier has it once", async () => {
  const { asked, correspondence, talk } = await opened([entry(51), entry(100)], [entry(50)]);
  talk.more = true;
  const both = [correspondence.earlier(talk), correspondence.earlier(talk)];
  asked.slice(2).forEach(({ answer }) => answer([entry(48), entry(49)], true));
  await Promise.all(both);
  assert.deepEqual(texts(talk), ["48", "49", "50", "51", "100"]);
});

it("a page of nothing but edits leads on to what is before it", async () => {
  const edits = [entry(60, { kind: "edit", about: 3 }), entry(100, { kind: "edit", about: 3 })];
  const { asked, talk } = await opened(edits, [entry(3)]);
  assert.deepEqual(asked.map(({ before }) => before), [0, 60]);
  assert.deepEqual(texts(talk), ["3"]);
});

it("of what is not open only the end is kept", () => {
  const correspondence = new Correspondence(/** @type {any} */ (paper().messenger));
  const talk = correspondence.take(entry(1));
  for (let id = 2; id < 100; id++) correspondence.take(entry(id));
  assert.equal(talk.last?.id, 99);
  assert.equal(talk.unread, 99);
  assert.equal(Object.values(talk).filter(Array.isArray).flat().length, 0);
});
