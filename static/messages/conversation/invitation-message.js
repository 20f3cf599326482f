// @ts-check
/** An invitation to a group that somebody has sent to one user, who accepts or declines it. */

import { fill, make, numberOf, recordOf, textOf, timeOf } from "../../text.js";
import { attempt, noteLine } from "../parts/loading.js";
import { button } from "../parts/panel.js";
import { registerView } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** How an invitation has ended, as the server says it. */
const ENDED = new Set(["accepted", "declined", "revoked"]);

registerView("invitation", {
  draw: (entry, session) => {
    const { words } = session;
    const { code, status } = contentOf(entry);
    const root = make("div", "invitation-message", make("p", "text", textIn(entry, session)));
    if (code && entry.from !== session.user) root.append(...answers(entry, session));
    else root.append(make("p", "outcome", words[`messages_invitation_${status}`]));
    return root;
  },
  summary: (entry, words) => `${words.messages_invitation}: ${contentOf(entry).name}`,
});

/**
 * Reads an invitation. Its sender may have written anything there.
 *
 * @param {Entry} entry
 * @returns {{ group: string, name: string, code: string, status: string }} `code`: empty if one can neither accept nor decline any more
 */
function contentOf({ data }) {
  const { group, name, code, status: end, expires_at: expires } = recordOf(data);
  const isExpired = numberOf(expires) > 0 && timeOf(expires) <= Date.now();
  let status = isExpired ? "expired" : "sent";
  if (ENDED.has(end)) status = end;
  return { group: textOf(group), name: textOf(name), code: status === "sent" ? textOf(code) : "", status };
}

/**
 * @param {Entry} entry
 * @param {Session} session
 * @returns {string} who invites to which group
 */
function textIn(entry, { words, people, user }) {
  const { name } = contentOf(entry);
  if (entry.from === user) return fill(words.messages_invitation_to, { group: name });
  return fill(words.messages_invites_to_group, { name: people.nameOf(entry.from), group: name });
}

/**
 * The buttons of an invitation. The server edits the message when one of them was used.
 *
 * @param {Entry} entry
 * @param {Session} session
 * @returns {HTMLElement[]}
 */
function answers(entry, session) {
  const { words } = session;
  const { group, code } = contentOf(entry);
  const note = noteLine();
  const yes = button(words.messages_accept, "key");
  const no = button(words.messages_decline, "key");
  yes.addEventListener("click", () => attempt(yes, note, words, async () => {
    await session.api("POST", "invitations/accept", { code });
    await session.store.load();
    session.open({ conversation: Number(group) });
  }));
  no.addEventListener("click", () => attempt(no, note, words, () => session.api("POST", "invitations/revoke", { code })));
  return [make("div", "press-rows", make("p", "", yes, no)), note];
}
