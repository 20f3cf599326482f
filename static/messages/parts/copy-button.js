// @ts-check
/** A button beside a field, which copies what is in it. */

import { copyText } from "../../page-parts.js";
import { button, toast } from "./panel.js";

/**
 * A button that copies the text of a field. A click into the field selects it all.
 *
 * @param {HTMLInputElement} shown
 * @param {string} label
 * @param {Record<string, string>} words
 * @returns {HTMLButtonElement}
 */
export function copyButton(shown, label, words) {
  const copy = button(label, "wide");
  shown.addEventListener("focus", () => shown.select());
  copy.addEventListener("click", async () => {
    shown.select();
    toast((await copyText(shown.value)) ? words.messages_copied : words.messages_copy_failed);
  });
  return copy;
}
