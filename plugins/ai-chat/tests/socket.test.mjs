// WebSocketChatTransport of the AI SDK, unmodified, cut at each byte and reloaded (test_ai_chat_rules.py). PLACE: what the test has prepared, as JSON.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readUIMessageStream, WebSocketChatTransport } from 'ai';
import { append, bot, chat, cutting, produce, token, url } from './cutting.mjs';

const headers = { Authorization: `Bearer ${token}` };
const transportAt = (address) => new WebSocketChatTransport({ url: `${address}/ai-chat/socket`, headers });
const question = (id) => [{ id, role: 'user', parts: [{ type: 'text', text: `Question ${id}` }] }];
const ask = (transport, id) =>
  transport.sendMessages({ chatId: chat, messages: question(id), trigger: 'submit-message', messageId: undefined });
const resume = (transport) => transport.reconnectToStream({ chatId: chat });
const textOf = (message) => message?.parts.map((part) => part.text ?? '').join('') ?? '';

/** The last message of a stream; `until`: that with this text, after which it is left. */
async function read(stream, until) {
  let last;
  for await (const message of readUIMessageStream({ stream, terminateOnError: true })) {
    last = message;
    if (until !== undefined && textOf(message) === until) break;
  }
  return last;
}

test('one socket has several answers, and an answer that is left goes on', async () => {
  const transport = transportAt(url);
  assert.equal(await resume(transport), null);
  const first = await ask(transport, 's1');
  const { stream } = await produce('open', { to: bot.user });
  await append(stream, 1, 'one ');
  const [left, again] = [await resume(transport), await resume(transport)];
  assert.equal(textOf(await read(left, 'one ')), 'one ');
  await append(stream, 2, 'two ☕');
  await produce('close', { stream });
  for (const each of [first, again]) {
    const message = await read(each);
    assert.deepEqual([message.id, textOf(message)], [stream, 'one two ☕']);
  }
  assert.equal(textOf(await read(await ask(transport, 's1'))), 'one two ☕'); // nothing is stored again
  assert.equal(await resume(transport), null);
  await assert.rejects(read(await transport.sendMessages({ chatId: 'x', messages: question('s2') })), /chat/);
  transport.close();
});

test('what a reload shows is whole, whichever byte was the last before', async () => {
  const { stream } = await produce('open', { to: bot.user });
  let text = '';
  let pieces = 0;
  const grow = () => append(stream, ++pieces, `word ${pieces} ☕ `).then(() => (text += `word ${pieces} ☕ `));

  /** Reads what there is at an address. */
  async function readAt(address) {
    const transport = transportAt(address);
    try {
      return textOf(await read(await resume(transport), text));
    } finally {
      transport.close();
    }
  }
  await grow();
  const tab = transportAt(url); // it stays, as a second tab does
  const seen = read(await resume(tab));
  const all = await cutting(Infinity);
  await readAt(all.url);
  all.close();
  assert.ok(all.passed > 300, `${all.passed}`);

  async function cutAt(most) {
    const proxy = await cutting(most);
    await assert.rejects(readAt(proxy.url), /network connection/, `after ${most} bytes`);
    proxy.close();
    assert.equal(await readAt(url), text, `after ${most} bytes`);
  }
  const places = Array.from({ length: all.passed - 1 }, (_, at) => at + 1);
  const cuts = places.filter((most) => most >= all.head || most % 16 === 0);
  for (let at = 0; at < cuts.length; at += 20) {
    await grow();
    await Promise.all(cuts.slice(at, at + 20).map(cutAt));
  }
  await produce('close', { stream });
  assert.equal(textOf(await seen), text);
  tab.close();
});
