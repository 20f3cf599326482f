/**
 * What can go wrong: one row for each code, and the errors that the clients throw. Every error has a `code`, a `text` that
 * says what happened, and a `remedy` that says what to do. The Python client has the same codes and texts.
 *
 * @module errors
 */
export type ErrorRow = readonly [text: string, remedy: string, temporary?: boolean];
/** Close codes of the WebSocket. @type {Readonly<Record<number, ErrorRow>>} */
export declare const CLOSE_CODES: Readonly<Record<number, ErrorRow>>;
/** Reply codes of the `cmd` dialect. @type {Readonly<Record<number, ErrorRow>>} */
export declare const REPLY_CODES: Readonly<Record<number, ErrorRow>>;
/** Problem codes of the HTTP API. @type {Readonly<Record<string, ErrorRow>>} */
export declare const PROBLEM_CODES: Readonly<Record<string, ErrorRow>>;
/**
 * The base of all errors of this package.
 *
 * @template {number | string} [C=number | string]
 */
export declare class ImError<C extends number | string = number | string> extends Error {
    code: C;
    text: string;
    remedy: string;
    cause: unknown;
    /**
     * @param {C} code        a close code, reply code or problem code, or a word of this package
     * @param {string} text   what happened
     * @param {string} remedy what to do
     * @param {unknown} [cause]
     */
    constructor(code: C, text: string, remedy: string, cause?: unknown);
}
/**
 * There is no connection, or no answer came in time. The client keeps reconnecting.
 *
 * @extends {ImError<"not_connected">}
 */
export declare class NotConnected extends ImError<"not_connected"> {
    /**
     * @param {string} text
     * @param {unknown} [cause]
     */
    constructor(text: string, cause?: unknown);
}
/**
 * The client is closed: by `close()`, or by the server with a code after which it must not reconnect. With code 1009, of a
 * single message: it is larger than the server allows; the client reconnects.
 *
 * @extends {ImError<number>}
 */
export declare class Closed extends ImError<number> {
    /**
     * @param {number} code    close code
     * @param {string} [text]  what the server says
     */
    constructor(code: number, text?: string);
}
/**
 * The server refuses this user. The client does not try again.
 *
 * @extends {ImError<number>}
 */
export declare class LoginRefused extends ImError<number> {
    /**
     * @param {number} code    reply code
     * @param {string} [text]  what the server says
     */
    constructor(code: number, text?: string);
}
/**
 * The server refuses a command. `reason` says why the back end of the app has rejected a message; it may be empty. `reason` is
 * null if the refusal has another cause.
 *
 * @extends {ImError<number>}
 */
export declare class CommandRefused extends ImError<number> {
    cmd: string;
    reason: string | null;
    /** @type {string | null} why the server refuses a command on a channel, a reaction or a pin, such as `denied` */
    refused: string | null;
    /**
     * @param {string} cmd
     * @param {number} code    reply code
     * @param {string} [text]  what the server says
     * @param {any} [data]     data of the answer
     */
    constructor(cmd: string, code: number, text?: string, data?: any);
}
/**
 * The server, or a proxy before it, refuses an HTTP request with a status.
 *
 * @extends {ImError<string>}
 */
export declare class RequestRefused extends ImError<string> {
    status: number;
    temporary: boolean;
    /**
     * @param {number} status
     * @param {{ code?: string, message?: string, temporary?: boolean }} problem  the body of the answer
     */
    constructor(status: number, { code, message, temporary }: {
        code?: string;
        message?: string;
        temporary?: boolean;
    });
}
