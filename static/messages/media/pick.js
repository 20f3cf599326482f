// @ts-check
/** Files that the user chooses, pastes or drops. */

import { make } from "../../text.js";

/**
 * Opens the browser's dialog. Resolves to no files if it was closed.
 *
 * @param {{ accept?: string, multiple?: boolean }} [options]
 * @returns {Promise<File[]>}
 */
export function chooseFiles({ accept = "", multiple = true } = {}) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = accept;
  input.multiple = multiple;
  input.hidden = true;
  document.body.append(input); // some browsers forget an input that is in no document
  return new Promise((resolve) => {
    const done = () => {
      input.remove();
      resolve([...(input.files ?? [])]);
    };
    input.addEventListener("change", done);
    input.addEventListener("cancel", done);
    input.click();
  });
}

/**
 * Calls `onFiles` with files that are pasted or dropped into an element.
 *
 * @param {HTMLElement} target
 * @param {Record<string, string>} words
 * @param {(files: File[]) => void} onFiles
 * @param {AbortSignal} [signal]  ends it
 */
export function listenForFiles(target, words, onFiles, signal) {
  const over = make("div", "drop-here", words.messages_media_drop);
  over.hidden = true;
  target.append(over);
  signal?.addEventListener("abort", () => over.remove());
  const hasFiles = (/** @type {DragEvent} */ { dataTransfer }) => dataTransfer?.types.includes("Files") ?? false;
  target.addEventListener("paste", (event) => {
    const data = event.clipboardData;
    if (!data?.files.length || data.types.includes("text/plain")) return; // of a copied table there is a picture, too
    event.preventDefault();
    onFiles([...data.files]);
  }, { signal });
  target.addEventListener("dragenter", (event) => void (hasFiles(event) && (over.hidden = false)), { signal });
  target.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault(), { signal });
  target.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!(relatedTarget instanceof Node && target.contains(relatedTarget))) over.hidden = true;
  }, { signal });
  target.addEventListener("drop", (event) => {
    over.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    onFiles([...(event.dataTransfer?.files ?? [])].filter((file) => file.size || file.type)); // a folder has neither
  }, { signal });
}
