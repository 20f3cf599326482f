// @ts-check
/** What somebody who is banned says to those who moderate the app. */

import { make } from "../../text.js";
import { callApi } from "../parts/api.js";
import { attempt, field, noteLine } from "../parts/form.js";
import { openDialog, toast } from "../parts/panel.js";

/** In characters. */
const TEXT_LENGTH = 1_000;

/**
 * Opens the dialog in which the user appeals.
 *
 * @param {import("../session/session.js").Page} page
 * @param {string} token  of the login that the ban refuses; empty: there is none
 * @param {{ login: string, password: string } | {}} [proof]  in place of a token
 */
export function openAppeal({ app, text: words }, token, proof = {}) {
  const text = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
  Object.assign(text, { rows: 5, maxLength: TEXT_LENGTH, required: true, dir: "auto" });
  const note = noteLine();
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_appeal_send));
  const form = make("form", "panel-form", make("p", "muted", words.messages_appeal_hint), field(words.messages_appeal_text, text), note, go);
  const layer = openDialog(words.messages_appeal, form);
  text.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(go, note, words, async () => {
      await callApi(app, token, "POST", "reports/appeal", { ...proof, text: text.value.trim() });
      layer.close();
      toast(words.messages_appeal_sent);
    });
  });
}

/**
 * @param {import("../session/session.js").Page} page
 * @returns {boolean} whether this server takes reports, and appeals
 */
export function takesAppeals({ additions }) {
  return additions.some(({ module }) => module.includes("/features/safety/"));
}
