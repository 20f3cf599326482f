// Readers of one streamed answer, each with a client of npm, unmodified (test_ten_readers.py). A line of the input is
// {"start": READER, "given": …} or {"stop": READER}; a line of the output {"reader", "turn", "text", "over"}: all that
// the reader shows now. A reader that is started anew knows what it is given, as a page after a reload.

import { createInterface } from 'node:readline';
import { HttpAgent } from '@ag-ui/client';
import { stream as durable } from '@durable-streams/client';
import { webSocket } from '@tanstack/ai-client';
import { DefaultChatTransport, readUIMessageStream, WebSocketChatTransport } from 'ai';
import { Centrifuge } from 'centrifuge';
import { EventSource } from 'eventsource';
import Pusher from 'pusher-js';
import websocket from 'ws';
import { connect } from './connect.mjs';
import { options } from './pusher_smoke.mjs';

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
const bearer = ({ token }) => ({ Authorization: `Bearer ${token}` });
const textOf = (message) => message?.parts.map((part) => part.text ?? '').join('') ?? '';

/** Takes the pieces of a text by the rules of docs/reference/protocol.md. */
function follow(show) {
  let [text, last] = ['', -1];
  return ({ piece, text: more, whole, done }) => {
    if (!whole && (last < 0 || piece <= last)) return;
    if (!whole && piece > last + 1) show.fail(`piece ${piece} comes after ${last}`);
    text = whole ? more : text + more;
    last = piece;
    show(text, done === true);
  };
}

/** Takes the pieces and the stored message of an answer. */
function answer({ bot, after }, show) {
  const take = follow(show);
  return {
    piece: (data) => data.from === bot && !data.done && take(data),
    message: (entry) =>
      entry.from === bot && entry.kind === 'message' && entry.id > after && show(entry.text, true),
  };
}

/** The AI SDK: asks, resumes the open answer, and has an answer that is over from the history. */
const aiSdk = (make) => async (place, show, signal) => {
  const transport = make(place);
  const chatId = place.bot;
  const messages = [{ id: place.question, role: 'user', parts: [{ type: 'text', text: place.asks }] }];
  let asks = !place.isAgain;
  signal.addEventListener('abort', () => transport.close?.());
  while (!signal.aborted) {
    try {
      const chunks = asks
        ? await transport.sendMessages({ chatId, messages, trigger: 'submit-message', abortSignal: signal })
        : await transport.reconnectToStream({ chatId });
      asks = false;
      let last;
      for await (const message of chunks ? readUIMessageStream({ stream: chunks, terminateOnError: true }) : []) {
        if (signal.aborted) return;
        last = message;
        show(textOf(message));
      }
      if (!last) {
        const response = await fetch(`${place.url}/ai-chat/${chatId}/messages`, { headers: bearer(place), signal });
        const found = (await response.json()).messages;
        last = found[found.findIndex((each) => each.id === place.question) + 1];
      }
      if (last) return show(textOf(last), true);
    } catch {
      // its line was cut
    }
    await pause();
  }
};

const readers = {
  'ai-http': aiSdk(
    (place) => new DefaultChatTransport({ api: `${place.url}/ai-chat`, headers: bearer(place) }),
  ),
  'ai-socket': aiSdk(
    (place) => new WebSocketChatTransport({ url: `${place.url}/ai-chat/socket`, headers: bearer(place) }),
  ),

  async 'ag-ui'(place, show, signal) {
    const question = { id: place.question, role: 'user', content: place.asks };
    const url = `${place.url}/ai-chat/ag-ui`;
    const agent = new HttpAgent({ url, threadId: place.bot, headers: bearer(place) });
    signal.addEventListener('abort', () => agent.abortRun());
    while (!signal.aborted) {
      let text = '';
      agent.setMessages([question]);
      const run = agent.runAgent(undefined, {
        onTextMessageContentEvent: ({ event }) => void show((text += event.delta)),
      });
      const newMessages = await run.then((result) => result.newMessages, () => []);
      if (newMessages.length) return show(newMessages[0].content, true);
      await pause();
    }
  },

  async tanstack(place, show, signal) {
    const sockets = new Set();
    class Kept extends WebSocket {
      constructor(...given) {
        super(...given);
        sockets.add(this);
      }
    }
    signal.addEventListener('abort', () => sockets.forEach((each) => each.close())); // TanStack closes none
    const query = new URLSearchParams({ token: place.token, chat: place.bot });
    const url = `${place.url.replace('http', 'ws')}/ai-chat/socket?${query}`;
    const messages = [{ id: place.question, role: 'user', parts: [{ type: 'text', content: place.asks }] }];
    while (!signal.aborted) {
      const connection = webSocket(url, { WebSocketImpl: Kept, reconnect: { delayMs: 10 } });
      const leave = new AbortController();
      const events = connection.subscribe(leave.signal);
      let text = '';
      try {
        await connection.send(messages, undefined, leave.signal, { threadId: place.bot, runId: place.question });
        for await (const event of events) {
          if (event.type === 'TEXT_MESSAGE_CONTENT') show((text += event.delta));
          if (event.type === 'RUN_FINISHED') return show(text, true);
          if (event.type === 'RUN_ERROR') break;
        }
      } catch {
        // its line was cut before the first event
      }
      leave.abort();
      await pause();
    }
  },

  sse(place, show, signal) {
    const { url, token, after } = place;
    const source = new EventSource(`${url}/api/v1/events?app=gochat&token=${token}&cursor=${after}`);
    signal.addEventListener('abort', () => source.close());
    const take = answer(place, show);
    const seen = new Set();
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.event === 'piece') take.piece(event.data);
      if (event.event !== 'message' || event.id <= after) return;
      if (seen.has(event.id)) show.fail(`entry ${event.id} comes twice`);
      seen.add(event.id);
      take.message(event);
    };
  },

  centrifuge(place, show, signal) {
    const { token, user, after } = place;
    const endpoint = `${place.url.replace('http', 'ws')}/connection/gochat/websocket`;
    const client = new Centrifuge(endpoint, { websocket, token, minReconnectDelay: 10, maxReconnectDelay: 500 });
    const own = ({ channel }) => channel === `#${user}`;
    const take = answer(place, show);
    signal.addEventListener('abort', () => client.disconnect());
    client.on('publication', (context) => own(context) && take[context.tags?.kind]?.(context.data));
    client.on('subscribed', async (context) => {
      if (!own(context)) return;
      try {
        const { data } = await client.rpc('imserver:sync', { cursor: after, limit: 200 });
        data.messages.forEach(take.message);
      } catch {
        // its line was cut: it subscribes again
      }
    });
    client.connect();
  },

  pusher(place, show, signal) {
    const { hostname, port } = new URL(place.url);
    const { key, secret } = place.pusher;
    const client = new Pusher(key, options({ key, secret, host: hostname, port: Number(port) }, 'ann'));
    client.subscribe(place.channel).bind('imserver:stream', follow(show));
    signal.addEventListener('abort', () => client.disconnect());
  },

  async 'durable-streams'(place, show, signal) {
    const url = `${place.url}/durable/gochat/stream/${place.stream}`;
    let [text, offset, isOver] = ['', '-1', false];
    while (!isOver && !signal.aborted) {
      try {
        const response = await durable({ url, headers: bearer(place), offset, live: place.live, signal });
        response.subscribeText((some) => {
          if (signal.aborted) return;
          text += some.text;
          ({ offset, streamClosed: isOver } = some);
          show(text, isOver);
        });
        await response.closed;
      } catch {
        // its line was cut
      }
      await pause();
    }
  },

  async mcp(place, show, signal) {
    while (!signal.aborted) {
      try {
        const client = await connect('client', `${place.url}/mcp`, place.token);
        while (!signal.aborted) {
          const page = await client.callTool({ name: 'history', arguments: { conversation: place.conversation } });
          const found = page.structuredContent.messages.find((each) => each.from === place.bot && each.id > place.after);
          if (found) return show(found.text, true);
          await pause();
        }
      } catch {
        await pause(); // its line was cut
      }
    }
  },
};

// AG-UI's client rejects twice, and nobody can handle the second rejection (README.md of the plug-in).
process.on('unhandledRejection', (error) => {
  if (!/fetch|terminated|network|abort/i.test(`${error?.name} ${error}`)) throw error;
});

const running = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const { start, stop, given: place } = JSON.parse(line);
  running.get(start ?? stop)?.abort();
  if (!start) continue;
  const ends = new AbortController();
  running.set(start, ends);
  const print = (more) => ends.signal.aborted || console.log(JSON.stringify({ reader: start, turn: place.turn, ...more }));
  const show = (text, over = false) => print({ text, over });
  show.fail = (error) => print({ problem: String(error?.stack ?? error) });
  Promise.resolve()
    .then(() => readers[start](place, show, ends.signal))
    .catch(show.fail);
}
process.exit(0);
