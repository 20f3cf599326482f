// @ts-check
/** People and their roles, guests, and invitation links. */

import { field, form } from "../acts.js";
import { endButton, lineOf } from "./holds.js";

/** @typedef {import("./manage.js").Desk} Desk */

const PAGE = 50;
const SEARCH_AFTER_MS = 250;

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
  return [...(made.childElementCount || after ? [] : [make("p", "muted manage-none", none)]), made, more];
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
  return make("li", "person-row", make("span", "person-picture", session.people.avatar(user)), text, ...(actions.length ? [make("span", "person-actions", ...actions)] : []));
}

/** @param {any} account */
const nameOf = (account) => account.nickname || account.name || account.user;

/**
 * @param {Desk} desk
 * @param {Record<string, any>} wanted
 */
async function accounts(desk, wanted) {
  const { accounts: found, next } = await desk.page.api("GET", "accounts/list", { ...wanted, limit: PAGE });
  desk.session.people.add(found.map((/** @type {any} */ { user, nickname, avatar }) => ({ user, nickname, avatar })));
  const users = found.map((/** @type {any} */ each) => each.user).join();
  const { holds } = users ? await desk.page.api("GET", "moderation/holds", { users, limit: PAGE }) : { holds: [] };
  return { found: found.map((/** @type {any} */ each) => ({ ...each, holds: holds.filter((/** @type {any} */ hold) => hold.user === each.user) })), next };
}

/** @param {Desk} desk */
export async function drawPeople(desk) {
  const { page, words } = desk;
  const { make } = page;
  const text = Object.assign(make("input", "manage-find"), { type: "search", placeholder: words.manage_find, maxLength: 100, dir: "auto" });
  text.setAttribute("aria-label", words.manage_find);
  const found = make("div", "manage-found");
  /** @param {string} label @param {Record<string, any>} wanted @param {string} none */
  const people = async (label, wanted, none) => {
    const parts = await list(desk, label, async (after) => {
      const { found: some, next } = await accounts(desk, { kind: "person", ...wanted, after });
      return { rows: some.map((/** @type {any} */ each) => personRow(desk, each)), next };
    }, none);
    return make("section", "panel-section", make("h3", "label", label), ...parts);
  };
  const held = async () => {
    let isNone = false;
    const parts = await list(desk, words.manage_held, async (cursor) => {
      const { holds, names, next } = await page.api("GET", "moderation/holds", { cursor, limit: PAGE });
      await desk.session.people.load(holds.map((/** @type {any} */ each) => each.user));
      isNone = !cursor && !holds.length;
      return { rows: holds.map((/** @type {any} */ hold) => heldRow(desk, hold, names)), next };
    }, "");
    return isNone ? [] : [make("section", "panel-section", make("h3", "label", words.manage_held), ...parts)];
  };
  const draw = async () => {
    const wanted = text.value.trim();
    const sections = wanted
      ? [await people(words.manage_people, { text: wanted }, words.manage_nobody)]
      : await Promise.all([held(), people(words.manage_owners, { role: "owner" }, words.manage_nobody), people(words.manage_moderators, { role: "moderator" }, words.manage_nobody), people(words.manage_members, { role: "member" }, words.manage_nobody)]);
    if (text.value.trim() === wanted) found.replaceChildren(...sections.flat());
  };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let waiting;
  text.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => desk.attempt(draw), SEARCH_AFTER_MS);
  });
  await draw();
  return [text, ...(desk.isOwner ? [make("p", "muted", words.manage_roles_hint)] : []), found];
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
 * @param {Desk} desk
 * @param {any} account
 */
function personRow(desk, account) {
  const { page, session, words } = desk;
  const { make } = page;
  const name = nameOf(account);
  const below = [account.name ? `@${account.name}` : "", account.email, account.phone].filter(Boolean).join(" · ");
  const states = [account.locked ? words.manage_locked : "", ...account.holds.map((/** @type {any} */ { kind }) => (kind === "ban" ? words.manage_outcome_banned : words.manage_outcome_muted))];
  const marks = states.filter(Boolean).map((each) => make("span", "mark danger", each));
  const isMine = account.user === session.user;
  const choices = ["member", "moderator", "owner"];
  if (!desk.isOwner || isMine || account.role === "owner" || !choices.includes(account.role)) return row(desk, account.user, name, { below: isMine ? [words.manage_you, below].filter(Boolean).join(" · ") : below, marks });
  const role = make("select", "manage-role");
  role.append(...choices.map((each) => new Option(words[`manage_role_${each}`], each, false, each === account.role)));
  role.setAttribute("aria-label", page.fill(words.manage_role_of, { name }));
  role.dataset.key = `role:${account.user}`;
  role.addEventListener("change", () => desk.attempt(async () => {
    const wanted = role.value;
    role.value = account.role;
    if (wanted === "owner" && !(await page.confirm(words.manage_owner_hint, { title: page.fill(words.manage_owner_ask, { name }), yes: words.manage_owner_go }))) return;
    await page.api("POST", "accounts/role", { user: account.user, role: wanted });
    role.value = account.role = wanted;
    page.toast(page.fill(words[`manage_is_${wanted}`], { name }));
    if (wanted === "owner") await desk.open("people");
  }));
  return row(desk, account.user, name, { below, marks, actions: [role] });
}

/** @param {Desk} desk */
export async function drawGuests(desk) {
  const { page, words, day } = desk;
  const { button, make, fill } = page;
  const rows = await list(desk, words.manage_guests, async (after) => {
    const { found, next } = await accounts(desk, { kind: "guest", after });
    return { rows: found.map((/** @type {any} */ account) => {
      const name = nameOf(account);
      const admit = button(words.manage_admit);
      const out = button(words.manage_out, "quiet danger");
      const made = row(desk, account.user, name, { below: fill(words.manage_came, { when: day(account.created) }), actions: [admit, out] });
      admit.setAttribute("aria-label", `${words.manage_admit} ${name}`);
      out.setAttribute("aria-label", `${words.manage_out} ${name}`);
      admit.addEventListener("click", () => {
        const login = Object.assign(make("input", ""), { type: "text", value: suggested(name), required: true, minLength: 3, maxLength: 32, autocomplete: "off", spellcheck: false, dir: "ltr" });
        form(fill(words.manage_admit_ask, { name }), words.manage_admit_go, false, [make("p", "muted", words.manage_admit_hint), field(words.manage_login, login)], async () => {
          await page.api("POST", "accounts/guests/admit", { user: account.user, name: login.value.trim() });
          made.remove();
          return () => page.toast(fill(words.manage_admitted, { name }));
        });
      });
      out.addEventListener("click", async () => {
        if (!(await page.confirm(fill(words.manage_out_ask, { name }), { yes: words.manage_out, danger: true }))) return;
        desk.attempt(async () => {
          await page.api("POST", "accounts/guests/remove", { user: account.user });
          made.remove();
          page.toast(fill(words.manage_removed, { name }));
        });
      });
      return made;
    }), next };
  }, words.manage_no_guests);
  return [make("p", "muted", words.manage_guests_hint), ...rows];
}

/**
 * @param {string} name
 * @returns {string} a user name that is like it, if its letters allow
 */
function suggested(name) {
  const plain = name.normalize("NFKD").toLowerCase().replace(/[^a-z0-9_.-]+/g, ".").replace(/^[^a-z]+|[.]+$/g, "");
  return plain.length > 2 ? plain.slice(0, 32) : "";
}

/** @param {Desk} desk */
export async function drawLinks(desk) {
  const { page, root, session, words, day } = desk;
  const { button, make, fill } = page;
  const rows = await list(desk, words.manage_links, async (cursor) => {
    const answer = await page.api("GET", "invitations/list", { cursor, limit: PAGE });
    await session.people.load(answer.invitations.map((/** @type {any} */ each) => each.user));
    return { rows: answer.invitations.map((/** @type {any} */ each) => {
      const maker = answer.names[each.user] || (each.user ? session.people.nameOf(each.user) : words.manage_back_end);
      const title = each.group ? answer.groups[each.group] ?? each.group : fill(words.manage_link_friend, { name: maker });
      const uses = each.max_uses ? fill(words.manage_uses_of, { count: each.uses, most: each.max_uses }) : fill(words.manage_uses, { count: each.uses });
      const end = each.expires_at ? fill(words.manage_until, { when: day(each.expires_at) }) : words.manage_endless;
      const copy = button(words.messages_copy);
      const stop = button(words.manage_end, "quiet danger");
      copy.setAttribute("aria-label", `${words.messages_copy}: ${title}`);
      stop.setAttribute("aria-label", `${words.manage_end}: ${title}`);
      const made = row(desk, each.user, title, { below: [fill(words.manage_made_by, { name: maker }), uses, end].join(" · "), marks: each.guests ? [make("span", "mark", words.messages_guest)] : [], actions: [copy, stop] });
      copy.addEventListener("click", () => desk.attempt(async () => {
        await navigator.clipboard.writeText(`${location.origin}${root}/home/messages#invite=${each.code}`);
        page.toast(words.manage_copied);
      }));
      stop.addEventListener("click", async () => {
        if (!(await page.confirm(fill(words.manage_end_ask, { name: title }), { yes: words.manage_end, danger: true }))) return;
        desk.attempt(async () => {
          await page.api("POST", "invitations/end", { code: each.code });
          made.remove();
          page.toast(words.manage_ended);
        });
      });
      return made;
    }), next: answer.next };
  }, words.manage_no_links);
  return [make("p", "muted", words.manage_links_hint), ...rows];
}
