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

/** The answer codes that the client uses. The server's documentation lists all codes. */
export const CODE = Object.freeze({ OK: 200, NOT_LOGGED_IN: 1000, BAD_PARAMETER: 1001, BAD_USER: 1002, UNAUTHORIZED: 1003 });

/**
 * A login that is refused with one of these codes is not retried.
 *
 * @type {Set<number>}
 */
const FINAL_REFUSALS = new Set([CODE.BAD_PARAMETER, CODE.BAD_USER, CODE.UNAUTHORIZED]);

/** The events of the `cmd` dialect. */
const CMD_EVENTS = ["enter", "exit", "msg"];

/**
 * The events of the `action` dialect: `action` of the frame → name of the event.
 *
 * @type {Record<string, string>}
 */
const ACTION_EVENTS = { enter: "welcome", sendmsg: "said", exit: "left" };

const ABNORMAL_CLOSE = 1006;
const CLOSE_AFTER_ERROR_MS = 50;

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
 * The data of each event. `failed` is an event of the `action` dialect with another code than 200; `other` is one with
 * an unknown action.
 *
 * @typedef {{ enter: Push, exit: Push, msg: Push, state: StateChange, welcome: Said, said: Said, left: Said, failed: Said, other: Said, entry: any, anew: any, typing: any, receipt: any, hidden: any }} Events
 */

/**
 * @typedef {object} Answer      the `response` of one request
 * @property {number} code       200, or the error code
 * @property {string} codeMsg
 * @property {any} data
 */

/**
 * @typedef {object} Options
 * @property {string} url                 WebSocket address, as `wss://im.example.com/acc`
 * @property {string} [httpUrl]           base of the HTTP API, as `https://im.example.com`; default: the page's origin
 * @property {number | string} app        number (`appID`) or name of the app
 * @property {string} user                id of the user (`userID`), at most 19 bytes in UTF-8
 * @property {string} [token]             sent as `serviceToken` at login and as bearer token in HTTP requests
 * @property {string} [device]            name of this device, at most 32 bytes
 * @property {number} [heartbeatMs]       default 30,000
 * @property {number} [timeoutMs]         timeout of a connect, request or HTTP call; default 10,000
 * @property {number} [retryBaseMs]       upper bound of the pause before the first retry; doubles each time; default 1,000
 * @property {number} [retryCapMs]        greatest upper bound of a pause; default 30,000
 * @property {number} [stableMs]          a connection that lasts this long resets the pauses; default 10,000
 * @property {typeof globalThis.WebSocket} [WebSocket]  default: the global one
 * @property {typeof globalThis.fetch} [fetch]          default: the global one
 * @property {() => number} [random]      in [0, 1); default `Math.random`
 */

/** @typedef {Required<Omit<Options, "token">>} CompleteOptions */

/**
 * @typedef {object} Target
 * @property {string} [peer]  the other user
 * @property {string} [room]  the room
 */

/** @typedef {Options & Target} TalkOptions */

/** A failed request. `code` is an answer code, an HTTP status, or 0 if there was no answer. */
export class ImError extends Error {
  /**
   * @param {number} code
   * @param {string} message
   * @param {unknown} [cause]
   */
  constructor(code, message, cause) {
    super(message, { cause });
    this.name = "ImError";
    this.code = code;
  }
}

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
  return Math.floor(random() * Math.min(capMs, baseMs * 2 ** Math.min(attempt, 30)));
}

/**
 * A new message id: milliseconds since 1970, a dash, six random digits.
 *
 * @returns {string}
 */
export function newId() {
  return `${Date.now()}-${String(Math.floor(Math.random() * 1e6)).padStart(6, "0")}`;
}

/**
 * The part that the clients of all dialects share: connects, logs in, sends heartbeats and reconnects. Owns the socket,
 * the timers, the pending requests and the listeners. A subclass gives the login data and reads the events of its dialect.
 */
class ReconnectingClient {
  /** Names of the events that listeners may ask for. @type {Set<string>} */
  #kinds;
  /** @type {CompleteOptions} */
  #options;
  /** The field of a frame that has the name of the command. */
  #key;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Map<string, { cmd: string, settle: (answer: Answer | ImError) => void }>} */
  #pending = new Map();
  /** @type {Map<string, Set<(detail: any) => void>>} */
  #listeners = new Map();
  /** @type {StateChange} */
  #state = { state: "idle", attempt: 0, retryInMs: 0, code: 0, reason: "" };
  /** @type {{ resolve: () => void, reject: (error: ImError) => void, promise: Promise<void> } | null} */
  #connected = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #heartbeat;
  #attempt = 0;
  #onlineSince = 0;

  /**
   * @param {CompleteOptions} options
   * @param {string} token
   * @param {string} key  the field of a frame that has the name of the command
   * @param {string[]} kinds  names of the events of the dialect
   */
  constructor(options, token, key, kinds) {
    this.#kinds = new Set(["state", ...kinds]);
    /** @type {string} used by the next login and HTTP call; may be changed at any time */
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

  /** @returns {StateChange} the state of the connection */
  get state() {
    return this.#state;
  }

  /**
   * Calls `listener` for every event of this kind. Throws TypeError if the client has no such event.
   *
   * @template {keyof Events} K
   * @param {K} kind
   * @param {(detail: Events[K]) => void} listener
   * @returns {() => void} removes the listener
   */
  on(kind, listener) {
    if (!this.#kinds.has(kind)) throw new TypeError(`unknown event "${kind}"; known events: ${[...this.#kinds].join(", ")}`);
    const listeners = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /**
   * Connects, logs in, and stays connected until `close()` or a final refusal.
   *
   * @returns {Promise<void>} resolved after the login; rejected with {@link ImError} if it is refused or closed before
   */
  connect() {
    if (this.#connected) return this.#connected.promise;
    const connected = deferred();
    this.#connected = connected;
    this.#attempt = 0;
    this.#open();
    return connected.promise;
  }

  /** Closes the connection and stops reconnecting. `connect()` starts again. */
  close() {
    if (!this.#connected) return;
    this.#drop(1000);
    this.#finish("closed", 1000, "");
  }

  /**
   * Drops the connection and reconnects.
   *
   * @protected
   * @param {number} code
   * @param {string} reason
   */
  reconnect(code, reason) {
    if (this.#socket) this.#lost(code, reason);
  }

  /** Ends the pause before the next try (for example because the network is back). */
  retryNow() {
    if (this.#state.state === "waiting") this.#open();
  }

  /**
   * Sends one command over the WebSocket and waits for its answer.
   *
   * @param {string} cmd
   * @param {object} [data]
   * @param {string} [seq]  the request's id
   * @param {(answer: Answer) => void} [onAnswer]  called when the answer is read, before any later frame; a caller that
   *   awaits the promise may continue only after later frames, since frames that arrive together are read together
   * @returns {Promise<Answer>} with any code; rejected with {@link ImError} code 0 if there is no answer
   */
  request(cmd, data, seq = newId(), onAnswer = () => {}) {
    const socket = this.#socket;
    if (!socket || socket.readyState !== 1) return Promise.reject(new ImError(0, "not connected"));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(new ImError(0, `no answer to ${cmd}`)), this.#options.timeoutMs);
      const settle = (/** @type {Answer | ImError} */ answer) => {
        clearTimeout(timer);
        this.#pending.delete(seq);
        if (answer instanceof ImError) return reject(answer);
        onAnswer(answer);
        resolve(answer);
      };
      this.#pending.set(seq, { cmd, settle });
      socket.send(JSON.stringify({ seq, [this.#key]: cmd, data }));
    });
  }

  #open() {
    clearTimeout(this.#timer);
    this.#setState("connecting");
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new this.#options.WebSocket(this.#options.url);
    } catch (error) {
      this.#finish("refused", 0, String(error)); // a bad address, or ws: in an https: page: a retry would fail, too
      return;
    }
    this.#socket = socket;
    const lost = (/** @type {number} */ code, /** @type {string} */ reason) => {
      if (this.#socket === socket) this.#lost(code, reason);
    };
    this.#timer = setTimeout(() => lost(ABNORMAL_CLOSE, "connect timeout"), this.#options.timeoutMs);
    socket.onopen = () => this.#login(lost);
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onclose = (event) => lost(event.code, event.reason);
    // In browsers a close event with the code follows. In Node 20 none follows if the connection was never open.
    socket.onerror = () => setTimeout(() => lost(ABNORMAL_CLOSE, ""), CLOSE_AFTER_ERROR_MS);
  }

  /** @param {(code: number, reason: string) => void} lost */
  async #login(lost) {
    clearTimeout(this.#timer);
    /** @type {Answer} */
    let answer;
    try {
      const onAnswer = (/** @type {Answer} */ answer) => void (answer.code === CODE.OK && this.loggedIn(answer));
      answer = await this.request("login", this.loginData(), newId(), onAnswer);
    } catch (error) {
      return lost(ABNORMAL_CLOSE, /** @type {Error} */ (error).message);
    }
    if (answer.code === CODE.OK) {
      this.#onlineSince = Date.now();
      this.#heartbeat = setInterval(() => this.#sendHeartbeat(lost), this.#options.heartbeatMs);
      this.#setState("online");
      this.#connected?.resolve();
    } else if (FINAL_REFUSALS.has(answer.code)) {
      this.#drop(1000);
      this.#finish("refused", answer.code, answer.codeMsg);
    } else {
      lost(answer.code, answer.codeMsg);
    }
  }

  /** @param {(code: number, reason: string) => void} lost */
  async #sendHeartbeat(lost) {
    try {
      const answer = await this.request("heartbeat", {});
      if (answer.code !== CODE.OK) lost(answer.code, answer.codeMsg);
    } catch (error) {
      lost(ABNORMAL_CLOSE, /** @type {Error} */ (error).message); // the connection is dead, but the socket has not noticed
    }
  }

  /** @param {unknown} payload */
  #receive(payload) {
    /** @type {any} */
    let frame;
    try {
      frame = JSON.parse(String(payload));
    } catch {
      return; // the server answers a malformed request with plain text; ours are well-formed
    }
    const event = this.eventIn(frame);
    if (event) return this.emit(/** @type {any} */ (event[0]), /** @type {any} */ (event[1]));
    const { seq, response } = frame ?? {};
    if (!response || this.#pending.get(seq)?.cmd !== frame[this.#key]) return;
    this.#pending.get(seq)?.settle({ ...response, codeMsg: response.codeMsg ?? response.msg ?? "" });
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #lost(code, reason) {
    if (this.#state.state === "online" && Date.now() - this.#onlineSince >= this.#options.stableMs) this.#attempt = 0;
    this.#drop(1000);
    if (!mayReconnect(code)) return this.#finish("refused", code, reason);
    const { retryBaseMs, retryCapMs, random } = this.#options;
    const retryInMs = fullJitter(this.#attempt++, retryBaseMs, retryCapMs, random);
    this.#timer = setTimeout(() => this.#open(), retryInMs);
    this.#setState("waiting", { retryInMs, code, reason });
  }

  /**
   * Closes the socket without waiting for its close event, which can take a minute on a dead connection.
   *
   * @param {number} code
   */
  #drop(code) {
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(code);
    }
    for (const { settle } of [...this.#pending.values()]) settle(new ImError(0, "connection lost"));
  }

  /**
   * @param {"refused" | "closed"} state
   * @param {number} code
   * @param {string} reason
   */
  #finish(state, code, reason) {
    const connected = this.#connected;
    this.#connected = null;
    this.#setState(state, { code, reason });
    connected?.reject(new ImError(code, reason || state));
  }

  /**
   * @param {State} state
   * @param {Partial<StateChange>} [detail]
   */
  #setState(state, detail) {
    this.#state = { attempt: this.#attempt, retryInMs: 0, code: 0, reason: "", ...detail, state };
    this.emit("state", this.#state);
  }

  /**
   * @protected
   * @template {keyof Events} K
   * @param {K} kind
   * @param {Events[K]} detail
   */
  emit(kind, detail) {
    for (const listener of [...(this.#listeners.get(kind) ?? [])]) {
      try {
        listener(detail);
      } catch (error) {
        queueMicrotask(() => { throw error; }); // reported, but it stops neither the other listeners nor the connection
      }
    }
  }
}

/** A client of the `cmd` dialect: one user of one app. Events: `enter`, `exit`, `msg` and `state`. */
export class ImClient extends ReconnectingClient {
  /** @type {CompleteOptions} */
  #options;

  /**
   * @param {Options} options
   * @param {string[]} [kinds]  names of the events that a subclass adds
   */
  constructor(options, kinds = []) {
    const complete = withDefaults(options);
    super(complete, options.token ?? "", "cmd", [...CMD_EVENTS, ...kinds]);
    this.#options = complete;
  }

  /** @override */
  loginData() {
    const { app, user, device } = this.#options;
    const where = typeof app === "number" || /^\d+$/.test(app) ? { appID: Number(app) } : { app };
    return { userID: user, ...where, ...(this.token && { serviceToken: this.token }), ...(device && { device }) };
  }

  /**
   * @override
   * @param {any} frame
   * @returns {[string, Push] | null}
   */
  eventIn(frame) {
    if (!CMD_EVENTS.includes(frame?.cmd)) return null;
    const { from = "", msg = "" } = frame.response?.data ?? {};
    return [frame.cmd, { from: String(from), text: String(msg), id: String(frame.seq) }];
  }

  /** @returns {Promise<{ userCount: number, userList: string[] }>} the online users of this app */
  userList() {
    return this.#http("GET", "/user/list", { appID: String(this.app) });
  }

  /**
   * @param {string} user
   * @returns {Promise<boolean>} whether that user of this app is online
   */
  async online(user) {
    return (await this.#http("GET", "/user/online", { appID: String(this.app), userID: user })).online;
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
    return this.#http("POST", "/user/sendMessage", { appID: String(this.app), userID: user, msgID: id, message: text });
  }

  /**
   * Sends a text to all other users of this app. For `id`, see {@link ImClient#sendMessage}.
   *
   * @param {string} text
   * @param {string} [id]
   * @returns {Promise<{ sendResults?: boolean }>}
   */
  sendMessageAll(text, id = newId()) {
    return this.#http("POST", "/user/sendMessageAll", { appID: String(this.app), userID: this.user, msgID: id, message: text });
  }

  /**
   * @param {"GET" | "POST"} method
   * @param {string} path
   * @param {Record<string, string>} fields
   * @returns {Promise<any>} the answer's `data`
   */
  async #http(method, path, fields) {
    const form = new URLSearchParams(fields);
    const { httpUrl, fetch, timeoutMs } = this.#options;
    /** @type {{ code?: number, msg?: string, data?: any }} */
    let answer;
    try {
      const response = await fetch(httpUrl + path + (method === "GET" ? `?${form}` : ""), {
        method,
        body: method === "GET" ? undefined : form,
        headers: this.token ? { Authorization: `Bearer ${this.token}` } : {},
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(timeoutMs),
      });
      answer = response.ok ? await response.json() : { code: response.status, msg: response.statusText };
    } catch (error) {
      throw new ImError(0, "no answer from the server", error);
    }
    if (answer.code !== CODE.OK) throw new ImError(answer.code ?? 0, answer.msg ?? "");
    return answer.data;
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
 */
export class TalkClient extends ReconnectingClient {
  #target;

  /** @param {TalkOptions} options  `url` has no query */
  constructor(options) {
    const { peer = "0", room = "0" } = options;
    const query = new URLSearchParams({ uid: options.user, ...(room === "0" ? { to_uid: peer } : { groups_id: room }) });
    const complete = withDefaults({ ...options, url: `${options.url}?${query}&appname=${options.app}` });
    super(complete, options.token ?? "", "action", [...Object.values(ACTION_EVENTS), "failed", "other"]);
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
    if (answer.code !== CODE.OK) throw new ImError(answer.code, answer.codeMsg);
  }

  /** @override */
  loginData() {
    return { ...this.#target, ...(this.token && { token: this.token }) };
  }

  /**
   * @override
   * @param {any} frame
   * @returns {[string, Said] | null}
   */
  eventIn(frame) {
    if (!frame || frame.response || typeof frame.code !== "number") return null;
    const { action, msgId, msgType, content, from, to, msgTimestamp } = frame.data ?? {};
    const said = {
      from: String(from ?? ""), to: String(to ?? ""), type: String(msgType ?? ""), text: String(content ?? frame.msg ?? ""),
      id: String(msgId ?? ""), at: Number(msgTimestamp) * 1000 || Date.now(),
    };
    return [frame.code === CODE.OK ? ACTION_EVENTS[action] ?? "other" : "failed", said];
  }
}

/**
 * @param {Options} options
 * @returns {CompleteOptions} with all defaults
 */
function withDefaults(options) {
  const complete = {
    httpUrl: globalThis.location?.origin ?? "",
    device: "",
    heartbeatMs: 30_000,
    timeoutMs: 10_000,
    retryBaseMs: 1_000,
    retryCapMs: 30_000,
    stableMs: 10_000,
    WebSocket: globalThis.WebSocket,
    fetch: (/** @type {Parameters<typeof globalThis.fetch>} */ ...call) => globalThis.fetch(...call),
    random: Math.random,
    ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)),
    ...{ url: options.url, app: options.app, user: options.user },
  };
  complete.httpUrl = complete.httpUrl.replace(/\/+$/, "");
  return complete;
}

/** @returns {{ resolve: () => void, reject: (error: ImError) => void, promise: Promise<void> }} */
function deferred() {
  /** @type {any} */
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {}); // a caller that does not await it gets no warning
  return parts;
}
