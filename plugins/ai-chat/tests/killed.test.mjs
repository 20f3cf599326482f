// The transport of the npm package, and those of the AI SDK and TanStack, while nodes are killed (test_ai_chat_rules.py). PLACE: what the test has prepared, as JSON.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { webSocket } from '@tanstack/ai-client';
import { DefaultChatTransport, readUIMessageStream } from 'ai';
import { ImserverChatTransport } from 'imserver-ai-chat';

const { urls, processes, token, bot, chat } = JSON.parse(process.env.PLACE);

/** As a load balancer: the node `at`, and after a failure the next one. */
function balanced(at) {
  return async (path, options) => {
    try {
      return await fetch(`${urls[at]}${path}`, options);
    } catch (error) {
      if (!options?.signal?.aborted) at = (at + 1) % urls.length;
      throw error;
    }
  };
}

async function produce(node, path, body) {
  const headers = { Authorization: `Bearer ${bot.token}`, 'Content-Type': 'application/json' };
  for (;;) {
    const response = await fetch(`${urls[node]}/api/v1/messages/stream/${path}`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ app: 'shop', ...body }),
    });
    if (response.status < 500) return response.json();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const transportAt = (node) => new ImserverChatTransport({ token, fetch: balanced(node) });
const question = (id) => [{ id, role: 'user', parts: [{ type: 'text', text: `Question ${id}` }] }];
const ask = (transport, id) =>
  transport.sendMessages({ chatId: chat, messages: question(id), trigger: 'submit-message', messageId: undefined });

/** The last message that a stream makes, and each text so far to `onText`. */
async function read(stream, onText = () => {}) {
  let last;
  for await (const message of readUIMessageStream({ stream })) {
    last = message;
    await onText(textOf(message));
  }
  return last;
}
const textOf = (message) => message.parts.map((part) => part.text ?? '').join('');

/** The text that webSocket() of TanStack reads of the answer to a question, at one node after the other. `begun` is called with each event. */
async function readRun(runId, nodes, begun) {
  const query = new URLSearchParams({ token, chat });
  const url = () => `${urls[nodes.length > 1 ? nodes.shift() : nodes[0]].replace('http', 'ws')}/ai-chat/socket?${query}`;
  const connection = webSocket(url);
  const { signal } = new AbortController();
  const events = connection.subscribe(signal);
  const messages = [{ id: runId, role: 'user', parts: [{ type: 'text', content: `Question ${runId}` }] }];
  await connection.send(messages, undefined, signal, { threadId: chat, runId });
  let said = '';
  for await (const event of events) {
    begun();
    if (event.type === 'TEXT_MESSAGE_CONTENT') said += event.delta;
    if (event.type === 'RUN_FINISHED') return said;
  }
}

test('every character comes once while the node of the reader dies', async () => {
  const stream = await ask(transportAt(0), 'm1');
  const opened = (await produce(1, 'open', { to: bot.user })).stream;
  const words = Array.from({ length: 60 }, (_, number) => `word ${number} ☕ `);
  const append = (from, to) =>
    produce(1, 'append', {
      pieces: words.slice(from, to).map((text, at) => ({ stream: opened, piece: from + at + 1, text })),
    });
  let killed = false;
  await append(0, 20);
  const message = await read(stream, async (text) => {
    if (killed || !text.includes('word 19')) return;
    killed = true;
    process.kill(processes[0], 'SIGKILL');
    await append(20, 40);
    await append(40, 60);
    await produce(1, 'close', { stream: opened });
  });
  assert.ok(killed);
  assert.equal(textOf(message), words.join(''));
  assert.equal(message.metadata.incomplete, undefined);
  assert.equal(message.id, opened);
});

test('the transport of the AI SDK hears that its node has died, and goes on at another, as TanStack does', async () => {
  const headers = { Authorization: `Bearer ${token}` };
  const plainAt = (node) => new DefaultChatTransport({ api: `${urls[node]}/ai-chat`, headers });
  const asked = await plainAt(2).sendMessages({ chatId: chat, messages: question('m3'), trigger: 'submit-message' });
  let run;
  await new Promise((resolve) => (run = readRun('m3', [2, 1], resolve)));
  const opened = (await produce(1, 'open', { to: bot.user, text: 'one ' })).stream;
  await assert.rejects(async () => {
    for await (const chunk of asked) if (chunk.type === 'text-delta') process.kill(processes[2], 'SIGKILL');
  });
  const resumed = read(await plainAt(1).reconnectToStream({ chatId: chat }));
  await produce(1, 'append', { pieces: [{ stream: opened, piece: 1, text: 'two' }] });
  await produce(1, 'close', { stream: opened });
  assert.equal(textOf(await resumed), 'one two');
  assert.equal(await run, 'one two');
  const { messages } = await transportAt(1).history(chat);
  assert.deepEqual(messages.map(textOf).slice(-2), ['Question m3', 'one two']);
});

test('what readers have of a stream whose node dies is stored as interrupted', async () => {
  const stream = await ask(transportAt(1), 'm2');
  const opened = (await produce(3, 'open', { to: bot.user, text: 'half of ' })).stream;
  let killed = false;
  const message = await read(stream, async (text) => {
    if (killed || text !== 'half of ') return;
    killed = true;
    process.kill(processes[3], 'SIGKILL');
  });
  assert.equal(textOf(message), 'half of ');
  assert.equal(message.metadata.incomplete, true);
  const { messages } = await transportAt(1).history(chat);
  assert.deepEqual(messages.map(textOf).slice(-1), ['half of ']);
  assert.equal(messages.at(-1).id, opened);
});
