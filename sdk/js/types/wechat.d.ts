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
export type HttpRequest = import("./imserver.js").HttpRequest;
export type HttpResponse = import("./imserver.js").HttpResponse;
export type Socket = import("./imserver.js").Socket;
export type SocketTask = {
    send: (options: {
        data: string;
    }) => void;
    close: (options: {
        code?: number;
    }) => void;
    onOpen: (listener: () => void) => void;
    onMessage: (listener: (result: {
        data: string | ArrayBuffer;
    }) => void) => void;
    onClose: (listener: (result: {
        code: number;
        reason: string;
    }) => void) => void;
    onError: (listener: (result: {
        errMsg: string;
    }) => void) => void;
};
export type RequestOptions = {
    url: string;
    method: "GET" | "POST";
    data?: string;
    header: Record<string, string>;
    timeout: number;
    success: (result: {
        data: any;
        statusCode: number;
    }) => void;
    fail: (error: {
        errMsg: string;
    }) => void;
};
export type Wx = {
    connectSocket: (options: {
        url: string;
        fail: (error: {
            errMsg: string;
        }) => void;
    }) => SocketTask;
    request: (options: RequestOptions) => unknown;
};
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
export declare function wechat(wx: Wx): {
    WebSocket: new (url: string) => Socket;
    fetch: (url: string, request: HttpRequest) => Promise<HttpResponse>;
};
