// @ts-check
/** What features of the server add to the page: views of types of messages, entries of menus, panels. */

import { CODE } from "../../sdk/imserver.js";
import { CommandRefused } from "../../sdk/errors.js";
import { drawn, fill, make } from "../text.js";
import { addMessageAction } from "./actions.js";
import { downloadFile, reasonOf } from "./api.js";
import { addAction } from "./conversation-menu.js";
import { addSettings, loadStyle } from "./form.js";
import { button, confirm, openDialog, openPanel, toast } from "./panel.js";
import { redraw, registerView } from "./summary.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * What the function `start` of a module gets. It takes its words from `words`, and draws with `make`, which knows no HTML.
 *
 * @typedef {object} Additions
 * @property {Record<string, string>} words
 * @property {typeof registerView} registerView
 * @property {(message: number) => void} redraw  calls `draw` of the view of a message again
 * @property {typeof addAction} addAction  adds an entry to the menu of a conversation
 * @property {typeof addMessageAction} addMessageAction  adds entries to the menu of a message
 * @property {typeof addSettings} addSettings  adds a section to the settings
 * @property {(command: string, data?: object) => Promise<any>} request  sends a command of the user; resolves to the data of its answer
 * @property {Session["api"]} api  sends a request of the user over HTTP
 * @property {(path: string, query: Record<string, string>, name: string) => Promise<void>} download  saves a file of the user
 * @property {Session["endBy"]} endLogin  does what ends the login, and then forgets what the browser has stored
 * @property {(kind: string, listener: (data: any) => void) => void} hear  hears signals of a kind
 * @property {(error: unknown) => string} reason  why `request` or `api` has failed, in the language of the page
 * @property {typeof openPanel} openPanel
 * @property {typeof openDialog} openDialog
 * @property {typeof confirm} confirm
 * @property {typeof toast} toast
 * @property {typeof button} button
 * @property {typeof make} make
 * @property {typeof fill} fill
 */

/** The login of the user. @type {Session} */
let session;
/** The modules start once; a later login of the page uses them, too. @type {Promise<void> | null} */
let started = null;
/** Kind of a signal → who hears it. @type {Map<string, ((data: any) => void)[]>} */
const listeners = new Map();

/**
 * Loads and starts them, in the order of the features. One that fails does not stop the others.
 *
 * @param {import("./session.js").Page} page
 * @param {Session} current
 */
export async function addFeatures(page, current) {
  if (session !== current) current.on("signal", ({ kind, data }) => listeners.get(kind)?.forEach((listener) => drawn(() => listener(data), () => {})));
  session = current;
  started ??= start(page);
  await started;
}

/** @param {import("./session.js").Page} page */
async function start({ text: words, additions }) {
  /** @type {Additions} */
  const face = {
    words, registerView, addAction, addMessageAction, addSettings, request, openPanel, openDialog, confirm, toast, button, make, fill,
    api: (method, path, body) => session.api(method, path, body),
    download: (path, query, name) => downloadFile(session.app, session.token, path, query, name),
    endLogin: (act, done) => session.endBy(act, done),
    hear: (kind, listener) => void listeners.set(kind, [...(listeners.get(kind) ?? []), listener]),
    reason: (error) => reasonOf(error, words),
    redraw: (message) => {
      redraw(message);
      session.changed();
    },
  };
  const loading = additions.map(({ module }) => (module ? import(module).catch((/** @type {unknown} */ error) => console.error(error)) : null));
  for (const { style } of additions) if (style) loadStyle(new URL(style, location.href));
  for (const module of await Promise.all(loading)) {
    try {
      module?.start(face);
    } catch (error) {
      console.error(error);
    }
  }
}

/**
 * @param {string} command
 * @param {object} [data]
 * @returns {Promise<any>} rejected with CommandRefused, or with NotConnected if there is no answer
 */
async function request(command, data = {}) {
  const { code, codeMsg, data: answer } = await session.messenger.request(command, data);
  if (code !== CODE.OK) throw new CommandRefused(command, code, codeMsg, answer);
  return answer;
}
