// Measures appends to a server of the protocol: node tools/measure_appends.mjs URL CLIENTS VALUES SECONDS. Each client has a stream of JSON, and appends
// so many values at once. URL: the address before the names of streams, or a folder: then @durable-streams/server serves it, if it is installed here.

import http from 'node:http';

let [base, clients, values, seconds] = process.argv.slice(2);
if (!base.startsWith('http')) {
  const { DurableStreamTestServer } = await import('@durable-streams/server');
  base = `${await new DurableStreamTestServer({ port: 0, dataDir: base }).start()}/v1/stream`;
}
const agent = new http.Agent({ keepAlive: true });
const value = { number: 1, text: 'hello world, this is a value' };
const body = JSON.stringify(Array(Number(values)).fill(value));
const { KEY } = process.env;
const headers = { 'Content-Type': 'application/json', ...(KEY && { Authorization: `Bearer ${KEY}` }) };

const ask = (method, url, content) =>
  new Promise((resolve, reject) => {
    const request = http.request(url, { method, agent, headers }, (answer) => {
      answer.resume();
      answer.on('end', () => (answer.statusCode < 300 ? resolve() : reject(new Error(`${answer.statusCode}`))));
    });
    request.on('error', reject);
    request.end(content);
  });

const took = [];
async function client(number) {
  const url = `${base}/bench-${Date.now()}-${number}`;
  await ask('PUT', url);
  for (const end = performance.now() + seconds * 1000; performance.now() < end; ) {
    const begin = performance.now();
    await ask('POST', url, body);
    took.push(performance.now() - begin);
  }
}

await Promise.all(Array.from({ length: Number(clients) }, (_, number) => client(number)));
took.sort((a, b) => a - b);
const at = (share) => took[Math.floor(took.length * share)].toFixed(1);
const each = (number) => Math.round(number / seconds);
console.log(
  `${each(took.length)} appends and ${each(took.length * values)} values a second; ${at(0.5)} ms (p50), ${at(0.99)} ms (p99)`,
);
process.exit(0);
