// @ts-check
/** What a group is: its name, members, roles, rules and media. */

import { fill, make } from "../../text.js";
import { reasonOf, rowsOf } from "../parts/api.js";
import { pictureButtons } from "../people/avatar-crop.js";
import { HooksView } from "../people/bots.js";
import { openCard } from "../people/card.js";
import { SEARCH_AFTER_MS } from "../people/directory.js";
import { attempt, field, input, load, loadStyle, namedList, noteLine, redraw, section, select, show, switchBox } from "../parts/form.js";
import { membersText, openInvitations, tellInvited } from "../people/invitations.js";
import { mediaStrip, openMedia } from "../media/media-list.js";
import { kindRules, kindText } from "../people/group-kinds.js";
import { plain } from "../parts/formatted.js";
import { ALL_NAMES, fitOf } from "../parts/names.js";
import { button, confirm, openDialog, openPanel, toast, whenLeft } from "../parts/panel.js";
import { signOf } from "../parts/signs.js";
import { summaryOf } from "../parts/summary.js";
import { avatarOf, hueOf } from "../session/people.js";
import { personRow } from "../people/person-row.js";
import { choosePeople } from "../people/picker.js";
import { openNotices } from "../settings/notice-settings.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../parts/entries.js").Entry} Entry */
/** @typedef {"owner" | "admin" | "member"} Role */
/** @typedef {{ user: string, role: Role, muted_until: number }} Member */

/**
 * @typedef {object} Group
 * @property {string} group
 * @property {string} name
 * @property {string} avatar    address of the picture; empty: none
 * @property {string} description
 * @property {string} handle    by which messages to any group mention its members; empty: none
 * @property {Role} role        ours
 * @property {number} muted_until
 * @property {"all" | "since_joining"} history  what members who join from now on can read
 * @property {Role} invite      the least role that may
 * @property {Role} rename
 * @property {Role} pin
 * @property {"mentions" | "all"} bots  what bots see of it
 * @property {"member" | "admin"} write
 * @property {"member" | "admin"} reply
 * @property {boolean} open
 * @property {"" | "members" | "all"} everybody
 */

/** @type {Record<Role, number>} */
const RANK = { member: 0, admin: 1, owner: 2 };
/** Members on a page of the list. */
const PAGE = 500;
/** So many of the pinned messages are shown. */
const MOST_PINS = 3;
/** With more members, one can search them. */
const FIND_FROM = 7;
/** The server stops a search after a time, or so many members. */
const FOUND_PAGE = 100;
/** So many times it is continued without a result. */
const EMPTY_PAGES = 5;
// In characters.
const NAME_LENGTH = 50;
const DESCRIPTION_LENGTH = 500;
const HANDLE_LENGTH = 32;
const HANDLE = /^[\p{L}\p{N}_][\p{L}\p{N}_.-]*[\p{L}\p{N}_]$/u;
const HOUR_SECONDS = 3_600;

/**
 * @param {Session} session
 * @param {number} conversation
 * @param {() => void} search  begins a search in it
 */
export async function openGroupInfo(session, conversation, search) {
  await loadStyle(new URL("../later/group-info.css", import.meta.url));
  const root = make("div", "group-info");
  const layer = openPanel(session.words.messages_group_info, root);
  const view = new GroupView(session, root, String(conversation), layer.close, async () => {
    layer.close();
    await whenLeft();
    search();
  });
  layer.closed.then(() => view.close());
}

/** Owns the content of the panel. */
class GroupView {
  /** @type {Group | null} */
  #group = null;
  /** @type {Member[]} */
  #members = [];
  /** Number of all members; in a large group, more than are listed. */
  #count = 0;
  /** @type {HooksView | undefined} */
  #hooks;
  #text = input({ type: "search", maxLength: NAME_LENGTH, enterKeyHint: "search" });
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #searching;
  #find;
  #list = make("div", "member-list");
  #media = make("div", "group-media");
  #pins = make("div", "group-pins");
  /** Whether we are leaving: the group cannot be loaded any more. */
  #isLeaving = false;
  /** @type {(() => void)[]} */
  #ends;

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   * @param {string} id
   * @param {() => void} leave   closes the panel
   * @param {() => void} search  closes it, and begins a search in the group
   */
  constructor(session, root, id, leave, search) {
    this.session = session;
    this.id = id;
    this.leave = leave;
    this.search = search;
    this.note = noteLine();
    this.body = make("div", "group-body");
    this.#text.id = this.#text.dataset.key = "member-text";
    this.#text.addEventListener("input", () => {
      this.#drawMembers();
      clearTimeout(this.#searching);
      this.#searching = setTimeout(() => this.#search(), SEARCH_AFTER_MS);
    });
    this.#find = field(session.words.messages_find_member, this.#text);
    root.append(this.note, this.body);
    this.#ends = [
      session.on("people", () => this.#draw()),
      session.on("entry", ({ conversation, kind }) => {
        const isChange = String(conversation) === id && ["group", "join", "leave"].includes(kind);
        if (isChange && !this.#isLeaving) this.#load();
      }),
      session.people.watch(() => this.#members.map(({ user }) => user)),
    ];
    this.#load();
    this.#loadMedia();
    this.#loadPins();
  }

  close() {
    clearTimeout(this.#searching);
    for (const end of this.#ends) end();
  }

  /** Loads the group and its members, and draws them. @returns {Promise<boolean>} */
  #load() {
    const { session, id } = this;
    return load(this.body, this.note, session, async () => {
      const [group, { members, count }] = await Promise.all([session.api("GET", "groups/show", { group: id }), loadMembers(session, id)]).catch((error) => {
        if (error.code === "unknown_group") {
          this.#group = null; // we are no member any more
          this.body.replaceChildren();
        }
        throw error;
      });
      this.#group = group;
      this.#members = members;
      this.#count = count;
      this.#draw();
      await session.people.refresh(members.map(({ user }) => user));
      this.#search();
    });
  }

  /** Lets the server search the members of a large group: not all of them are loaded. Those that it finds stay. */
  async #search() {
    const { session, id } = this;
    const text = this.#text.value.trim();
    if (!text || this.#members.length >= this.#count) return;
    const present = new Set(this.#members.map(({ user }) => user));
    try {
      let cursor = "";
      for (let pages = 0; pages < EMPTY_PAGES; pages++) {
        const page = await session.api("GET", "groups/members", { group: id, text, cursor, limit: FOUND_PAGE });
        const found = page.members.filter((/** @type {Member} */ { user }) => !present.has(user));
        this.#members.push(...found);
        await session.people.load(found.map((/** @type {Member} */ { user }) => user));
        this.#drawMembers();
        cursor = page.next;
        if (found.length || !cursor) break;
      }
    } catch (error) {
      toast(reasonOf(error, session.words));
    }
  }

  #draw() {
    const group = this.#group;
    if (!group) return;
    const { words } = this.session;
    const members = section(words.messages_member_list, ...(this.#count > FIND_FROM ? [this.#find] : []), this.#list);
    redraw(this.body, [this.#head(group), this.#icons(group), this.#media, this.#pins, members, this.#end(group)]);
    this.#drawMembers();
  }

  /** @param {Group} group */
  #head(group) {
    const { session } = this;
    const { words } = session;
    const hue = hueOf(`#${this.id}`);
    const facts = make("p", "presence");
    if (group.handle) facts.append(make("bdi", "", `@${group.handle}`), " · ");
    facts.append([membersText(this.#count, words), kindText(group, words)].filter(Boolean).join(" · "));
    const head = make("div", "card-head", avatarOf(group.name, group.avatar, `group large ${hue}`), make("bdi", "card-name", group.name), facts);
    if (group.description) head.append(make("p", "card-text", group.description));
    if (!this.#may(group.rename)) return head;
    const buttons = pictureButtons(session, group.avatar, this.note, (avatar) => this.#update({ avatar }));
    buttons.append(this.#button("rename", words.messages_group_edit, () => this.#edit(group), "link"));
    head.append(buttons);
    return head;
  }

  /** @param {Partial<Pick<Group, "name" | "avatar" | "description" | "handle">>} changes */
  async #update(changes) {
    const { session, id } = this;
    this.#group = await session.api("POST", "groups/update", { group: id, ...changes });
    this.#draw();
  }

  /**
   * What one does most, as icons.
   *
   * @param {Group} group
   */
  #icons(group) {
    const { session, id } = this;
    const { words, wishes } = session;
    const conversation = Number(id);
    const icons = [];
    if (session.hasNotifications) {
      const sign = wishes.isQuiet(conversation, true) ? "mute" : "bell";
      icons.push(this.#icon("mute", sign, words.messages_mute_short, words.messages_notify, () => openNotices(session, conversation)));
    }
    icons.push(this.#icon("search", "search", words.messages_search, words.messages_search_here, this.search));
    if (this.#may(group.invite) && !session.isGuest) {
      const invite = () => openInvitations(session, { id, name: group.name });
      icons.push(this.#icon("add", "person", words.messages_add, words.messages_add_members, () => this.#addMembers()));
      icons.push(this.#icon("link", "link", words.messages_link_address, words.messages_group_link, invite));
    }
    return make("div", "icon-row", ...icons);
  }

  /**
   * @param {string} key
   * @param {import("../parts/signs.js").Sign} sign
   * @param {string} label  short
   * @param {string} name   the whole one
   * @param {() => void} act
   */
  #icon(key, sign, label, name, act) {
    const made = this.#button(key, "", act, "icon-button");
    made.append(signOf(sign), make("span", "", label));
    if (name !== label) made.setAttribute("aria-label", `${label}: ${name}`);
    return made;
  }

  /** @param {Group} group @returns {HTMLElement} at the end: the rules, and leaving it */
  #end(group) {
    const { words } = this.session;
    const rules = this.#button("rules", "", () => this.#openRules(group), "panel-row");
    rules.append(signOf("rules"), make("span", "", words.messages_rules));
    const leave = this.#button("leave", "", (control) => this.#leaveGroup(control, group), "panel-row danger");
    leave.append(signOf("leave"), make("span", "", words.messages_leave));
    return make("div", "panel-end", ...(RANK[group.role] >= RANK.admin ? [rules] : []), ...(group.everybody ? [] : [leave]));
  }

  /** The newest pictures, and the way to all media. */
  async #loadMedia() {
    const { session } = this;
    const all = this.#button("media", "", () => openMedia(session, Number(this.id)), "panel-row");
    all.append(signOf("media"), make("span", "", session.words.messages_media));
    this.#media.replaceChildren(all);
    const strip = await mediaStrip(session, Number(this.id)).catch(() => null); // then all of it is behind the button
    if (strip) this.#media.append(strip);
  }

  /** Shows the first pinned messages; without an answer, nothing. */
  async #loadPins() {
    const { session } = this;
    const title = session.words.messages_pins;
    const { messages } = await session.messenger.pins(Number(this.id)).catch(() => ({ messages: /** @type {Entry[]} */ ([]) }));
    await session.people.load(messages.map(({ from }) => from));
    const rows = messages.slice(0, MOST_PINS).map((entry) => {
      const row = button("", "panel-row");
      row.append(signOf("pin"), make("bdi", "", `${session.people.nameOf(entry.from)}: `, plain.draw(summaryOf(entry, session.words))));
      row.addEventListener("click", () => {
        this.leave();
        session.open({ conversation: Number(this.id), message: entry.id });
      });
      return make("li", "", row);
    });
    this.#pins.replaceChildren(...(rows.length ? [section(title, namedList(title, rows))] : []));
  }

  /** Draws the members for what is typed: first those whose names begin with it, then those online, then owners and admins. */
  #drawMembers() {
    const group = this.#group;
    if (!group) return;
    const { words, language, people, user: self } = this.session;
    const wanted = this.#text.value;
    const collator = new Intl.Collator(language);
    const isOnline = (/** @type {string} */ user) => user === self || people.card(user)?.presence === "online";
    const candidates = this.#members.map((member) => {
      const name = people.nameOf(member.user);
      const fit = fitOf(`${name} ${people.card(member.user)?.name ?? ""}`, wanted);
      return { member, name, fit, online: Number(isOnline(member.user)), rank: RANK[member.role] };
    });
    const fitting = candidates.filter(({ fit }) => fit < 2);
    fitting.sort((a, b) => a.fit - b.fit || b.online - a.online || b.rank - a.rank || collator.compare(a.name, b.name));
    const rows = fitting.map(({ member }) => this.#memberRow(group, member));
    redraw(this.#list, rows.length ? [namedList(words.messages_member_list, rows)] : [make("p", "muted", words.messages_search_none)]);
  }

  /**
   * @param {Group} group
   * @param {Member} member
   */
  #memberRow(group, member) {
    const { session } = this;
    const { words, people } = session;
    const marks = [];
    if (member.user === session.user) marks.push(make("span", "mark", words.you));
    if (member.role !== "member") marks.push(make("span", "mark", member.role === "owner" ? words.messages_owner : words.messages_admin));
    if (member.muted_until) marks.push(make("span", "mark danger", words.messages_is_muted));
    const manage = this.#button(`manage:${member.user}`, words.messages_manage, () => this.#manage(group, member));
    manage.setAttribute("aria-label", fill(words.messages_manage_member, { name: people.nameOf(member.user) }));
    manage.setAttribute("aria-haspopup", "dialog");
    const actions = this.#isBelow(group, member) ? [manage] : [];
    return personRow(session, member.user, () => openCard(session, member.user), { marks, actions });
  }

  /** @param {Group} group  whose rules are shown in a dialog; each change takes effect at once */
  #openRules(group) {
    const { session, id } = this;
    const { words } = session;
    /** @param {string} route @param {object} fields */
    const post = async (route, fields) => {
      const changed = await session.api("POST", `groups/${route}`, { group: id, ...fields });
      this.#group = changed;
      return changed;
    };
    /** @param {"bots" | "invite" | "rename" | "pin"} rule @param {string} label @param {[string, string][]} offered */
    const choice = (rule, label, offered) => {
      const box = select(offered, group[rule]);
      box.dataset.key = rule;
      box.addEventListener("change", async () => {
        if (!(await attempt(box, null, words, () => post("options", { [rule]: box.value })))) box.value = group[rule];
      });
      return field(label, box);
    };
    /** @type {[string, string][]} */
    const roles = [["member", words.messages_all_members], ["admin", words.messages_admins]];
    this.#hooks ??= new HooksView(session, id);
    openDialog(words.messages_rules, make(
      "div", "panel-form group-rules",
      ...kindRules(session, group, post),
      switchBox(words.messages_history_all, group.history === "all", words, (on) => post("options", { history: on ? "all" : "since_joining" })),
      choice("invite", words.messages_may_invite, roles),
      choice("rename", words.messages_may_rename, roles),
      choice("pin", words.messages_may_pin, roles),
      choice("bots", words.messages_bots_see, [["mentions", words.messages_bots_see_mentions], ["all", words.messages_bots_see_all]]),
      this.#hooks.root,
    ));
  }

  /** @param {Group} group  whose name, description and handle are changed in a dialog */
  #edit(group) {
    const { words } = this.session;
    const name = input({ value: group.name, maxLength: NAME_LENGTH, required: true });
    name.id = "group-name";
    const description = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
    Object.assign(description, { id: "group-description", rows: 3, maxLength: DESCRIPTION_LENGTH, value: group.description });
    const handle = input({ value: group.handle, maxLength: HANDLE_LENGTH, autocapitalize: "none", autocomplete: "off", spellcheck: false });
    handle.id = "group-handle";
    const mayName = this.#may("admin") && !this.session.isGuest && group.handle !== undefined; // a node of the release before has none
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_save));
    const form = make(
      "form", "panel-form", field(words.messages_group_name, name), field(words.messages_description, description, words.messages_group_description_hint),
      ...(mayName ? [field(words.messages_handle, handle, words.messages_handle_hint)] : []), note, go,
    );
    const layer = openDialog(words.messages_group_edit, form);
    name.focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!name.value.trim()) return show(note, words.messages_fault_group_name);
      const newHandle = handle.value.trim().replace(/^@/, "");
      const isWrong = newHandle !== "" && (!HANDLE.test(newHandle) || ALL_NAMES.includes(newHandle.toLowerCase()));
      if (isWrong) return show(note, words.messages_fault_handle);
      attempt(go, note, words, async () => {
        await this.#update({ name: name.value.trim(), description: description.value.trim(), ...(mayName && { handle: newHandle }) });
        layer.close();
      });
    });
  }

  #addMembers() {
    const { session, id } = this;
    const { words } = session;
    choosePeople(session, {
      title: words.messages_add_members,
      go: (count) => (count ? `${words.messages_add} · ${count}` : words.messages_add),
      without: this.#members.map(({ user }) => user),
      act: async (users) => {
        tellInvited(session, await session.api("POST", "groups/invite", { group: id, members: users }));
        await this.#load();
      },
    });
  }

  /**
   * What we may do to a member.
   *
   * @param {Group} group
   * @param {Member} member
   */
  #manage(group, { user, role, muted_until: muted }) {
    const { session, id } = this;
    const { words, people } = session;
    const name = people.nameOf(user);
    const isAdmin = role === "admin";
    const after = (/** @type {number} */ hours) => Math.floor(Date.now() / 1000) + hours * HOUR_SECONDS;
    /** @type {{ label: string, route: string, body: object, question?: string }[]} */
    const changes = [];
    if (group.role === "owner") {
      const question = fill(words.messages_make_owner_question, { name });
      if (isAdmin) changes.push({ label: words.messages_make_member, route: "role", body: { member: user, role: "member" } });
      else changes.push({ label: words.messages_make_admin, route: "role", body: { member: user, role: "admin" } });
      changes.push({ label: words.messages_make_owner, route: "role", body: { member: user, role: "owner" }, question });
    }
    if (muted) changes.push({ label: words.messages_unmute, route: "mute", body: { member: user, until: 0 } });
    else {
      changes.push({ label: words.messages_mute_hour, route: "mute", body: { member: user, until: after(1) } });
      changes.push({ label: words.messages_mute_day, route: "mute", body: { member: user, until: after(24) } });
    }
    const question = fill(words.messages_remove_question, { name });
    changes.push({ label: words.messages_remove_member, route: "remove", body: { members: [user] }, question });
    const buttons = changes.map(({ label, route, body, question }) => {
      const isRemoval = route === "remove";
      const made = button(label, isRemoval ? "choice danger" : "choice");
      made.addEventListener("click", async () => {
        if (question && !(await confirm(question, { yes: label, danger: isRemoval }))) return;
        if (!(await attempt(made, null, words, () => session.api("POST", `groups/${route}`, { group: id, ...body })))) return;
        layer.close();
        await this.#load();
      });
      return made;
    });
    const layer = openDialog(name, make("div", "choices", ...buttons));
  }

  /**
   * @param {HTMLElement} control
   * @param {Group} group
   */
  async #leaveGroup(control, group) {
    const { session, id } = this;
    const { words } = session;
    if (!(await confirm(fill(words.messages_leave_question, { name: group.name }), { yes: words.messages_leave, danger: true }))) return;
    this.#isLeaving = true;
    this.#isLeaving = await attempt(control, null, words, async () => {
      await session.api("POST", "groups/leave", { group: id });
      this.leave();
      toast(fill(words.messages_left_group, { name: group.name }));
    });
  }

  /**
   * @param {string} key
   * @param {string} label
   * @param {(control: HTMLElement) => void} act
   * @param {string} [classes]
   */
  #button(key, label, act, classes = "quiet") {
    const made = button(label, classes);
    made.dataset.key = key;
    made.addEventListener("click", () => act(made));
    return made;
  }

  /** @param {Role} least @returns {boolean} whether our role is high enough */
  #may(least) {
    return RANK[this.#group?.role ?? "member"] >= RANK[least];
  }

  /**
   * @param {Group} group
   * @param {Member} member
   * @returns {boolean} whether we may change this member
   */
  #isBelow(group, { user, role }) {
    return user !== this.session.user && RANK[group.role] >= RANK.admin && RANK[group.role] > RANK[role];
  }
}

/**
 * @param {Session} session
 * @param {string} group
 * @returns {Promise<{ members: Member[], count: number }>}
 */
async function loadMembers(session, group) {
  let count = 0;
  const members = await rowsOf("members", async (cursor) => {
    const page = await session.api("GET", "groups/members", { group, cursor, limit: PAGE });
    count = page.count;
    return page;
  });
  return { members, count };
}
