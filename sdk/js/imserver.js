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
 * The client keeps itself connected: it logs in, sends a heartbeat every 30 s, and when the connection is lost it
 * comes back after a random pause that grows with each failure ("full jitter"), unless the server said not to.
 *
 * @module imserver
 */

/** Answer and error codes that mean something to a client; the server's documentation has them all. */
export const CODE = Object.freeze({ OK: 200, NOT_LOGGED_IN: 1000, BAD_PARAMETER: 1001, BAD_USER: 1002, UNAUTHORIZED: 1003 });

/**
 * A login refused with one of these stays refused, however often it is tried.
 *
 * @type {Set<number>}
 */
const LASTING_REFUSALS = new Set([CODE.BAD_PARAMETER, CODE.BAD_USER, CODE.UNAUTHORIZED]);

/** What the server tells unasked. */
const EVENTS = new Set(["enter", "exit", "msg"]);

/**
 * What the `action` dialect calls what is told unasked.
 *
 * @type {Record<string, string>}
 */
const TOLD = { enter: "welcome", sendmsg: "said", exit: "left" };

const ABNORMAL_CLOSE = 1006;
const ERROR_GRACE_MS = 50;

/**
 * `idle`: not started. `connecting`: a connection is being made or logged in. `online`: logged in.
 * `waiting`: lost, the next try is in `retryInMs`. `refused`: the server will not have us, no more tries.
 * `closed`: ended by `close()`.
 *
 * @typedef {"idle" | "connecting" | "online" | "waiting" | "refused" | "closed"} State
 */

/**
 * @typedef {object} StateChange
 * @property {State} state
 * @property {number} attempt    tries since the last time that lasted (0 = none failed)
 * @property {number} retryInMs  pause before the next try (0 unless `waiting`)
 * @property {number} code       WebSocket close code or answer code that led here (0 = none)
 * @property {string} reason     text that came with the code
 */

/**
 * @typedef {object} Push        what `enter`, `exit` and `msg` carry
 * @property {string} from       who entered, left or wrote
 * @property {string} text
 * @property {string} id         the message's id (`msgID`), or digits made by the server
 */

/**
 * @typedef {object} Said        what `welcome`, `said` and `left` carry
 * @property {string} from       who wrote or left
 * @property {string} to         who is told
 * @property {string} type       `text`, `image`, `video`, `voice`
 * @property {string} text       the words, or the address of what is not text
 * @property {string} id         the message's id
 * @property {number} at         milliseconds since 1970
 */

/**
 * `failed` is a frame with another code than 200, which the server sends unasked.
 *
 * @typedef {{ enter: Push, exit: Push, msg: Push, state: StateChange, welcome: Said, said: Said, left: Said, failed: Said, other: Said, entry: any, anew: any, typing: any, receipt: any, hidden: any }} Events
 */

/**
 * @typedef {object} Answer      the `response` of one request
 * @property {number} code       200 or why it was refused
 * @property {string} codeMsg
 * @property {any} data
 */

/**
 * @typedef {object} Options
 * @property {string} url                 WebSocket address, as `wss://im.example.com/acc`
 * @property {string} [httpUrl]           base of the HTTP interface, as `https://im.example.com`; default: the page's origin
 * @property {number | string} app        the app: its number (`appID`), or its name where that is no number
 * @property {string} user                the user (`userID`), at most 19 bytes in UTF-8
 * @property {string} [token]             sent as `serviceToken` at login and as bearer token by HTTP
 * @property {string} [device]            name of this device, at most 32 bytes
 * @property {number} [heartbeatMs]       default 30,000
 * @property {number} [timeoutMs]         patience with one connect, request or HTTP call; default 10,000
 * @property {number} [retryBaseMs]       longest pause before the first retry; doubles each time; default 1,000
 * @property {number} [retryCapMs]        longest pause of all; default 30,000
 * @property {number} [stableMs]          a connection that held this long starts the pauses anew; default 10,000
 * @property {typeof globalThis.WebSocket} [WebSocket]  default: the global one
 * @property {typeof globalThis.fetch} [fetch]          default: the global one
 * @property {() => number} [random]      in [0, 1); default `Math.random`
 */

/** @typedef {Required<Omit<Options, "token">>} Settled */

/**
 * @typedef {object} Talk
 * @property {string} [peer]  the user to talk to
 * @property {string} [room]  the room to talk in
 */

/** @typedef {Options & Talk} TalkOptions */

/** A request that failed; `code` is an answer code, an HTTP status, or 0 when there was no answer at all. */
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
 * Whether a connection that closed with this code should be made again: 4500–4999 say no, all others yes.
 *
 * @param {number} code  WebSocket close code
 * @returns {boolean}
 */
export function mayReconnect(code) {
  return code < 4500 || code > 4999;
}

/**
 * The pause before a retry: uniform between nothing and a bound that doubles with each failure, so that thousands
 * of clients who lost the same server do not come back in the same instant.
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
 * A new message id: milliseconds, a dash, six random digits.
 *
 * @returns {string}
 */
export function newId() {
  return `${Date.now()}-${String(Math.floor(Math.random() * 1e6)).padStart(6, "0")}`;
}

/**
 * A connection that is renewed for as long as it is wanted: what the clients of all dialects share. A client says
 * what its dialect calls things, what it logs in with, and which frames tell something unasked.
 */
class Link {
  /** @type {Settled} */
  #options;
  /** What a frame calls the name of its command. */
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
  #heart;
  #attempt = 0;
  #onlineSince = 0;

  /**
   * @param {Settled} options
   * @param {string} token
   * @param {string} key  what a frame calls the name of its command
   */
  constructor(options, token, key) {
    /** @type {string} sent at the next login and with the next HTTP call; may be changed at any time */
    this.token = token;
    this.#options = options;
    this.#key = key;
  }

  /**
   * What the dialect logs in with.
   *
   * @protected
   * @returns {object}
   */
  loginData() {
    throw new Error("each dialect has its own");
  }

  /**
   * The login was accepted; what the server tells from now on has not been heard yet.
   *
   * @protected
   * @param {Answer} _answer
   */
  loggedIn(_answer) {}

  /**
   * What a frame tells unasked: the kind of event and what it carries.
   *
   * @protected
   * @param {any} frame
   * @returns {[string, object] | null}  null: it answers a request
   */
  eventIn(frame) {
    throw new Error(`each dialect has its own: ${frame}`);
  }

  get app() {
    return this.#options.app;
  }

  get user() {
    return this.#options.user;
  }

  /** @returns {StateChange} where the connection stands */
  get state() {
    return this.#state;
  }

  /**
   * Calls `listener` for every event of this kind.
   *
   * @template {keyof Events} K
   * @param {K} kind
   * @param {(detail: Events[K]) => void} listener
   * @returns {() => void} takes the listener off again
   */
  on(kind, listener) {
    const listeners = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /**
   * Connects and logs in, and from then on stays connected.
   *
   * @returns {Promise<void>} settled when logged in; rejected with {@link ImError} when refused or closed before
   */
  connect() {
    if (this.#connected) return this.#connected.promise;
    const connected = deferred();
    this.#connected = connected;
    this.#attempt = 0;
    this.#open();
    return connected.promise;
  }

  /** Ends the connection for good; `connect()` may start it again. */
  close() {
    if (!this.#connected) return;
    this.#drop(1000);
    this.#finish("closed", 1000, "");
  }

  /**
   * Gives the connection up and comes back over another one.
   *
   * @protected
   * @param {number} code
   * @param {string} reason
   */
  comeBack(code, reason) {
    if (this.#socket) this.#lost(code, reason);
  }

  /** Tries at once instead of waiting for the pause to end (say, because the network came back). */
  retryNow() {
    if (this.#state.state === "waiting") this.#open();
  }

  /**
   * Sends one command over the WebSocket and waits for its answer.
   *
   * @param {string} cmd
   * @param {object} [data]
   * @param {string} [seq]  the request's id
   * @param {(answer: Answer) => void} [heard]  called as the answer comes, before anything that comes behind it: what
   *   awaits the promise may be later, since frames that come at once are handed on at once
   * @returns {Promise<Answer>} whatever its code; rejected with {@link ImError} code 0 when no answer came
   */
  request(cmd, data, seq = newId(), heard = () => {}) {
    const socket = this.#socket;
    if (!socket || socket.readyState !== 1) return Promise.reject(new ImError(0, "not connected"));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(new ImError(0, `no answer to ${cmd}`)), this.#options.timeoutMs);
      const settle = (/** @type {Answer | ImError} */ answer) => {
        clearTimeout(timer);
        this.#pending.delete(seq);
        if (answer instanceof ImError) return reject(answer);
        heard(answer);
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
      this.#finish("refused", 0, String(error)); // a bad address, or ws: in an https: page: no retry will mend it
      return;
    }
    this.#socket = socket;
    const lost = (/** @type {number} */ code, /** @type {string} */ reason) => {
      if (this.#socket === socket) this.#lost(code, reason);
    };
    this.#timer = setTimeout(() => lost(ABNORMAL_CLOSE, "no connection in time"), this.#options.timeoutMs);
    socket.onopen = () => this.#login(lost);
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onclose = (event) => lost(event.code, event.reason);
    // A close event with the code follows in browsers; in Node 20 none follows a connection that was never made.
    socket.onerror = () => setTimeout(() => lost(ABNORMAL_CLOSE, ""), ERROR_GRACE_MS);
  }

  /** @param {(code: number, reason: string) => void} lost */
  async #login(lost) {
    clearTimeout(this.#timer);
    /** @type {Answer} */
    let answer;
    try {
      const heard = (/** @type {Answer} */ answer) => void (answer.code === CODE.OK && this.loggedIn(answer));
      answer = await this.request("login", this.loginData(), newId(), heard);
    } catch (error) {
      return lost(ABNORMAL_CLOSE, /** @type {Error} */ (error).message);
    }
    if (answer.code === CODE.OK) {
      this.#onlineSince = Date.now();
      this.#heart = setInterval(() => this.#beat(lost), this.#options.heartbeatMs);
      this.#setState("online");
      this.#connected?.resolve();
    } else if (LASTING_REFUSALS.has(answer.code)) {
      this.#drop(1000);
      this.#finish("refused", answer.code, answer.codeMsg);
    } else {
      lost(answer.code, answer.codeMsg);
    }
  }

  /** @param {(code: number, reason: string) => void} lost */
  async #beat(lost) {
    try {
      const answer = await this.request("heartbeat", {});
      if (answer.code !== CODE.OK) lost(answer.code, answer.codeMsg);
    } catch (error) {
      lost(ABNORMAL_CLOSE, /** @type {Error} */ (error).message); // the link is dead though nobody said so
    }
  }

  /** @param {unknown} payload */
  #receive(payload) {
    /** @type {any} */
    let frame;
    try {
      frame = JSON.parse(String(payload));
    } catch {
      return; // the bare text that answers a broken request; ours are not broken
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
   * Leaves the socket at once; a dead one would take a minute to admit that it is closed.
   *
   * @param {number} code
   */
  #drop(code) {
    clearTimeout(this.#timer);
    clearInterval(this.#heart);
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
        queueMicrotask(() => { throw error; }); // loud, but it neither stops the other listeners nor the connection
      }
    }
  }
}

/** A client of the `cmd` dialect: one user of one app. */
export class ImClient extends Link {
  /** @type {Settled} */
  #options;

  /** @param {Options} options */
  constructor(options) {
    const settled = settle(options);
    super(settled, options.token ?? "", "cmd");
    this.#options = settled;
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
    if (!EVENTS.has(frame?.cmd)) return null;
    const { from = "", msg = "" } = frame.response?.data ?? {};
    return [frame.cmd, { from: String(from), text: String(msg), id: String(frame.seq) }];
  }

  /** @returns {Promise<{ userCount: number, userList: string[] }>} who is online in this app */
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
   * Sends a text to one user of this app. A repeated `id` is accepted and delivers nothing, so that a message whose
   * answer was lost may be sent again with the same id.
   *
   * @param {string} user
   * @param {string} text
   * @param {string} [id]
   * @returns {Promise<{ sendResults?: boolean }>} `sendResults` false: not online; missing: `id` was known already
   */
  sendMessage(user, text, id = newId()) {
    return this.#http("POST", "/user/sendMessage", { appID: String(this.app), userID: user, msgID: id, message: text });
  }

  /**
   * Sends a text in this user's name to all others of this app. About `id`: see {@link ImClient#sendMessage}.
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
 * A client of the `action` dialect: a user who talks to one other, or to all in a room.
 *
 *     const client = new TalkClient({ url: "ws://127.0.0.1:8089/ws", app: 1, user: "1", peer: "2" });
 *     client.on("said", ({ from, text }) => console.log(from, text));
 *     await client.connect();
 *     await client.say("hello");
 */
export class TalkClient extends Link {
  #talk;

  /** @param {TalkOptions} options  `url` is the address without its query */
  constructor(options) {
    const { peer = "0", room = "0" } = options;
    const asked = new URLSearchParams({ uid: options.user, ...(room === "0" ? { to_uid: peer } : { groups_id: room }) });
    const settled = settle({ ...options, url: `${options.url}?${asked}&appname=${options.app}` });
    super(settled, options.token ?? "", "action");
    this.#talk = { userId: options.user, appId: options.app, toUid: peer, groupsId: room };
  }

  /**
   * Says something to whom this client talks to.
   *
   * @param {string} text         the words, or the address of what is not text
   * @param {string} [type]       `text`, `image`, `video` or `voice`
   * @param {string} [id]         the message's id
   * @returns {Promise<void>} settled when the server has taken it; whether anybody hears it is not told
   */
  async say(text, type = "text", id = newId()) {
    const answer = await this.request("sendmsg", { msgType: type, message: text, ...this.#talk }, id);
    if (answer.code !== CODE.OK) throw new ImError(answer.code, answer.codeMsg);
  }

  /** @override */
  loginData() {
    return { ...this.#talk, ...(this.token && { token: this.token }) };
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
    return [frame.code === CODE.OK ? TOLD[action] ?? "other" : "failed", said];
  }
}

/**
 * @param {Options} options
 * @returns {Settled} with all defaults
 */
function settle(options) {
  const settled = {
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
  settled.httpUrl = settled.httpUrl.replace(/\/+$/, "");
  return settled;
}

/** @returns {{ resolve: () => void, reject: (error: ImError) => void, promise: Promise<void> }} */
function deferred() {
  /** @type {any} */
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {}); // whoever awaits it still sees the rejection; nobody has to
  return parts;
}
