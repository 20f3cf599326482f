// @ts-check
/** *Invite people*: a link with its QR code, in words who comes in by it, and invitations by e-mail. */

import { fill, make, moments } from "../../text.js";
import { loadRules } from "../parts/account-fields.js";
import { rowsOf } from "../parts/api.js";
import { copyButton } from "../parts/copy-button.js";
import { attempt, field, input, load, loadStyle, namedList, noteLine, redraw, section, select, show, withModule } from "../parts/form.js";
import { button, confirm, openPanel } from "../parts/panel.js";
import { signOf } from "../parts/signs.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} Invitation
 * @property {string} code
 * @property {string} group       empty: to become a contact of its maker
 * @property {number} created     Unix seconds
 * @property {number} expires_at  Unix seconds; 0: never
 * @property {number} uses        how often it was accepted
 * @property {number} max_uses    0: no limit
 * @property {boolean} guests     whether people without an account come in
 */

/** @typedef {{ code: string, email: string, state: "waiting" | "sent" | "refused" | "joined", reason: string, created: number }} Mailed */
/** @typedef {{ waiting: number, sent: number, refused: number, joined: number }} Counts */

const STYLE = new URL("../later/invite.css", import.meta.url);
const DAY_SECONDS = 86_400;
const WEEK_SECONDS = 7 * DAY_SECONDS;
const PAGE = 100;
/** So many addresses are sent in one request. */
const MOST_MAILS = 500;
/** While mails are sent, each page of their list is loaded so often at most. */
const LOOK_MS = 2_000;
const ADDRESS = /[^\s,;:<>"'()[\]|]+@[^\s,;:<>"'()[\]|]+\.[^\s,;:<>"'()[\]|]+/g;

/**
 * @param {Session} session
 * @param {{ id: string, name: string }} [group]  missing: the user chooses
 */
export async function openInvite(session, group) {
  await loadStyle(STYLE);
  const root = make("div", "invite");
  openPanel(session.words.messages_invite_people, root);
  new InviteView(session, root, group);
}

/** @param {string} text @returns {string[]} the e-mail addresses in it, each once */
export function addressesIn(text) {
  return [...new Set((text.match(ADDRESS) ?? []).map((each) => each.replace(/\.$/, "").toLowerCase()))];
}

/** Owns the content of the panel. */
class InviteView {
  /** To what the user invites: a group, or (empty id) to be a contact. @type {{ id: string, name: string }} */
  #target;
  /** @type {Invitation[]} */
  #invitations = [];
  /** The one whose code is shown. @type {Invitation | undefined} */
  #shown;
  /** @type {import("../parts/account-fields.js").Rules | null} */
  #rules = null;
  /** Ids of the targets for which the panel has made a link by itself, or found one. @type {Set<string>} */
  #ready = new Set();
  /** @type {Mailed[]} */
  #mailed = [];
  #timer = 0;
  /** How many mails were known to be refused. */
  #refused = 0;

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   * @param {{ id: string, name: string } | undefined} group
   */
  constructor(session, root, group) {
    this.session = session;
    this.note = noteLine();
    this.body = make("div", "invitation-body");
    this.mails = make("div", "invite-mails");
    const groups = group ? [group] : this.#groups();
    this.#target = groups[0] ?? { id: "", name: "" };
    root.append(...(group ? [] : this.#choice(groups)), this.note, this.body, this.mails);
    this.#load();
  }

  /** @returns {{ id: string, name: string }[]} the groups of the user, that with the most members first */
  #groups() {
    const { store } = this.session;
    const groups = [...store.conversations.values()].filter(({ group, left, id }) => group && !left && id);
    groups.sort((a, b) => b.members - a.members || a.id - b.id);
    return groups.map((each) => ({ id: String(each.id), name: store.nameOf(each) }));
  }

  /**
   * @param {{ id: string, name: string }[]} groups
   * @returns {HTMLElement[]} the field in which the user chooses a group, or to be a contact; none if there are no groups
   */
  #choice(groups) {
    const { words } = this.session;
    if (!groups.length) return [];
    const options = groups.map(({ id, name }) => /** @type {[string, string]} */ ([id, name]));
    const box = select([...options, ["", words.messages_invite_contacts]], this.#target.id);
    box.id = "invite-to";
    box.onchange = () => {
      this.#target = groups.find(({ id }) => id === box.value) ?? { id: "", name: "" };
      this.#shown = undefined;
      this.body.replaceChildren();
      this.mails.replaceChildren();
      this.#load();
    };
    return [field(words.messages_invite_to, box)];
  }

  /** @returns {object} names the group in a request */
  get #group() {
    return this.#target.id ? { group: this.#target.id } : {};
  }

  /** Whether links let people without an account in, unless the user says otherwise. */
  get #guests() {
    return Boolean(this.#rules?.guests && !this.#rules.registration);
  }

  /**
   * Loads the links for the target. The first time it makes one if there is no usual one.
   *
   * @returns {Promise<boolean>}
   */
  #load() {
    const { session } = this;
    return load(this.body, this.note, session, async () => {
      const { id } = this.#target;
      this.#rules ??= await loadRules(session.app);
      /** @type {{ invitations: Invitation[] }} */
      const { invitations } = await session.api("GET", "invitations", { ...this.#group, limit: PAGE });
      if (id !== this.#target.id) return; // the user has chosen another one, which is loaded next

      const isReady = this.#ready.has(id);
      this.#invitations = invitations.filter((each) => each.group === id && isValid(each)).sort((a, b) => b.created - a.created);
      const present = this.#invitations.find(({ code }) => code === this.#shown?.code);
      const usual = this.#invitations.find(({ guests, max_uses: most }) => guests === this.#guests && !most);
      this.#shown = present ?? usual ?? (isReady ? this.#invitations[0] : undefined);
      if (!this.#shown && !isReady) await this.#make({ seconds: WEEK_SECONDS, uses: 0, guests: this.#guests });
      this.#ready.add(id);
      if (id !== this.#target.id) return;
      this.#draw();
      this.#loadMails();
    });
  }

  /**
   * Makes a link, and shows it.
   *
   * @param {{ seconds: number, uses: number, guests: boolean }} rules  `seconds`: until it ends, 0: never; `uses`: 0: no limit
   */
  async #make(rules) {
    const { id } = this.#target;
    const made = /** @type {Invitation} */ (await this.session.api("POST", "invitations/create", { ...this.#group, ...rules }));
    if (id !== this.#target.id) return;
    this.#shown = made;
    this.#invitations.unshift(made);
  }

  #draw() {
    const { words } = this.session;
    const shown = this.#shown;
    const rows = this.#invitations.filter((each) => each !== shown).map((each) => this.#row(each));
    const parts = shown ? this.#link(shown) : [make("p", "muted", words.messages_no_links)];
    parts.push(this.#form(!shown));
    if (rows.length) parts.push(folded(words.messages_other_links, false, namedList(words.messages_other_links, rows)));
    redraw(this.body, parts);
  }

  // --- the link -----------------------------------------------------------------------------------------------

  /**
   * @param {Invitation} invitation
   * @returns {HTMLElement[]}
   */
  #link(invitation) {
    const { words } = this.session;
    const link = `${location.origin}${location.pathname}#invite=${invitation.code}`;
    const address = input({ value: link, readOnly: true });
    address.id = "invitation-link";
    address.dir = "ltr";
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
    const isForAnybody = invitation.guests || this.#rules?.registration;
    const who = make("p", "invite-who", signOf(isForAnybody ? "person" : "rules"), make("span", "", this.#who(invitation)));
    return [
      picture, field(words.messages_link_address, address), make("p", "card-actions", ...buttons, this.#revokeButton(invitation)), who,
      make("p", "muted", this.#limits(invitation)),
    ];
  }

  /** @param {Invitation} invitation @returns {string} who gets in by it, in words */
  #who({ guests }) {
    const { words } = this.session;
    const { name } = this.#target;
    const byMembers = this.#rules?.registration ? words.messages_invite_open : words.messages_invite_closed;
    const purpose = name ? fill(words.messages_invite_joins, { name }) : words.messages_invite_befriends;
    return `${guests ? words.messages_invite_anybody : byMembers} ${purpose}`;
  }

  /** @param {Invitation} invitation @returns {string} until when it is valid, and how often it was used */
  #limits({ expires_at: end, uses, max_uses: most }) {
    const { words, language } = this.session;
    const until = end ? fill(words.messages_link_until, { when: moments(language).format(end * 1000) }) : words.messages_link_forever;
    if (!uses) return `${until} · ${words.messages_link_unused}`;
    const used = most ? fill(words.messages_link_used_of, { count: uses, most }) : fill(words.messages_link_used, { count: uses });
    return `${until} · ${used}`;
  }

  /** @param {Invitation} invitation @returns {HTMLElement} of another link than the one that is shown */
  #row(invitation) {
    const { words } = this.session;
    const open = button(words.messages_show_link, "quiet");
    open.dataset.key = `show:${invitation.code}`;
    open.addEventListener("click", () => {
      this.#shown = invitation;
      this.#draw();
    });
    const kind = invitation.guests ? words.messages_link_for_guests : words.messages_link_for_members;
    const about = make("span", "muted", `${kind} · ${this.#limits(invitation)}`);
    return make("li", "person-row link-row", about, make("span", "person-actions", open, this.#revokeButton(invitation)));
  }

  /** @param {{ code: string, email?: string }} invitation  `email`: to which it was sent */
  #revokeButton({ code, email }) {
    const { session } = this;
    const { words } = session;
    const revoke = button(words.messages_revoke, "quiet danger");
    revoke.dataset.key = `revoke:${code}`;
    if (email) revoke.setAttribute("aria-label", `${words.messages_revoke}: ${email}`);
    revoke.addEventListener("click", async () => {
      if (!(await confirm(words.messages_revoke_question, { yes: words.messages_revoke, danger: true }))) return;
      await attempt(revoke, null, words, async () => {
        await session.api("POST", "invitations/revoke", { code });
        await this.#load();
      });
    });
    return revoke;
  }

  /** @param {boolean} isOpen @returns {HTMLElement} makes a link with other rules */
  #form(isOpen) {
    const { words } = this.session;
    /** Seconds, 0 for no end, and the words for them. @type {[string, string][]} */
    const ends = [
      [String(DAY_SECONDS), words.messages_link_day], [String(WEEK_SECONDS), words.messages_link_week],
      [String(30 * DAY_SECONDS), words.messages_link_month], ["0", words.messages_link_always],
    ];
    const seconds = select(ends, String(WEEK_SECONDS));
    const uses = select([["0", words.messages_link_anybody], ["1", words.messages_link_one], ["10", words.messages_link_ten]], "0");
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_link_new));
    go.id = "invitation-create";
    const guests = input({ type: "checkbox", checked: this.#guests });
    guests.setAttribute("role", "switch");
    const forGuests = make("label", "switch", make("span", "", words.messages_link_guests), guests);
    forGuests.hidden = !this.#rules?.guests;
    const form = make("form", "panel-form", field(words.messages_link_ends, seconds), field(words.messages_link_uses, uses), forGuests, note, go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(go, note, words, async () => {
        await this.#make({ seconds: Number(seconds.value), uses: Number(uses.value), guests: guests.checked });
        this.#draw();
      });
    });
    return folded(words.messages_link_make, isOpen, form);
  }

  // --- by e-mail ----------------------------------------------------------------------------------------------

  /** Loads the list of the invited addresses; again and again while mails are sent. */
  async #loadMails() {
    const { session } = this;
    const { id } = this.#target;
    clearTimeout(this.#timer);
    if (!id || !this.mails.isConnected) return; // contacts are invited by the link
    /** @type {Counts} */
    let counts = { waiting: 0, sent: 0, refused: 0, joined: 0 };
    let refusal = "";
    const rows = await rowsOf("mails", async (cursor) => {
      const page = await session.api("GET", "invitations/mails", { group: id, limit: PAGE, cursor });
      ({ counts, refusal } = page);
      return page;
    }).catch(() => null); // a server of the release before
    if (!rows || id !== this.#target.id || !this.mails.isConnected) return;
    this.#mailed = rows;
    if (!this.mails.childElementCount) this.mails.append(...this.#mailParts(refusal));
    this.#drawMails(counts);
    if (counts.waiting) this.#timer = setTimeout(() => this.#loadMails(), LOOK_MS * Math.max(1, rows.length / PAGE));
  }

  /**
   * @param {string} refusal  why the server sends no mails; empty: it does
   * @returns {HTMLElement[]} the form for addresses, and a place for their list
   */
  #mailParts(refusal) {
    const { words } = this.session;
    if (refusal === "role") return []; // the user is neither owner nor moderator of the app
    if (refusal) return [section(words.messages_invite_mail, make("p", "muted", words.messages_invite_no_mail))];
    const text = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
    Object.assign(text, { id: "invite-addresses", rows: 3, spellcheck: false, autocomplete: "off", inputMode: "email", placeholder: "ann@example.com, bob@example.com" });
    text.dir = "ltr";
    const file = input({ type: "file", accept: ".csv,.tsv,.txt,text/csv,text/plain", hidden: true });
    const choose = button(words.messages_invite_file);
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", ""));
    go.id = "invite-send";
    const note = noteLine();
    const count = () => {
      const number = addressesIn(text.value).length;
      go.textContent = number ? fill(words.messages_invite_send, { count: number }) : words.messages_appeal_send;
      go.disabled = !number;
    };
    count();
    text.addEventListener("input", count);
    choose.addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      const content = await file.files?.[0]?.text() ?? "";
      file.value = "";
      text.value = addressesIn(`${text.value}\n${content}`).join("\n");
      show(note, text.value ? "" : words.messages_invite_none);
      count();
      text.focus();
    });
    const hinted = field(words.messages_invite_addresses, text, words.messages_invite_addresses_hint);
    const form = make("form", "panel-form", hinted, make("p", "card-actions", choose, go), file, note);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(go, note, words, async () => {
        const refused = await this.#send(addressesIn(text.value));
        text.value = refused.map(({ email }) => email).join("\n");
        count();
        show(note, refused.map(({ email, reason }) => `${email}: ${this.#objection(reason)}`).join("\n"));
        await this.#loadMails();
      });
    });
    return [section(words.messages_invite_mail, form, make("div", "invite-progress"))];
  }

  /** @param {string[]} emails @returns {Promise<{ email: string, reason: string }[]>} those that are not invited */
  async #send(emails) {
    const refused = [];
    for (let from = 0; from < emails.length; from += MOST_MAILS) {
      const some = emails.slice(from, from + MOST_MAILS);
      const [language] = this.session.language.split("-");
      const answer = await this.session.api("POST", "invitations/mail", { ...this.#group, emails: some, guests: this.#guests, language });
      refused.push(...answer.refused);
    }
    return refused;
  }

  /** @param {string} reason  of the server @returns {string} why an address was not invited, in words */
  #objection(reason) {
    const { words } = this.session;
    return { no_address: words.messages_invite_no_address, invited: words.messages_invite_invited }[reason] ?? words.messages_invite_often;
  }

  /**
   * Draws how far the mails are sent, and the list of their addresses.
   *
   * @param {Counts} counts
   */
  #drawMails({ waiting, sent, refused, joined }) {
    const { words } = this.session;
    const place = this.mails.querySelector(".invite-progress");
    const all = waiting + sent + refused + joined;
    if (!(place instanceof HTMLElement) || !all) return place?.replaceChildren();

    const facts = [fill(words.messages_invite_progress, { count: sent + joined, all }), fill(words.messages_invite_joined, { count: joined })];
    if (refused) facts.push(`${words.messages_invite_refused}: ${refused}`);
    const progress = make("p", "muted", facts.join(" · "));
    progress.setAttribute("role", "status");
    const bar = /** @type {HTMLProgressElement} */ (make("progress", ""));
    Object.assign(bar, { max: all, value: all - waiting });
    bar.setAttribute("aria-label", words.messages_invite_mail);

    const order = ["refused", "waiting", "sent", "joined"];
    this.#mailed.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state) || b.created - a.created);
    const rows = this.#mailed.map((each) => this.#mailRow(each));
    const isOpen = place.querySelector("details")?.open || refused > this.#refused; // it opens for a new refusal
    this.#refused = refused;
    redraw(place, [progress, ...(waiting ? [bar] : []), folded(words.messages_invite_list, isOpen, namedList(words.messages_invite_list, rows))]);
  }

  /** @param {Mailed} mailed */
  #mailRow(mailed) {
    const { words } = this.session;
    const { email, state, reason } = mailed;
    const states = { waiting: words.messages_invite_waiting, sent: words.messages_invite_sent, refused: words.messages_invite_refused, joined: words.messages_invite_came };
    const mark = make("span", state === "refused" ? "mark danger" : "mark", states[state]);
    const text = make("span", "person-words", make("span", "person-name", make("bdi", "", email), mark));
    if (reason) text.append(make("small", "", reason));
    const row = make("li", "person-row", text);
    if (state !== "joined") row.append(make("span", "person-actions", this.#revokeButton(mailed)));
    return row;
  }
}

/** @param {Invitation} invitation @returns {boolean} whether somebody can still come in by it */
function isValid({ expires_at: end, uses, max_uses: most }) {
  return (!end || end > Date.now() / 1000) && (!most || uses < most);
}

/**
 * @param {string} title
 * @param {boolean} isOpen
 * @param {HTMLElement} content
 * @returns {HTMLElement} what a click on the title shows
 */
function folded(title, isOpen, content) {
  const made = /** @type {HTMLDetailsElement} */ (make("details", "invite-more", make("summary", "", title), content));
  made.open = isOpen;
  return made;
}
