// The npm package ntfy publishes a message (test_ntfy_rules.py).

import assert from 'node:assert/strict';
import { test } from 'node:test';

const { NTFY, SERVER: server, KEY: authorization } = process.env;
const { MessagePriority, NtfyClient } = await import(NTFY);

test('publish', async () => {
  const client = new NtfyClient({ server, topic: 'npm', authorization: { username: 'shop', password: authorization } });
  const answer = await client.publish({
    message: 'hello',
    title: 'title',
    priority: MessagePriority.MAX,
    tags: ['a', 'b'],
    fileURL: { url: 'https://example.com/f.png', filename: 'f.png' },
    actions: [
      { type: 'view', label: 'Open', url: 'https://example.com', clear: true },
      { type: 'http', label: 'Close', url: 'https://example.com/door', method: 'PUT', headers: { 'X-A': '1' } },
    ],
  });
  assert.equal(answer.message, 'hello');
  const headers = { Authorization: `Bearer ${authorization}`, Title: 'Grüße', 'X-Tags': 'été' };
  const sent = await (await fetch(`${server}/fetch`, { method: 'POST', headers, body: 'x' })).json();
  assert.deepEqual([sent.title, sent.tags], ['Grüße', ['été']]);
  await assert.rejects(client.publish({ message: 'later', delay: '10m' }), /Bad Request/);
  await assert.rejects(client.publish({ message: 'x', authorization: 'wrong' }), /Unauthorized/);
});
