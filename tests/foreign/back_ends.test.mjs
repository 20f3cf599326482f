// The npm packages centrifuge and imserver-client against an app with a back end that decides (test_back_ends.py).

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { ImClient } from '../../sdk/js/imserver.js';

const load = createRequire(process.env.NODE_PACKAGES);
const { Centrifuge } = load('centrifuge');
const websocket = load('ws');
const { IM_WS: address, IM_APP: app, IM_TOKEN: token } = process.env;
const timeout = 60_000;

const next = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));

test('centrifuge: connect, subscribe, publish and rpc', async () => {
  const options = { websocket, timeout, data: { name: 'ann' }, headers: { Authorization: 'Bearer ann' } };
  const client = new Centrifuge(`${address}/connection/${app}/websocket`, options);
  const connected = next(client, 'connected');
  client.connect();
  assert.deepEqual((await connected).data, { hello: 'ann' });

  const channel = client.newSubscription('asked:sdks', { data: { seat: 7 } });
  const [subscribed, publication] = [next(channel, 'subscribed'), next(channel, 'publication')];
  channel.subscribe();
  assert.deepEqual((await subscribed).data, { seat: 7 });
  await channel.publish('tea');
  const { data, info } = await publication;
  assert.deepEqual([data, info.user, info.chanInfo], ['TEA', 'ann', { seat: 7 }]);
  await assert.rejects(channel.publish('rude'), { code: 1403, message: 'be polite' });

  const secret = client.newSubscription('asked:secret');
  const unsubscribed = next(secret, 'unsubscribed');
  secret.subscribe();
  const { code, reason } = await unsubscribed;
  assert.deepEqual([code, reason], [1403, 'not for ann']);

  assert.deepEqual((await client.rpc('price', { of: 'tea' })).data, { of: 'tea', price: 3 });
  await assert.rejects(client.rpc('steal', {}), { code: 1404, message: 'no such method' });
  client.disconnect();
});

test('imserver-client: subscribe and publish', async () => {
  const options = { url: `${address}/acc`, httpUrl: '', app, user: 'bob', token, timeoutMs: timeout, WebSocket: websocket };
  const client = new ImClient(options);
  await client.connect();
  let heard;
  const publication = new Promise((resolve) => (heard = resolve));
  const channel = client.subscribe('asked:sdks', { onPublication: heard });
  await channel.ready;
  await channel.publish('milk');
  const { text, from } = await publication;
  assert.deepEqual([text, from], ['MILK', 'bob']);
  await assert.rejects(channel.publish('rude'), { name: 'CommandRefused', cmd: 'publish', refused: 'denied' });
  const secret = client.subscribe('asked:secret');
  await assert.rejects(secret.ready, { name: 'CommandRefused', cmd: 'subscribe', refused: 'denied' });
  client.close();
});
