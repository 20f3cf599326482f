import { DefaultChatTransport, readUIMessageStream } from 'ai';

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
/** Time without an answer of the server after which a stream ends with an error. */
const GIVE_UP_MS = 120_000;
const REQUEST_TIMEOUT = 408;
const TOO_MANY_REQUESTS = 429;

/** The key in the metadata of a request that names the message whose stream is continued. */
const MESSAGE = Symbol('message');

/**
 * Waits, longer after each failure. The time is random, so that the clients of a lost server do not return at the same time.
 * Rejected if the signal aborts.
 */
function pause(failures, signal) {
  const usualMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures);
  const pauseMs = usualMs * (0.5 + Math.random());
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, pauseMs);
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal?.addEventListener('abort', abort, { once: true });
  });
}

/** Whether the same request may succeed later. */
function isTemporary({ statusCode }) {
  const isRefused = statusCode >= 400 && statusCode < 500;
  return !isRefused || statusCode === REQUEST_TIMEOUT || statusCode === TOO_MANY_REQUESTS;
}

/** The name of the field in which a chunk has a piece of text; empty: it has no piece of text. */
function deltaField(chunk) {
  if (!chunk.type.endsWith('-delta')) return '';
  return 'inputTextDelta' in chunk ? 'inputTextDelta' : 'delta';
}

/**
 * How much of an answer its reader has. After an interruption the server sends the answer from its beginning again: the other chunks
 * are the same, but the texts may be cut into other pieces.
 */
class Progress {
  id = '';
  done = false;
  /** Chunks without a piece of text that the reader has, and that the current stream has brought. */
  #known = 0;
  #received = 0;
  /** The length of each text that the reader has, and that the current stream has brought. */
  #knownLengths = new Map();
  #receivedLengths = new Map();

  /** The answer begins again. */
  restart() {
    this.#received = 0;
    this.#receivedLengths.clear();
  }

  /** The part of a chunk that is new to the reader; null: nothing of it is new. */
  take(chunk) {
    if (chunk.type === 'start') this.id = chunk.messageId;
    if (chunk.type === 'finish' || chunk.type === 'error') this.done = true;
    const field = deltaField(chunk);
    if (!field) {
      this.#received += 1;
      if (this.#received <= this.#known) return null;
      this.#known = this.#received;
      return chunk;
    }

    const key = `${chunk.type} ${chunk.id ?? chunk.toolCallId}`;
    const begin = this.#receivedLengths.get(key) ?? 0;
    const end = begin + chunk[field].length;
    const knownLength = this.#knownLengths.get(key) ?? 0;
    this.#receivedLengths.set(key, end);
    if (end <= knownLength) return null;
    this.#knownLengths.set(key, end);
    if (begin >= knownLength) return chunk;
    return { ...chunk, [field]: chunk[field].slice(knownLength - begin) };
  }
}

/**
 * The transport of useChat for bots of imserver. The id of a chat is the id of a bot, or `BOT-GROUP` with the number of a group.
 * A stream goes on after each interruption. Only `stop` stops the producer: a user who leaves the page does not.
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
      headers: async () => ({ Authorization: `Bearer ${await textOf(token)}` }),
      // The server has the earlier messages.
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId, body }) => ({
        body: { ...body, id, messages: messages.slice(-1), trigger, messageId },
      }),
      prepareReconnectToStreamRequest: ({ id, requestMetadata }) => {
        const messageId = requestMetadata?.[MESSAGE];
        const query = messageId ? `?message=${encodeURIComponent(messageId)}` : '';
        return { api: `${api}/${encodeURIComponent(id)}/stream${query}` };
      },
    });
    this.#api = api;
    this.#token = token;
    this.#fetch = fetch;
  }

  /** Sends the last message, and returns the stream of its answer. */
  async sendMessages(options) {
    // With an id, a request that is sent again is the same request for the server, also if it wants another answer.
    const withId = { ...options, messageId: options.messageId ?? crypto.randomUUID() };
    const send = () => super.sendMessages(withId);
    const stream = await this.#retry(send, options.abortSignal);
    return this.#makeLasting(stream, send, options);
  }

  /** The stream of the open answer, from its beginning; null if no answer is open. */
  async reconnectToStream(options) {
    const reconnect = () => super.reconnectToStream(options);
    const stream = await this.#retry(reconnect, options.abortSignal);
    return stream && this.#makeLasting(stream, reconnect, options);
  }

  /** Stops the open answers of a chat, and returns their number. The producer is told, and all readers get the text so far. */
  async stop(chatId) {
    const { stopped } = await this.#ask('POST', chatId, '/stop');
    return stopped;
  }

  /** The messages of a chat, the oldest first: 50 up to its end, or `before` a message. `before` of the result leads to earlier ones. */
  async history(chatId, { before = 0 } = {}) {
    const page = await this.#ask('GET', chatId, `/messages?before=${before}`);
    const messages = await Promise.all(page.messages.map(messageOf));
    return { before: page.before, messages };
  }

  /**
   * Calls `onAnswer` whenever an answer begins, on whichever device its question was written. Returns a function that ends this.
   */
  watch(chatId, onAnswer) {
    const control = new AbortController();
    const { signal } = control;
    const run = async () => {
      let lastId = '';
      for (let failures = 0; !signal.aborted; failures += 1) {
        try {
          const response = await this.#request('GET', chatId, '/stream?wait=1', signal);
          for await (const chunk of this.processResponseStream(response.body)) {
            failures = 0;
            if (chunk.type !== 'start' || chunk.messageId === lastId) continue;
            lastId = chunk.messageId;
            onAnswer(lastId);
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

  /** Sends a request again after each temporary error, until it succeeds or {@link GIVE_UP_MS} have passed. */
  async #retry(request, signal) {
    const begin = Date.now();
    for (let failures = 0; ; failures += 1) {
      try {
        return await request();
      } catch (error) {
        if (signal?.aborted || !isTemporary(error) || Date.now() - begin > GIVE_UP_MS) throw error;
        await pause(failures, signal);
      }
    }
  }

  /**
   * A stream that goes on after interruptions. `requestAgain` is sent after an interruption before the first chunk, when the id of
   * the message is not known.
   */
  #makeLasting(firstStream, requestAgain, options) {
    const progress = new Progress();
    const signal = options.abortSignal;
    let reader = firstStream.getReader();

    const resume = async () => {
      progress.restart();
      const reconnect = () => super.reconnectToStream({ ...options, metadata: { [MESSAGE]: progress.id } });
      const stream = await this.#retry(progress.id ? reconnect : requestAgain, signal);
      reader = stream?.getReader();
    };
    /** The result of the next read. An interruption looks like the end of the stream. */
    const read = () =>
      reader.read().catch((error) => {
        if (signal?.aborted) throw error;
        return { done: true };
      });
    const pull = async (controller) => {
      let failures = 0;
      while (!progress.done) {
        const { done: isInterrupted, value } = await read();
        if (isInterrupted) {
          await pause(failures, signal);
          failures += 1;
          await resume();
          if (!reader) break; // the answer is no longer open
          continue;
        }
        const chunk = progress.take(value);
        if (chunk === null) continue;
        controller.enqueue(chunk);
        return;
      }
      controller.close();
    };
    return new ReadableStream({ pull, cancel: () => reader?.cancel() }, { highWaterMark: 0 });
  }

  /** Sends a request about a chat. A refusal throws an error with the `statusCode`, and the `code` of the problem. */
  async #request(method, chatId, path, signal) {
    const token = await textOf(this.#token);
    const send = this.#fetch ?? globalThis.fetch;
    const response = await send(`${this.#api}/${encodeURIComponent(chatId)}${path}`, {
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

  /** The JSON of the answer to a request. */
  async #ask(method, chatId, path) {
    const response = await this.#request(method, chatId, path);
    return response.json();
  }
}

/** The text of a token, which may be a function that returns a fresh token. */
function textOf(token) {
  return typeof token === 'function' ? token() : token;
}

/** A message with all its parts, which are made of the chunks of its stream. */
async function messageOf({ chunks, ...message }) {
  if (!chunks) return message;
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
  let messageSoFar = { ...message, parts: [] };
  for await (const next of readUIMessageStream({ message: messageSoFar, stream })) messageSoFar = next;
  return messageSoFar;
}
