// @ts-check
/** Uploads that continue after the line was lost (tus 1.0), with progress, cancel and retry. */

import { ROOT } from "../../text.js";
import { ApiError } from "../parts/api.js";
import { sizeOf } from "../parts/file.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * A stored file, as the server describes it.
 *
 * @typedef {object} StoredFile
 * @property {string} id
 * @property {string} url
 * @property {"picture" | "voice" | "video" | "file"} kind
 * @property {string} type
 * @property {string} name
 * @property {number} bytes
 * @property {number} width
 * @property {number} height
 * @property {{ url: string, type: string, bytes: number } | null} thumbnail
 */

/**
 * A file that must be uploaded before its message is sent. The browser can store it.
 *
 * @typedef {object} UnsentFile
 * @property {Blob} content
 * @property {{ name?: string, kind?: string }} options
 * @property {Record<string, any>} more  see {@link dataOf}
 * @property {Blob | null} [poster]      a picture of a video, uploaded with it
 */

/**
 * The files of an album. Those that are uploaded have become the content of the message.
 *
 * @typedef {object} UnsentAlbum
 * @property {(UnsentFile | { data: Record<string, any> })[]} items
 * @property {Record<string, any>} more  goes into the content of the message
 */

/** @typedef {UnsentFile | UnsentAlbum} Unsent */

/**
 * @typedef {object} Upload
 * @property {(progress: (share: number) => void, saved?: () => void) => Promise<any>} start  resolves to the `data` of the message; called
 *   again for a retry. `saved` is called when a part of an album is uploaded, and need not be uploaded again
 * @property {() => void} cancel
 */

/** @typedef {{ header: (name: string) => string, text: string }} Answer */

const PATH = `${ROOT}/api/v1/uploads/tus`;
/** 4 MiB per request: a proxy may buffer a request, and a node has a time limit for each. */
const PIECE_BYTES = 4 << 20;
/** Pauses before the next attempt, by the number of failures. After as many failures without progress the upload fails. */
const DELAYS_MS = [300, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000];
/** A request whose body does not move for so long is ended. */
const SILENT_MS = 60_000;
/** How many files are uploaded at the same time. */
const AT_ONCE = 3;
/** Answers after which the request may succeed later. */
const AGAIN = new Set([408, 409, 423, 429, 460, 500, 502, 503, 504]);

/** The request may succeed later. */
class Temporary extends Error {}

/** Number of uploads that are under way. */
let running = 0;
/** Uploads that wait for their turn. @type {(() => void)[]} */
const waiting = [];

/** One file on its way. A second start continues where the first one ended. */
export class FileUpload {
  /** Where the server takes the bytes; empty: the upload has not begun. */
  #address = "";
  #offset = 0;
  #isCancelled = false;
  /** @type {XMLHttpRequest | null} */
  #request = null;
  #wake = () => {};

  /**
   * @param {{ app: string, token: string }} session
   * @param {Blob} content
   * @param {{ name?: string, kind?: string }} [options]  `kind`: the server refuses every other one
   */
  constructor(session, content, { name = "", kind = "" } = {}) {
    this.session = session;
    this.content = content;
    this.query = new URLSearchParams({ app: session.app, ...(name && { name }), ...(kind && { kind }) });
  }

  /**
   * Uploads the file, or the part that the server does not have. Rejected with {@link ApiError}; the code is `cancelled` after {@link cancel}.
   *
   * @param {(share: number) => void} [progress]  0 to 1
   * @returns {Promise<StoredFile>}
   */
  async start(progress = () => {}) {
    this.#isCancelled = false;
    await this.#waitForTurn();
    try {
      return await this.#attemptAgain(progress);
    } finally {
      running -= 1;
      waiting.shift()?.();
    }
  }

  /**
   * Attempts the upload until it is done, with pauses. The failures are counted anew when the server has taken more bytes.
   *
   * @param {(share: number) => void} progress
   * @returns {Promise<StoredFile>}
   */
  async #attemptAgain(progress) {
    for (let failures = 0; ; ) {
      const before = this.#offset;
      try {
        return await this.#attempt(progress);
      } catch (error) {
        if (this.#isCancelled || !(error instanceof Temporary)) throw error;
        failures = this.#offset > before ? 0 : failures + 1;
        if (failures > DELAYS_MS.length) throw new ApiError("no_answer", error.message);
        await this.#pause(DELAYS_MS[Math.max(failures - 1, 0)]);
        this.#checkCancelled();
      }
    }
  }

  /** Ends the upload, and deletes the bytes that the server has. */
  cancel() {
    this.#isCancelled = true;
    this.#wake();
    this.#request?.abort();
    if (!this.#address) return;
    const address = this.#address;
    this.#address = "";
    this.#offset = 0;
    this.#delete(address);
  }

  /**
   * Deletes an upload. If that fails, it expires.
   *
   * @param {string} address
   */
  async #delete(address) {
    for (const delay of DELAYS_MS) {
      try {
        const { status } = await fetch(address, { method: "DELETE", headers: this.#headers(), keepalive: true });
        if (!AGAIN.has(status)) return;
      } catch {
        // the line was lost
      }
      await new Promise((resolve) => setTimeout(resolve, delay)); // the server may not know yet that the request has ended
    }
  }

  /** Waits while as many uploads as allowed are under way. */
  async #waitForTurn() {
    if (running >= AT_ONCE) await new Promise((resolve) => waiting.push(() => resolve(undefined)));
    running += 1;
  }

  /**
   * Continues the upload where the server has stopped, and asks for its description.
   *
   * @param {(share: number) => void} progress
   * @returns {Promise<StoredFile>}
   */
  async #attempt(progress) {
    const size = this.content.size;
    this.#checkCancelled();
    if (this.#address) await this.#ask();
    else await this.#create();
    while (this.#offset < size) {
      const begin = this.#offset;
      const piece = this.content.slice(begin, begin + PIECE_BYTES);
      const headers = { "Upload-Offset": String(begin), "Content-Type": "application/offset+octet-stream" };
      const { header } = await this.#send("PATCH", this.#address, headers, piece, (sent) => progress((begin + sent) / size));
      this.#offset = Number(header("Upload-Offset"));
    }
    progress(1);
    const { text } = await this.#send("GET", this.#address); // a request of its own: the line may have lost the last answer
    return JSON.parse(text);
  }

  /** Announces the file to the server, which gives it an address. */
  async #create() {
    const { header } = await this.#send("POST", `${PATH}?${this.query}`, { "Upload-Length": String(this.content.size) });
    const address = new URL(header("Location"), location.href);
    address.searchParams.set("app", this.session.app);
    this.#address = address.pathname + address.search;
    this.#offset = 0;
  }

  /** Asks how many bytes the server has. */
  async #ask() {
    const { header } = await this.#send("HEAD", this.#address);
    this.#offset = Number(header("Upload-Offset"));
  }

  #headers() {
    return { "Tus-Resumable": "1.0.0", ...(this.session.token && { Authorization: `Bearer ${this.session.token}` }) };
  }

  /**
   * Sends a request, and ends it if nothing moves for a minute.
   *
   * @param {string} method
   * @param {string} address
   * @param {Record<string, string>} [headers]
   * @param {Blob} [body]
   * @param {(sent: number) => void} [progress]
   * @returns {Promise<Answer>}  rejected with {@link Temporary} or {@link ApiError}
   */
  #send(method, address, headers = {}, body = undefined, progress = () => {}) {
    const request = new XMLHttpRequest(); // fetch() tells nothing about the progress of a body
    this.#request = request;
    return new Promise((resolve, reject) => {
      let silence = setTimeout(() => request.abort(), SILENT_MS);
      request.upload.onprogress = ({ loaded }) => {
        clearTimeout(silence);
        silence = setTimeout(() => request.abort(), SILENT_MS);
        progress(loaded);
      };
      request.onerror = () => reject(new Temporary("the line was lost"));
      request.onabort = () => reject(this.#isCancelled ? cancelled() : new Temporary("the line is silent"));
      request.onload = () => {
        const isDone = request.status >= 200 && request.status < 300;
        if (isDone) resolve({ header: (name) => request.getResponseHeader(name) ?? "", text: request.responseText });
        else reject(this.#refusalOf(request));
      };
      request.onloadend = () => clearTimeout(silence);
      request.open(method, address);
      for (const [name, value] of Object.entries({ ...this.#headers(), ...headers })) request.setRequestHeader(name, value);
      request.send(body ?? null);
    });
  }

  /**
   * The error of an answer that refuses a request. If the server does not know the upload any more, the next attempt begins a new one.
   *
   * @param {XMLHttpRequest} request
   */
  #refusalOf({ status, responseText }) {
    if (AGAIN.has(status)) return new Temporary(`status ${status}`);
    if ((status === 404 || status === 410) && this.#address) {
      this.#address = ""; // it has expired, or another node has it
      this.#offset = 0;
      return new Temporary("the server has forgotten the upload");
    }
    try {
      const { code, message } = JSON.parse(responseText);
      return new ApiError(String(code), String(message));
    } catch {
      return new ApiError(String(status), `status ${status}`); // of a proxy
    }
  }

  #checkCancelled() {
    if (this.#isCancelled) throw cancelled();
  }

  /**
   * Waits. The pause ends early if the browser comes online, or the upload is cancelled.
   *
   * @param {number} milliseconds
   */
  async #pause(milliseconds) {
    const listening = new AbortController();
    await new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
      setTimeout(resolve, milliseconds);
      addEventListener("online", resolve, { once: true, signal: listening.signal });
    });
    listening.abort();
  }
}

/**
 * The content of a message with this file.
 *
 * @param {StoredFile} file
 * @param {Record<string, any>} [more]  what only the sender knows: `seconds`, `wave`, `width`, `height`, `thumbnail`
 * @returns {Record<string, any>}
 */
export function dataOf({ url, name, bytes, width, height, thumbnail }, more = {}) {
  return { url, name, bytes, ...(width && { width, height }), ...(thumbnail && { thumbnail: thumbnail.url }), ...more };
}

/**
 * The upload of a file, or of the files of an album, which the outbox starts before it sends the message.
 *
 * @param {Session} session
 * @param {Unsent} unsent
 * @returns {Upload}
 */
export function uploadOf(session, unsent) {
  if ("items" in unsent) return albumOf(session, unsent);
  const { content, options, more, poster } = unsent;
  const upload = new FileUpload(session, content, options);
  const picture = poster && new FileUpload(session, poster, { kind: "picture" });
  return {
    async start(progress) {
      const file = await upload.start(progress);
      const thumbnail = picture && (await picture.start().catch(() => null));
      return dataOf(file, { ...more, ...(thumbnail && { thumbnail: thumbnail.url }) });
    },
    cancel() {
      upload.cancel();
      picture?.cancel();
    },
  };
}

/**
 * Uploads the files of an album. An uploaded file is replaced in the album by its content, so that a retry does not upload it again.
 *
 * @param {Session} session
 * @param {UnsentAlbum} album
 * @returns {Upload}
 */
function albumOf(session, album) {
  const size = sizeOf(album) || 1;
  /** By the index of the item; null: it was uploaded before. */
  const parts = album.items.map((item) => ("content" in item ? { upload: uploadOf(session, item), size: item.content.size, share: 0 } : null));
  const sentBytes = () => parts.reduce((sum, part) => sum + (part ? part.share * part.size : 0), 0);
  return {
    async start(progress, saved = () => {}) {
      const uploads = parts.map(async (part, index) => {
        const isUploaded = "data" in album.items[index];
        if (!part || isUploaded) return;
        const data = await part.upload.start((share) => {
          part.share = share;
          progress(sentBytes() / size);
        });
        album.items[index] = { data };
        saved();
      });
      const results = await Promise.allSettled(uploads); // after a failure, the others are uploaded nevertheless
      const failed = results.find(({ status }) => status === "rejected");
      if (failed?.status === "rejected") throw failed.reason;
      return { items: album.items.map((item) => ("data" in item ? item.data : {})), ...album.more };
    },
    cancel() {
      for (const part of parts) part?.upload.cancel();
    },
  };
}

function cancelled() {
  return new ApiError("cancelled", "the upload was cancelled");
}
