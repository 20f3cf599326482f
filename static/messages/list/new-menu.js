// @ts-check
/** The menu of the button "+": a message, a group, and what features let one make in a conversation. */

import { added, addFeatures } from "../parts/additions.js";
import { withModule } from "../parts/form.js";
import { openMenu } from "../parts/menu.js";
import { chooseConversation } from "./choose.js";

/** @typedef {import("../session/session.js").Session} Session */

/** @typedef {import("../parts/menu.js").Row} Row */

/**
 * Opens the menu.
 *
 * @param {Session} session
 * @param {HTMLElement} anchor
 * @param {import("../session/store.js").Conversation | null} open  the open conversation: it is the first choice
 */
export async function openNewMenu(session, anchor, open) {
  await addFeatures(session, true);
  const { words } = session;
  const write = () => withModule(import("../people/contacts.js"), words, ({ openContacts }) => openContacts(session));
  const newGroup = () => withModule(import("../people/picker.js"), words, ({ openNewGroup }) => openNewGroup(session));
  const openGroups = () => withModule(import("../people/open-groups.js"), words, ({ openOpenGroups }) => openOpenGroups(session));
  const invite = () => withModule(import("../people/invitations.js"), words, ({ openInvitations }) => openInvitations(session));
  const newFolder = () => withModule(import("./folders.js"), words, ({ openFolder }) => openFolder(session, null));
  /** @type {Row[]} */
  const people = session.isGuest ? [] : [
    { word: words.messages_new_message, sign: "write", act: write },
    { word: words.messages_new_group, sign: "group", act: newGroup },
    { word: words.messages_open_groups, sign: "search", act: openGroups },
    { word: words.messages_invite_people, sign: "link", act: invite },
  ];
  const fromFeatures = added.news.map(({ word, sign, act }) => ({
    word, sign,
    act: async () => {
      const conversation = await chooseConversation(session, word, open);
      if (!conversation) return;
      session.open(conversation.id ? { conversation: conversation.id } : { user: conversation.peer });
      act(session, conversation);
    },
  }));
  /** @type {Row[]} */
  const folder = session.inbox.isOffered ? [{ word: words.messages_folder_new, sign: "folder", act: newFolder }] : [];
  openMenu({ label: words.messages_new_menu, groups: [people, fromFeatures, folder], anchor, from: () => anchor });
}
