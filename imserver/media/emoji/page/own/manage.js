// @ts-check
/** The dialog in which moderators and owners of the app add and remove emoji. */

import { picture } from "./picture.js";

const TYPES = ["image/png", "image/gif", "image/webp"];
const MOST_BYTES = 131_072;
const MOST_PIXELS = 256;
/** Larger pictures are made so small. */
const SMALL_PIXELS = 128;
const MOST_NAME = 30;
/** Problems that only this dialog meets. @type {Record<string, string>} */
const FAULTS = { emoji_exists: "emoji_taken", too_many_emoji: "emoji_full", unknown_emoji: "emoji_gone" };

/**
 * @param {any} page
 * @param {import("./own.js").OwnList} own
 * @param {() => void} onClose  called when the dialog is closed
 */
export function openManage(page, own, onClose) {
  const { button, fill, make } = page;
  const { words } = own;
  const reason = (/** @type {any} */ error) => words[FAULTS[error?.code]] ?? page.reason(error);
  const files = Object.assign(make("input", ""), { type: "file", accept: "image/*", multiple: true, hidden: true });
  const choose = button(words.emoji_choose);
  const add = button(words.emoji_add, "wide");
  add.type = "submit";
  add.hidden = true;
  const fresh = make("div", "");
  const form = make("form", "own-emoji-add", choose, files, make("small", "muted", words.emoji_hint), fresh, add);
  const list = make("ul", "own-emoji-list");

  const drawList = () => {
    const rows = own.all.map((emoji) => {
      const remove = button(words.emoji_remove, "link");
      remove.setAttribute("aria-label", `${words.emoji_remove} :${emoji.name}:`);
      remove.addEventListener("click", async () => {
        if (!(await page.confirm(fill(words.emoji_remove_ask, { name: `:${emoji.name}:` }), { yes: words.emoji_remove, danger: true }))) return;
        await page.api("POST", "emoji/remove", { name: emoji.name }).catch((/** @type {unknown} */ error) => page.toast(reason(error)));
        await own.refresh();
        drawList();
      });
      const shown = picture(page, emoji, () => {});
      shown.setAttribute("alt", "");
      return make("li", "own-emoji-row", shown, make("bdi", "", `:${emoji.name}:`), remove);
    });
    list.replaceChildren(...(rows.length ? rows : [make("li", "muted own-emoji-row", words.emoji_none)]));
  };

  const onDrop = () => {
    add.hidden = !fresh.childElementCount;
    choose.focus();
  };
  choose.addEventListener("click", () => files.click());
  files.addEventListener("change", async () => {
    for (const file of files.files ?? []) {
      const row = await newRow(page, own, file, onDrop).catch(() => page.toast(words.emoji_kind));
      if (!row) continue;
      fresh.append(row);
      if (fresh.childElementCount === 1) row.querySelector("input").focus();
    }
    files.value = "";
    add.hidden = !fresh.childElementCount;
  });
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    add.disabled = true;
    for (const row of [...fresh.children]) {
      const note = row.querySelector(".note");
      try {
        await page.api("POST", "emoji/add", { name: row.querySelector("input").value, picture: row.dataset.picture });
        row.remove();
      } catch (error) {
        note.textContent = reason(error);
        note.hidden = false;
      }
    }
    add.disabled = false;
    add.hidden = !fresh.childElementCount;
    await own.refresh();
    drawList();
    (fresh.querySelector("input") ?? choose).focus();
  });
  drawList();
  const layer = page.openDialog(words.emoji_edit, make("div", "", form, list));
  layer.closed.then(onClose);
}

/**
 * A picture that is not added yet, with a field for its name. Rejected if the file is no picture.
 *
 * @param {any} page
 * @param {import("./own.js").OwnList} own
 * @param {File} file
 * @param {() => void} onDrop  called when the user has removed it from the form
 */
async function newRow(page, own, file, onDrop) {
  const { make, button } = page;
  const { words } = own;
  const row = make("div", "own-emoji-row");
  const shown = document.createElement("canvas");
  row.dataset.picture = await base64Of(await shrunk(file, shown));
  const name = make("input", "");
  Object.assign(name, { value: nameOf(file.name), required: true, maxLength: MOST_NAME, title: words.emoji_rule });
  Object.assign(name, { pattern: "[a-z0-9][a-z0-9_\\-]{1,29}", autocomplete: "off", spellcheck: false, dir: "ltr" });
  name.autocapitalize = "none";
  name.setAttribute("aria-label", words.emoji_name);
  name.addEventListener("input", () => {
    const { selectionStart } = name;
    name.value = name.value.toLowerCase().replace(/[\s:]/g, "_");
    name.setSelectionRange(selectionStart, selectionStart);
  });
  const drop = button(words.emoji_remove, "link");
  drop.setAttribute("aria-label", `${words.emoji_remove} ${file.name}`);
  drop.addEventListener("click", () => {
    row.remove();
    onDrop();
  });
  const note = Object.assign(make("p", "note"), { hidden: true });
  note.setAttribute("role", "alert");
  row.append(shown, name, drop, note);
  return row;
}

/**
 * Draws a picture on a canvas, small. A GIF stays as it is: the canvas would show only its first picture.
 *
 * @param {File} file
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>} the file, or the content of the canvas if the file is too large. Rejected if it is no picture
 */
async function shrunk(file, canvas) {
  const bitmap = await createImageBitmap(file);
  const longer = Math.max(bitmap.width, bitmap.height);
  const scale = Math.min(1, SMALL_PIXELS / longer);
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const isSmall = TYPES.includes(file.type) && file.size <= MOST_BYTES && longer <= MOST_PIXELS;
  if (file.type === "image/gif" || isSmall) return file;
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => {
      if (blob) resolve(blob);
      else reject(new Error("no picture"));
    }, "image/png");
  });
}

/**
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(String(reader.result).split(",")[1]));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

/**
 * @param {string} file  the name of a file
 * @returns {string} a name for its emoji
 */
function nameOf(file) {
  const withoutType = file.replace(/\.[^.]*$/, "");
  const withoutAccents = withoutType.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "");
  const plain = withoutAccents.replace(/[^a-z\d_-]+/g, "_");
  return plain.replace(/^[_-]+/, "").slice(0, MOST_NAME).replace(/[_-]+$/, "");
}
