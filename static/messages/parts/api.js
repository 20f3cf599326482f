// @ts-check
/** HTTP requests to `/api/v1`, and the reasons of failures in the language of the page. */

import { Closed, CommandRefused, ImError, NotConnected, RequestRefused } from "../../../sdk/errors.js";
import { fill, ROOT } from "../../text.js";

/** A request without an answer fails after this time. */
const TIMEOUT_MS = 15_000;
/** An address of a downloaded file is given back after this time: by then the browser has begun to save the file. */
const KEPT_MS = 60_000;
/** Close code after a message that is larger than the server allows. */
const TOO_LARGE = 1009;
/** How many rows of a list the page loads. */
const MOST_ROWS = 2_000;

/** A failed request. `code` is the error code of the API, or `no_answer`. */
export class ApiError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * Sends a request. The fields of a GET become its query. Rejected with {@link ApiError}.
 *
 * @param {string} app
 * @param {string} token    empty: without a login
 * @param {"GET" | "POST"} method
 * @param {string} path     below /api/v1/
 * @param {Record<string, any>} [body]
 * @returns {Promise<any>}
 */
export async function callApi(app, token, method, path, body = {}) {
  const isPost = method === "POST";
  const query = isPost ? "" : `?${new URLSearchParams({ app, ...body })}`;
  /** @type {Response} */
  let response;
  let answer;
  try {
    response = await fetch(`${ROOT}/api/v1/${path}${query}`, {
      method,
      body: isPost ? JSON.stringify({ app, ...body }) : undefined,
      headers: { ...(isPost && { "Content-Type": "application/json" }), ...(token && { Authorization: `Bearer ${token}` }) },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = await response.json();
  } catch (error) {
    throw new ApiError("no_answer", String(error));
  }
  if (!response.ok) throw new ApiError(String(answer.code), String(answer.message));
  return answer;
}

/**
 * Saves a file that only the user may fetch. Rejected with {@link ApiError}.
 *
 * @param {string} app
 * @param {string} token
 * @param {string} path
 * @param {Record<string, string>} query
 * @param {string} name  for the file
 */
export async function downloadFile(app, token, path, query, name) {
  let response;
  let content;
  try {
    response = await fetch(`${ROOT}/api/v1/${path}?${new URLSearchParams({ app, ...query })}`, {
      headers: { Authorization: `Bearer ${token}` },
      cache: "no-store",
      credentials: "omit",
    });
    content = response.ok ? await response.blob() : await response.json();
  } catch (error) {
    throw new ApiError("no_answer", String(error));
  }
  if (!response.ok) throw new ApiError(String(content.code), String(content.message));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

/**
 * Loads the rows of a list whose pages have the cursor `next`: all pages, or as many as have {@link MOST_ROWS} together.
 *
 * @param {string} key  of the rows in a page
 * @param {(cursor: string) => Promise<any>} load  one page; `""`: the first
 * @returns {Promise<any[]>}
 */
export async function rowsOf(key, load) {
  const rows = [];
  let cursor = "";
  do {
    const page = await load(cursor);
    rows.push(...page[key]);
    cursor = page.next;
  } while (cursor && rows.length < MOST_ROWS);
  return rows;
}

/**
 * @param {unknown} error
 * @param {Record<string, string>} words
 * @returns {string} the reason, in the language of the page
 */
export function reasonOf(error, words) {
  if (error instanceof ApiError || error instanceof RequestRefused) return faultText(String(error.code), words);
  if (error instanceof NotConnected) return noAnswer(words);
  if (error instanceof CommandRefused) return refusalText(error, words);
  if (error instanceof Closed && error.code === TOO_LARGE) return words.messages_too_large;
  if (error instanceof ImError) return words.refused_other;
  return String(error);
}

/**
 * @param {CommandRefused} refusal
 * @param {Record<string, string>} words
 * @returns {string} the text for its named reason, else the reason of a back end, else the text for its code
 */
function refusalText({ cmd, code, reason, refused }, words) {
  const named = words[`messages_refused_${refused}`];
  if (named) return named;
  if (reason !== null) return fill(words.send_rejected, { reason: reason || words.no_reason });
  return words[`messages_refused_${code}_${cmd}`] ?? words[`messages_refused_${code}`] ?? fill(words.messages_refused_other, { code });
}

/**
 * @param {Record<string, string>} words
 * @returns {string} why there is no answer
 */
export function noAnswer(words) {
  return globalThis.navigator?.onLine === false ? words.messages_fault_offline : words.messages_fault_no_answer;
}

/**
 * @param {string} code  of a problem
 * @param {Record<string, string>} words
 * @returns {string}
 */
function faultText(code, words) {
  if (code === "no_answer") return noAnswer(words);
  const known = words[`messages_fault_${code}`];
  if (known) return known;
  return code.endsWith("_unavailable") ? words.messages_fault_unavailable : fill(words.messages_fault_other, { code });
}
