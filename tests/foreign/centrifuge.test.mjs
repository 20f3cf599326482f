// centrifuge-js in Node.js, with JSON and with protobuf frames, over WebSockets and HTTP streams, against a server
// (tests/foreign/conftest.py).

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { createRequire } from 'node:module';

const load = createRequire(process.env.NODE_PACKAGES);
const forms = {
  json: load('centrifuge'),
  protobuf: load('centrifuge/build/protobuf'),
};
const websocket = load('ws');
const tokens = JSON.parse(process.env.IM_TOKENS);
const address = process.env.IM_WS;
const http = process.env.IM_HTTP;
const decoder = new TextDecoder();

/** Calls the API of the server for the app `shop`. */
async function api(path, body) {
  const answer = await fetch(`${http}/api/v1/${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${process.env.IM_KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ app: 'shop', ...body }),
  });
  assert.equal(answer.status, 200);
  return answer.json();
}

const endpoints = {
  websocket: `${address}/connection/websocket`,
  http_stream: [{ transport: 'http_stream', endpoint: `${http}/connection/http_stream` }],
};
const ways = Object.entries(forms).flatMap(([form, { Centrifuge }]) =>
  Object.entries(endpoints).map(([transport, endpoint]) => ({ form, Centrifuge, transport, endpoint })),
);

/** The clients of the test that runs. */
const clients = [];

const newClient = (Centrifuge, endpoint, token, more = {}) => {
  const client = new Centrifuge(endpoint, {
    websocket,
    emulationEndpoint: process.env.IM_EMULATION,
    token,
    minReconnectDelay: 10,
    timeout: 60_000,
    ...more,
  });
  clients.push(client);
  return client;
};

// With a client that a failed test has left, the process would never end, and nobody would see the failure.
afterEach(() => {
  for (const each of clients.splice(0)) each.disconnect();
});

for (const { form, Centrifuge, transport, endpoint } of ways) {
  const name = `${form}-${transport}`;
  const read = (data) => (form === 'json' ? data : JSON.parse(decoder.decode(data)));
  const written = (value) => (form === 'json' ? value : new TextEncoder().encode(JSON.stringify(value)));

  const connect = (token, more) => newClient(Centrifuge, endpoint, token, more);

  const next = (emitter, event, fits = () => true) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no ${event}`)), 60_000);
      const listener = (context) => {
        if (fits(context)) {
          clearTimeout(timer);
          emitter.removeListener(event, listener);
          resolve(context);
        }
      };
      emitter.on(event, listener);
    });

  test(`${name}: publications, presence and history of a channel`, async () => {
    const [ann, bob] = [connect(tokens.ann), connect(tokens.bob)];
    const channel = `past:js-${name}`;
    const [heard, talk] = [ann.newSubscription(channel), bob.newSubscription(channel)];
    for (const each of [ann, bob]) each.connect();
    for (const each of [heard, talk]) each.subscribe();
    await Promise.all([heard.ready(60_000), talk.ready(60_000)]);
    const publication = next(heard, 'publication');
    await talk.publish(written({ text: '你好' }));
    const found = await publication;
    assert.deepEqual(read(found.data), { text: '你好' });
    assert.equal(found.info.user, 'bob');
    assert.equal(Number(found.offset), 1);
    const page = await talk.history({ limit: 10 });
    assert.deepEqual(page.publications.map((each) => read(each.data)), [{ text: '你好' }]);
    await assert.rejects(talk.presence(), { code: 108 });
    const talks = ann.newSubscription('talk:js', { token: tokens.talk });
    talks.subscribe();
    await talks.ready(60_000);
    const present = Object.values((await talks.presence()).clients);
    assert.ok(present.some((each) => each.user === 'ann'));
    assert.equal((await talks.presenceStats()).numUsers, 1);
  });

  for (const namespace of ['past', 'kept']) test(`${name}: what was missed of ${namespace} comes back in order`, async () => {
    const [ann, bob] = [connect(tokens.ann), connect(tokens.bob)];
    const channel = `${namespace}:js-missed-${name}`;
    const heard = ann.newSubscription(channel, { recoverable: true });
    const talk = bob.newSubscription(channel);
    for (const each of [ann, bob]) each.connect();
    for (const each of [heard, talk]) each.subscribe();
    await Promise.all([heard.ready(60_000), talk.ready(60_000)]);
    const received = [];
    heard.on('publication', (context) => received.push(read(context.data)));
    await talk.publish(written(1));
    ann.disconnect();
    for (const number of [2, 3, 4]) await talk.publish(written(number));
    const subscribed = next(heard, 'subscribed');
    ann.connect();
    const state = await subscribed;
    assert.equal(state.recovered, true);
    const last = next(heard, 'publication', (context) => read(context.data) === 5);
    await talk.publish(written(5));
    await last;
    assert.deepEqual(received, [1, 2, 3, 4, 5]);
  });

  test(`${name}: a client with a state of its own loads it again if it cannot recover`, async () => {
    const [ann, bob] = [connect(tokens.ann), connect(tokens.bob)];
    const channel = `past:js-state-${name}`;
    const talk = bob.newSubscription(channel);
    bob.connect();
    talk.subscribe();
    await talk.ready(60_000);
    for (let number = 1; number <= 25; number += 1) await talk.publish(written(number));
    const { epoch } = await talk.history({ limit: 0 });
    const offsets = [1, 25];
    const heard = ann.newSubscription(channel, { getState: async () => ({ offset: offsets.shift(), epoch }) });
    const subscribed = next(heard, 'subscribed');
    ann.connect();
    heard.subscribe();
    assert.equal((await subscribed).recovered, true);
    assert.deepEqual(offsets, []);
  });

  test(`${name}: after a cut the own channel is reloaded, and stored messages come back from the log`, async () => {
    const ann = connect(tokens.ann);
    const push = async (text) => (await api('push', { user: 'ann', text, store: true })).results[0].stored.id;
    const rpc = async (method, data) => read((await ann.rpc(method, written(data))).data);
    const received = [];
    ann.on('publication', (context) => received.push([read(context.data).text, Number(context.offset)]));
    const own = (context) => context.channel === '#ann';
    const begun = next(ann, 'subscribed', own);
    ann.connect();
    const { recoverable, positioned } = await begun;
    assert.deepEqual([recoverable, positioned], [false, false]);
    for (const method of ['history', 'presence', 'presenceStats']) {
      await assert.rejects(ann[method]('#ann'), { code: 108 });
      await assert.rejects(ann[method]('#bob'), { code: 103 });
    }
    const live = next(ann, 'publication');
    const ids = [await push('one')];
    await live;
    ann.disconnect();
    for (const text of ['two', 'three', 'four']) ids.push(await push(text));
    await api('push', { user: 'ann', text: 'not stored, and lost' });
    const again = next(ann, 'subscribed', own);
    ann.connect();
    assert.equal((await again).recovered, false);
    const { messages } = await rpc('sync', { cursor: ids[0] });
    received.push(...messages.map(({ text, id }) => [text, id]));
    const last = next(ann, 'publication', (context) => read(context.data).text === 'five');
    ids.push(await push('five'));
    await last;
    assert.deepEqual(received, ['one', 'two', 'three', 'four', 'five'].map((text, index) => [text, ids[index]]));
  });

  test(`${name}: a streamed message, read live, late and from the history`, async () => {
    const [ann, bob] = [connect(tokens.ann), connect(tokens.bob)];
    const channel = `prices:js-stream-${name}`;
    const texts = { ann: [], bob: [] };
    /** Collects the text so far of each update, by the rules of the reference. */
    const follow = (subscription, seen) => {
      const open = new Map();
      subscription.on('publication', (context) => {
        const { stream, piece, text, whole, done } = read(context.data);
        const known = open.get(stream);
        if (!whole && piece !== known?.piece + 1) return;
        open.set(stream, { piece, text: whole ? text : known.text + text });
        seen.push([open.get(stream).text, done === true, context.offset === undefined ? 0 : Number(context.offset)]);
      });
    };
    const [early, late] = [ann.newSubscription(channel), bob.newSubscription(channel, { delta: 'fossil' })];
    follow(early, texts.ann);
    follow(late, texts.bob);
    for (const each of [ann, bob]) each.connect();
    early.subscribe();
    await early.ready(60_000);
    const { stream } = await api('channels/stream/open', { channel });
    await api('channels/stream/append', { pieces: [{ stream, piece: 1, text: 'Hel' }] });
    const first = next(late, 'publication');
    late.subscribe();
    await first;
    await api('channels/stream/append', { pieces: [{ stream, piece: 2, text: 'lo' }] });
    const ends = [early, late].map((each) => next(each, 'publication', (context) => read(context.data).done));
    await api('channels/stream/close', { stream });
    await Promise.all(ends);
    assert.deepEqual(texts.ann, [['', false, 0], ['Hel', false, 0], ['Hello', false, 0], ['Hello', true, 1]]);
    assert.deepEqual(texts.bob, [['Hel', false, 0], ['Hello', false, 0], ['Hello', true, 1]]);
    const { publications } = await early.history({ limit: 10 });
    assert.deepEqual(publications.map((each) => read(each.data).text), ['Hello']);
  });

  for (const namespace of ['prices', 'ledger'])
    test(`${name}: deltas make what was published in ${namespace}, also after a recovery`, async () => {
      const [ann, bob] = [connect(tokens.ann), connect(tokens.bob)];
      const channel = `${namespace}:js-${name}`;
      const options = { delta: 'fossil', recoverable: true };
      const [heard, said] = [ann.newSubscription(channel, options), bob.newSubscription(channel)];
      for (const each of [ann, bob]) each.connect();
      for (const each of [heard, said]) each.subscribe();
      await Promise.all([heard.ready(60_000), said.ready(60_000)]);
      const goods = Array.from({ length: 30 }, (_, id) => ({ id, name: `货物 ${id} 😀\n`, price: 1 }));
      const wanted = [];
      const publish = async (price) => {
        goods[price % 30].price = price;
        wanted.push(structuredClone(goods));
        await said.publish(written(goods));
      };
      const received = [];
      heard.on('publication', ({ data }) => received.push(read(data)));
      for (const price of [2, 3]) await publish(price);
      while (received.length < 2) await next(heard, 'publication');
      ann.disconnect();
      for (const price of [4, 5, 6]) await publish(price);
      const subscribed = next(heard, 'subscribed');
      ann.connect();
      assert.equal((await subscribed).recovered, true);
      const last = next(heard, 'publication', ({ data }) => read(data)[7].price === 7);
      await publish(7);
      await last;
      assert.deepEqual(received, wanted);
      const { numFullPayloads, numDeltaPayloads } = heard.deltaStats();
      assert.deepEqual([numFullPayloads, numDeltaPayloads], [2, 4]);
    });

  test(`${name}: several commands in one frame, and rpc`, async () => {
    const ann = connect(tokens.ann);
    ann.connect();
    await ann.ready(60_000);
    ann.startBatching();
    const answers = [1, 2, 3].map(() => ann.rpc('conversations', written({})));
    ann.stopBatching();
    for (const answer of await Promise.all(answers)) {
      assert.equal(read(answer.data).hasMore, false);
    }
    await assert.rejects(ann.rpc('dance', written({})), { code: 108 });
  });

  test(`${name}: the token of a connection and of a subscription`, async () => {
    const stranger = connect('a.b.c');
    const refused = next(stranger, 'disconnected');
    stranger.connect();
    assert.equal((await refused).code, 3500);
    const ann = connect(tokens.expired, { getToken: async () => tokens.ann });
    ann.connect();
    await ann.ready(60_000);
    const denied = ann.newSubscription('talk:other', { token: tokens.talk });
    const unsubscribed = next(denied, 'unsubscribed');
    denied.subscribe();
    assert.equal((await unsubscribed).code, 103);
  });

  test(`${name}: stored messages come on the channel of the user`, async () => {
    const [ann, bob] = [connect(tokens.ann), connect(tokens.bob)];
    for (const each of [ann, bob]) each.connect();
    await Promise.all([ann.ready(60_000), bob.ready(60_000)]);
    await bob.rpc('sync', written({ cursor: 0 }));
    const publication = next(bob, 'publication', (context) => context.tags?.kind === 'message');
    const sent = read((await ann.rpc('send', written({ to: 'bob', text: name }))).data);
    const found = await publication;
    assert.equal(found.channel, '#bob');
    assert.equal(read(found.data).text, name);
    assert.equal(Number(found.offset), sent.id);
  });
}

test('a client that cannot open a WebSocket falls back to an HTTP stream', async () => {
  const { Centrifuge } = forms.json;
  const closed = [{ transport: 'websocket', endpoint: 'ws://127.0.0.1:1/connection/websocket' }];
  const ann = newClient(Centrifuge, [...closed, ...endpoints.http_stream], tokens.ann);
  const connected = new Promise((resolve) => ann.on('connected', resolve));
  ann.connect();
  assert.equal((await connected).transport, 'http_stream');
  await ann.rpc('conversations', {});
});

test('pings keep silent clients connected', async () => {
  const { Centrifuge } = forms.json;
  const stay = async (endpoint) => {
    const maxServerPingDelay = 20_000; // with the second between two pings less than the pause below
    const ann = newClient(Centrifuge, endpoint, tokens.ann, { maxServerPingDelay });
    let connections = 0;
    ann.on('connected', () => (connections += 1));
    ann.connect();
    await ann.ready(60_000);
    await new Promise((resolve) => setTimeout(resolve, 21_500));
    await ann.rpc('conversations', {});
    assert.equal(connections, 1);
  };
  await Promise.all(Object.values(endpoints).map(stay));
});
