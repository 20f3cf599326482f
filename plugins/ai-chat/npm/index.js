import { DefaultChatTransport, readUIMessageStream } from 'ai';

const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 5000;
/** Time without an answer of the server after which a stream ends with an error. */
const GIVE_UP = 120_000;

/** Waits, longer after each failure, and not at the same time as others. */
function pause(failures, signal) {
  const time = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** failures) * (0.5 + Math.random());
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal?.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Whether the same request may succeed later. */
const isTemporary = (error) =>
  !(error.statusCode >= 400 && error.statusCode < 500) || error.statusCode === 408 || error.statusCode === 429;

/** What of an answer its reader has. The server sends an answer from its beginning again: the same parts, cut elsewhere. */
class Progress {
  id = '';
  done = false;
  #parts = 0;
  #again = 0;
  #lengths = new Map();
  #seen = new Map();

  /** The answer begins again. */
  restart() {
    this.#again = 0;
    this.#seen.clear();
  }

  /** The part of a chunk that is new; null: all of it was there before. */
  take(chunk) {
    if (chunk.type === 'start') this.id = chunk.messageId;
    if (chunk.type === 'finish' || chunk.type === 'error') this.done = true;
    const field = chunk.type.endsWith('-delta') ? ('inputTextDelta' in chunk ? 'inputTextDelta' : 'delta') : '';
    if (!field) {
      this.#again += 1;
      if (this.#again <= this.#parts) return null;
      this.#parts = this.#again;
      return chunk;
    }
    const key = `${chunk.type} ${chunk.id ?? chunk.toolCallId}`;
    const begin = this.#seen.get(key) ?? 0;
    const end = begin + chunk[field].length;
    const known = this.#lengths.get(key) ?? 0;
    this.#seen.set(key, end);
    if (end <= known) return null;
    this.#lengths.set(key, end);
    return begin < known ? { ...chunk, [field]: chunk[field].slice(known - begin) } : chunk;
  }
}

/**
 * The transport of useChat for bots of imserver. The id of a chat is the id of a bot, or `BOT-GROUP` with the number of a group.
 * A stream goes on after each interruption. Only `stop` stops the producer: who leaves the page does not.
 */
export class ImserverChatTransport extends DefaultChatTransport {
  #api;
  #token;
  #fetch;

  constructor({ url = '', token, fetch } = {}) {
    const api = `${url}/ai-chat`;
    super({
      api,
      fetch,
      headers: async () => ({ Authorization: `Bearer ${await (typeof token === 'function' ? token() : token)}` }),
      // The server has the messages before.
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId, body }) => ({
        body: { ...body, id, messages: messages.slice(-1), trigger, messageId },
      }),
      prepareReconnectToStreamRequest: ({ id, requestMetadata }) => {
        const of = requestMetadata?.[MESSAGE];
        return { api: `${api}/${encodeURIComponent(id)}/stream${of ? `?message=${encodeURIComponent(of)}` : ''}` };
      },
    });
    this.#api = api;
    this.#token = token;
    this.#fetch = fetch;
  }

  /** Sends the last message, and returns the stream of its answer. */
  async sendMessages(options) {
    // A request that is sent again is the same one, also if it wants another answer.
    const named = { ...options, messageId: options.messageId ?? crypto.randomUUID() };
    const send = () => super.sendMessages(named);
    return this.#lasting(await this.#tried(send, options.abortSignal), send, options);
  }

  /** The stream of the open answer, from its beginning; null if there is none. */
  async reconnectToStream(options) {
    const reconnect = () => super.reconnectToStream(options);
    const stream = await this.#tried(reconnect, options.abortSignal);
    return stream && this.#lasting(stream, reconnect, options);
  }

  /** Stops the open answers of a chat. The producer hears of it, and all who read get what there is. Returns their number. */
  async stop(chatId) {
    return (await this.#ask('POST', chatId, '/stop')).stopped;
  }

  /** The messages of a chat, the oldest first: 50 up to its end, or `before` a message. `before` of the result leads to earlier ones. */
  async history(chatId, { before = 0 } = {}) {
    const page = await this.#ask('GET', chatId, `/messages?before=${before}`);
    return { before: page.before, messages: await Promise.all(page.messages.map(messageOf)) };
  }

  /**
   * Calls `onAnswer` whenever an answer begins, on whichever device its question was written. Returns a function that ends this.
   */
  watch(chatId, onAnswer) {
    const control = new AbortController();
    const { signal } = control;
    const run = async () => {
      let seen = '';
      for (let failures = 0; !signal.aborted; failures += 1) {
        try {
          const response = await this.#request('GET', chatId, '/stream?wait=1', signal);
          for await (const chunk of this.processResponseStream(response.body)) {
            failures = 0;
            if (chunk.type === 'start' && chunk.messageId !== seen) onAnswer((seen = chunk.messageId));
          }
        } catch (error) {
          if (signal.aborted || !isTemporary(error)) return;
        }
        await pause(failures, signal).catch(() => {});
      }
    };
    run();
    return () => control.abort();
  }

  /** Tries until it succeeds, for a while. */
  async #tried(request, signal) {
    const begun = Date.now();
    for (let failures = 0; ; failures += 1) {
      try {
        return await request();
      } catch (error) {
        if (signal?.aborted || !isTemporary(error) || Date.now() - begun > GIVE_UP) throw error;
        await pause(failures, signal);
      }
    }
  }

  /** A stream that goes on after interruptions. `again`: the request of a stream that has not begun. */
  #lasting(first, again, options) {
    const progress = new Progress();
    const signal = options.abortSignal;
    let reader = first.getReader();
    const resume = async () => {
      progress.restart();
      const named = () => super.reconnectToStream({ ...options, metadata: { [MESSAGE]: progress.id } });
      const stream = await this.#tried(progress.id ? named : again, signal);
      reader = stream?.getReader();
    };
    const pull = async (controller) => {
      let failures = 0;
      while (!progress.done) {
        const { done, value } = await reader.read().catch((error) => {
          if (signal?.aborted) throw error;
          return { done: true };
        });
        if (!done) {
          const chunk = progress.take(value);
          if (chunk === null) continue;
          controller.enqueue(chunk);
          return;
        }
        await pause(failures++, signal);
        await resume();
        if (!reader) break; // what was open has ended
      }
      controller.close();
    };
    return new ReadableStream({ pull, cancel: () => reader?.cancel() }, { highWaterMark: 0 });
  }

  async #request(method, chatId, path, signal) {
    const token = await (typeof this.#token === 'function' ? this.#token() : this.#token);
    const response = await (this.#fetch ?? globalThis.fetch)(`${this.#api}/${encodeURIComponent(chatId)}${path}`, {
      method,
      signal,
      headers: { Authorization: `Bearer ${token}` },
    });
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({}));
    throw Object.assign(new Error(problem.message ?? `HTTP ${response.status}`), {
      statusCode: response.status,
      code: problem.code,
    });
  }

  async #ask(method, chatId, path) {
    return (await this.#request(method, chatId, path)).json();
  }
}

const MESSAGE = Symbol('message');

/** A message with all its parts. */
async function messageOf({ chunks, ...message }) {
  if (!chunks) return message;
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
  let whole = { ...message, parts: [] };
  for await (const next of readUIMessageStream({ message: whole, stream })) whole = next;
  return whole;
}
