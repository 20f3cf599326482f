// @ts-check
/** The palette: one field for people, conversations, messages, actions and settings. Loaded when it is needed. */

import { fill, make } from "../../text.js";
import { addFeatures } from "../parts/additions.js";
import { actionsOf } from "../list/conversation-menu.js";
import { Finder } from "./finder.js";
import { input, mayHaveKeys, withModule } from "../parts/form.js";
import { confirm, openDialog, whenLeft } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

/**
 * @typedef {object} Place  where the palette was opened
 * @property {Conversation | null} open       the open conversation
 * @property {(conversation: Conversation) => void} info  shows what it is
 * @property {() => void} search              searches in it
 */

/** @typedef {{ key: "actions" | "settings", title: string, act: () => unknown, keys?: string, also?: string }} Command  `also`: other words for it */

/**
 * @param {Session} session
 * @param {Place} place
 */
export async function openPalette(session, place) {
  await addFeatures(session, true);
  if (document.querySelector("dialog:modal")) return; // the key was pressed twice
  const { words } = session;
  const field = input({ type: "text", maxLength: 200, placeholder: words.messages_palette_hint, autocomplete: "off", spellcheck: false, enterKeyHint: "go" });
  field.id = "palette-field";
  field.setAttribute("aria-label", words.messages_palette);
  const chips = make("div", "");
  const list = make("ul", "palette-hits");
  const layer = openDialog(words.messages_palette, make("div", "palette-body", field, chips, list));
  layer.dialog.classList.add("palette");
  const all = commands(session, place);
  const finder = new Finder(session, {
    field, list, chips,
    commands: (wanted) => (/** @type {const} */ (["actions", "settings"])).map((key) => ({ key, rows: all.filter((each) => each.key === key && isFound(each, wanted)) })).filter(({ rows }) => rows.length),
    go: async (act) => {
      layer.close();
      await whenLeft();
      act();
    },
  });
  finder.start();
  field.focus();
  layer.closed.then(() => finder.stop());
}

/**
 * @param {Command} command
 * @param {string} wanted
 */
function isFound({ title, also = "" }, wanted) {
  const text = `${title} ${also}`.toLowerCase();
  return wanted.toLowerCase().split(" ").every((word) => text.includes(word));
}

/**
 * @param {Session} session
 * @param {Place} place
 * @returns {Command[]} what the user can do here
 */
function commands(session, { open, info, search }) {
  const { words } = session;
  const here = open ? [
    ...(open.id ? [action(words.messages_search_here, search, "Ctrl ⇧ K")] : []),
    ...(open.peer || open.group ? [action(words.messages_about_here, () => info(open))] : []),
    ...(open.id ? [action(words.messages_media, () => withModule(import("../media/media-list.js"), words, ({ openMedia }) => openMedia(session, open.id)), "", words.messages_palette_media)] : []),
    ...(open.id ? actionsOf(session, open).map(({ word, act }) => action(`${session.store.nameOf(open)} · ${word}`, act)) : []),
  ] : [];
  const people = session.isGuest ? [] : [
    action(words.messages_new_group, () => withModule(import("../people/picker.js"), words, ({ openNewGroup }) => openNewGroup(session))),
    action(words.messages_open_groups, () => withModule(import("../people/open-groups.js"), words, ({ openOpenGroups }) => openOpenGroups(session)), "", words.messages_find_group),
    action(words.messages_people, () => withModule(import("../people/contacts.js"), words, ({ openContacts }) => openContacts(session)), "", words.messages_find),
    action(words.messages_invite_people, () => withModule(import("../people/invitations.js"), words, ({ openInvitations }) => openInvitations(session)), "", words.messages_palette_invite),
    action(words.messages_bots, () => withModule(import("../people/gallery.js"), words, ({ openGallery }) => openGallery(session))),
  ];
  const settings = () => withModule(import("../settings/settings.js"), words, ({ openSettings }) => openSettings(session));
  /** @param {"light" | "dark" | undefined} theme @param {string} name */
  const look = (theme, name) => setting(fill(words.messages_theme_to, { name }), () => withModule(import("../settings/settings.js"), words, ({ saveLook }) => saveLook({ theme })), words.messages_theme);
  return [
    ...here,
    ...people,
    ...(mayHaveKeys() ? [action(words.messages_shortcuts, () => withModule(import("../settings/settings.js"), words, ({ openShortcuts }) => openShortcuts(session)), "?")] : []),
    action(words.messages_logout, () => logOut(session)),
    setting(words.messages_profile, () => withModule(import("../settings/profile.js"), words, ({ openProfile }) => openProfile(session)), words.messages_palette_profile),
    look("dark", words.messages_theme_dark),
    look("light", words.messages_theme_light),
    look(undefined, words.messages_theme_system),
    ...[words.messages_size, words.messages_language, ...(session.hasNotifications ? [words.messages_notify] : [])].map((title) => setting(title, settings, words.messages_settings)),
  ];
}

/** @param {string} title @param {() => unknown} act @param {string} [keys] @param {string} [also] @returns {Command} */
function action(title, act, keys, also) {
  return { key: "actions", title, act, keys, also };
}

/** @param {string} title @param {() => unknown} act @param {string} [also] @returns {Command} */
function setting(title, act, also) {
  return { key: "settings", title, act, also };
}

/** @param {Session} session */
async function logOut(session) {
  const { words } = session;
  const question = session.isGuest ? words.messages_guest_out_question : words.messages_logout_question;
  if (await confirm(question, { yes: words.messages_logout, danger: session.isGuest })) session.logOut();
}
