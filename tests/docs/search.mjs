// Asks the search of a built site as its page does: node search.mjs SITE < queries in JSON. Prints the addresses
// of the hits of each query.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const site = process.argv[2];
const folder = join(site, "assets/javascripts/workers");
const answers = [];
globalThis.self = { postMessage: (message) => answers.push(message) };
new Function(readFileSync(join(folder, readdirSync(folder).find((name) => name.endsWith(".js"))), "utf8"))();

const ask = async (type, data) => {
  await self.onmessage({ data: { type, data } });
  for (let turn = 0; !answers.length && turn < 1000; turn++) await new Promise(setImmediate);
  return answers.shift();
};

const index = JSON.parse(readFileSync(join(site, "search.json"), "utf8"));
await ask(0, index);
const hits = [];
for (const input of JSON.parse(readFileSync(0, "utf8"))) {
  const { data } = await ask(2, { input, page: { size: 10 }, filter: { input: { type: "operator", data: { operator: "and", operands: [] } } } });
  hits.push(data.items.map(({ id }) => index.items[id].location));
}
console.log(JSON.stringify(hits));
