// @ts-check
/** Invitation links that somebody opens: to a group, or to become contacts. */

import { fill, make } from "../../text.js";
import { ApiError, callApi, reasonOf } from "../parts/api.js";
import { attempt, noteLine, withModule } from "../parts/form.js";
import { button, openDialog, toast } from "../parts/panel.js";
import { avatarOf, hueOf } from "../session/people.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} Preview
 * @property {string} group
 * @property {string} name
 * @property {number} members
 * @property {string} user
 * @property {string} nickname
 * @property {string} avatar
 * @property {string} group_avatar  address of the picture of the group; empty: none
 * @property {string} description   of the group
 * @property {boolean} guests  whether people without an account come in
 */

const HASH = /^#invite=([\w-]{22})$/;

/**
 * @param {string} hash  of an address
 * @returns {string} the code; empty: it is not the address of an invitation
 */
export function invitationCode(hash) {
  return HASH.exec(hash)?.[1] ?? "";
}

/**
 * @param {number} count
 * @param {Record<string, string>} words
 * @returns {string} "3 members"
 */
export function membersText(count, words) {
  return fill(words.messages_members, { count });
}

/**
 * What an invitation is for, in one sentence; with or without a login.
 *
 * @param {Preview} preview
 * @param {Record<string, string>} words
 * @returns {string}
 */
export function invitationText({ group, name, nickname }, words) {
  if (group) return fill(words.messages_invites_to_group, { name: nickname || words.messages_somebody, group: name });
  return fill(words.messages_invites_to_contact, { name: nickname || words.messages_somebody });
}

/** @param {Preview} preview @returns {HTMLElement} the picture of the group, or of the person who invites */
export function invitationPicture({ group, name, group_avatar: groupAvatar, user, nickname, avatar }) {
  return group ? avatarOf(name, groupAvatar, "group large") : avatarOf(nickname, avatar, `${hueOf(user)} large`);
}

/**
 * @param {string} app
 * @param {string} code
 * @returns {Promise<Preview>} rejected with ApiError if it is not valid any more
 */
export async function showInvitation(app, code) {
  if (!code) throw new ApiError("unknown_invitation", "");
  return callApi(app, "", "GET", "invitations/show", { code });
}

/**
 * Says who was not added to a group, but was sent an invitation.
 *
 * @param {Session} session
 * @param {{ invited?: string[] }} answer  of the server
 */
export function tellInvited({ words, people }, { invited = [] }) {
  if (!invited.length) return;
  const names = invited.map((user) => people.nameOf(user)).join(words.messages_and);
  toast(fill(words.messages_invitations_sent, { names }));
}

/**
 * Shows an invitation, which the user may accept.
 *
 * @param {Session} session
 * @param {string} code
 */
export async function followInvitation(session, code) {
  const { words } = session;
  /** @type {Preview} */
  let preview;
  try {
    preview = await showInvitation(session.app, code);
  } catch (error) {
    return toast(reasonOf(error, words));
  }
  if (preview.user === session.user) {
    if (preview.group) return session.open({ conversation: Number(preview.group) });
    return toast(words.messages_own_link);
  }
  const note = noteLine();
  const cancel = button(words.messages_not_now);
  const accept = button(preview.group ? words.messages_join : words.messages_accept, "wide");
  accept.id = "invitation-accept";
  const head = make("div", "card-head", invitationPicture(preview), make("p", "invitation-text", invitationText(preview, words)));
  if (preview.group) head.append(make("p", "muted", membersText(preview.members, words)), make("p", "card-text", preview.description));
  const layer = openDialog(words.messages_invitation, make("div", "card-of-person", head, note, make("p", "card-row", cancel, accept)));
  accept.focus();
  cancel.addEventListener("click", layer.close);
  accept.addEventListener("click", () => attempt(accept, note, words, async () => {
    const { group, user } = await session.api("POST", "invitations/accept", { code });
    await Promise.all([session.store.load(), session.people.refresh([user])]);
    layer.close();
    session.open(group ? { conversation: Number(group) } : { user });
  }));
}

/**
 * The view with which the user invites people: to a group, or as contacts.
 *
 * @param {Session} session
 * @param {{ id: string, name: string }} [group]
 */
export function openInvitations(session, group) {
  withModule(import("./invite.js"), session.words, ({ openInvite }) => openInvite(session, group));
}
