// centrifuge-js in Node.js behind a balancer that gives each connection to any node, and cuts all connections again
// and again: the channel of the user, one that the token names and one with a token of its own lose nothing.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRequire } from 'node:module';

const load = createRequire(process.env.NODE_PACKAGES);
const forms = { json: load('centrifuge'), protobuf: load('centrifuge/build/protobuf') };
const websocket = load('ws');
const { balancer, nodes, key, app, users, publications } = JSON.parse(process.env.IM_RUN);
const endpoints = {
  websocket: `ws://${balancer}/connection/${app}/websocket`,
  http_stream: [{ transport: 'http_stream', endpoint: `http://${balancer}/connection/${app}/http_stream` }],
};
const decoder = new TextDecoder();
const expected = Array.from({ length: publications }, (_, number) => number);

/** Publishes a number to channels, at the node whose turn it is. */
async function publish(channels, number) {
  const answer = await fetch(`${nodes[number % nodes.length]}/api/broadcast`, {
    method: 'POST',
    headers: { 'x-api-key': key, 'content-type': 'application/json' },
    body: JSON.stringify({ channels, data: number }),
  });
  const { result } = await answer.json();
  for (const each of result.responses) assert.ok(each.result.offset > 0, JSON.stringify(each));
}

for (const [form, { Centrifuge }] of Object.entries(forms)) {
  for (const [transport, endpoint] of Object.entries(endpoints)) {
    test(`${form} over ${transport}`, async () => {
      const { user, token, subscription } = users[`${form}-${transport}`];
      const channels = [`#${user}`, `news:${user}`, `orders:${user}`];
      const heard = Object.fromEntries(channels.map((each) => [each, []]));
      const client = new Centrifuge(endpoint, {
        websocket,
        emulationEndpoint: `http://${balancer}/emulation`,
        token,
        minReconnectDelay: 10,
        maxReconnectDelay: 200,
      });
      const unrecovered = [];
      let begun = 0;
      let recoveries = 0;
      const subscribed = ({ channel, wasRecovering, recovered }) => {
        if (!wasRecovering) begun += 1;
        else if (recovered) recoveries += 1;
        else unrecovered.push(channel);
      };
      const received = ({ channel, data, offset }) => {
        const number = form === 'json' ? data : JSON.parse(decoder.decode(data));
        if (offset) heard[channel].push(number);
      };
      const own = client.newSubscription(channels[2], { token: subscription, recoverable: true });
      for (const each of [client, own]) each.on('subscribed', subscribed).on('publication', received);
      client.connect();
      own.subscribe();
      const until = async (done) => {
        while (!done()) await new Promise((resolve) => { setTimeout(resolve, 10); });
      };
      await until(() => begun >= channels.length);
      for (const number of expected) {
        await publish(channels, number);
        await new Promise((resolve) => { setTimeout(resolve, 10); });
      }
      await until(() => channels.every((each) => heard[each].at(-1) === publications - 1));
      client.disconnect();
      for (const each of channels) assert.deepEqual(heard[each], expected, each);
      assert.deepEqual(unrecovered, []);
      assert.ok(recoveries > 0, 'the client was cut');
    });
  }
}
