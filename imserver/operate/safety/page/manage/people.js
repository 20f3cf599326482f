// @ts-check
/** People and their roles, guests, and invitation links. */

import { field, form } from "../acts.js";
import { endButton, lineOf } from "./holds.js";

/** @typedef {import("./manage.js").Desk} Desk */

const PAGE = 50;
const SEARCH_AFTER_MS = 250;
const ROLES = ["member", "moderator", "owner"];

/**
 * A list whose pages have the cursor `after`.
 *
 * @param {Desk} desk
 * @param {string} label
 * @param {(after: string) => Promise<{ rows: HTMLElement[], next: string }>} load
 * @param {string} none  what is shown if there is nothing
 */
async function list(desk, label, load, none) {
  const { button, make } = desk.page;
  const made = make("ul", "people-list manage-list");
  made.setAttribute("role", "list");
  made.setAttribute("aria-label", label);
  const more = button(desk.words.manage_more, "link");
  let after = "";
  const add = async () => {
    const page = await load(after);
    made.append(...page.rows);
    after = page.next;
    more.hidden = !after;
  };
  more.addEventListener("click", () => desk.attempt(add));
  await add();
  const isEmpty = !made.childElementCount && !after;
  return isEmpty ? [make("p", "muted manage-none", none), made, more] : [made, more];
}

/**
 * @param {Desk} desk
 * @param {string} user
 * @param {string} name
 * @param {{ below: string, marks?: HTMLElement[], actions?: HTMLElement[] }} more
 */
function row({ page, session }, user, name, { below, marks = [], actions = [] }) {
  const { make } = page;
  const text = make("span", "person-words", make("span", "person-name", make("bdi", "", name), ...marks), make("small", "", below));
  const made = make("li", "person-row", make("span", "person-picture", session.people.avatar(user)), text);
  if (actions.length) made.append(make("span", "person-actions", ...actions));
  return made;
}

/** @param {any} account */
const nameOf = (account) => account.nickname || account.name || account.user;

/**
 * Loads a page of accounts, each with its bans and mutes as `holds`.
 *
 * @param {Desk} desk
 * @param {Record<string, any>} wanted
 */
async function loadAccounts(desk, wanted) {
  const { accounts, next } = await desk.page.api("GET", "accounts/list", { ...wanted, limit: PAGE });
  desk.session.people.add(accounts.map((/** @type {any} */ { user, nickname, avatar }) => ({ user, nickname, avatar })));
  const users = accounts.map((/** @type {any} */ each) => each.user).join();
  const { holds } = users ? await desk.page.api("GET", "moderation/holds", { users, limit: PAGE }) : { holds: [] };
  const holdsOf = (/** @type {string} */ user) => holds.filter((/** @type {any} */ hold) => hold.user === user);
  return { accounts: accounts.map((/** @type {any} */ each) => ({ ...each, holds: holdsOf(each.user) })), next };
}

/**
 * Who is banned or muted, and the people by their roles; or the people whom a text finds.
 *
 * @param {Desk} desk
 */
export async function drawPeople(desk) {
  const { page, words } = desk;
  const { make } = page;
  const text = Object.assign(make("input", "manage-find"), { type: "search", placeholder: words.manage_find, maxLength: 100, dir: "auto" });
  text.setAttribute("aria-label", words.manage_find);
  const found = make("div", "manage-found");
  /** @param {string} label @param {Record<string, any>} wanted */
  const peopleSection = async (label, wanted) => {
    const parts = await list(desk, label, async (after) => {
      const { accounts, next } = await loadAccounts(desk, { kind: "person", ...wanted, after });
      return { rows: accounts.map((/** @type {any} */ each) => personRow(desk, each)), next };
    }, words.manage_nobody);
    return make("section", "panel-section", make("h3", "label", label), ...parts);
  };
  const heldSection = async () => {
    let isNone = false;
    const parts = await list(desk, words.manage_held, async (cursor) => {
      const { holds, names, next } = await page.api("GET", "moderation/holds", { cursor, limit: PAGE });
      await desk.session.people.load(holds.map((/** @type {any} */ each) => each.user));
      isNone = !cursor && !holds.length;
      return { rows: holds.map((/** @type {any} */ hold) => heldRow(desk, hold, names)), next };
    }, "");
    return isNone ? [] : [make("section", "panel-section", make("h3", "label", words.manage_held), ...parts)];
  };
  const sectionsFor = (/** @type {string} */ wanted) => {
    if (wanted) return Promise.all([peopleSection(words.manage_people, { text: wanted })]);
    return Promise.all([
      heldSection(),
      peopleSection(words.manage_owners, { role: "owner" }),
      peopleSection(words.manage_moderators, { role: "moderator" }),
      peopleSection(words.manage_members, { role: "member" }),
    ]);
  };
  const draw = async () => {
    const wanted = text.value.trim();
    const sections = await sectionsFor(wanted);
    if (text.value.trim() === wanted) found.replaceChildren(...sections.flat()); // else another text is searched meanwhile
  };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => desk.attempt(draw), SEARCH_AFTER_MS);
  });
  await draw();
  const hint = desk.isOwner ? [make("p", "muted", words.manage_roles_hint)] : [];
  return [text, ...hint, found];
}

/**
 * @param {Desk} desk
 * @param {any} hold
 * @param {Record<string, string>} names
 */
function heldRow(desk, hold, names) {
  const name = names[hold.user] ?? hold.user;
  return row(desk, hold.user, name, { below: lineOf(desk, hold, names), actions: [endButton(desk, hold, name, () => desk.open("people"))] });
}

/**
 * An account with its names and states. An owner may change the role of everybody except owners and themselves.
 *
 * @param {Desk} desk
 * @param {any} account
 */
function personRow(desk, account) {
  const { session, words } = desk;
  const name = nameOf(account);
  const isMine = account.user === session.user;
  const below = [isMine ? words.manage_you : "", account.name ? `@${account.name}` : "", account.email, account.phone].filter(Boolean).join(" · ");
  const states = account.holds.map((/** @type {any} */ { kind }) => (kind === "ban" ? words.manage_outcome_banned : words.manage_outcome_muted));
  if (account.locked) states.unshift(words.manage_locked);
  const marks = states.map((/** @type {string} */ each) => desk.page.make("span", "mark danger", each));
  const mayChangeRole = desk.isOwner && !isMine && ROLES.includes(account.role) && account.role !== "owner";
  const actions = mayChangeRole ? [roleSelect(desk, account, name)] : [];
  return row(desk, account.user, name, { below, marks, actions });
}

/**
 * @param {Desk} desk
 * @param {any} account
 * @param {string} name
 */
function roleSelect(desk, account, name) {
  const { page, words } = desk;
  const select = page.make("select", "manage-role");
  select.append(...ROLES.map((each) => new Option(words[`manage_role_${each}`], each, false, each === account.role)));
  select.setAttribute("aria-label", page.fill(words.manage_role_of, { name }));
  select.dataset.key = `role:${account.user}`;
  select.addEventListener("change", () => desk.attempt(async () => {
    const wanted = select.value;
    select.value = account.role; // until the server has changed it
    if (wanted === "owner") {
      const title = page.fill(words.manage_owner_ask, { name });
      if (!(await page.confirm(words.manage_owner_hint, { title, yes: words.manage_owner_go }))) return;
    }
    await page.api("POST", "accounts/role", { user: account.user, role: wanted });
    account.role = wanted;
    select.value = wanted;
    page.toast(page.fill(words[`manage_is_${wanted}`], { name }));
    if (wanted === "owner") await desk.open("people"); // nobody may change the role of an owner here
  }));
  return select;
}

/**
 * The guests, who may be admitted as members or removed.
 *
 * @param {Desk} desk
 */
export async function drawGuests(desk) {
  const { page, words } = desk;
  const rows = await list(desk, words.manage_guests, async (after) => {
    const { accounts, next } = await loadAccounts(desk, { kind: "guest", after });
    return { rows: accounts.map((/** @type {any} */ account) => guestRow(desk, account)), next };
  }, words.manage_no_guests);
  return [page.make("p", "muted", words.manage_guests_hint), ...rows];
}

/**
 * @param {Desk} desk
 * @param {any} account
 */
function guestRow(desk, account) {
  const { page, words, day } = desk;
  const { button, make, fill } = page;
  const { user, created } = account;
  const name = nameOf(account);
  const admit = button(words.manage_admit);
  admit.setAttribute("aria-label", `${words.manage_admit} ${name}`);
  admit.addEventListener("click", () => {
    const login = Object.assign(make("input", ""), { type: "text", value: suggested(name), required: true, minLength: 3, maxLength: 32 });
    Object.assign(login, { autocomplete: "off", spellcheck: false, dir: "ltr" });
    const fields = [make("p", "muted", words.manage_admit_hint), field(words.manage_login, login)];
    form({ title: fill(words.manage_admit_ask, { name }), yes: words.manage_admit_go, fields }, async () => {
      await page.api("POST", "accounts/guests/admit", { user, name: login.value.trim() });
      made.remove();
      return () => page.toast(fill(words.manage_admitted, { name }));
    });
  });
  const remove = button(words.manage_out, "quiet danger");
  remove.setAttribute("aria-label", `${words.manage_out} ${name}`);
  remove.addEventListener("click", async () => {
    if (!(await page.confirm(fill(words.manage_out_ask, { name }), { yes: words.manage_out, danger: true }))) return;
    desk.attempt(async () => {
      await page.api("POST", "accounts/guests/remove", { user });
      made.remove();
      page.toast(fill(words.manage_removed, { name }));
    });
  });
  const made = row(desk, user, name, { below: fill(words.manage_came, { when: day(created) }), actions: [admit, remove] });
  return made;
}

/**
 * @param {string} name
 * @returns {string} a user name that is like it, if its letters allow
 */
function suggested(name) {
  const plain = name.normalize("NFKD").toLowerCase().replace(/[^a-z0-9_.-]+/g, ".").replace(/^[^a-z]+|[.]+$/g, "");
  return plain.length > 2 ? plain.slice(0, 32) : "";
}

/**
 * The invitation links of groups and people, which may be copied or ended.
 *
 * @param {Desk} desk
 */
export async function drawLinks(desk) {
  const { page, session, words } = desk;
  const rows = await list(desk, words.manage_links, async (cursor) => {
    const answer = await page.api("GET", "invitations/list", { cursor, limit: PAGE });
    await session.people.load(answer.invitations.map((/** @type {any} */ each) => each.user));
    return { rows: answer.invitations.map((/** @type {any} */ each) => linkRow(desk, each, answer)), next: answer.next };
  }, words.manage_no_links);
  return [page.make("p", "muted", words.manage_links_hint), ...rows];
}

/**
 * @param {Desk} desk
 * @param {any} invitation
 * @param {{ names: Record<string, string>, groups: Record<string, string> }} known  the names of users and groups
 */
function linkRow(desk, invitation, { names, groups }) {
  const { page, root, session, words, day } = desk;
  const { button, make, fill } = page;
  const { user, group, uses, max_uses: mostUses, expires_at: expiresAt, guests, code } = invitation;
  const maker = names[user] || (user ? session.people.nameOf(user) : words.manage_back_end);
  const title = group ? groups[group] ?? group : fill(words.manage_link_friend, { name: maker });
  const about = [
    fill(words.manage_made_by, { name: maker }),
    mostUses ? fill(words.manage_uses_of, { count: uses, most: mostUses }) : fill(words.manage_uses, { count: uses }),
    expiresAt ? fill(words.manage_until, { when: day(expiresAt) }) : words.manage_endless,
  ];
  const copy = button(words.messages_copy);
  copy.setAttribute("aria-label", `${words.messages_copy}: ${title}`);
  copy.addEventListener("click", () => desk.attempt(async () => {
    await navigator.clipboard.writeText(`${location.origin}${root}/home/messages#invite=${code}`);
    page.toast(words.manage_copied);
  }));
  const end = button(words.manage_end, "quiet danger");
  end.setAttribute("aria-label", `${words.manage_end}: ${title}`);
  end.addEventListener("click", async () => {
    if (!(await page.confirm(fill(words.manage_end_ask, { name: title }), { yes: words.manage_end, danger: true }))) return;
    desk.attempt(async () => {
      await page.api("POST", "invitations/end", { code });
      made.remove();
      page.toast(words.manage_ended);
    });
  });
  const marks = guests ? [make("span", "mark", words.messages_guest)] : [];
  const made = row(desk, user, title, { below: about.join(" · "), marks, actions: [copy, end] });
  return made;
}
