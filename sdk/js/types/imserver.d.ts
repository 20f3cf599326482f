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
export * from "./errors.js";
/** The answer codes that the client uses. The server's documentation lists all codes. */
export declare const CODE: Readonly<{
    OK: 200;
    NOT_LOGGED_IN: 1000;
    BAD_PARAMETER: 1001;
    BAD_USER: 1002;
    UNAUTHORIZED: 1003;
    NOT_STORED: 1008;
}>;
export type State = "idle" | "connecting" | "online" | "waiting" | "refused" | "closed";
export type StateChange = {
    state: State;
    /**
     * failed tries since the last stable connection
     */
    attempt: number;
    /**
     * pause before the next try (0 unless `waiting`)
     */
    retryInMs: number;
    /**
     * WebSocket close code or answer code that caused this state (0: none)
     */
    code: number;
    /**
     * text of the code
     */
    reason: string;
    /**
     * why the client is `refused` or `closed`
     */
    error: import("./errors.js").ImError | null;
};
export type Push = {
    /**
     * the user who entered, left or sent the message
     */
    from: string;
    text: string;
    /**
     * id of the message (`msgID`), or an id made by the server
     */
    id: string;
};
export type Said = {
    /**
     * the user who sent the message or left
     */
    from: string;
    /**
     * the receiver
     */
    to: string;
    /**
     * `text`, `image`, `video`, `voice`
     */
    type: string;
    /**
     * the text, or the URL of an image, video or voice message
     */
    text: string;
    /**
     * id of the message
     */
    id: string;
    /**
     * milliseconds since 1970
     */
    at: number;
};
export type Position = {
    /**
     * the life of the history
     */
    epoch: string;
    offset: number;
};
export type Publication = {
    channel: string;
    text?: string;
    /**
     * JSON, in place of `text`
     */
    data?: any;
    type?: string;
    /**
     * with `offset`: its position, if the channel has a history
     */
    epoch?: string;
    offset?: number;
    /**
     * the publisher's own id
     */
    id?: string;
    /**
     * the user who published it
     */
    from?: string;
    /**
     * the client that published it
     */
    info?: ChannelClient;
    tags?: Record<string, string>;
    /**
     * it is the end of this streamed message
     */
    stream?: string;
    /**
     * with `stream`: its publisher did not finish it
     */
    incomplete?: boolean;
};
export type StreamUpdate = {
    channel: string;
    /**
     * its id
     */
    stream: string;
    /**
     * the whole text so far
     */
    text: string;
    /**
     * the text is final
     */
    done: boolean;
    /**
     * its publisher did not finish it
     */
    incomplete: boolean;
    type?: string;
    from?: string;
    tags?: Record<string, string>;
};
export type ChannelClient = {
    user: string;
    /**
     * id of its connection
     */
    client: string;
    conn_info?: any;
    chan_info?: any;
};
export type Subscriber = {
    connection: string;
    user: string;
    info?: any;
    channelInfo?: any;
};
export type SubscribeOptions = {
    /**
     * channel token; a function is called for each try
     */
    token?: Token;
    /**
     * the position that this device has; what came after it is handed out first
     */
    since?: Position;
    /**
     * called once for each, in order
     */
    onPublication?: (publication: Publication) => void;
    /**
     * called with each piece of a streamed message, and at its end, before
     * `onPublication`
     */
    onStream?: (update: StreamUpdate) => void;
    onJoin?: (client: ChannelClient) => void;
    onLeave?: (client: ChannelClient) => void;
    /**
     * publications may be missing: load the state anew
     */
    onReload?: () => void;
    /**
     * called each time the client has subscribed, after the publications
     * that it had missed: `recovered` is their number
     */
    onSubscribed?: (recovered: number) => void;
    /**
     * the server has ended or refused the subscription
     */
    onEnd?: (error: import("./errors.js").ImError | null) => void;
};
export type Token = string | (() => string | Promise<string>);
export type StateEvents = {
    state: StateChange;
};
export type PushEvents = {
    enter: Push;
    exit: Push;
    msg: Push;
};
export type SaidEvents = {
    welcome: Said;
    said: Said;
    left: Said;
    failed: Said;
    other: Said;
};
export type Answer = {
    /**
     * 200, or the error code
     */
    code: number;
    codeMsg: string;
    data: any;
};
export type Socket = {
    readyState: number;
    send: (text: string) => void;
    close: (code: number) => void;
    onopen: ((event: any) => void) | null;
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
};
export type HttpRequest = {
    method: "GET" | "POST";
    body?: string;
    headers: Record<string, string>;
    cache: "no-store";
    credentials: "omit";
    /**
     * an AbortSignal, where there is one
     */
    signal?: any;
    /**
     * what the signal does, for a `fetch` that has none
     */
    timeoutMs: number;
};
export type HttpResponse = {
    ok: boolean;
    status: number;
    statusText?: string;
    json: () => Promise<any>;
};
export type Options = {
    /**
     * WebSocket address, as `wss://im.example.com/acc`
     */
    url: string;
    /**
     * base of the HTTP API, as `https://im.example.com`; default: the page's origin
     */
    httpUrl?: string;
    /**
     * number (`appID`) or name of the app
     */
    app: number | string;
    /**
     * id of the user (`userID`), as long as the app allows
     */
    user: string;
    /**
     * sent as `serviceToken` at login and as bearer token in HTTP requests. A function is called
     * for each login, and for each HTTP request while the client is not online; with one, the client reconnects when its token expires
     */
    token?: Token;
    /**
     * name of this device, at most 32 bytes
     */
    device?: string;
    /**
     * default 30,000
     */
    heartbeatMs?: number;
    /**
     * timeout of a connect, request or HTTP call; default 10,000
     */
    timeoutMs?: number;
    /**
     * upper bound of the pause before the first retry; doubles each time; default 1,000
     */
    retryBaseMs?: number;
    /**
     * greatest upper bound of a pause; default 30,000
     */
    retryCapMs?: number;
    /**
     * a connection that lasts this long resets the pauses; default 10,000
     */
    stableMs?: number;
    /**
     * default: the global one; Node 20 has none
     */
    WebSocket?: new (url: string) => Socket;
    /**
     * default: the global one
     */
    fetch?: (url: string, request: HttpRequest) => Promise<HttpResponse>;
    /**
     * in [0, 1); default `Math.random`
     */
    random?: () => number;
};
export type CompleteOptions = Required<Omit<Options, "token">>;
export type Target = {
    /**
     * the other user
     */
    peer?: string;
    /**
     * the room
     */
    room?: string;
};
export type TalkOptions = Options & Target;
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
export declare function mayReconnect(code: number): boolean;
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
export declare function fullJitter(attempt: number, baseMs: number, capMs: number, random?: () => number): number;
/**
 * A new id, as for a message: a UUID, or a text as unlikely to come twice where pages and mini-programs cannot make one.
 *
 * @returns {string}
 */
export declare function newId(): string;
/**
 * The part that the clients of all dialects share: connects, logs in, sends heartbeats and reconnects. Owns the socket,
 * the timers, the pending requests and the listeners. A subclass gives the login data and reads the events of its dialect.
 *
 * @template {object} E  the events of the subclass: name → data
 */
declare class ReconnectingClient<E extends object> {
    #private;
    /**
     * @param {CompleteOptions} options
     * @param {Token} token
     * @param {string} key  the field of a frame that has the name of the command
     * @param {string[]} kinds  names of the events of the dialect
     */
    constructor(options: CompleteOptions, token: Token, key: string, kinds: string[]);
    /**
     * The data of the login request.
     *
     * @protected
     * @returns {object}
     */
    protected loginData(): object;
    /**
     * Called after a successful login, before any later frame is read.
     *
     * @protected
     * @param {Answer} _answer
     */
    protected loggedIn(_answer: Answer): void;
    /**
     * Reads an event of the dialect: its name and its data.
     *
     * @protected
     * @param {any} frame
     * @returns {[string, object] | null}  null: the frame is an answer
     */
    protected eventIn(frame: any): [string, object] | null;
    get app(): string | number;
    get user(): string;
    /** Used by the next login and HTTP call; may be changed at any time. */
    get token(): Token;
    set token(token: Token);
    /**
     * The token of this connection, or the next one.
     *
     * @protected
     */
    protected get tokenText(): string;
    /**
     * Calls the function for the token, if there is one.
     *
     * @protected
     * @returns {Promise<void>} rejected with NotConnected if it fails, or gives no token in time
     */
    protected renewToken(): Promise<void>;
    /**
     * Timeout of a connect, request or HTTP call.
     *
     * @protected
     */
    protected get timeoutMs(): number;
    /** @returns {StateChange} the state of the connection */
    get state(): StateChange;
    /**
     * Calls `listener` for every event of this kind. Throws TypeError if the client has no such event.
     *
     * @template {keyof (E & StateEvents) & string} K
     * @param {K} kind
     * @param {(detail: (E & StateEvents)[K]) => void} listener
     * @returns {() => void} removes the listener
     */
    on<K extends keyof (E & StateEvents) & string>(kind: K, listener: (detail: (E & StateEvents)[K]) => void): () => void;
    /**
     * Connects, logs in, and stays connected until `close()` or a final refusal.
     *
     * @returns {Promise<void>} resolved after the login; rejected with LoginRefused or Closed
     */
    connect(): Promise<void>;
    /** Closes the connection, stops reconnecting, and rejects requests that wait. `connect()` starts again. */
    close(): void;
    /**
     * Drops the connection and reconnects, unless the server closes it already: its close code counts.
     *
     * @protected
     * @param {number} code
     * @param {string} reason
     */
    protected reconnect(code: number, reason: string): void;
    /** Ends the pause before the next try (for example because the network is back). */
    retryNow(): void;
    /**
     * Asks the server whether the connection lives, and reconnects if no answer comes in time: the network may have gone, or the
     * device has slept.
     *
     * @param {number} [timeoutMs]
     * @returns {Promise<void>} never rejected
     */
    probe(timeoutMs?: number): Promise<void>;
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
    request(cmd: string, data?: object, seq?: string, onAnswer?: (answer: Answer) => void, timeoutMs?: number): Promise<Answer>;
    /**
     * @protected
     * @param {string} kind
     * @param {object} detail
     */
    protected emit(kind: string, detail: object): void;
}
/**
 * A subscription to a channel. After a reconnect it subscribes again with its position, so that it misses nothing that
 * the history of the channel still has. {@link ImClient#subscribe} makes it.
 */
export declare class Subscription {
    #private;
    channel: string;
    /** @type {Position | null} of the last publication that was handed out; null: the channel has no history */
    position: Position | null;
    /**
     * @param {ImClient} client
     * @param {string} channel
     * @param {SubscribeOptions} options
     * @param {{ turn: (task: () => Promise<unknown>) => void, ended: () => void, reconnect: () => void }} hooks
     */
    constructor(client: ImClient, channel: string, options: SubscribeOptions, hooks: {
        turn: (task: () => Promise<unknown>) => void;
        ended: () => void;
        reconnect: () => void;
    });
    /** @returns {Promise<void>} resolved when the client has subscribed; rejected if the server refuses it */
    get ready(): Promise<void>;
    /**
     * Publishes to the channel, if its subscribers may.
     *
     * @param {any} content  a text, or JSON
     * @param {string} [type]
     */
    publish(content: any, type?: string): Promise<void>;
    /**
     * Publications of the channel, and the position of the newest one.
     *
     * @param {{ limit?: number, since?: Position, reverse?: boolean }} [page]  what came after `since`, or before it (`reverse`)
     * @returns {Promise<Position & { publications: Publication[] }>}
     */
    history({ since, ...page }?: {
        limit?: number;
        since?: Position;
        reverse?: boolean;
    }): Promise<Position & {
        publications: Publication[];
    }>;
    /**
     * The subscribers of the channel in the order in which they came.
     *
     * @param {{ limit?: number, after?: string }} [page]  `after` is `next` of the page before
     * @returns {Promise<{ total: number, subscribers: Subscriber[], next?: string }>}
     */
    presence(page?: {
        limit?: number;
        after?: string;
    }): Promise<{
        total: number;
        subscribers: Subscriber[];
        next?: string;
    }>;
    /** Ends the subscription. */
    unsubscribe(): Promise<void>;
    /** @internal Subscribes on a new connection. */
    begin(): Promise<void>;
    /** @internal The connection is lost. */
    pause(): void;
    /**
     * @internal Reads an event of the channel.
     * @param {string} kind
     * @param {any} data
     */
    receive(kind: string, data: any): void;
}
/**
 * A client of the `cmd` dialect: one user of one app. Events: `enter`, `exit`, `msg` and `state`.
 *
 * Requests over HTTP are rejected with CommandRefused, RequestRefused, or NotConnected if there is no answer.
 *
 * @template {object} [E={}]  the events that a subclass adds
 * @extends {ReconnectingClient<PushEvents & E>}
 */
export declare class ImClient<E extends object = {}> extends ReconnectingClient<PushEvents & E> {
    #private;
    /**
     * @param {Options} options
     * @param {string[]} [kinds]  names of the events that a subclass adds
     */
    constructor(options: Options, kinds?: string[]);
    /**
     * Subscribes to a channel, now or when the client is connected, and again after each reconnect. Throws TypeError if the
     * client has a subscription to this channel already.
     *
     * @param {string} channel
     * @param {SubscribeOptions} [options]
     * @returns {Subscription}
     */
    subscribe(channel: string, options?: SubscribeOptions): Subscription;
    /**
     * Runs `task` on this connection, which sends a command, in its turn: few commands are sent at a time, and after each
     * {@link RATE_LIMIT} they are slower until none waits. A client may have many channels, or many messages from its time offline.
     * A turn ends with the answer, or after {@link TURN_MS}. No turn begins while {@link MAX_UNANSWERED} commands wait for an answer.
     *
     * @protected
     * @param {() => Promise<unknown>} task  never rejected
     */
    protected turn(task: () => Promise<unknown>): void;
    /** @override */
    loginData(): {
        appID: number;
        app?: undefined;
        userID: string;
        serviceToken?: string | undefined;
        device?: string | undefined;
    } | {
        appID?: undefined;
        app: string;
        userID: string;
        serviceToken?: string | undefined;
        device?: string | undefined;
    };
    /**
     * @override
     * @param {any} frame
     * @returns {[string, Push] | null}
     */
    eventIn(frame: any): [string, Push] | null;
    /**
     * The online users of this app, in pages of 10,000.
     *
     * @param {string} [cursor]  `next` of the page before
     * @returns {Promise<{ userCount: number, userList: string[], next?: string, missingNodes?: string[] }>}
     */
    userList(cursor?: string): Promise<{
        userCount: number;
        userList: string[];
        next?: string;
        missingNodes?: string[];
    }>;
    /**
     * @param {string} user
     * @returns {Promise<boolean>} whether that user of this app is online
     */
    online(user: string): Promise<boolean>;
    /**
     * Which of these users of this app are online. Users whose presence an account must not see are missing.
     *
     * @param {string[]} users  at most `limits.batch_targets` (10,000)
     * @returns {Promise<Record<string, boolean>>} user → whether they are online
     */
    presence(users: string[]): Promise<Record<string, boolean>>;
    /**
     * Sends a text to one user of this app. The server accepts a repeated `id` without delivering it again: if the answer
     * is lost, send the message again with the same id.
     *
     * @param {string} user
     * @param {string} text
     * @param {string} [id]
     * @returns {Promise<{ sendResults?: boolean }>} `sendResults` false: the user is not online; missing: the `id` is a repetition
     */
    sendMessage(user: string, text: string, id?: string): Promise<{
        sendResults?: boolean;
    }>;
    /**
     * Sends a text to all other users of this app. For `id`, see {@link ImClient#sendMessage}.
     *
     * @param {string} text
     * @param {string} [id]
     * @returns {Promise<{ sendResults?: boolean }>}
     */
    sendMessageAll(text: string, id?: string): Promise<{
        sendResults?: boolean;
    }>;
    /** @returns {string} base of the HTTP API */
    get httpUrl(): string;
    /**
     * Sends a request to `/api/v1`, for this app.
     *
     * @param {"GET" | "POST"} method
     * @param {string} path  below /api/v1/, as `groups/show`
     * @param {Record<string, any>} [fields]  the query of a GET, the JSON body of a POST
     * @returns {Promise<any>} the answer
     */
    api(method: "GET" | "POST", path: string, fields?: Record<string, any>): Promise<any>;
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
export declare class TalkClient extends ReconnectingClient<SaidEvents> {
    #private;
    /** @param {TalkOptions} options  `url` has no query */
    constructor(options: TalkOptions);
    /**
     * Sends a message to the other user or to the room.
     *
     * @param {string} text         the text, or the URL of an image, video or voice message
     * @param {string} [type]       `text`, `image`, `video` or `voice`
     * @param {string} [id]         id of the message
     * @returns {Promise<void>} resolved when the server has accepted it; the dialect does not report the delivery
     */
    say(text: string, type?: string, id?: string): Promise<void>;
    /** @override */
    loginData(): {
        userId: string;
        appId: string | number;
        toUid: string;
        groupsId: string;
        token?: string | undefined;
    };
    /**
     * @override
     * @param {any} frame
     * @returns {[string, Said] | null}
     */
    eventIn(frame: any): [string, Said] | null;
}
export type Deferred = {
    resolve: () => void;
    reject: (error: Error) => void;
    promise: Promise<void>;
};
