// An application with AG-UI's client, unmodified, while its node is killed (test_ai_chat_rules.py). PLACE: what the test has
// prepared, as JSON. It runs without node's test runner, which fails for what this application has to bear.

import assert from 'node:assert/strict';
import { HttpAgent } from '@ag-ui/client';

const { urls, processes, token, bot, chat } = JSON.parse(process.env.PLACE);

const unhandled = [];
process.on('unhandledRejection', (error) => unhandled.push(error));

async function produce(path, body) {
  const headers = { Authorization: `Bearer ${bot.token}`, 'Content-Type': 'application/json' };
  const response = await fetch(`${urls[1]}/api/v1/messages/stream/${path}`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ app: 'shop', ...body }),
  });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

/** The node that a load balancer leads to, and what it calls when a node has taken a question. */
let node = 0;
let taken;

const question = { id: 'm1', role: 'user', content: 'Question' };
const agent = new HttpAgent({
  url: '/ai-chat/ag-ui',
  threadId: chat,
  initialMessages: [question],
  headers: { Authorization: `Bearer ${token}` },
  fetch: async (path, options) => {
    const response = await fetch(`${urls[node]}${path}`, options);
    taken(response.status);
    return response;
  },
});

/** A run, once a node has taken its question; `text`: what it shows. `onFirst` is called before its first text. */
async function begin(onFirst = () => {}) {
  const state = { text: '', failures: [] };
  const status = new Promise((resolve) => (taken = resolve));
  state.run = agent.runAgent(undefined, {
    onTextMessageContentEvent: ({ event }) => {
      if (!state.text) onFirst();
      state.text += event.delta;
    },
    onRunFailed: ({ error }) => void state.failures.push(error),
  });
  state.run.catch(() => {});
  assert.equal(await status, 200);
  return state;
}

const words = Array.from({ length: 60 }, (_, number) => `word ${number} ☕ `);
const whole = words.join('');
const append = (stream, from, to) =>
  produce('append', { pieces: words.slice(from, to).map((text, at) => ({ stream, piece: from + at + 1, text })) });

const first = await begin(() => process.kill(processes[0], 'SIGKILL'));
const { stream } = await produce('open', { to: bot.user });
await append(stream, 0, 20);
const failure = await first.run.then(assert.fail, (error) => error);
assert.deepEqual(first.failures, [failure]);
assert.ok(first.text && whole.startsWith(first.text));
assert.equal(agent.isRunning, false);
assert.deepEqual(
  agent.messages.map((each) => [each.role, each.content]),
  [['user', 'Question'], ['assistant', first.text]],
);

node = 1;
await append(stream, 20, 40);
agent.setMessages([question]);
const second = await begin();
await append(stream, 40, 60);
await produce('close', { stream });
const { newMessages } = await second.run;
assert.deepEqual(
  newMessages.map((each) => [each.role, each.content]),
  [['assistant', whole]],
);
assert.equal(second.text, whole);
assert.deepEqual(second.failures, []);

const response = await fetch(`${urls[1]}/ai-chat/${chat}/messages`, { headers: { Authorization: `Bearer ${token}` } });
assert.deepEqual(
  (await response.json()).messages.map((each) => each.parts[0].text),
  ['Question', whole],
);

// README.md names this exception: the same error comes again as a rejection that nobody can handle, and no other one.
assert.equal(unhandled.length, 1);
assert.equal(unhandled[0], failure);
