// @ts-check
/**
 * Clients of imserver's `cmd` and `action` dialects for browsers and Node: one ES module without dependencies.
 *
 *     import { ImClient } from "./imserver.js";
 *
 *     const client = new ImClient({ url: "ws://127.0.0.1:8089/acc", httpUrl: "http://127.0.0.1:8080", app: 101, user: "ann" });
 *     client.on("msg", ({ from, text }) => console.log(from, text));
 *     client.on("state", ({ state, retryInMs }) => console.log(state, retryInMs));
 *     await client.connect();
 *     await client.sendMessageAll("hello");
 *
 * The client logs in, sends a heartbeat every 30 s, and reconnects after a lost connection. The pause before a retry
 * is random and grows with each failure ("full jitter"). Some close codes end the retries; see {@link mayReconnect}.
 *
 * @module imserver
 */

import { CLOSE_CODES, Closed, CommandRefused, LoginRefused, NotConnected, REPLY_CODES, RequestRefused } from "./errors.js";

export * from "./errors.js";

/** The answer codes that the client uses. The server's documentation lists all codes. */
export const CODE = Object.freeze({ OK: 200, NOT_LOGGED_IN: 1000, BAD_PARAMETER: 1001, BAD_USER: 1002, UNAUTHORIZED: 1003, NOT_STORED: 1008 });

/**
 * A login that is refused with one of these codes is not retried.
 *
 * @type {Set<number>}
 */
const FINAL_REFUSALS = new Set([CODE.BAD_PARAMETER, CODE.BAD_USER, CODE.UNAUTHORIZED]);

/** The events of the `cmd` dialect. */
const CMD_EVENTS = ["enter", "exit", "msg"];

/** The events of channels. */
const CHANNEL_EVENTS = ["publication", "stream", "join", "leave", "unsubscribed"];
/** Code of `unsubscribed`: publications are missing. */
const INSUFFICIENT_STATE = 2500;
/** The server closes a connection that sends more messages per second than its limit. */
const RATE_LIMIT = 4003;
/** How many turns of {@link ImClient#turn} run at the same time. */
const MAX_TURNS = 20;
/** How many commands of turns wait for an answer: the server reviews no more messages of a connection at the same time. */
const MAX_UNANSWERED = 200;
/** A turn ends after this time without an answer: a back end may take long to answer. */
const TURN_MS = 1_000;
/** The pause after each turn, once the server has closed a connection with {@link RATE_LIMIT}. It doubles with each further such close. */
const SPACING_MS = 50;
const MAX_SPACING_MS = 1_000;
/** The end of the year 9999, in seconds since 1970: a later time cannot be shown. */
const MOST_SECONDS = 253_402_300_799;

/**
 * The events of the `action` dialect: `action` of the frame → name of the event.
 *
 * @type {Record<string, string>}
 */
const ACTION_EVENTS = { enter: "welcome", sendmsg: "said", exit: "left" };

/** @type {StateChange} */
const NEVER_CONNECTED = { state: "idle", attempt: 0, retryInMs: 0, code: 0, reason: "", error: null };
/** Close codes. */
const NORMAL_CLOSE = 1000;
const ABNORMAL_CLOSE = 1006;
const TOKEN_INVALID = 4504;
/** Values of `readyState` of a WebSocket. */
const OPEN = 1;
const CLOSING = 2;
/** Cards of accounts in one request: the server's maximum. */
const MAX_CARDS = 100;
/** How long the client waits for the close event after an error event. */
const CLOSE_AFTER_ERROR_MS = 50;
/** How long {@link ReconnectingClient#probe} waits for the answer. */
const PROBE_MS = 3_000;
/** How long the client waits for a socket that is closing. Without a network, its close event comes only after minutes. */
const CLOSING_MS = 2_000;
/** Bounds of the random pause before a client subscribes to a channel again. */
const SUBSCRIBE_BASE_MS = 1_000;
const SUBSCRIBE_CAP_MS = 30_000;
/** After this number of failures the bound of {@link fullJitter} grows no more. */
const MAX_DOUBLINGS = 30;
/** How the `action` dialect writes that there is no user, or no room. */
const NO_TARGET = "0";
/** Halves of characters that have no UTF-8. */
const LONE_SURROGATES = /[\ud800-\udfff]/gu;

/**
 * `idle`: not started. `connecting`: the client connects or logs in. `online`: logged in. `waiting`: the connection
 * is lost, the next try is in `retryInMs`. `refused`: the server refused the login or closed the connection for good.
 * `closed`: ended by `close()`.
 *
 * @typedef {"idle" | "connecting" | "online" | "waiting" | "refused" | "closed"} State
 */

/**
 * @typedef {object} StateChange
 * @property {State} state
 * @property {number} attempt    failed tries since the last stable connection
 * @property {number} retryInMs  pause before the next try (0 unless `waiting`)
 * @property {number} code       WebSocket close code or answer code that caused this state (0: none)
 * @property {string} reason     text of the code
 * @property {import("./errors.js").ImError | null} error  why the client is `refused` or `closed`
 */

/**
 * @typedef {object} Push        the events `enter`, `exit` and `msg`
 * @property {string} from       the user who entered, left or sent the message
 * @property {string} text
 * @property {string} id         id of the message (`msgID`), or an id made by the server
 */

/**
 * @typedef {object} Said        the events of the `action` dialect
 * @property {string} from       the user who sent the message or left
 * @property {string} to         the receiver
 * @property {string} type       `text`, `image`, `video`, `voice`
 * @property {string} text       the text, or the URL of an image, video or voice message
 * @property {string} id         id of the message
 * @property {number} at         milliseconds since 1970
 */

/**
 * @typedef {object} Position    the place of a publication in the history of its channel
 * @property {string} epoch      the life of the history
 * @property {number} offset
 */

/**
 * @typedef {object} Publication
 * @property {string} channel
 * @property {string} [text]
 * @property {any} [data]        JSON, in place of `text`
 * @property {string} [type]
 * @property {string} [epoch]    with `offset`: its position, if the channel has a history
 * @property {number} [offset]
 * @property {string} [id]       the publisher's own id
 * @property {string} [from]     the user who published it
 * @property {ChannelClient} [info]  the client that published it
 * @property {Record<string, string>} [tags]
 * @property {string} [stream]   it is the end of this streamed message
 * @property {boolean} [incomplete]  with `stream`: its publisher did not finish it
 */

/**
 * @typedef {object} StreamUpdate  a streamed message so far
 * @property {string} channel
 * @property {string} stream     its id
 * @property {string} text       the whole text so far
 * @property {boolean} done      the text is final
 * @property {boolean} incomplete  its publisher did not finish it
 * @property {string} [type]
 * @property {string} [from]
 * @property {Record<string, string>} [tags]
 */

/**
 * @typedef {object} ChannelClient  a client in a channel
 * @property {string} user
 * @property {string} client     id of its connection
 * @property {any} [conn_info]
 * @property {any} [chan_info]
 */

/**
 * @typedef {object} Subscriber
 * @property {string} connection
 * @property {string} user
 * @property {any} [info]
 * @property {any} [channelInfo]
 */

/**
 * @typedef {object} SubscribeOptions
 * @property {Token} [token]       channel token; a function is called for each try
 * @property {Position} [since]  the position that this device has; what came after it is handed out first
 * @property {(publication: Publication) => void} [onPublication]  called once for each, in order
 * @property {(update: StreamUpdate) => void} [onStream]  called with each piece of a streamed message, and at its end, before
 *   `onPublication`
 * @property {(client: ChannelClient) => void} [onJoin]
 * @property {(client: ChannelClient) => void} [onLeave]
 * @property {() => void} [onReload]  publications may be missing: load the state anew
 * @property {(recovered: number) => void} [onSubscribed]  called each time the client has subscribed, after the publications
 *   that it had missed: `recovered` is their number
 * @property {(error: import("./errors.js").ImError | null) => void} [onEnd]  the server has ended or refused the subscription
 */

/**
 * A token, or a function that returns a fresh one.
 *
 * @typedef {string | (() => string | Promise<string>)} Token
 */

/** @typedef {{ state: StateChange }} StateEvents */

/** @typedef {{ enter: Push, exit: Push, msg: Push }} PushEvents */

/**
 * `failed` is an event with another code than 200, `other` is one with an unknown action.
 *
 * @typedef {{ welcome: Said, said: Said, left: Said, failed: Said, other: Said }} SaidEvents
 */

/**
 * @typedef {object} Answer      the `response` of one request
 * @property {number} code       200, or the error code
 * @property {string} codeMsg
 * @property {any} data
 */

/**
 * The part of a WebSocket that the client uses.
 *
 * @typedef {object} Socket
 * @property {number} readyState
 * @property {(text: string) => void} send
 * @property {(code: number) => void} close
 * @property {((event: any) => void) | null} onopen
 * @property {((event: any) => void) | null} onmessage
 * @property {((event: any) => void) | null} onclose
 * @property {((event: any) => void) | null} onerror
 */

/**
 * The part of `fetch` that the client uses.
 *
 * @typedef {object} HttpRequest
 * @property {"GET" | "POST"} method
 * @property {string} [body]
 * @property {Record<string, string>} headers
 * @property {"no-store"} cache
 * @property {"omit"} credentials
 * @property {any} [signal]      an AbortSignal, where there is one
 * @property {number} timeoutMs  what the signal does, for a `fetch` that has none
 */

/**
 * @typedef {object} HttpResponse
 * @property {boolean} ok
 * @property {number} status
 * @property {string} [statusText]
 * @property {() => Promise<any>} json
 */

/**
 * @typedef {object} Options
 * @property {string} url                 WebSocket address, as `wss://im.example.com/acc`
 * @property {string} [httpUrl]           base of the HTTP API, as `https://im.example.com`; default: the page's origin
 * @property {number | string} app        number (`appID`) or name of the app
 * @property {string} user                id of the user (`userID`), as long as the app allows
 * @property {Token} [token]              sent as `serviceToken` at login and as bearer token in HTTP requests. A function is called
 *   for each login, and for each HTTP request while the client is not online; with one, the client reconnects when its token expires
 * @property {string} [device]            name of this device, at most 32 bytes
 * @property {number} [heartbeatMs]       default 30,000
 * @property {number} [timeoutMs]         timeout of a connect, request or HTTP call; default 10,000
 * @property {number} [retryBaseMs]       upper bound of the pause before the first retry; doubles each time; default 1,000
 * @property {number} [retryCapMs]        greatest upper bound of a pause; default 30,000
 * @property {number} [stableMs]          a connection that lasts this long resets the pauses; default 10,000
 * @property {new (url: string) => Socket} [WebSocket]  default: the global one; Node 20 has none
 * @property {(url: string, request: HttpRequest) => Promise<HttpResponse>} [fetch]  default: the global one
 * @property {() => number} [random]      in [0, 1); default `Math.random`
 */

/** @typedef {Required<Omit<Options, "token">>} CompleteOptions */

/**
 * @typedef {object} Target
 * @property {string} [peer]  the other user
 * @property {string} [room]  the room
 */

/** @typedef {Options & Target} TalkOptions */

/**
 * Whether the client reconnects after this close code: not after 4500–4999, but after all others.
 *
 * @param {number} code  WebSocket close code
 * @returns {boolean}
 */
export function mayReconnect(code) {
  return code < 4500 || code > 4999;
}

/**
 * The pause before a retry: random between 0 and a bound that doubles with each failure. So thousands of clients that
 * lose the same server do not reconnect at the same moment.
 *
 * @param {number} attempt  failures so far
 * @param {number} baseMs
 * @param {number} capMs
 * @param {() => number} [random]
 * @returns {number} milliseconds
 */
export function fullJitter(attempt, baseMs, capMs, random = Math.random) {
  const boundMs = Math.min(capMs, baseMs * 2 ** Math.min(attempt, MAX_DOUBLINGS));
  return Math.floor(random() * boundMs);
}

let idsMade = 0;

/**
 * A new id, as for a message: a UUID, or a text as unlikely to come twice where pages and mini-programs cannot make one.
 *
 * @returns {string}
 */
export function newId() {
  if (typeof crypto !== "undefined" && crypto.randomUUID) return crypto.randomUUID();
  idsMade += 1;
  const randomText = () => Math.random().toString(36).slice(2);
  return [Date.now(), idsMade, randomText(), randomText()].join("-");
}

/**
 * The part that the clients of all dialects share: connects, logs in, sends heartbeats and reconnects. Owns the socket,
 * the timers, the pending requests and the listeners. A subclass gives the login data and reads the events of its dialect.
 *
 * @template {object} E  the events of the subclass: name → data
 */
class ReconnectingClient {
  /** Names of the events that listeners may ask for. @type {Set<string>} */
  #kinds;
  /** @type {CompleteOptions} */
  #options;
  /** The field of a frame that has the name of the command. */
  #key;
  /** @type {Socket | null} */
  #socket = null;
  /** @type {Map<string, { cmd: string, settle: (answer: Answer | NotConnected) => void }>} */
  #pending = new Map();
  /** @type {Map<string, Set<(detail: any) => void>>} */
  #listeners = new Map();
  /** @type {StateChange} */
  #state = { ...NEVER_CONNECTED };
  /** States of which listeners are not all told yet, the oldest first. @type {StateChange[]} */
  #changes = [];
  /** The promise of `connect()`; null: the client does not connect. @type {Deferred | null} */
  #connected = null;
  /** The timeout of a connect, or the pause before the next try. @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #heartbeat;
  /** Sends heartbeats while requests wait. @type {ReturnType<typeof setInterval> | undefined} */
  #probe;
  /** Failed tries since the last stable connection. */
  #attempt = 0;
  /** Time of the last login, milliseconds since 1970. */
  #onlineSince = 0;
  /** @type {Token} */
  #token = "";
  /** The last token that the function has returned. */
  #freshToken = "";
  /** Number of the call of the function that has returned `#freshToken`. */
  #freshCall = 0;
  /** Calls of the function so far. */
  #tokenCalls = 0;

  /**
   * @param {CompleteOptions} options
   * @param {Token} token
   * @param {string} key  the field of a frame that has the name of the command
   * @param {string[]} kinds  names of the events of the dialect
   */
  constructor(options, token, key, kinds) {
    this.#kinds = new Set(["state", ...kinds]);
    this.token = token;
    this.#options = options;
    this.#key = key;
  }

  /**
   * The data of the login request.
   *
   * @protected
   * @returns {object}
   */
  loginData() {
    throw new Error("loginData() is not implemented");
  }

  /**
   * Called after a successful login, before any later frame is read.
   *
   * @protected
   * @param {Answer} _answer
   */
  loggedIn(_answer) {}

  /**
   * Reads an event of the dialect: its name and its data.
   *
   * @protected
   * @param {any} frame
   * @returns {[string, object] | null}  null: the frame is an answer
   */
  eventIn(frame) {
    throw new Error(`eventIn() is not implemented: ${frame}`);
  }

  get app() {
    return this.#options.app;
  }

  get user() {
    return this.#options.user;
  }

  /** Used by the next login and HTTP call; may be changed at any time. */
  get token() {
    return this.#token;
  }

  set token(token) {
    if (typeof token !== "string" && typeof token !== "function") throw new TypeError("the token is neither a string nor a function");
    this.#token = token;
    this.#freshToken = "";
    this.#freshCall = 0;
  }

  /**
   * The token of this connection, or the next one.
   *
   * @protected
   */
  get tokenText() {
    return typeof this.#token === "function" ? this.#freshToken : this.#token;
  }

  /**
   * Calls the function for the token, if there is one.
   *
   * @protected
   * @returns {Promise<void>} rejected with NotConnected if it fails, or gives no token in time
   */
  async renewToken() {
    const { token } = this;
    if (typeof token !== "function") return;
    this.#tokenCalls += 1;
    const callNumber = this.#tokenCalls;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    try {
      const timeout = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("no token in time")), this.timeoutMs); });
      const fresh = (await Promise.race([token(), timeout])) ?? "";
      if (typeof fresh !== "string") throw new TypeError("it has not returned a string");
      if (token === this.#token && callNumber >= this.#freshCall) { // otherwise another function, or a later call, counts
        this.#freshToken = fresh;
        this.#freshCall = callNumber;
      }
    } catch (error) {
      if (token === this.#token) throw new NotConnected(`the token function failed: ${error}`, error);
    } finally {
      clearTimeout(timer);
    }
    if (token !== this.#token) return this.renewToken(); // replaced while it ran
  }

  /**
   * Timeout of a connect, request or HTTP call.
   *
   * @protected
   */
  get timeoutMs() {
    return this.#options.timeoutMs;
  }

  /** @returns {StateChange} the state of the connection */
  get state() {
    return this.#state;
  }

  /**
   * Calls `listener` for every event of this kind. Throws TypeError if the client has no such event.
   *
   * @template {keyof (E & StateEvents) & string} K
   * @param {K} kind
   * @param {(detail: (E & StateEvents)[K]) => void} listener
   * @returns {() => void} removes the listener
   */
  on(kind, listener) {
    if (!this.#kinds.has(kind)) throw new TypeError(`unknown event "${kind}"; known events: ${[...this.#kinds].join(", ")}`);
    const listeners = this.#listeners.get(kind) ?? new Set();
    listeners.add(listener);
    this.#listeners.set(kind, listeners);
    return () => void listeners.delete(listener);
  }

  /**
   * Connects, logs in, and stays connected until `close()` or a final refusal.
   *
   * @returns {Promise<void>} resolved after the login; rejected with LoginRefused or Closed
   */
  connect() {
    if (this.#connected) return this.#connected.promise;
    const connected = deferred();
    this.#connected = connected;
    this.#attempt = 0;
    this.#open();
    return connected.promise;
  }

  /** Closes the connection, stops reconnecting, and rejects requests that wait. `connect()` starts again. */
  close() {
    if (!this.#connected && this.#state.state !== "idle") return;
    this.#drop();
    this.#finish("closed", NORMAL_CLOSE, "", new Closed(NORMAL_CLOSE));
  }

  /**
   * Drops the connection and reconnects, unless the server closes it already: its close code counts.
   *
   * @protected
   * @param {number} code
   * @param {string} reason
   */
  reconnect(code, reason) {
    if (this.#socket?.readyState === OPEN) this.#handleLoss(code, reason);
  }

  /** Ends the pause before the next try (for example because the network is back). */
  retryNow() {
    if (this.#state.state === "waiting") this.#open();
  }

  /**
   * Asks the server whether the connection lives, and reconnects if no answer comes in time: the network may have gone, or the
   * device has slept.
   *
   * @param {number} [timeoutMs]
   * @returns {Promise<void>} never rejected
   */
  async probe(timeoutMs = PROBE_MS) {
    if (this.#state.state === "online") await this.#sendHeartbeat(Math.min(timeoutMs, this.timeoutMs));
  }

  /**
   * Sends one command over the WebSocket and waits for its answer.
   *
   * @param {string} cmd
   * @param {object} [data]
   * @param {string} [seq]  the request's id
   * @param {(answer: Answer) => void} [onAnswer]  called when the answer is read, before any later frame; a caller that
   *   awaits the promise may continue only after later frames, since frames that arrive together are read together
   * @param {number} [timeoutMs]  default: that of the options
   * @returns {Promise<Answer>} with any code; rejected with NotConnected if there is no answer
   */
  request(cmd, data, seq = newId(), onAnswer, timeoutMs = this.timeoutMs) {
    const socket = this.#socket;
    if (!socket || socket.readyState !== OPEN) return Promise.reject(new NotConnected("not connected"));
    return new Promise((resolve, reject) => {
      const frame = JSON.stringify({ seq, [this.#key]: cmd, data }); // rejected with TypeError if it cannot be JSON
      const timer = setTimeout(() => settle(new NotConnected(`no answer to ${cmd}`)), timeoutMs);
      const settle = (/** @type {Answer | NotConnected} */ answer) => {
        clearTimeout(timer);
        this.#pending.delete(seq);
        if (!this.#pending.size) clearInterval(this.#probe);
        if (answer instanceof NotConnected) return reject(answer);
        onAnswer?.(answer);
        resolve(answer);
      };
      if (!this.#pending.size) this.#beginProbes();
      this.#pending.set(seq, { cmd, settle });
      socket.send(frame);
    });
  }

  /**
   * Sends heartbeats while requests wait. A back end may take long to answer a request: only a heartbeat without an answer says
   * that the connection is dead.
   */
  #beginProbes() {
    const everyMs = this.timeoutMs / 2;
    this.#probe = setInterval(() => {
      if (this.#state.state === "online") this.#sendHeartbeat(everyMs);
    }, everyMs);
  }

  /** Opens a socket, which logs in when it is open. */
  #open() {
    clearTimeout(this.#timer);
    const connected = this.#connected;
    this.#setState("connecting");
    if (this.#connected !== connected) return; // a listener has called close()
    /** @type {Socket} */
    let socket;
    try {
      socket = new this.#options.WebSocket(this.#options.url);
    } catch (error) {
      // A bad address, or ws: in an https: page: a retry would fail, too.
      this.#finish("refused", 0, String(error), new NotConnected(String(error), error));
      return;
    }
    this.#socket = socket;
    // An event of an earlier socket must not end this connection.
    const handleLoss = (/** @type {number} */ code, /** @type {string} */ reason) => {
      if (this.#socket === socket) this.#handleLoss(code, reason);
    };
    this.#timer = setTimeout(() => handleLoss(ABNORMAL_CLOSE, "connect timeout"), this.timeoutMs);
    socket.onopen = () => this.#login(handleLoss);
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onclose = (event) => handleLoss(event.code, event.reason);
    // In browsers a close event with the code follows. In Node 20 none follows if the connection was never open.
    socket.onerror = () => setTimeout(() => handleLoss(ABNORMAL_CLOSE, ""), CLOSE_AFTER_ERROR_MS);
  }

  /**
   * Logs in on the socket that has just opened.
   *
   * @param {(code: number, reason: string) => void} handleLoss  ends this connection
   */
  async #login(handleLoss) {
    const connected = this.#connected;
    const socket = this.#socket;
    /** @type {Answer} */
    let answer;
    try {
      if (typeof this.#token === "function") await this.renewToken();
      if (this.#socket !== socket) return; // closed while the token was renewed
      clearTimeout(this.#timer);
      const onAnswer = (/** @type {Answer} */ early) => {
        if (early.code === CODE.OK) this.loggedIn(early);
      };
      answer = await this.request("login", this.loginData(), newId(), onAnswer);
    } catch (error) {
      return handleLoss(ABNORMAL_CLOSE, /** @type {Error} */ (error).message);
    }
    if (this.#socket !== socket) return; // closed by the listener of an event that came with the answer

    if (answer.code === CODE.OK) {
      this.#onlineSince = Date.now();
      this.#heartbeat = setInterval(() => this.#sendHeartbeat(), this.#options.heartbeatMs);
      this.#setState("online");
      connected?.resolve();
    } else if (FINAL_REFUSALS.has(answer.code)) {
      this.#drop();
      this.#finish("refused", answer.code, reasonOf(answer), new LoginRefused(answer.code, answer.codeMsg));
    } else {
      handleLoss(answer.code, reasonOf(answer));
    }
  }

  /**
   * Sends a heartbeat, and reconnects if it is refused or no answer comes.
   *
   * @param {number} [timeoutMs]
   */
  async #sendHeartbeat(timeoutMs) {
    const socket = this.#socket;
    const reconnect = (/** @type {number} */ code, /** @type {string} */ reason) => {
      if (this.#socket === socket) this.reconnect(code, reason);
    };
    try {
      const answer = await this.request("heartbeat", {}, undefined, undefined, timeoutMs);
      if (answer.code !== CODE.OK) reconnect(answer.code, reasonOf(answer));
    } catch (error) {
      const { message } = /** @type {Error} */ (error);
      reconnect(ABNORMAL_CLOSE, message); // the connection is dead, but the socket has not noticed
      if (socket?.readyState !== CLOSING) return;
      setTimeout(() => {
        if (this.#socket === socket) this.#handleLoss(ABNORMAL_CLOSE, message);
      }, CLOSING_MS);
    }
  }

  /**
   * Reads a frame: an event for listeners, or the answer to a request.
   *
   * @param {unknown} payload
   */
  #receive(payload) {
    /** @type {any} */
    let frame;
    try {
      frame = JSON.parse(String(payload));
    } catch {
      return; // the server answers a malformed request with plain text; ours are well-formed
    }
    const event = this.eventIn(frame);
    if (event) return this.emit(event[0], event[1]);
    const { seq, response } = frame ?? {};
    const request = this.#pending.get(seq);
    if (!response || !request || request.cmd !== frame[this.#key]) return;
    request.settle({ ...response, codeMsg: response.codeMsg ?? response.msg ?? "" });
  }

  /**
   * Drops the lost connection. Connects again after a pause, or ends the client if the close code forbids a retry.
   *
   * @param {number} code
   * @param {string} reason
   */
  #handleLoss(code, reason) {
    const wasOnline = this.#state.state === "online";
    const wasStable = wasOnline && Date.now() - this.#onlineSince >= this.#options.stableMs;
    if (wasStable) this.#attempt = 0;
    this.#drop();
    // A token that expires is renewed. A token that is refused at the login is not.
    const canRenew = wasOnline && code === TOKEN_INVALID && typeof this.#token === "function";
    if (!canRenew && !mayReconnect(code)) return this.#finish("refused", code, reason, new Closed(code, reason));

    reason ||= CLOSE_CODES[code]?.[0] ?? "";
    const { retryBaseMs, retryCapMs, random } = this.#options;
    const retryInMs = fullJitter(this.#attempt, retryBaseMs, retryCapMs, random);
    this.#attempt += 1;
    this.#timer = setTimeout(() => this.#open(), retryInMs);
    this.#setState("waiting", { retryInMs, code, reason });
  }

  /** Closes the socket without waiting for its close event, which can take a minute on a dead connection. */
  #drop() {
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = null;
      socket.onmessage = null;
      socket.onclose = null;
      socket.close(NORMAL_CLOSE);
    }
    for (const { settle } of [...this.#pending.values()]) settle(new NotConnected("connection lost"));
  }

  /**
   * Ends the client until the next `connect()`.
   *
   * @param {"refused" | "closed"} state
   * @param {number} code
   * @param {string} reason
   * @param {import("./errors.js").ImError} error
   */
  #finish(state, code, reason, error) {
    const connected = this.#connected;
    this.#connected = null;
    this.#setState(state, { code, reason, error });
    connected?.reject(error);
  }

  /**
   * Changes the state, and tells the listeners of each state in order.
   *
   * @param {State} state
   * @param {Partial<StateChange>} [detail]
   */
  #setState(state, detail) {
    this.#state = { ...NEVER_CONNECTED, attempt: this.#attempt, ...detail, state };
    this.#changes.push(this.#state);
    if (this.#changes.length > 1) return; // a listener has changed the state: the others must first hear of the state before
    while (this.#changes.length) {
      this.emit("state", this.#changes[0]);
      this.#changes.shift();
    }
  }

  /**
   * @protected
   * @param {string} kind
   * @param {object} detail
   */
  emit(kind, detail) {
    for (const listener of [...(this.#listeners.get(kind) ?? [])]) call(listener, detail);
  }
}

/**
 * A subscription to a channel. After a reconnect it subscribes again with its position, so that it misses nothing that
 * the history of the channel still has. {@link ImClient#subscribe} makes it.
 */
export class Subscription {
  #client;
  #options;
  #hooks;
  #ready = deferred();
  /** The server has accepted it once, perhaps on an earlier connection. */
  #hasBegun = false;
  #isOver = false;
  /** Number of the current try. A lost connection, a new try and the end change it: what belongs to an earlier number is void. */
  #attempt = 0;
  #failures = 0;
  /** @type {Map<string, { piece: number, update: StreamUpdate }>} open streamed messages */
  #streams = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {ImClient} client
   * @param {string} channel
   * @param {SubscribeOptions} options
   * @param {{ turn: (task: () => Promise<unknown>) => void, ended: () => void, reconnect: () => void }} hooks
   */
  constructor(client, channel, options, hooks) {
    this.#client = client;
    this.#options = options;
    this.#hooks = hooks;
    this.channel = channel;
    /** @type {Position | null} of the last publication that was handed out; null: the channel has no history */
    this.position = options.since ?? null;
  }

  /** @returns {Promise<void>} resolved when the client has subscribed; rejected if the server refuses it */
  get ready() {
    return this.#ready.promise;
  }

  /**
   * Publishes to the channel, if its subscribers may.
   *
   * @param {any} content  a text, or JSON
   * @param {string} [type]
   */
  async publish(content, type) {
    const body = typeof content === "string" ? { text: content } : { data: content };
    await this.#request("publish", { ...body, ...(type && { type }) });
  }

  /**
   * Publications of the channel, and the position of the newest one.
   *
   * @param {{ limit?: number, since?: Position, reverse?: boolean }} [page]  what came after `since`, or before it (`reverse`)
   * @returns {Promise<Position & { publications: Publication[] }>}
   */
  history({ since, ...page } = {}) {
    return this.#request("channelHistory", { ...page, ...since });
  }

  /**
   * The subscribers of the channel in the order in which they came.
   *
   * @param {{ limit?: number, after?: string }} [page]  `after` is `next` of the page before
   * @returns {Promise<{ total: number, subscribers: Subscriber[], next?: string }>}
   */
  presence(page = {}) {
    return this.#request("channelPresence", page);
  }

  /** Ends the subscription. */
  async unsubscribe() {
    if (this.#isOver) return;
    this.#end(new NotConnected("unsubscribed"));
    try {
      await this.#client.request("unsubscribe", { channel: this.channel });
    } catch (error) {
      if (!(error instanceof NotConnected)) throw error; // a lost connection has no subscription
    }
  }

  /** @internal Subscribes on a new connection. */
  async begin() {
    this.pause();
    const attempt = this.#attempt;
    const { token } = this.#options;
    let tokenText;
    try {
      tokenText = typeof token === "function" ? await token() : token;
    } catch {
      if (attempt === this.#attempt) this.#beginLater();
      return;
    }
    if (attempt === this.#attempt) this.#hooks.turn(() => this.#subscribe(attempt, tokenText));
  }

  /**
   * Sends the command of a try.
   *
   * @param {number} attempt
   * @param {string | undefined} token
   */
  async #subscribe(attempt, token) {
    if (attempt !== this.#attempt) return;
    const data = { channel: this.channel, ...(token && { token }), ...this.position };
    try {
      await this.#client.request("subscribe", data, newId(), (answer) => {
        if (attempt === this.#attempt) this.#handleAnswer(answer);
      });
    } catch {
      if (attempt === this.#attempt) this.#hooks.reconnect(); // it may be subscribed or not
    }
  }

  /** @internal The connection is lost. */
  pause() {
    clearTimeout(this.#timer);
    this.#attempt += 1;
  }

  #beginLater() {
    const pauseMs = fullJitter(this.#failures, SUBSCRIBE_BASE_MS, SUBSCRIBE_CAP_MS);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.begin(), pauseMs);
  }

  /**
   * Reads the answer to a try. If the server accepts, it hands out the publications that were missed.
   *
   * @param {Answer} answer
   */
  #handleAnswer({ code, codeMsg, data }) {
    if (code === CODE.NOT_STORED) return this.#beginLater();
    if (code !== CODE.OK) {
      const error = new CommandRefused("subscribe", code, codeMsg, data);
      this.#end(error);
      return call(this.#options.onEnd, error);
    }

    const { epoch, offset, recovered, publications = [] } = data;
    this.#failures = 0;
    this.#streams.clear(); // the server sends the open ones again
    const attempt = this.#attempt;
    for (const publication of publications) {
      this.#handOut(publication);
      if (attempt !== this.#attempt) return; // the listener has closed the client, or ended the subscription
    }
    this.position = epoch === undefined ? null : { epoch, offset };
    const mayMissSome = recovered === false || (this.#hasBegun && !recovered);
    if (mayMissSome) call(this.#options.onReload, undefined);
    this.#hasBegun = true;
    this.#ready.resolve();
    call(this.#options.onSubscribed, publications.length);
  }

  /**
   * @internal Reads an event of the channel.
   * @param {string} kind
   * @param {any} data
   */
  receive(kind, data) {
    if (kind === "publication") return this.#handOut(data);
    if (kind === "stream") return this.#receivePiece(data);
    if (kind === "join") return call(this.#options.onJoin, data.info);
    if (kind === "leave") return call(this.#options.onLeave, data.info);
    if (data.code === INSUFFICIENT_STATE) return void this.begin();
    this.#end(new NotConnected("the server has ended the subscription"));
    call(this.#options.onEnd, null);
  }

  /**
   * Calls the listener with a publication, unless it was handed out before.
   *
   * @param {Publication} publication
   */
  #handOut(publication) {
    const { epoch, offset } = publication;
    if (epoch && offset) {
      if (this.position?.epoch === epoch && offset <= this.position.offset) return;
      this.position = { epoch, offset };
    }
    if (publication.stream) this.#endStream(publication);
    call(this.#options.onPublication, publication);
  }

  /**
   * Appends a piece of a streamed message. A frame that is `whole` has the whole text so far, in place of a piece.
   *
   * @param {StreamUpdate & { piece: number, whole?: boolean }} frame
   */
  #receivePiece({ piece, whole, ...part }) {
    const known = this.#streams.get(part.stream);
    let update = { ...part, done: part.done === true, incomplete: part.incomplete === true };
    if (!whole) {
      if (!known || piece !== known.piece + 1) return; // a repetition; or the whole text will come
      update = { ...known.update, text: known.update.text + part.text };
    }
    if (update.done) this.#streams.delete(part.stream);
    else this.#streams.set(part.stream, { piece, update });
    call(this.#options.onStream, update);
  }

  /** @param {Publication} publication */
  #endStream({ channel, stream = "", text = "", incomplete = false, type, from, tags }) {
    this.#streams.delete(stream);
    call(this.#options.onStream, { channel, stream, text, done: true, incomplete, type, from, tags });
  }

  /** @param {import("./errors.js").ImError} error */
  #end(error) {
    this.pause();
    this.#isOver = true;
    this.#hooks.ended();
    this.#ready.reject(error);
  }

  /**
   * Sends a command about the channel, once.
   *
   * @param {string} cmd
   * @param {object} fields
   */
  async #request(cmd, fields) {
    const { code, codeMsg, data } = await this.#client.request(cmd, { channel: this.channel, ...fields });
    if (code !== CODE.OK) throw new CommandRefused(cmd, code, codeMsg, data);
    return data;
  }
}

/**
 * A client of the `cmd` dialect: one user of one app. Events: `enter`, `exit`, `msg` and `state`.
 *
 * Requests over HTTP are rejected with CommandRefused, RequestRefused, or NotConnected if there is no answer.
 *
 * @template {object} [E={}]  the events that a subclass adds
 * @extends {ReconnectingClient<PushEvents & E>}
 */
export class ImClient extends ReconnectingClient {
  /** @type {CompleteOptions} */
  #options;
  /** @type {Map<string, Subscription>} */
  #subscriptions = new Map();
  /** Tasks whose turn on this connection is still to come. @type {(() => Promise<unknown>)[]} */
  #turns = [];
  /** How many turns run on this connection, and how many commands wait for an answer. Each connection has an object of its own. */
  #running = { count: 0, unanswered: 0 };
  /** The pause after each turn; 0: there is no pause, and several turns run at the same time. */
  #spacingMs = 0;

  /**
   * @param {Options} options
   * @param {string[]} [kinds]  names of the events that a subclass adds
   */
  constructor(options, kinds = []) {
    const complete = withDefaults(options);
    super(complete, options.token ?? "", "cmd", [...CMD_EVENTS, ...kinds]);
    this.#options = complete;
    this.on("state", ({ state, code }) => {
      if (code === RATE_LIMIT) this.#spacingMs = Math.min(Math.max(2 * this.#spacingMs, SPACING_MS), MAX_SPACING_MS);
      this.#turns = [];
      this.#running = { count: 0, unanswered: 0 };
      for (const subscription of [...this.#subscriptions.values()]) {
        if (state === "online") subscription.begin();
        else subscription.pause();
      }
    });
  }

  /**
   * Subscribes to a channel, now or when the client is connected, and again after each reconnect. Throws TypeError if the
   * client has a subscription to this channel already.
   *
   * @param {string} channel
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  subscribe(channel, options = {}) {
    if (this.#subscriptions.has(channel)) throw new TypeError(`already subscribed to ${channel}`);
    const subscription = new Subscription(this, channel, options, {
      turn: (task) => this.turn(task),
      ended: () => void this.#subscriptions.delete(channel),
      reconnect: () => this.reconnect(ABNORMAL_CLOSE, "no answer to subscribe"),
    });
    this.#subscriptions.set(channel, subscription);
    if (this.state.state === "online") subscription.begin();
    return subscription;
  }

  /**
   * Runs `task` on this connection, which sends a command, in its turn: few commands are sent at a time, and after each
   * {@link RATE_LIMIT} they are slower until none waits. A client may have many channels, or many messages from its time offline.
   * A turn ends with the answer, or after {@link TURN_MS}. No turn begins while {@link MAX_UNANSWERED} commands wait for an answer.
   *
   * @protected
   * @param {() => Promise<unknown>} task  never rejected
   */
  turn(task) {
    this.#turns.push(task);
    this.#nextTurn();
  }

  /** Runs the next task, if one waits and its turn has come. */
  async #nextTurn() {
    const running = this.#running;
    const maxTurns = this.#spacingMs ? 1 : MAX_TURNS;
    if (running.count >= maxTurns || running.unanswered >= MAX_UNANSWERED) return;
    const task = this.#turns.shift();
    if (!task) return;

    running.count += 1;
    running.unanswered += 1;
    const runTask = async () => {
      await task();
      running.unanswered -= 1;
      if (running === this.#running) this.#nextTurn();
    };
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const answered = runTask();
    const timeout = new Promise((resolve) => { timer = setTimeout(resolve, TURN_MS); });
    await Promise.race([answered, timeout]);
    clearTimeout(timer);
    if (this.#spacingMs) await new Promise((resolve) => setTimeout(resolve, this.#spacingMs));

    running.count -= 1;
    if (running !== this.#running) return; // the connection is another one
    if (!this.#turns.length) this.#spacingMs = Math.floor(this.#spacingMs / 2);
    this.#nextTurn();
  }

  /** @override */
  loginData() {
    const { app, user, device } = this.#options;
    const isNumber = typeof app === "number" || /^\d+$/.test(app);
    const appField = isNumber ? { appID: Number(app) } : { app };
    return { userID: user, ...appField, ...(this.tokenText && { serviceToken: this.tokenText }), ...(device && { device }) };
  }

  /**
   * @override
   * @param {any} frame
   * @returns {[string, Push] | null}
   */
  eventIn(frame) {
    if (CHANNEL_EVENTS.includes(frame?.cmd)) return this.#readChannelEvent(frame.cmd, frame.response?.data ?? {});
    if (!CMD_EVENTS.includes(frame?.cmd)) return null;
    const { from = "", msg = "" } = frame.response?.data ?? {};
    return [frame.cmd, { from: textOf(from), text: textOf(msg), id: textOf(frame.seq) }];
  }

  /**
   * Passes an event to its subscription. A publication to a channel in which the back end has put this client is a `msg`.
   *
   * @param {string} kind
   * @param {any} data
   * @returns {[string, Push] | null}
   */
  #readChannelEvent(kind, data) {
    const subscription = this.#subscriptions.get(data.channel);
    if (subscription) subscription.receive(kind, data);
    if (subscription || kind !== "publication") return null;
    const text = data.data === undefined ? data.text : JSON.stringify(data.data);
    return ["msg", { from: textOf(data.from), text: textOf(text), id: textOf(data.id) }];
  }

  /**
   * The online users of this app, in pages of 10,000.
   *
   * @param {string} [cursor]  `next` of the page before
   * @returns {Promise<{ userCount: number, userList: string[], next?: string, missingNodes?: string[] }>}
   */
  userList(cursor) {
    return this.#http("GET", "/user/list", cursor ? { cursor } : {});
  }

  /**
   * @param {string} user
   * @returns {Promise<boolean>} whether that user of this app is online
   */
  async online(user) {
    return (await this.#http("GET", "/user/online", { userID: user })).online;
  }

  /**
   * Which of these users of this app are online. Users whose presence an account must not see are missing.
   *
   * @param {string[]} users  at most `limits.batch_targets` (10,000)
   * @returns {Promise<Record<string, boolean>>} user → whether they are online
   */
  async presence(users) {
    /** @type {Record<string, boolean>} */
    const onlineByUser = {};
    // An id may be any text, as `__proto__`, to which nothing can be assigned.
    const put = (/** @type {string} */ user, /** @type {boolean} */ value) =>
      Object.defineProperty(onlineByUser, user, { value, enumerable: true, configurable: true, writable: true });
    try {
      const { userList } = await this.#http("POST", "/user/onlineBatch", { userIDs: users });
      for (const { userID, online } of userList) put(userID, online);
    } catch (error) {
      const isUnauthorized = error instanceof CommandRefused && error.code === CODE.UNAUTHORIZED;
      if (!isUnauthorized) throw error;
      for (const { user, presence } of await this.#cards(users, error)) {
        if (presence) put(user, presence === "online");
      }
    }
    return onlineByUser;
  }

  /**
   * The cards of accounts, which tell their presence to accounts that must not ask for it otherwise.
   *
   * @param {string[]} users
   * @param {Error} refusal  thrown if the server refuses the cards, too
   * @returns {Promise<{ user: string, presence?: string }[]>}
   */
  async #cards(users, refusal) {
    const all = [];
    for (let start = 0; start < users.length; start += MAX_CARDS) {
      try {
        const { cards } = await this.api("POST", "accounts/cards", { users: users.slice(start, start + MAX_CARDS) });
        all.push(...cards);
      } catch (error) {
        throw error instanceof RequestRefused ? refusal : error;
      }
    }
    return all;
  }

  /**
   * Sends a text to one user of this app. The server accepts a repeated `id` without delivering it again: if the answer
   * is lost, send the message again with the same id.
   *
   * @param {string} user
   * @param {string} text
   * @param {string} [id]
   * @returns {Promise<{ sendResults?: boolean }>} `sendResults` false: the user is not online; missing: the `id` is a repetition
   */
  sendMessage(user, text, id = newId()) {
    return this.#http("POST", "/user/sendMessage", { userID: user, msgID: id, message: text });
  }

  /**
   * Sends a text to all other users of this app. For `id`, see {@link ImClient#sendMessage}.
   *
   * @param {string} text
   * @param {string} [id]
   * @returns {Promise<{ sendResults?: boolean }>}
   */
  sendMessageAll(text, id = newId()) {
    return this.#http("POST", "/user/sendMessageAll", { userID: this.user, msgID: id, message: text });
  }

  /** @returns {string} base of the HTTP API */
  get httpUrl() {
    return this.#options.httpUrl;
  }

  /**
   * Sends a request to `/api/v1`, for this app.
   *
   * @param {"GET" | "POST"} method
   * @param {string} path  below /api/v1/, as `groups/show`
   * @param {Record<string, any>} [fields]  the query of a GET, the JSON body of a POST
   * @returns {Promise<any>} the answer
   */
  api(method, path, fields = {}) {
    const all = { app: String(this.app), ...fields };
    if (method === "GET") return this.#fetch(`/api/v1/${path}?${formOf(all)}`);
    return this.#fetch(`/api/v1/${path}`, JSON.stringify(all), "application/json");
  }

  /**
   * Sends a request to a route outside `/api/v1`, such as `/user/list`. Its answer has a `code`.
   *
   * @param {"GET" | "POST"} method
   * @param {string} path
   * @param {Record<string, string | string[]>} fields
   * @returns {Promise<any>} the answer's `data`
   */
  async #http(method, path, fields) {
    const form = formOf({ appID: String(this.app), ...fields });
    const request = method === "GET" ? this.#fetch(`${path}?${form}`) : this.#fetch(path, form, "application/x-www-form-urlencoded");
    const answer = await request;
    if (answer?.code !== CODE.OK) throw new CommandRefused(path, answer?.code ?? 0, answer?.msg, answer?.data);
    return answer.data;
  }

  /**
   * Sends a request: a POST if there is a body, else a GET.
   *
   * @param {string} path
   * @param {string} [body]
   * @param {string} [type]  of the body
   * @returns {Promise<any>} the body of the answer
   */
  async #fetch(path, body, type) {
    const { httpUrl, fetch } = this.#options;
    if (!httpUrl) throw new TypeError("the option httpUrl is missing"); // only pages have an origin
    // The server closes a connection whose token expires. Without a connection the last token may have expired.
    const mayBeExpired = !this.tokenText || this.state.state !== "online";
    if (typeof this.token === "function" && mayBeExpired) await this.renewToken();

    /** @type {HttpResponse | undefined} */
    let response;
    /** @type {any} */
    let answer = null;
    try {
      response = await fetch(httpUrl + path, this.#httpRequest(body, type));
      answer = await response.json();
    } catch (error) {
      // The body of a refusal may be no JSON, for example of a proxy.
      if (!response || response.ok) throw new NotConnected("no answer from the server", error);
    }
    if (!response.ok) throw new RequestRefused(response.status, { message: response.statusText, ...answer });
    return answer;
  }

  /**
   * @param {string} [body]
   * @param {string} [type]  of the body
   * @returns {HttpRequest}
   */
  #httpRequest(body, type) {
    const { timeoutMs } = this.#options;
    const hasTimeouts = typeof AbortSignal !== "undefined" && AbortSignal.timeout;
    return {
      method: type ? "POST" : "GET",
      ...(type && { body }),
      headers: {
        ...(type && { "Content-Type": type }),
        ...(this.tokenText && { Authorization: `Bearer ${this.tokenText}` }),
      },
      cache: "no-store",
      credentials: "omit",
      ...(hasTimeouts && { signal: AbortSignal.timeout(timeoutMs) }),
      timeoutMs,
    };
  }
}

/**
 * A client of the `action` dialect: a conversation with one user, or a room. Events: `welcome`, `said`, `left`,
 * `failed`, `other` and `state`.
 *
 *     const client = new TalkClient({ url: "ws://127.0.0.1:8089/ws", app: 1, user: "1", peer: "2" });
 *     client.on("said", ({ from, text }) => console.log(from, text));
 *     await client.connect();
 *     await client.say("hello");
 *
 * @extends {ReconnectingClient<SaidEvents>}
 */
export class TalkClient extends ReconnectingClient {
  #target;

  /** @param {TalkOptions} options  `url` has no query */
  constructor(options) {
    const { peer = NO_TARGET, room = NO_TARGET } = options;
    const complete = withDefaults(options);
    const target = room === NO_TARGET ? { to_uid: peer } : { groups_id: room };
    const query = formOf({ uid: options.user, ...target, appname: String(options.app) });
    const kinds = [...Object.values(ACTION_EVENTS), "failed", "other"];
    super({ ...complete, url: `${complete.url}?${query}` }, options.token ?? "", "action", kinds);
    this.#target = { userId: options.user, appId: options.app, toUid: peer, groupsId: room };
  }

  /**
   * Sends a message to the other user or to the room.
   *
   * @param {string} text         the text, or the URL of an image, video or voice message
   * @param {string} [type]       `text`, `image`, `video` or `voice`
   * @param {string} [id]         id of the message
   * @returns {Promise<void>} resolved when the server has accepted it; the dialect does not report the delivery
   */
  async say(text, type = "text", id = newId()) {
    const answer = await this.request("sendmsg", { msgType: type, message: text, ...this.#target }, id);
    if (answer.code !== CODE.OK) throw new CommandRefused("sendmsg", answer.code, answer.codeMsg, answer.data);
  }

  /** @override */
  loginData() {
    return { ...this.#target, ...(this.tokenText && { token: this.tokenText }) };
  }

  /**
   * @override
   * @param {any} frame
   * @returns {[string, Said] | null}
   */
  eventIn(frame) {
    if (!frame || frame.response || typeof frame.code !== "number") return null;
    const { action, msgId, msgType, content, from, to, msgTimestamp } = frame.data ?? {};
    const hasFailed = frame.code !== CODE.OK;
    const kind = hasFailed ? "failed" : ACTION_EVENTS[action] ?? "other";
    const text = hasFailed ? reasonOf({ code: frame.code, codeMsg: frame.msg }) : content ?? frame.msg;
    const said = {
      from: textOf(from), to: textOf(to), type: textOf(msgType), text: textOf(text), id: textOf(msgId), at: millisecondsOf(msgTimestamp),
    };
    return [kind, said];
  }
}

/**
 * @param {Options} options
 * @returns {CompleteOptions} with all defaults
 */
function withDefaults(options) {
  /** @type {any} */
  const complete = {
    httpUrl: typeof location === "undefined" ? "" : location.origin,
    device: "",
    heartbeatMs: 30_000,
    timeoutMs: 10_000,
    retryBaseMs: 1_000,
    retryCapMs: 30_000,
    stableMs: 10_000,
    WebSocket: typeof WebSocket === "undefined" ? undefined : WebSocket,
    fetch: (/** @type {string} */ url, /** @type {HttpRequest} */ request) => fetch(url, request),
    random: Math.random,
  };
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined) complete[name] = value;
  }
  for (const name of ["url", "app", "user"]) {
    if (complete[name] === undefined) throw new TypeError(`the option ${name} is missing`);
  }
  if (!complete.WebSocket) throw new TypeError("there is no global WebSocket: pass the option WebSocket, as of the package ws");
  complete.httpUrl = complete.httpUrl.replace(/\/+$/, "");
  return complete;
}

/**
 * @param {Record<string, any>} fields  a list stands for a repeated field
 * @returns {string} the fields as an urlencoded form or query
 */
function formOf(fields) {
  const pairs = [];
  for (const [name, values] of Object.entries(fields)) {
    for (const value of Array.isArray(values) ? values : [values]) {
      pairs.push(`${name}=${encodeURIComponent(String(value).replace(LONE_SURROGATES, "\ufffd"))}`);
    }
  }
  return pairs.join("&");
}

/**
 * @param {{ code: number, codeMsg: string }} answer
 * @returns {string} the English text of its code; if the code is unknown, the server's text
 */
function reasonOf({ code, codeMsg }) {
  return REPLY_CODES[code]?.[0] ?? codeMsg;
}

/**
 * @typedef {object} Deferred
 * @property {() => void} resolve
 * @property {(error: Error) => void} reject
 * @property {Promise<void>} promise
 */

/**
 * Calls a listener. What it throws is reported, but stops neither other listeners nor the connection.
 *
 * @template T
 * @param {((detail: T) => void) | undefined} listener
 * @param {T} detail
 */
function call(listener, detail) {
  try {
    listener?.(detail);
  } catch (error) {
    setTimeout(() => { throw error; }, 0);
  }
}

/**
 * @param {any} value  of JSON
 * @returns {string} empty: it is missing, or an object
 */
function textOf(value) {
  return value === undefined || typeof value === "object" ? "" : String(value);
}

/**
 * @param {any} value  seconds since 1970, as JSON
 * @returns {number} milliseconds since 1970; now if there is no time that can be shown
 */
function millisecondsOf(value) {
  const seconds = Number(textOf(value));
  if (!seconds || Math.abs(seconds) > MOST_SECONDS) return Date.now();
  return seconds * 1000;
}

/** @returns {Deferred} */
function deferred() {
  /** @type {any} */
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {}); // a caller that does not await it gets no warning
  return parts;
}
