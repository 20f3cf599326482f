// webSocket() and ChatClient of TanStack, unmodified, cut at each byte and reloaded (test_ai_chat_rules.py). PLACE: what the test has prepared, as JSON.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatClient, webSocket } from '@tanstack/ai-client';
import { append, bot, chat, cutting, produce, token, url } from './cutting.mjs';

const sockets = new Set();

/** The WebSocket of Node.js: TanStack closes none, and this test has to end. */
class Kept extends WebSocket {
  constructor(...given) {
    super(...given);
    sockets.add(this);
  }
}

function connectionAt(...addresses) {
  const query = new URLSearchParams({ token, chat });
  const next = () => `${(addresses.length > 1 ? addresses.shift() : addresses[0]).replace('http', 'ws')}/ai-chat/socket?${query}`;
  return webSocket(next, { WebSocketImpl: Kept, reconnect: { delayMs: 1 } });
}

const textOf = (message) => message.parts.map((part) => part.content ?? '').join('');

async function history() {
  const response = await fetch(`${url}/ai-chat/${chat}/messages`, { headers: { Authorization: `Bearer ${token}` } });
  return (await response.json()).messages;
}

/** A page with a chat; `until` waits for what it shows. */
function page(connection, options = {}) {
  const shown = { messages: [], chunks: [], errors: [], loading: false, changed: () => {} };
  const keep = (name, value) => {
    shown[name] = value;
    shown.changed();
  };
  shown.client = new ChatClient({
    connection,
    threadId: chat,
    onMessagesChange: (messages) => keep('messages', messages.map(textOf)),
    onChunk: (chunk) => keep('chunks', [...shown.chunks, chunk.type]),
    onError: (error) => keep('errors', [...shown.errors, error.message]),
    onLoadingChange: (loading) => keep('loading', loading),
    ...options,
  });
  shown.client.attach();
  shown.until = (is) =>
    new Promise((resolve) => {
      shown.changed = () => is(shown) && resolve();
      shown.changed();
    });
  return shown;
}

/** The page after a reload: `messages` are of the history, whose last question is the run. */
async function reloaded() {
  const messages = await history();
  const runId = messages.findLast(({ role }) => role === 'user').id;
  return page(connectionAt(url), {
    initialMessages: messages.map(({ id, role, parts }) => ({ id, role, parts: parts.map(({ text }) => ({ type: 'text', content: text })) })),
    initialResumeSnapshot: { resumeState: { threadId: chat, runId }, pendingInterrupts: [] },
  });
}

test('a page is reloaded before, in and after an answer', async () => {
  const first = page(connectionAt(url));
  void first.client.sendMessage('Tea?');
  await first.until(({ chunks }) => chunks.includes('RUN_STARTED'));
  const early = await reloaded();
  await early.until(({ chunks }) => chunks.includes('RUN_STARTED'));
  const { stream } = await produce('open', { to: bot.user });
  await append(stream, 1, 'one ');
  await first.until(({ messages }) => messages[1] === 'one ');
  const late = await reloaded();
  await late.until(({ messages }) => messages[1] === 'one ');
  await append(stream, 2, 'two ☕');
  await produce('close', { stream });
  const whole = ['Tea?', 'one two ☕'];
  for (const each of [first, early, late]) {
    await each.until(({ loading }) => !loading);
    assert.deepEqual([each.messages, each.errors], [whole, []]);
  }
  const after = await reloaded();
  await after.until(({ loading }) => !loading);
  assert.deepEqual([after.messages, after.errors], [whole, []]);
});

test('a page that stops an answer asks again', async () => {
  const shown = page(connectionAt(url));
  void shown.client.sendMessage('Long?');
  await shown.until(({ chunks }) => chunks.includes('RUN_STARTED'));
  const first = await produce('open', { to: bot.user, text: 'left' });
  await shown.until(({ messages }) => messages[1] === 'left');
  shown.client.stop();
  const sent = shown.client.sendMessage('Short?');
  await shown.until(({ chunks }) => chunks.filter((type) => type === 'RUN_STARTED').length === 2);
  await append(first.stream, 1, ' behind');
  await produce('close', first);
  const second = await produce('open', { to: bot.user, text: 'Yes' });
  await produce('close', second);
  await sent;
  assert.deepEqual([shown.messages, shown.errors], [['Long?', 'left', 'Short?', 'Yes'], []]);
});

test('a refusal is an error that the page shows', async () => {
  const shown = page(webSocket(`${url.replace('http', 'ws')}/ai-chat/socket?token=wrong`, { WebSocketImpl: Kept }));
  await shown.client.sendMessage('Tea?');
  assert.equal(shown.errors.length, 1);
  assert.match(shown.errors[0], /token/i);
});

test('an answer is whole, whichever byte was the last before it went on', async () => {
  const messages = [{ id: 'q', role: 'user', parts: [{ type: 'text', content: 'Tea?' }] }];

  /** Asks at the first address, and goes on at the second; `reader`: what it has read. */
  async function read(reader, runId, ...addresses) {
    const connection = connectionAt(...addresses);
    const leave = new AbortController();
    const events = connection.subscribe(leave.signal);
    Object.assign(reader, { said: '', events: [] });
    try {
      await connection.send(messages, undefined, leave.signal, { threadId: chat, runId });
      for await (const event of events) {
        reader.events.push(event.type);
        if (event.type === 'TEXT_MESSAGE_CONTENT') reader.said += event.delta;
        reader.changed();
        if (event.type === 'RUN_FINISHED' || event.type === 'RUN_ERROR') return;
      }
    } finally {
      leave.abort();
    }
  }

  /** Several read one answer, each cut after so many bytes, while it grows. Returns the bytes of the answer, and of the response before. */
  async function readAll(runId, cuts) {
    const readers = [undefined, ...cuts].map((most) => ({ most, said: '', changed() {} }));
    const [tab] = readers; // it stays, as a second tab does
    const all = (is) =>
      new Promise((resolve, reject) => {
        for (const each of readers)
          each.changed = () => {
            if (readers.every(is)) resolve();
            if (!text.startsWith(each.said)) reject(new assert.AssertionError({ message: `after ${each.most} bytes: ${each.said}` }));
          };
        tab.changed();
      });
    let text = '';
    let pieces = 0;
    async function grow() {
      const piece = `word ${pieces} ☕ `;
      text += piece;
      await append(stream, ++pieces, piece);
    }
    const done = [read(tab, runId, url)];
    await new Promise((resolve) => (tab.changed = resolve));
    const { stream } = await produce('open', { to: bot.user });
    await grow();
    for (const each of readers.slice(1)) {
      each.proxy = await cutting(each.most);
      done.push(
        read(each, runId, each.proxy.url, url)
          .catch(() => read(each, runId, url)) // cut before the first event
          .finally(() => each.proxy.close()),
      );
    }
    for (let more = 2; more >= 0; more -= 1) {
      await all(({ said }) => said === text);
      if (more) await grow();
    }
    await produce('close', { stream });
    await Promise.all(done);
    const order = ['RUN_STARTED', 'TEXT_MESSAGE_START', 'TEXT_MESSAGE_CONTENT', 'TEXT_MESSAGE_END', 'RUN_FINISHED'];
    for (const each of readers) {
      assert.equal(each.said, text, `after ${each.most} bytes`);
      const kinds = each.events.filter((type, at) => type !== each.events[at - 1]);
      assert.deepEqual(kinds, order, `after ${each.most} bytes`);
    }
    assert.deepEqual((await history()).map(({ id }) => id).slice(-2), [runId, stream]);
    const { passed, head } = readers[1].proxy;
    return { passed, head };
  }
  const { passed, head } = await readAll('run-0', [Infinity]);
  assert.ok(passed > head + 900, `${passed}`);
  const places = Array.from({ length: passed - 1 }, (_, at) => at + 1);
  const cuts = places.filter((most) => most >= head || most % 16 === 0);
  for (let at = 0; at < cuts.length; at += 40) await readAll(`run-${at + 1}`, cuts.slice(at, at + 40));
});

test.after(() => {
  for (const each of sockets) each.close();
});
