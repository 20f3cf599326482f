// @ts-check
/** The connection of a login, which begins while the page is still loading. */

import { Messenger } from "../../../sdk/messenger.js";
import { websocketUrl } from "../../address.js";
import { ROOT } from "../../text.js";

/** @typedef {import("../../address.js").PageAddress & { app: string }} Page */
/** @typedef {import("./saved-login.js").Login} Login */
/** @typedef {import("../../../sdk/messenger.js").MessengerEvents & { state: import("../../../sdk/imserver.js").StateChange }} Events */

/** The events of which the page hears. @type {(keyof Events)[]} */
const KINDS = ["state", "entry", "anew", "typing", "receipt", "hidden", "contact", "piece", "arrangement", "folders", "wish", "threadMark"];

/** A messenger that also tells of signals that the SDK does not know: those of features of the server. */
class PageMessenger extends Messenger {
  /** @type {(kind: string, data: any) => void} */
  onSignal = () => {};

  /**
   * @override
   * @param {any} frame
   */
  eventIn(frame) {
    const event = super.eventIn(frame);
    const data = frame?.response?.data;
    // An answer to a command comes here, too: nobody listens for a signal with the name of its command.
    if (!event && data) this.onSignal(frame.cmd, data);
    return event;
  }
}

/** A messenger whose events wait until the page listens. */
export class Connection {
  /** Events that have come before the page listens; null: it listens. @type {[kind: keyof Events, detail: any][] | null} */
  #waiting = [];

  /**
   * @param {Page} page
   * @param {Login} login
   */
  constructor(page, login) {
    this.login = login;
    this.messenger = new PageMessenger({
      url: websocketUrl(page, "/acc"),
      httpUrl: location.origin + ROOT,
      app: page.app,
      user: login.user,
      token: login.token,
      // Each tab is a part of the device.
      device: `${login.device || "web"}/${Math.random().toString(36).slice(2, 6)}`,
      cursor: null, // a conversation loads its history when it is opened
    });
    for (const kind of KINDS) this.messenger.on(kind, (detail) => void this.#waiting?.push([kind, detail]));
  }

  /**
   * Called once. The listeners first hear, in order, what has happened before.
   *
   * @param {{ [K in keyof Events]: (detail: Events[K]) => void }} listeners
   */
  listen(listeners) {
    const before = this.#waiting ?? [];
    this.#waiting = null;
    for (const kind of KINDS) this.messenger.on(kind, /** @type {(detail: any) => void} */ (listeners[kind]));
    for (const [kind, detail] of before) /** @type {(detail: any) => void} */ (listeners[kind])(detail);
  }
}

/** The connection that waits for the page. @type {Connection | null} */
let early = null;

/**
 * Connects before the page asks for the connection.
 *
 * @param {Page} page
 * @param {Login} login
 */
export function connectEarly(page, login) {
  early = new Connection(page, login);
  early.messenger.connect().catch(() => {}); // the event `state` has the reason
}

/**
 * @param {Page} page
 * @param {Login} login
 * @returns {Connection} the one that was begun with this login, else a new one, which is not connected
 */
export function connectionOf(page, login) {
  const begun = early;
  early = null;
  if (begun?.login.token === login.token) return begun;
  begun?.messenger.close();
  return new Connection(page, login);
}
