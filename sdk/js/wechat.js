// @ts-check
/**
 * The clients for WeChat mini-programs, which have neither WebSocket nor `fetch`: {@link wechat} makes both of `wx`.
 *
 *     const { Messenger, wechat } = require("imserver-client");
 *
 *     const server = { url: "wss://im.example.com/acc", httpUrl: "https://im.example.com" };
 *     const messenger = new Messenger({ ...wechat(wx), ...server, app: "default", user, token });
 *
 * @module wechat
 */

export * from "./imserver.js";
export * from "./messenger.js";

/** @typedef {import("./imserver.js").HttpRequest} HttpRequest */
/** @typedef {import("./imserver.js").HttpResponse} HttpResponse */
/** @typedef {import("./imserver.js").Socket} Socket */

/**
 * The part of a `SocketTask` that the clients use.
 *
 * @typedef {object} SocketTask
 * @property {(options: { data: string }) => void} send
 * @property {(options: { code?: number }) => void} close
 * @property {(listener: () => void) => void} onOpen
 * @property {(listener: (result: { data: string | ArrayBuffer }) => void) => void} onMessage
 * @property {(listener: (result: { code: number, reason: string }) => void) => void} onClose
 * @property {(listener: (result: { errMsg: string }) => void) => void} onError
 */

/**
 * @typedef {object} RequestOptions
 * @property {string} url
 * @property {"GET" | "POST"} method
 * @property {string} [data]
 * @property {Record<string, string>} header
 * @property {number} timeout
 * @property {(result: { data: any, statusCode: number }) => void} success
 * @property {(error: { errMsg: string }) => void} fail
 */

/**
 * The part of `wx` that the clients use.
 *
 * @typedef {object} Wx
 * @property {(options: { url: string, fail: (error: { errMsg: string }) => void }) => SocketTask} connectSocket
 * @property {(options: RequestOptions) => unknown} request
 */

/**
 * The options of a client in a mini-program.
 *
 * @param {Wx} wx  the global `wx`
 * @returns {{ WebSocket: new (url: string) => Socket, fetch: (url: string, request: HttpRequest) => Promise<HttpResponse> }}
 */
export function wechat(wx) {
  return {
    WebSocket: class extends WechatSocket {
      /** @param {string} url */
      constructor(url) {
        super(wx, url);
      }
    },
    fetch: (url, request) => fetchBy(wx, url, request),
  };
}

/** Values of `readyState` of a WebSocket. */
const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;
/** The close code. */
const NORMAL_CLOSE = 1000;

/** A `SocketTask` with the methods of a WebSocket. */
class WechatSocket {
  readyState = CONNECTING;
  /** @type {Socket["onopen"]} */
  onopen = null;
  /** @type {Socket["onmessage"]} */
  onmessage = null;
  /** @type {Socket["onclose"]} */
  onclose = null;
  /** @type {Socket["onerror"]} */
  onerror = null;
  #task;

  /**
   * @param {Wx} wx
   * @param {string} url
   */
  constructor(wx, url) {
    const reportError = (/** @type {{ errMsg: string }} */ error) => this.onerror?.(error);
    this.#task = wx.connectSocket({ url, fail: reportError });
    this.#task.onOpen(() => {
      // A task opens even if it was closed before, and must be closed again: a mini-program may have only few tasks.
      if (this.readyState === CLOSED) return this.close(NORMAL_CLOSE);
      this.readyState = OPEN;
      this.onopen?.({});
    });
    this.#task.onMessage((message) => this.onmessage?.(message));
    this.#task.onError(reportError);
    this.#task.onClose((result) => {
      this.readyState = CLOSED;
      this.onclose?.(result);
    });
  }

  /** @param {string} data */
  send(data) {
    this.#task.send({ data });
  }

  /** @param {number} code */
  close(code) {
    this.readyState = CLOSED;
    this.#task.close({ code });
  }
}

/**
 * Sends a request by `wx.request`.
 *
 * @param {Wx} wx
 * @param {string} url
 * @param {HttpRequest} request
 * @returns {Promise<HttpResponse>}
 */
function fetchBy(wx, url, { method, body, headers, timeoutMs }) {
  return new Promise((resolve, reject) => {
    wx.request({
      url,
      method,
      data: body,
      header: headers,
      timeout: timeoutMs,
      success({ statusCode, data }) {
        const ok = statusCode >= 200 && statusCode < 300;
        resolve({ ok, status: statusCode, json: async () => data });
      },
      fail({ errMsg }) {
        reject(new Error(errMsg));
      },
    });
  });
}
