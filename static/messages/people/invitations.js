// @ts-check
/** Invitation links: to a group, or to become contacts. Each is shown with a QR code. */

import { fill, make, moments } from "../../text.js";
import { ApiError, callApi, reasonOf } from "../parts/api.js";
import { loadRules } from "../parts/account-fields.js";
import { copyButton } from "../parts/copy-button.js";
import { attempt, field, input, load, namedList, noteLine, redraw, section, select, show, withModule } from "../parts/form.js";
import { button, confirm, openDialog, openPanel, toast } from "../parts/panel.js";
import { avatarOf, hueOf } from "../session/people.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} Invitation
 * @property {string} code
 * @property {string} group       empty: to become a contact of its maker
 * @property {string} user        who made it
 * @property {number} expires_at  Unix seconds; 0: never
 * @property {number} uses        how often it was accepted
 * @property {number} max_uses    0: no limit
 * @property {boolean} guests      whether people without an account come in
 */

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

const DAY = 86_400;
const PAGE = 100;
const HASH = /^#invite=([\w-]{22})$/;

/**
 * @param {string} hash  of an address
 * @returns {string} the code; empty: it is not the address of an invitation
 */
export function invitationCode(hash) {
  return HASH.exec(hash)?.[1] ?? "";
}

/**
 * @param {string} code
 * @returns {string} the address that the invited person opens
 */
function linkOf(code) {
  return `${location.origin}${location.pathname}#invite=${code}`;
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
 * The links of the user, or those of a group.
 *
 * @param {Session} session
 * @param {{ id: string, name: string }} [group]
 */
export function openInvitations(session, group) {
  const { words } = session;
  const root = make("div", "invitations");
  openPanel(group ? words.messages_group_link : words.messages_my_link, root);
  new InvitationsView(session, root, group);
}

/** Owns the content of the panel. */
class InvitationsView {
  /** @type {Invitation[]} */
  #invitations = [];
  /** The one whose code is shown. @type {Invitation | undefined} */
  #shown;
  /** Whether only people with an account come in, unless a link says otherwise. */
  #isClosed = false;

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   * @param {{ id: string, name: string } | undefined} group
   */
  constructor(session, root, group) {
    this.session = session;
    this.group = group;
    this.note = noteLine();
    this.body = make("div", "invitation-body");
    this.rules = loadRules(session.app);
    const hint = make("p", "muted", group ? fill(session.words.messages_group_link_hint, { name: group.name }) : session.words.messages_my_link_hint);
    if (!group) this.rules.then(({ registration }) => { if (!registration) hint.append(" ", session.words.messages_my_link_closed); }, () => {}); // then the view says less
    root.append(hint, this.note, this.body, this.#makeForm());
    this.#load();
  }

  /** @returns {Promise<boolean>} */
  #load() {
    const { session, group } = this;
    return load(this.body, this.note, session, async () => {
      this.#isClosed = await this.rules.then(({ registration }) => !registration, () => false); // then the view says less
      const page = await session.api("GET", "invitations", { ...(group && { group: group.id }), limit: PAGE });
      const now = Date.now() / 1000;
      this.#invitations = page.invitations.filter((/** @type {Invitation} */ each) => (
        each.group === (group?.id ?? "") && (!each.expires_at || each.expires_at > now) && (!each.max_uses || each.uses < each.max_uses)
      )).sort((/** @type {any} */ a, /** @type {any} */ b) => b.created - a.created);
      this.#shown = this.#invitations.find(({ code }) => code === this.#shown?.code) ?? this.#invitations[0];
      this.#draw();
    });
  }

  #draw() {
    const { words } = this.session;
    const shown = this.#shown;
    const parts = shown ? this.#code(shown) : [make("p", "muted", words.messages_no_links)];
    const others = this.#invitations.filter((each) => each !== shown);
    const rows = others.map((each) => this.#row(each));
    redraw(this.body, [...parts, ...(rows.length ? [section(words.messages_other_links, namedList(words.messages_other_links, rows))] : [])]);
  }

  /**
   * @param {Invitation} invitation
   * @returns {HTMLElement[]}
   */
  #code(invitation) {
    const { words } = this.session;
    const link = linkOf(invitation.code);
    const address = input({ value: link, readOnly: true });
    address.id = "invitation-link";
    const copy = copyButton(address, words.messages_copy_link, words);
    copy.dataset.key = "copy";
    const buttons = [copy];
    if (navigator.share) {
      const share = button(words.messages_share);
      share.dataset.key = "share";
      share.addEventListener("click", () => navigator.share({ url: link }).catch(() => {})); // the user changed their mind
      buttons.push(share);
    }
    const picture = make("div", "qr-frame");
    withModule(import("../parts/qr.js"), words, ({ qrPicture }) => picture.append(qrPicture(link, words.messages_qr)));
    return [
      picture, field(words.messages_link_address, address), make("p", "muted", this.#limits(invitation)),
      make("p", "card-actions", ...buttons, this.#revokeButton(invitation)),
    ];
  }

  /** @param {Invitation} invitation */
  #row(invitation) {
    const { words } = this.session;
    const open = button(words.messages_show_link, "quiet");
    open.dataset.key = `show:${invitation.code}`;
    open.addEventListener("click", () => {
      this.#shown = invitation;
      this.#draw();
    });
    return make("li", "person-row link-row", make("span", "muted", this.#limits(invitation)), make("span", "person-actions", open, this.#revokeButton(invitation)));
  }

  /** @param {Invitation} invitation */
  #limits({ expires_at: end, uses, max_uses: most, guests }) {
    const { words, language } = this.session;
    const forGuests = guests ? `${words.messages_link_for_guests} · ` : this.#isClosed ? `${words.messages_link_for_members} · ` : "";
    const until = forGuests + (end ? fill(words.messages_link_until, { when: moments(language).format(end * 1000) }) : words.messages_link_forever);
    if (!uses) return `${until} · ${words.messages_link_unused}`;
    const used = most ? fill(words.messages_link_used_of, { count: uses, most }) : fill(words.messages_link_used, { count: uses });
    return `${until} · ${used}`;
  }

  /** @param {Invitation} invitation */
  #revokeButton({ code }) {
    const { session } = this;
    const { words } = session;
    const revoke = button(words.messages_revoke, "quiet danger");
    revoke.dataset.key = `revoke:${code}`;
    revoke.addEventListener("click", async () => {
      if (!(await confirm(words.messages_revoke_question, { yes: words.messages_revoke, danger: true }))) return;
      await attempt(revoke, null, words, async () => {
        await session.api("POST", "invitations/revoke", { code });
        await this.#load();
      });
    });
    return revoke;
  }

  /** @returns {HTMLElement} */
  #makeForm() {
    const { session, group } = this;
    const { words } = session;
    const seconds = select([
      [String(DAY), words.messages_link_day], [String(7 * DAY), words.messages_link_week], [String(30 * DAY), words.messages_link_month], ["0", words.messages_link_always],
    ], String(7 * DAY));
    const uses = select([["0", words.messages_link_anybody], ["1", words.messages_link_one], ["10", words.messages_link_ten]], "0");
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_link_new));
    go.id = "invitation-create";
    const guests = input({ type: "checkbox" });
    guests.setAttribute("role", "switch");
    const forGuests = make("label", "switch", make("span", "", words.messages_link_guests), guests);
    forGuests.hidden = true;
    // without the rules, only people with an account are invited
    if (group) this.rules.then((rules) => { [forGuests.hidden, guests.checked] = [!rules.guests, Boolean(rules.guests) && !rules.registration]; }, () => {});
    const form = make("form", "panel-form", field(words.messages_link_ends, seconds), field(words.messages_link_uses, uses), forGuests, note, go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(go, note, words, async () => {
        await this.rules.catch(() => {}); // they set the switch
        this.#shown = await session.api("POST", "invitations/create", {
          ...(group && { group: group.id }), seconds: Number(seconds.value), uses: Number(uses.value), guests: guests.checked,
        });
        await this.#load();
      });
    });
    return section(words.messages_link_make, form);
  }
}
