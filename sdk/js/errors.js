// @ts-check
/**
 * What can go wrong: one row for each code, and the errors that the clients throw. Every error has a `code`, a `text` that
 * says what happened, and a `remedy` that says what to do. The Python client has the same codes and texts.
 *
 * @module errors
 */

/**
 * What happened, what to do, and whether trying again later may succeed (of a close code: the client reconnects).
 *
 * @typedef {readonly [text: string, remedy: string, temporary?: boolean]} ErrorRow
 */

const LATER = "Try again later.";
const RECONNECT = "None: the client reconnects by itself.";

/** Close codes of the WebSocket. @type {Readonly<Record<number, ErrorRow>>} */
export const CLOSE_CODES = {
  1000: ["the connection was closed", "Make a new client to connect again."],
  1001: ["the server stops or restarts", RECONNECT, true],
  1002: ["a frame broke the WebSocket protocol", RECONNECT, true],
  1003: ["the server does not accept this kind of frame", RECONNECT, true],
  1005: ["the connection ended without a close code", RECONNECT, true],
  1006: ["the connection was lost", RECONNECT, true],
  1007: ["a text frame was not UTF-8", RECONNECT, true],
  1008: ["the server refused the connection", RECONNECT, true],
  1009: ["a message is larger than the server allows", "Send less in one message.", true],
  1011: ["the server failed", "Read the server's log.", true],
  3000: ["login or sync got no usable answer", RECONNECT, true],
  4000: ["this client read too slowly", "Receive events faster.", true],
  4001: ["the server got no heartbeat in time", "Lower heartbeat_seconds.", true],
  4002: ["there was no login in time", RECONNECT, true],
  4003: ["too many commands per second", "Send more slowly.", true],
  4004: ["messages were not acknowledged in time", "Receive events faster.", true],
  4005: ["a connection limit is reached", "Raise the limit of the node or app.", true],
  4500: ["a newer login of this user replaced this one", "Use one client per user and device."],
  4501: ["the user is already online", "End the other session first."],
  4502: ["the back end ended the session", "Ask the user before you log in again."],
  4503: ["the user is banned", "Its reason says until when. Wait until it ends, or lift it."],
  4504: ["the session token is wrong or has expired", "Get a new token and log in again."],
  4505: ["the app does not allow this login", "Check its origins and login rule."],
  4506: ["the app was deleted", "Create the app again, or log in to another one."],
  4507: ["the app does not allow this dialect", "Add `cmd` to `dialects` of the app."],
};

/** Reply codes of the `cmd` dialect. @type {Readonly<Record<number, ErrorRow>>} */
export const REPLY_CODES = {
  1000: ["not logged in", LATER, true],
  1001: ["a parameter is invalid", "Compare the command with docs/reference/protocol.md."],
  1002: ["the user id is empty or too long", "Use an id of the length that the app allows."],
  1003: ["not authorized", "Check the app, the token, and the user's rights."],
  1004: ["the server failed", "Read the server's log."],
  1005: ["there is nothing like that", "Check the ids in the command."],
  1006: ["it could not be added", LATER],
  1007: ["it could not be deleted", LATER],
  1008: ["the message could not be stored", LATER, true],
  1009: ["failed, or the user is online elsewhere", "End the other session first."],
  1010: ["the server does not know this command", "Check the command's name and the version."],
  1011: ["there is no such app", "Check the app's name."],
};

/** A message that the back end of the app has rejected. @type {ErrorRow} */
const REJECTED = ["the back end rejected the message", "Change the message."];

/** Problem codes of the HTTP API. @type {Readonly<Record<string, ErrorRow>>} */
export const PROBLEM_CODES = {
  unauthorized: ["the API key is missing or wrong", "Pass a key with the right scope."],
  forbidden: ["the API key does not allow this", "Use a key of this app with this scope."],
  unknown_app: ["there is no such app", "Check the app's name, or create the app."],
  body_too_large: ["the request is too large", "Send less in one request."],
  too_many_targets: ["the push has too many targets", "Split it into several pushes."],
  id_reused: ["another push had this id", "Use a new id for each push."],
  rejected: ["the back end rejected the message", "Change the message."],
  too_many_requests: ["too many requests", "Send more slowly.", true],
};

/**
 * The row of a code. A code of a newer server has the text that the server sent.
 *
 * @param {Readonly<Record<number, ErrorRow>>} table
 * @param {number} code
 * @param {string} text
 * @returns {ErrorRow}
 */
function rowOf(table, code, text) {
  return table[code] || [text || "unknown code", "Update imserver-client."];
}

/**
 * The base of all errors of this package.
 *
 * @template {number | string} [C=number | string]
 */
export class ImError extends Error {
  /**
   * @param {C} code        a close code, reply code or problem code, or a word of this package
   * @param {string} text   what happened
   * @param {string} remedy what to do
   * @param {unknown} [cause]
   */
  constructor(code, text, remedy, cause) {
    super(text);
    this.name = "ImError";
    this.code = code;
    this.text = text;
    this.remedy = remedy;
    this.cause = cause;
  }
}

/**
 * There is no connection, or no answer came in time. The client keeps reconnecting.
 *
 * @extends {ImError<"not_connected">}
 */
export class NotConnected extends ImError {
  /**
   * @param {string} text
   * @param {unknown} [cause]
   */
  constructor(text, cause) {
    super("not_connected", text, "Check the address, and that the server runs.", cause);
    this.name = "NotConnected";
  }
}

/**
 * The client is closed: by `close()`, or by the server with a code after which it must not reconnect. With code 1009, of a
 * single message: it is larger than the server allows; the client reconnects.
 *
 * @extends {ImError<number>}
 */
export class Closed extends ImError {
  /**
   * @param {number} code    close code
   * @param {string} [text]  what the server says
   */
  constructor(code, text = "") {
    const [meaning, remedy] = rowOf(CLOSE_CODES, code, text);
    super(code, `closed: ${code} ${meaning}`, remedy);
    this.name = "Closed";
  }
}

/**
 * The server refuses this user. The client does not try again.
 *
 * @extends {ImError<number>}
 */
export class LoginRefused extends ImError {
  /**
   * @param {number} code    reply code
   * @param {string} [text]  what the server says
   */
  constructor(code, text = "") {
    const [meaning, remedy] = rowOf(REPLY_CODES, code, text);
    super(code, `login refused: ${code} ${meaning}`, remedy);
    this.name = "LoginRefused";
  }
}

/**
 * The server refuses a command. `reason` says why the back end of the app has rejected a message; it may be empty. `reason` is
 * null if the refusal has another cause.
 *
 * @extends {ImError<number>}
 */
export class CommandRefused extends ImError {
  /**
   * @param {string} cmd
   * @param {number} code    reply code
   * @param {string} [text]  what the server says
   * @param {any} [data]     data of the answer
   */
  constructor(cmd, code, text = "", data = null) {
    /** @type {string | null} */
    const reason = typeof data?.reason === "string" ? data.reason : null;
    const [meaning, remedy] = reason === null ? rowOf(REPLY_CODES, code, text) : REJECTED;
    const suffix = reason ? `: ${reason}` : "";
    super(code, `${cmd} refused: ${code} ${meaning}${suffix}`, remedy);
    this.name = "CommandRefused";
    this.cmd = cmd;
    this.reason = reason;
    /** @type {string | null} why the server refuses a command on a channel, a reaction or a pin, such as `denied` */
    this.refused = typeof data?.refused === "string" ? data.refused : null;
  }
}

/**
 * The server, or a proxy before it, refuses an HTTP request with a status.
 *
 * @extends {ImError<string>}
 */
export class RequestRefused extends ImError {
  /**
   * @param {number} status
   * @param {{ code?: string, message?: string, temporary?: boolean }} problem  the body of the answer
   */
  constructor(status, { code = "unknown", message = "", temporary = false }) {
    const usualRemedy = temporary ? LATER : "Correct the request, or check the address.";
    const remedy = PROBLEM_CODES[code]?.[1] ?? usualRemedy;
    super(code, `${status} ${code}: ${message}`, remedy);
    this.name = "RequestRefused";
    this.status = status;
    this.temporary = temporary;
  }
}
