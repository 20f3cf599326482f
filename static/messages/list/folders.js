// @ts-check
/** Folders: their list, one of them with its conversations, and those in which a conversation is. Loaded when it is needed. */

import { fill, make } from "../../text.js";
import { signOf } from "../parts/signs.js";
import { attempt, field, input, loadStyle, noteLine, redraw } from "../parts/form.js";
import { button, confirm, openDialog } from "../parts/panel.js";
import { Chooser } from "./choose.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {{ id: number, name: string }} Folder */

const NAME_LENGTH = 50;
const MOST_FOLDERS = 20;
/** So many changes are under way at once. */
const AT_ONCE = 8;

/**
 * Opens the list of folders, in which the user makes, orders and removes them.
 *
 * @param {Session} session
 */
export function openFolders(session) {
  const { words, inbox } = session;
  loadStyle(new URL("../later/folders.css", import.meta.url));
  const list = make("ul", "folders");
  const note = noteLine();
  const add = button(words.messages_folder_new, "wide");
  add.addEventListener("click", () => openFolder(session, null));
  const draw = () => {
    add.hidden = inbox.folders.length >= MOST_FOLDERS;
    redraw(list, inbox.folders.map((folder) => folderRow(session, folder, note)));
  };
  const layer = openDialog(words.messages_folders, make("div", "folders-body", make("p", "muted", words.messages_folders_hint), list, note, add));
  draw();
  const stopListening = session.on("changed", draw);
  return layer.closed.then(stopListening);
}

/**
 * @param {Session} session
 * @param {Folder} folder
 * @param {HTMLElement} note
 * @returns {HTMLElement} with buttons that move the folder up and remove it
 */
function folderRow(session, folder, note) {
  const { words, inbox } = session;
  const { folders } = inbox;
  const { id, name } = folder;
  const index = folders.indexOf(folder);
  const save = (/** @type {HTMLElement} */ control, /** @type {Folder[]} */ changed) => attempt(control, note, words, () => setFolders(session, changed));
  const control = (/** @type {"up" | "remove"} */ key, /** @type {string} */ word, /** @type {() => unknown} */ act) => {
    const made = button("", "round");
    made.dataset.key = `${key} ${id}`;
    made.setAttribute("aria-label", `${word}: ${name}`);
    made.title = word;
    made.append(signOf(key));
    made.addEventListener("click", act);
    return made;
  };

  const open = button("", "folder-name");
  open.dataset.key = `open ${id}`;
  open.append(signOf("folder"), make("bdi", "", name));
  open.addEventListener("click", () => openFolder(session, folder));
  const up = control("up", words.messages_folder_up, () => (
    save(up, [...folders.slice(0, index - 1), folder, folders[index - 1], ...folders.slice(index + 1)])
  ));
  up.hidden = index === 0;
  const remove = control("remove", words.messages_folder_remove, async () => {
    const question = fill(words.messages_folder_remove_question, { name });
    if (!(await confirm(question, { yes: words.messages_folder_remove, danger: true }))) return;
    save(remove, inbox.folders.filter((each) => each.id !== id));
  });
  return make("li", "", open, up, remove);
}

/**
 * Makes a folder, or changes its name and its conversations.
 *
 * @param {Session} session
 * @param {Folder | null} folder  null: a new one
 * @param {Conversation[]} [first]  are in a new one
 */
export async function openFolder(session, folder, first = []) {
  const { words, inbox, store } = session;
  const name = input({ maxLength: NAME_LENGTH, required: true, value: folder?.name ?? "" });
  name.id = "folder-name";
  const before = folder ? [...store.conversations.values()].filter((each) => inbox.foldersOf(each).includes(folder.id)) : first;
  const chooser = new Chooser(session, before, null);
  const note = noteLine();
  const save = button(folder ? words.messages_save : words.messages_create, "wide");
  save.type = "submit";
  loadStyle(new URL("../later/folders.css", import.meta.url));
  const form = make("form", "panel-form folder-form", field(words.messages_folder_name, name), chooser.root, note, save);
  const layer = openDialog(folder ? words.messages_folder : words.messages_folder_new, form);
  name.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(save, note, words, async () => {
      const id = folder?.id ?? crypto.getRandomValues(new Uint32Array(1))[0];
      const made = { id, name: name.value.trim() || words.messages_folder };
      const isKnown = inbox.folders.some((each) => each.id === id); // another device may have removed it meanwhile
      await setFolders(session, isKnown ? inbox.folders.map((each) => (each.id === id ? made : each)) : [...inbox.folders, made]);
      const changed = [...store.conversations.values()].filter((each) => chooser.chosen.has(each) !== inbox.foldersOf(each).includes(id));
      for (let start = 0; start < changed.length; start += AT_ONCE) {
        const some = changed.slice(start, start + AT_ONCE);
        await Promise.all(some.map((each) => toggle(session, each, id)));
      }
      layer.close();
    });
  });
  await layer.closed;
}

/**
 * Opens the list of folders, in which the user puts a conversation into them. Without folders, it opens a new one.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 */
export function openFoldersOf(session, conversation) {
  const { words, inbox, store } = session;
  if (!inbox.folders.length) return openFolder(session, null, [conversation]);
  loadStyle(new URL("../later/selection.css", import.meta.url));
  const note = noteLine();
  const rows = inbox.folders.map(({ id, name }) => {
    const choice = button("", "choice");
    choice.setAttribute("role", "checkbox");
    choice.append(signOf("folder"), make("bdi", "", name), make("span", "choice-mark"));
    const mark = () => choice.setAttribute("aria-checked", String(inbox.foldersOf(conversation).includes(id)));
    mark();
    choice.addEventListener("click", () => attempt(choice, note, words, () => toggle(session, conversation, id)).then(mark));
    return make("li", "", choice);
  });
  const more = button(words.messages_folder_new);
  const title = fill(words.messages_folder_of, { name: store.nameOf(conversation) });
  const layer = openDialog(title, make("div", "chooser", make("ul", "choices", ...rows), note, more));
  more.addEventListener("click", async () => {
    layer.close();
    await layer.closed;
    openFolder(session, null, [conversation]);
  });
}

/**
 * Puts a conversation into a folder, or takes it out.
 *
 * @param {Session} session
 * @param {Conversation} conversation
 * @param {number} id  of the folder
 */
function toggle({ inbox }, conversation, id) {
  const known = inbox.folders.map((each) => each.id);
  const before = inbox.foldersOf(conversation).filter((each) => known.includes(each)); // removed folders end here
  return inbox.change(conversation, { folders: before.includes(id) ? before.filter((each) => each !== id) : [...before, id] });
}

/**
 * Makes, names, orders and removes folders. Rejected if the server refuses it.
 *
 * @param {Session} session
 * @param {Folder[]} folders  all of them
 */
async function setFolders({ inbox, messenger }, folders) {
  inbox.receiveFolders(await messenger.setFolders(folders));
}
