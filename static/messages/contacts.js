// @ts-check
/** Starts new conversations and groups. */

import { make } from "../text.js";
import { ApiError, reasonOf } from "./api.js";
import { openDialog } from "./panel.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * A dialog to start a conversation with one user, or a group.
 *
 * @param {Session} session
 */
export function openContacts(session) {
  const { words } = session;
  const users = input("new-users", 400);
  const name = input("new-group-name", 64);
  const note = make("p", "note");
  note.id = "new-note";
  note.setAttribute("role", "alert");
  const submit = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_begin_go));
  submit.id = "new-submit";
  const form = make(
    "form", "", make("label", "", make("span", "", words.messages_numbers), users),
    make("p", "muted", words.messages_numbers_hint),
    make("label", "", make("span", "", words.messages_group_name), name), note, submit,
  );
  form.id = "new-form";
  const dialog = openDialog(words.messages_begin_title, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const found = [...new Set(users.value.split(/[\s,，、;；]+/).filter(Boolean))];
    if (!found.length) return users.focus();
    note.textContent = "";
    submit.disabled = true;
    try {
      const target = await create(session, found, name.value.trim());
      dialog.close();
      session.open(target);
    } catch (error) {
      note.textContent = reasonOf(error, words);
    }
    submit.disabled = false;
  });
}

/**
 * @param {Session} session
 * @param {string[]} users
 * @param {string} name  of the group; empty for a conversation with one user
 * @returns {Promise<import("./session.js").Target>}
 */
async function create(session, users, name) {
  if (users.includes(session.user)) throw new ApiError("self", "");
  if (users.length > 1 && !name) throw new ApiError("group_name", "");
  await Promise.all(users.map((user) => session.people.check(user)));
  if (!name) return { user: users[0] };
  const { group } = await session.api("POST", "groups/create", { name });
  await session.api("POST", "groups/invite", { group, members: users });
  await session.store.load();
  return { conversation: Number(group) };
}

/**
 * @param {string} id
 * @param {number} length
 */
function input(id, length) {
  const made = /** @type {HTMLInputElement} */ (make("input", ""));
  Object.assign(made, { id, maxLength: length, autocomplete: "off" });
  return made;
}
