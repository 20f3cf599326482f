/** Own emoji of an app: what shows them is loaded with the first name, and a text may have very many. */
import assert from "node:assert/strict";
import { it } from "node:test";

import { OwnList } from "./emoji/own/own.js";
import { start } from "./emoji/page.js";

const PARTY = { name: "party", url: "/api/v1/uploads/1", width: 8, height: 8 };
Object.defineProperty(globalThis, "localStorage", { value: { getItem: () => null, setItem: () => {} } });
globalThis.document = { querySelectorAll: () => [] };

const page = (parts) => ({
  loadStyle: async () => {},
  loadWords: async () => (await fetch("words.en.json")).json(),
  api: async () => ({ version: "1", emoji: [PARTY] }),
  make: () => ({ addEventListener: () => {} }),
  ...parts,
});

it("after a failure the next name loads them", async () => {
  let source;
  start(page({ addEmoji: (made) => (source = made), hear: () => {} }));
  const session = { language: "en", app: "gochat" };
  globalThis.fetch = async () => { throw new Error("no network"); };
  await assert.rejects(source.load(session));
  globalThis.fetch = async () => ({ json: async () => ({}) });
  assert.deepEqual((await source.load(session)).names(), ["party"]);
});

it("a text of very many is not read once for each of them", async () => {
  const own = new OwnList(page(), { app: "gochat" }, {});
  await own.start();
  let reads = 0;
  const bubble = { classList: { toggle: () => {} } };
  const text = { matches: () => true, parentElement: bubble, children: [] };
  const signs = Array.from({ length: 1000 }, () => ({
    dataset: { ownEmoji: "party" }, parentElement: text, classList: { toggle: () => {} }, replaceChildren: () => {}, matches: () => true,
  }));
  signs[Symbol.iterator] = () => { reads += 1; return [][Symbol.iterator](); };
  text.children = signs;
  for (let index = 0; index < signs.length; index += 1) own.fill(signs[index]);
  await new Promise((resolve) => setTimeout(resolve));
  assert.equal(reads, 0);
});
