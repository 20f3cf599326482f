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
  /** @param {string} wanted */
  const sectionsFor = (wanted) => {
    const found = all.filter((each) => isFound(each, wanted));
    const sections = ["actions", "settings"].map((key) => ({ key, rows: found.filter((each) => each.key === key) }));
    return sections.filter(({ rows }) => rows.length);
  };
  const finder = new Finder(session, {
    field, list, chips,
    commands: sectionsFor,
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
function commands(session, place) {
  const { words } = session;
  const shortcuts = () => withModule(import("../settings/settings.js"), words, ({ openShortcuts }) => openShortcuts(session));
  return [
    ...commandsHere(session, place),
    ...(session.isGuest ? [] : peopleCommands(session)),
    ...(mayHaveKeys() ? [action(words.messages_shortcuts, shortcuts, { keys: "?" })] : []),
    action(words.messages_logout, () => logOut(session)),
    ...settingCommands(session),
  ];
}

/**
 * @param {Session} session
 * @param {Place} place
 * @returns {Command[]} of the open conversation; none if it is the list
 */
function commandsHere(session, { open, info, search }) {
  if (!open) return [];
  const { words, store } = session;
  const about = open.peer || open.group ? [action(words.messages_about_here, () => info(open))] : [];
  if (!open.id) return about; // nothing has been written yet
  const media = () => withModule(import("../media/media-list.js"), words, ({ openMedia }) => openMedia(session, open.id));
  return [
    action(words.messages_search_here, search, { keys: "Ctrl ⇧ K" }),
    ...about,
    action(words.messages_media, media, { also: words.messages_palette_media }),
    ...actionsOf(session, open).map(({ word, act }) => action(`${store.nameOf(open)} · ${word}`, act)),
  ];
}

/**
 * @param {Session} session
 * @returns {Command[]}
 */
function peopleCommands(session) {
  const { words } = session;
  const newGroup = () => withModule(import("../people/picker.js"), words, ({ openNewGroup }) => openNewGroup(session));
  const openGroups = () => withModule(import("../people/open-groups.js"), words, ({ openOpenGroups }) => openOpenGroups(session));
  const people = () => withModule(import("../people/contacts.js"), words, ({ openContacts }) => openContacts(session));
  const invite = () => withModule(import("../people/invitations.js"), words, ({ openInvitations }) => openInvitations(session));
  const bots = () => withModule(import("../people/gallery.js"), words, ({ openGallery }) => openGallery(session));
  return [
    action(words.messages_new_group, newGroup),
    action(words.messages_open_groups, openGroups, { also: words.messages_find_group }),
    action(words.messages_people, people, { also: words.messages_find }),
    action(words.messages_invite_people, invite, { also: words.messages_palette_invite }),
    action(words.messages_bots, bots),
  ];
}

/**
 * @param {Session} session
 * @returns {Command[]}
 */
function settingCommands(session) {
  const { words } = session;
  const profile = () => withModule(import("../settings/profile.js"), words, ({ openProfile }) => openProfile(session));
  const settings = () => withModule(import("../settings/settings.js"), words, ({ openSettings }) => openSettings(session));
  /** @param {"light" | "dark" | undefined} theme  undefined: as the system @param {string} name */
  const look = (theme, name) => {
    const act = () => withModule(import("../settings/settings.js"), words, ({ saveLook }) => saveLook({ theme }));
    return setting(fill(words.messages_theme_to, { name }), act, words.messages_theme);
  };
  const titles = [words.messages_size, words.messages_language, ...(session.hasNotifications ? [words.messages_notify] : [])];
  return [
    setting(words.messages_profile, profile, words.messages_palette_profile),
    look("dark", words.messages_theme_dark),
    look("light", words.messages_theme_light),
    look(undefined, words.messages_theme_system),
    ...titles.map((title) => setting(title, settings, words.messages_settings)),
  ];
}

/** @param {string} title @param {() => unknown} act @param {{ keys?: string, also?: string }} [more] @returns {Command} */
function action(title, act, more = {}) {
  return { key: "actions", title, act, ...more };
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
