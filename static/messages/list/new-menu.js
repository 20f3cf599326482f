// @ts-check
/** The menu of the button "+": a message, a group, and what features let one make in a conversation. */

import { added, addFeatures } from "../parts/additions.js";
import { withModule } from "../parts/form.js";
import { openMenu } from "../parts/menu.js";
import { chooseConversation } from "./choose.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @param {Session} session
 * @param {HTMLElement} anchor
 * @param {import("../session/store.js").Conversation | null} open  the open conversation: it is the first choice
 */
export async function openNewMenu(session, anchor, open) {
  await addFeatures(session, true);
  const { words } = session;
  /** @type {import("../parts/menu.js").Row[]} */
  const people = session.isGuest ? [] : [
    { word: words.messages_new_message, sign: "write", act: () => withModule(import("../people/contacts.js"), words, ({ openContacts }) => openContacts(session)) },
    { word: words.messages_new_group, sign: "group", act: () => withModule(import("../people/picker.js"), words, ({ openNewGroup }) => openNewGroup(session)) },
    { word: words.messages_open_groups, sign: "search", act: () => withModule(import("../people/open-groups.js"), words, ({ openOpenGroups }) => openOpenGroups(session)) },
    { word: words.messages_invite_people, sign: "link", act: () => withModule(import("../people/invitations.js"), words, ({ openInvitations }) => openInvitations(session)) },
  ];
  const made = added.news.map(({ word, sign, act }) => ({
    word, sign,
    act: async () => {
      const conversation = await chooseConversation(session, word, open);
      if (!conversation) return;
      session.open(conversation.id ? { conversation: conversation.id } : { user: conversation.peer });
      act(session, conversation);
    },
  }));
  /** @type {import("../parts/menu.js").Row[]} */
  const folder = session.inbox.isOffered ? [{ word: words.messages_folder_new, sign: "folder", act: () => withModule(import("./folders.js"), words, ({ openFolder }) => openFolder(session, null)) }] : [];
  openMenu({ label: words.messages_new_menu, groups: [people, made, folder], anchor, from: () => anchor });
}
