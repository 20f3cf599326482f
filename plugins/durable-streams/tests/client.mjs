// The client of npm, unmodified, at nodes of which one is killed (test_durable_judges.py). NODES: their addresses. It says when half is appended.

import assert from 'node:assert/strict';
import { DurableStream, IdempotentProducer, stream } from '@durable-streams/client';

const nodes = process.env.NODES.split(' ');
const headers = { Authorization: `Bearer ${process.env.KEY}` };
const most = 2000;

/** As a load balancer: one node, and after a failure the next one. */
function balanced() {
  let at = 0;
  return async (request, options) => {
    const { pathname, search } = new URL(request);
    try {
      return await fetch(`${nodes[at]}${pathname}${search}`, options);
    } catch (error) {
      if (!options?.signal?.aborted) at = (at + 1) % nodes.length;
      throw error;
    }
  };
}

/** Appends are idempotent, so each is sent until there is an answer. */
async function again(request, options) {
  for (;;) {
    try {
      return await toNodes(request, options);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

const toNodes = balanced();
const url = `${nodes[0]}/durable/shop/stream/client`;
const created = await DurableStream.create({ url, headers, contentType: 'application/json' });
const producer = new IdempotentProducer(created, 'p', { maxBatchBytes: 200, fetch: again });

/** All values, read live. */
async function follow(live) {
  const values = [];
  const fetch = balanced();
  for (let offset = '-1'; values.length < most; ) {
    const response = await stream({ url, headers, offset, live, json: true, fetch });
    response.subscribeJson((batch) => {
      values.push(...batch.items);
      offset = batch.offset;
      if (values.length >= most) response.cancel();
    });
    await response.closed.catch(() => {}); // the connection was cut
  }
  return values;
}

const readers = [follow('long-poll'), follow('sse')];
for (let number = 0; number < most; number++) {
  producer.append(JSON.stringify(number));
  if (number === most / 2) {
    await producer.flush();
    console.log('half');
    await new Promise((resolve) => process.stdin.once('data', resolve));
  }
}
await producer.flush();
const expected = Array.from({ length: most }, (_, number) => number);
for (const values of await Promise.all(readers)) assert.deepEqual(values, expected);
console.log('all');
process.exit(0);
