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
  if (invited.length) toast(fill(words.messages_invitations_sent, { names: invited.map((user) => people.nameOf(user)).join(words.messages_and) }));
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
  const no = button(words.messages_not_now);
  const yes = button(preview.group ? words.messages_join : words.messages_accept, "wide");
  yes.id = "invitation-accept";
  const picture = preview.group ? avatarOf(preview.name, preview.group_avatar, "group large") : avatarOf(preview.nickname, preview.avatar, `${hueOf(preview.user)} large`);
  const text = make("p", "invitation-text", invitationText(preview, words));
  const members = preview.group ? [make("p", "muted", membersText(preview.members, words)), make("p", "card-text", preview.description)] : [];
  const content = make("div", "card-of-person", make("div", "card-head", picture, text, ...members), note, make("p", "card-row", no, yes));
  const layer = openDialog(words.messages_invitation, content);
  yes.focus();
  no.addEventListener("click", layer.close);
  yes.addEventListener("click", () => attempt(yes, note, words, async () => {
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
