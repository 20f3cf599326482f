// The AI SDK and AG-UI's client, unmodified (test_ai_chat_rules.py). PLACE: what the test has prepared, as JSON.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HttpAgent } from '@ag-ui/client';
import { AbstractChat, DefaultChatTransport, WebSocketChatTransport } from 'ai';
import { ImserverChatTransport } from 'imserver-ai-chat';

const { url, api, token, bot, chat: chatId } = JSON.parse(process.env.PLACE);

/** A chat as useChat has it, without a page. */
class Chat extends AbstractChat {
  constructor(init) {
    const state = {
      status: 'ready',
      error: undefined,
      messages: [],
      pushMessage(message) {
        this.messages = [...this.messages, message];
      },
      popMessage() {
        this.messages = this.messages.slice(0, -1);
      },
      replaceMessage(index, message) {
        this.messages = this.messages.map((each, at) => (at === index ? message : each));
      },
      snapshot: (value) => structuredClone(value),
    };
    super({ ...init, state });
  }
}

const plain = () => new DefaultChatTransport({ api: `${url}/ai-chat`, headers: { Authorization: `Bearer ${token}` } });
const socket = () =>
  new WebSocketChatTransport({ url: `${url}/ai-chat/socket`, headers: { Authorization: `Bearer ${token}` } });
const own = () => new ImserverChatTransport({ url, token });
const textOf = (message) => message.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');

/** Asks the bot of the test something over HTTP. */
async function produce(path, body) {
  const headers = { Authorization: `Bearer ${bot.token}`, 'Content-Type': 'application/json' };
  const response = await fetch(`${api}/api/v1/messages/${path}`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ app: 'shop', ...body }),
  });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

async function eventually(condition, what) {
  for (let tries = 0; !(await condition()); tries += 1) {
    assert.ok(tries < 1200, what);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The stream to the user, once the question is stored. */
async function answerTo(question) {
  const asked = async () => (await own().history(chatId)).messages.some((each) => textOf(each) === question);
  await eventually(asked, `${question} is stored`);
  return (await produce('stream/open', { to: bot.user })).stream;
}

const append = (stream, piece, text) => produce('stream/append', { pieces: [{ stream, piece, text }] });

for (const [name, transport] of [
  ['DefaultChatTransport', plain],
  ['ImserverChatTransport', own],
  ['WebSocketChatTransport', socket],
]) {
  test(`${name}: an answer, and a second device that joins it`, async () => {
    const [first, other] = [transport(), transport()];
    const chat = new Chat({ id: chatId, transport: first });
    const question = `Question of ${name}`;
    const sent = chat.sendMessage({ text: question });
    const stream = await answerTo(question);
    await append(stream, 1, 'one ');
    await eventually(() => textOf(chat.messages.at(-1)) === 'one ', 'the first piece');
    assert.equal(chat.status, 'streaming');
    const second = new Chat({ id: chatId, transport: other, messages: [] });
    const resumed = second.resumeStream();
    await eventually(() => second.messages.length, 'the second device has joined');
    await append(stream, 2, 'two ☕');
    await produce('stream/close', { stream });
    await Promise.all([sent, resumed]);
    for (const each of [chat, second]) {
      assert.equal(each.status, 'ready');
      assert.equal(textOf(each.messages.at(-1)), 'one two ☕');
      assert.equal(each.messages.at(-1).id, stream);
    }
    await second.resumeStream();
    assert.equal(second.messages.length, 1);
    for (const each of [first, other]) each.close?.();
  });
}

test('stop reaches the producer; leaving does not', async () => {
  const transport = own();
  const chat = new Chat({ id: chatId, transport });
  const sent = chat.sendMessage({ text: 'Count' });
  const stream = await answerTo('Count');
  await append(stream, 1, '1 2 ');
  await eventually(() => textOf(chat.messages.at(-1)) === '1 2 ', 'the first piece');
  await chat.stop(); // useChat does this when its component goes
  await sent;
  assert.equal((await append(stream, 2, '3 ')).results[0].status, 'appended');
  const again = new Chat({ id: chatId, transport });
  const resumed = again.resumeStream();
  await eventually(() => again.status === 'streaming', 'resumed');
  assert.equal(await transport.stop(chatId), 1);
  await resumed;
  assert.equal((await append(stream, 3, '4 ')).results[0].status, 'closed');
  assert.equal(textOf(again.messages.at(-1)), '1 2 3 ');
  assert.equal(again.messages.at(-1).metadata.stopped, bot.user);
});

test('an answer is made anew', async () => {
  const transport = own();
  const chat = new Chat({ id: chatId, transport });
  let sent = chat.sendMessage({ text: 'A poem' });
  let stream = await answerTo('A poem');
  await append(stream, 1, 'first');
  await produce('stream/close', { stream });
  await sent;
  const before = (await transport.history(chatId)).messages.length;
  sent = chat.regenerate();
  await eventually(async () => (await transport.history(chatId)).messages.length > before, 'asked again');
  ({ stream } = await produce('stream/open', { to: bot.user, text: 'second' }));
  await produce('stream/close', { stream });
  await sent;
  assert.deepEqual(chat.messages.map(textOf), ['A poem', 'second']);
});

test('tools, reasoning and data of a producer, live and in the history', async () => {
  const transport = own();
  const chat = new Chat({ id: chatId, transport });
  const sent = chat.sendMessage({ text: 'Boil' });
  await eventually(async () => textOf((await transport.history(chatId)).messages.at(-1)) === 'Boil', 'stored');
  const { stream } = await produce('stream/open', { to: bot.user, type: 'ai_chat' });
  const chunks = [
    { type: 'start-step' },
    { type: 'reasoning-start', id: 'r' },
    { type: 'reasoning-delta', id: 'r', delta: 'Hm.' },
    { type: 'reasoning-end', id: 'r' },
    { type: 'tool-input-available', toolCallId: 'c', toolName: 'kettle', input: { cups: 2 }, dynamic: true },
    { type: 'tool-output-available', toolCallId: 'c', output: { hot: true }, dynamic: true },
    { type: 'data-cups', data: 2 },
    { type: 'text-start', id: 't' },
    { type: 'text-delta', id: 't', delta: 'Ready' },
    { type: 'text-end', id: 't' },
    { type: 'finish-step' },
  ];
  await append(stream, 1, chunks.map((chunk) => `${JSON.stringify(chunk)}\n`).join(''));
  await produce('stream/close', { stream });
  await sent;
  const live = chat.messages.at(-1);
  assert.deepEqual(
    live.parts.map((part) => part.type),
    ['step-start', 'reasoning', 'dynamic-tool', 'data-cups', 'text'],
  );
  assert.deepEqual(live.parts[2].output, { hot: true });
  const stored = (await transport.history(chatId)).messages.at(-1);
  assert.deepEqual(stored.parts, live.parts);
});

test('watch hears of answers on other devices', async () => {
  const begun = [];
  const end = own().watch(chatId, (id) => begun.push(id));
  const chat = new Chat({ id: chatId, transport: own() });
  const sent = chat.sendMessage({ text: 'Watched?' });
  const stream = await answerTo('Watched?');
  await append(stream, 1, 'yes');
  await eventually(() => begun.includes(stream), 'heard');
  await produce('stream/close', { stream });
  await sent;
  end();
});

test('HttpAgent of AG-UI', async () => {
  const agent = new HttpAgent({
    url: `${url}/ai-chat/ag-ui`,
    threadId: chatId,
    headers: { Authorization: `Bearer ${token}` },
  });
  agent.addMessage({ id: crypto.randomUUID(), role: 'user', content: 'By AG-UI' });
  const run = agent.runAgent();
  const stream = await answerTo('By AG-UI');
  await append(stream, 1, 'one ');
  await append(stream, 2, 'two');
  await produce('stream/close', { stream });
  const { newMessages } = await run;
  assert.deepEqual(
    newMessages.map((each) => [each.role, each.content]),
    [['assistant', 'one two']],
  );
  agent.addMessage({ id: crypto.randomUUID(), role: 'user', content: 'Tools by AG-UI' });
  const second = agent.runAgent();
  await eventually(
    async () => textOf((await own().history(chatId)).messages.at(-1)) === 'Tools by AG-UI',
    'stored',
  );
  const opened = await produce('stream/open', { to: bot.user, type: 'ai_chat' });
  const chunks = [
    { type: 'tool-input-start', toolCallId: 'c', toolName: 'kettle' },
    { type: 'tool-input-delta', toolCallId: 'c', inputTextDelta: '{"cups":2}' },
    { type: 'tool-input-available', toolCallId: 'c', toolName: 'kettle', input: { cups: 2 } },
    { type: 'tool-output-available', toolCallId: 'c', output: { hot: true } },
    { type: 'reasoning-start', id: 'r' },
  ];
  await append(opened.stream, 1, chunks.map((chunk) => `${JSON.stringify(chunk)}\n`).join(''));
  await produce('stream/close', { stream: opened.stream });
  const found = (await second).newMessages;
  assert.equal(found[0].toolCalls[0].function.arguments, '{"cups":2}');
  assert.deepEqual([found[1].role, found[1].content], ['tool', '{"hot":true}']);
});
