// @ts-check
/** What features of the server add to the page: views of types of messages, entries of menus, panels. */

import { fill, make } from "../text.js";
import { addAction } from "./conversation-menu.js";
import { loadStyle } from "./form.js";
import { button, confirm, openDialog, openPanel, toast } from "./panel.js";
import { registerView } from "./summary.js";

/**
 * What the function `start` of a module gets. It takes its words from `words`, and draws with `make`, which knows no HTML.
 *
 * @typedef {object} Additions
 * @property {Record<string, string>} words
 * @property {typeof registerView} registerView
 * @property {typeof addAction} addAction  adds an entry to the menu of a conversation
 * @property {typeof openPanel} openPanel
 * @property {typeof openDialog} openDialog
 * @property {typeof confirm} confirm
 * @property {typeof toast} toast
 * @property {typeof button} button
 * @property {typeof make} make
 * @property {typeof fill} fill
 */

/**
 * Loads and starts them, in the order of the features. One that fails does not stop the others.
 *
 * @param {import("./session.js").Page} page
 */
export async function addFeatures({ text: words, additions }) {
  const face = { words, registerView, addAction, openPanel, openDialog, confirm, toast, button, make, fill };
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
