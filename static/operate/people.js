// @ts-check
/** People of an app: the list, one person with all that concerns them, and what one does with them. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { acts } from "./audit.js";
import { connectionTable } from "./connections.js";
import { erase, erasureNote, exportCard } from "./data.js";
import { endButton, holdBadges, holdTable, holdsOf } from "./holds.js";
import { recentTable } from "./notifications.js";
import { holdParts, refusalTable } from "./refusals.js";
import {
  ask, badge, button, card, code, facts, fillPlace, filters, heading, link, list, missing, name, number, place, table, time, toast, words,
} from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

/** In seconds. */
const HOUR = 3_600;
const DAY = 86_400;
/** Of how long a ban or lock lasts: until somebody ends it. Of messages to delete: all of them. */
const NO_LIMIT = "0";
/** Rows. */
const PAGE = 50;
const RECENT = 20;
const ACCOUNT_ID = /^[1-9]\d{0,17}$/;
/** Route → the field of its answer with rows about a user, who may have no account. */
const TRACES = {
  "connections/list": "connections",
  groups: "groups",
  refusals: "refusals",
  "notifications/recent": "deliveries",
  "moderation/count": "conversations",
};
/** Of new passwords: letters that nobody takes for another one. */
const LETTERS = "abcdefghijkmnpqrstuvwxyz23456789";
const PASSWORD_LETTERS = 14;

/**
 * The list of the accounts of an app.
 *
 * @param {Place} at
 */
export function drawPeople({ api, app }) {
  const columns = [words.admin_name, words.admin_identifiers, words.admin_role, words.admin_state, words.admin_last_seen];
  let wanted = { text: "", role: "", locked: "" };
  const rows = list(async (after) => {
    const answer = await api.get("accounts/list", { app, ...wanted, after, limit: PAGE });
    return { rows: await withState(api, app, listOf(answer.accounts)), next: textOf(answer.next) };
  }, (accounts) => table(words.admin_people, columns, accounts.map((account) => [
    link(name(account.nickname || account.name || account.user), "person", app, textOf(account.user)),
    identifiers(account),
    roleWord(account.role),
    make("span", "badges", ...stateOf(account)),
    lastSeen(account),
  ]), words.admin_no_people));
  const choose = filters([
    { name: "text", label: words.admin_people_text },
    { name: "role", label: words.admin_role, type: "select", options: [["", words.admin_any], ...roles()] },
    {
      name: "locked", label: words.admin_state, type: "select",
      options: [["", words.admin_any], ["true", words.admin_locked], ["false", words.admin_not_locked]],
    },
  ], (values) => {
    wanted = { text: values.text, role: values.role, locked: values.locked };
    return rows.again();
  });
  const held = api.may("GET moderation/holds") ? [link(words.admin_held, "held", app)] : [];
  return [heading(words.admin_people, words.admin_people_hint, ...held), choose, card("", rows)];
}

/** @returns {[string, string][]} */
function roles() {
  return [["member", words.admin_role_member], ["moderator", words.admin_role_moderator], ["owner", words.admin_role_owner]];
}

/** @param {unknown} role */
function roleWord(role) {
  return words[`admin_role_${textOf(role)}`] ?? (textOf(role) || words.admin_role_member);
}

/** @param {Record<string, any>} account */
function identifiers(account) {
  const texts = [account.name, account.email, account.phone].map(textOf).filter(Boolean);
  return name(texts.join(" · "));
}

/**
 * Adds to accounts what their list lacks: `online`, whether they are connected now, and `holds`, their bans and mutes.
 *
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {any[]} accounts
 * @returns {Promise<Record<string, any>[]>}
 */
async function withState(api, app, accounts) {
  const rows = accounts.map(recordOf);
  const users = rows.map((each) => textOf(each.user));
  const [online, holds] = await Promise.all([onlineOf(api, app, users), holdsOf(api, app, users)]);
  return rows.map((each) => ({ ...each, online: online.has(each.user), holds: holds.filter((hold) => hold.user === each.user) }));
}

/**
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {string[]} users
 * @returns {Promise<Set<string>>} the users who are connected; empty if the server does not say
 */
async function onlineOf(api, app, users) {
  if (!users.length || !api.may("POST presence")) return new Set();
  const answer = await api.ask("POST", "presence", { app, users }).catch(() => ({}));
  const present = listOf(recordOf(answer).users).map(recordOf).filter((each) => each.online);
  return new Set(present.map((each) => each.user));
}

/** @param {Record<string, any>} account */
function lastSeen(account) {
  return account.online ? badge(words.admin_user_online, "good") : time(account.last_seen, words.admin_never);
}

/** @param {Record<string, any>} account */
function stateOf(account) {
  const found = [];
  if (account.locked) found.push(badge(words.admin_locked, "bad"));
  found.push(...holdBadges(listOf(account.holds)));
  if (account.kind === "guest") found.push(badge(words.admin_guest));
  if (account.kind === "bot") found.push(badge(words.admin_bot));
  if (account.second_factor) found.push(badge(words.admin_second_factor, "good"));
  return found;
}

/**
 * One person: an account, or a user of the app without one.
 *
 * @param {Place} at
 * @param {string} app
 * @param {string} user
 */
export function drawPerson(at, app, user) {
  const { api } = at;
  const made = make("div", "place");
  const draw = () => fillPlace(made, async () => {
    const account = await accountOf(api, app, user);
    const isKnown = account.user || account.holds.length || await hasTraces(api, app, user);
    return isKnown ? account : null;
  }, (account) => {
    if (account) return partsOf(at, app, user, account, draw);
    const erasure = erasureNote(api, app, user, draw);
    return [heading(name(user), code(`${app} / ${user}`)), ...(erasure ? [erasure] : []), card("", words.admin_no_person)];
  });
  draw();
  return [made];
}

/**
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {string} user
 * @returns {Promise<Record<string, any>>} the account; if the user has none, only `holds`
 */
async function accountOf(api, app, user) {
  const withoutAccount = async () => ({ holds: await holdsOf(api, app, [user]) });
  if (!api.may("GET accounts/list") || !ACCOUNT_ID.test(user)) return withoutAccount();
  const after = String(BigInt(user) + 1n); // the newest account before this one is that with the id, if it exists
  const answer = await api.get("accounts/list", { app, after, limit: 1 }).catch(() => ({}));
  const found = listOf(recordOf(answer).accounts).filter((each) => recordOf(each).user === user);
  const [account] = await withState(api, app, found);
  return account ?? withoutAccount();
}

/**
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {string} user
 * @returns {Promise<boolean>} whether a user without an account is known by something else, as far as one may see that
 */
async function hasTraces(api, app, user) {
  const asked = Object.entries(TRACES).filter(([path]) => api.may(`GET ${path}`));
  if (!asked.length) return true;
  const answers = await Promise.all(asked.map(([path]) => api.get(path, { app, user })));
  return answers.some((answer, index) => {
    const [, field] = asked[index];
    return listOf(answer[field]).length > 0 || listOf(answer.holds).length > 0;
  });
}

/** @param {Record<string, any>} account */
function accountCard(account) {
  /** @type {[string, Node | string][]} */
  const pairs = [
    [words.admin_identifiers, identifiers(account)],
    [words.admin_role, roleWord(account.role)],
    [words.admin_created, time(account.created)],
    [words.admin_last_seen, lastSeen(account)],
  ];
  if (account.locked) {
    pairs.push([words.admin_locked_until, time(account.locked_until, words.admin_for_good)], [words.admin_reason, name(account.lock_reason)]);
  }
  return card("", facts(pairs));
}

/**
 * All parts of the page of one person, as far as the principal may see them.
 *
 * @param {Place} at
 * @param {string} app
 * @param {string} user
 * @param {Record<string, any>} account  without `user`: none
 * @param {() => unknown} gone  called when the account is there no longer
 */
function partsOf(at, app, user, account, gone) {
  const { api } = at;
  const head = place(async () => {
    const hadAccount = Boolean(account.user);
    account = await accountOf(api, app, user);
    if (hadAccount && !account.user) gone();
  }, () => [
    heading(name(account.nickname || account.name || user), make("span", "badges", code(`${app} / ${user}`), ...stateOf(account)), ...actions()),
    ...(account.user ? [accountCard(account)] : []),
    ...(account.holds.length ? [card("", holdTable(app, account.holds))] : []),
  ]);
  /** @type {HTMLElement[]} */
  const parts = [head];
  const erasure = erasureNote(api, app, user, () => redraw());
  if (erasure) parts.push(erasure);

  /** @type {Filled | undefined} */
  let refusals;
  if (api.may("GET refusals")) {
    refusals = place(() => api.get("refusals", { app, user, limit: RECENT }), (answer) => {
      const holds = listOf(answer.holds).map(recordOf);
      return [...missing(answer), ...holdParts(api, { app, user }, holds, redraw), refusalTable(listOf(answer.refusals), null)];
    });
    parts.push(card(words.admin_why, refusals));
  }

  /** @type {Filled | undefined} */
  let connections;
  if (api.may("GET connections/list")) {
    connections = place(() => api.get("connections/list", { app, user }), (answer) => [
      ...missing(answer), connectionTable(api, app, listOf(answer.connections), () => connections?.again()),
    ]);
    parts.push(card(words.admin_connections, connections));
  }

  if (api.may("GET groups")) {
    /** @type {Filled} */
    const groups = place(() => api.get("groups", { app, user, limit: PAGE }), (answer) => [
      groupTable(api, app, user, listOf(answer.groups), () => groups.again()),
    ]);
    parts.push(card(words.admin_groups, groups));
  }
  if (account.user && api.may("GET accounts/devices")) {
    const devices = place(() => api.get("accounts/devices", { app, user }).catch(() => ({})), (answer) => [
      table(
        words.admin_devices, [words.admin_device, words.admin_since, words.admin_expires],
        listOf(recordOf(answer).devices).map(recordOf).map((each) => [name(each.name), time(each.since), time(each.expires_at)]),
        words.admin_no_devices,
      ),
    ]);
    parts.push(card(words.admin_devices, devices));
  }
  if (api.may("GET notifications/recent")) {
    const recent = place(() => api.get("notifications/recent", { app, user, limit: RECENT }), (answer) => [
      recentTable(app, listOf(answer.deliveries)),
    ]);
    parts.push(card(words.admin_notifications, recent));
  }
  parts.push(...exportCard(api, app, user));
  if (api.may("GET audit")) {
    parts.push(card(words.admin_audit, acts(api, { app, user, limit: RECENT })));
  }
  return parts;

  async function redraw() {
    await Promise.all([head.again(), refusals?.again(), connections?.again()]);
  }

  /** What may be done with this person, the usual things first. */
  function actions() {
    const found = [];
    const hasAccount = Boolean(account.user);
    const kinds = new Set(account.holds.map((/** @type {import("./holds.js").Hold} */ hold) => hold.kind));
    const ban = banRoute();
    if (api.may("POST moderation/clear", "GET moderation/count")) found.push(button(words.admin_clear, () => clearMessages(), "quiet danger"));
    found.push(...account.holds.flatMap(endButtonOf));
    if (ban && !kinds.has("ban")) found.push(button(words.admin_ban, () => banUser(ban), "quiet danger"));
    if (hasAccount && api.may("POST accounts/lock")) found.push(account.locked ? unlockButton() : lockButton());
    if (hasAccount && api.may("POST accounts/password")) found.push(button(words.admin_password, setPassword));
    found.push(...moreActions({ hasAccount, isMuted: kinds.has("mute") }));
    return found;
  }

  /** @returns {"moderation/ban" | "ban" | ""} the route that bans; empty: the principal may not */
  function banRoute() {
    if (api.may("POST moderation/ban")) return "moderation/ban";
    return api.may("POST ban") ? "ban" : "";
  }

  /** Lifts the ban, by the route of moderation if there is one. */
  function unban() {
    if (api.may("POST moderation/unban")) return perform("moderation/unban", { user }, words.admin_unbanned);
    return perform("unban", { users: [user] }, words.admin_unbanned);
  }

  /** @param {import("./holds.js").Hold} hold */
  function endButtonOf(hold) {
    return endButton(api, app, hold, redraw);
  }

  async function refreshErasure() {
    await Promise.all([erasure?.again(), redraw()]);
  }

  /**
   * The menu of the less usual actions; nothing if the principal may do none of them.
   *
   * @param {{ hasAccount: boolean, isMuted: boolean }} state
   */
  function moreActions({ hasAccount, isMuted }) {
    /** @type {HTMLElement[]} */
    const found = [];
    // Who cannot see bans gets this button always; else a ban has its own.
    const isBanUnknown = !api.may("GET moderation/holds");
    if (isBanUnknown && (api.may("POST moderation/unban") || api.may("POST unban"))) found.push(button(words.admin_unban, unban));
    if (api.may("POST moderation/warn")) found.push(button(words.admin_warn, warn));
    if (!isMuted && api.may("POST moderation/mute")) found.push(button(words.admin_mute, mute));
    if (hasAccount && api.may("POST accounts/role")) found.push(button(words.admin_set_role, setRole));
    if (hasAccount && api.may("POST accounts/logout")) found.push(button(words.admin_end_sessions, endSessions));
    else if (api.may("POST disconnect")) found.push(button(words.admin_end_sessions, disconnect));
    if (hasAccount && account.second_factor && api.may("POST accounts/factor/remove")) found.push(button(words.admin_factor_off, turnFactorOff));
    if (api.may("POST users/erase")) {
      found.push(button(words.admin_erase, () => erase(api, app, user, textOf(account.name) || user, refreshErasure), "quiet danger"));
    }
    if (!found.length) return [];
    const menu = make("div", "", ...found);
    const details = /** @type {HTMLDetailsElement} */ (make("details", "more-actions", make("summary", "quiet", words.admin_more_actions), menu));
    menu.addEventListener("click", (event) => {
      if (event.target instanceof HTMLButtonElement) details.open = false;
    });
    return [details];
  }

  /**
   * Posts a request, says that it was done, and draws the person again.
   *
   * @param {string} path
   * @param {Record<string, any>} body
   * @param {string} text  of the notice
   */
  async function perform(path, body, text) {
    await api.post(path, { app, ...body });
    toast(text);
    await redraw();
  }

  /** @returns {import("./ui.js").Field} */
  function reasonField({ required = false } = {}) {
    return { name: "reason", label: words.admin_reason, hint: words.admin_reason_hint, most: 250, required };
  }

  /**
   * The choice how long a ban, a lock or a mute lasts.
   *
   * @param {string} value  the seconds that are chosen at first
   * @param {{ mustEnd?: boolean }} [options]  `mustEnd`: it cannot last for good
   * @returns {import("./ui.js").Field}
   */
  function spanField(value, { mustEnd = false } = {}) {
    const spans = [HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY].map(spanOption);
    if (!mustEnd) spans.push([NO_LIMIT, words.admin_for_good]);
    return { name: "seconds", label: words.admin_how_long, type: "select", value, options: spans };
  }

  /** Asks which of the person's messages to delete, and says how many the chosen span has. */
  function clearMessages() {
    const countText = make("p", "muted");
    countText.setAttribute("role", "status");
    const opened = ask({
      title: words.admin_clear,
      text: words.admin_clear_text,
      fields: [{
        name: "span", label: words.admin_clear_span, type: "select", value: String(DAY),
        options: [...[HOUR, DAY, 7 * DAY].map(spanOption), [NO_LIMIT, words.admin_clear_all]],
      }, reasonField()],
      yes: words.admin_clear_yes,
      danger: true,
      act: async ({ span, reason }) => {
        const answer = await api.post("moderation/clear", { app, user, since: sinceOf(span), reason });
        const act = textOf(answer.act);
        if (answer.done && !answer.messages) return toast(words.admin_cleared_none);
        toast(fill(words.admin_cleared, { count: numberOf(answer.messages) }), { label: words.admin_undo, act: async () => {
          await api.post("moderation/undo", { app, act });
          toast(words.admin_undone);
        } });
      },
    });
    const select = document.querySelector("dialog select"); // the dialog opens at once, before it is answered
    select?.closest(".field")?.append(countText);
    const count = async () => {
      countText.textContent = words.admin_counting;
      const span = select instanceof HTMLSelectElement ? select.value : NO_LIMIT;
      const { count: messages, conversations } = await api.get("moderation/count", { app, user, since: sinceOf(span) });
      const figures = { count: number.format(numberOf(messages)), talks: number.format(listOf(conversations).length) };
      countText.textContent = fill(words.admin_clear_count, figures);
    };
    const showCount = () => count().catch(() => { countText.textContent = ""; });
    select?.addEventListener("change", showCount);
    showCount();
    return opened;
  }

  /**
   * Asks how long to ban the person. The route `ban` takes no reason, and its bans end.
   *
   * @param {"moderation/ban" | "ban"} path
   */
  function banUser(path) {
    const isOfModeration = path === "moderation/ban";
    return ask({
      title: words.admin_ban,
      text: words.admin_ban_text,
      fields: isOfModeration ? [spanField(NO_LIMIT), reasonField()] : [spanField(String(30 * DAY), { mustEnd: true })],
      yes: words.admin_ban_yes,
      danger: true,
      act: async ({ seconds, reason }) => {
        const whom = isOfModeration ? { user, reason } : { users: [user] };
        await api.post(path, { app, ...whom, seconds: Number(seconds) });
        toast(words.admin_banned, { label: words.admin_undo, act: unban });
        await redraw();
      },
    });
  }

  function lockButton() {
    return button(words.admin_lock, () => ask({
      title: words.admin_lock,
      text: words.admin_lock_text,
      fields: [spanField(String(7 * DAY)), reasonField()],
      yes: words.admin_lock,
      danger: true,
      act: ({ seconds, reason }) => perform("accounts/lock", { user, seconds: Number(seconds), reason }, words.admin_locked_now),
    }));
  }

  function unlockButton() {
    return button(words.admin_unlock, () => perform("accounts/unlock", { user }, words.admin_unlocked), "primary");
  }

  function setPassword() {
    return ask({
      title: words.admin_password,
      text: words.admin_password_text,
      fields: [
        { name: "password", label: words.admin_new_password, value: newPassword(), required: true, hint: words.admin_password_hint, most: 250 },
      ],
      yes: words.admin_password_yes,
      act: ({ password }) => perform("accounts/password", { user, password }, words.admin_password_set),
    });
  }

  function setRole() {
    return ask({
      title: words.admin_set_role,
      text: words.admin_role_text,
      fields: [{ name: "role", label: words.admin_role, type: "select", value: textOf(account.role) || "member", options: roles() }],
      yes: words.admin_save,
      act: ({ role }) => perform("accounts/role", { user, role }, words.admin_saved),
    });
  }

  function endSessions() {
    return ask({
      title: words.admin_end_sessions,
      text: words.admin_end_sessions_text,
      yes: words.admin_end_sessions,
      danger: true,
      act: () => perform("accounts/logout", { user }, words.admin_sessions_ended),
    });
  }

  function disconnect() {
    return perform("disconnect", { users: [user] }, words.admin_sessions_ended);
  }

  function turnFactorOff() {
    return ask({
      title: words.admin_factor_off,
      text: words.admin_factor_off_text,
      yes: words.admin_factor_off,
      danger: true,
      act: () => perform("accounts/factor/remove", { user }, words.admin_saved),
    });
  }

  function warn() {
    return ask({
      title: words.admin_warn,
      text: words.admin_warn_text,
      fields: [reasonField({ required: true })],
      yes: words.admin_warn,
      act: ({ reason }) => perform("moderation/warn", { user, reason }, words.admin_warned),
    });
  }

  function mute() {
    return ask({
      title: words.admin_mute,
      text: words.admin_mute_text,
      fields: [spanField(String(DAY), { mustEnd: true }), reasonField()],
      yes: words.admin_mute,
      act: ({ seconds, reason }) => perform("moderation/mute", { user, seconds: Number(seconds), reason }, words.admin_muted),
    });
  }
}

/**
 * The groups of a user, with a button that removes the user from each, if the principal may do that.
 *
 * @param {import("./api.js").Api} api
 * @param {string} app
 * @param {string} user
 * @param {any[]} groups
 * @param {() => unknown} changed
 */
function groupTable(api, app, user, groups, changed) {
  const mayRemove = api.may("POST moderation/remove");
  const columns = [words.admin_name, words.admin_id, words.admin_role];
  if (mayRemove) columns.push("");
  return table(words.admin_groups, columns, groups.map(recordOf).map((group) => {
    const cells = [name(group.name), code(String(group.group)), name(words[`admin_role_${textOf(group.role)}`] ?? group.role)];
    if (mayRemove) cells.push(removeButton(group));
    return cells;
  }), words.admin_no_groups);

  /** @param {Record<string, any>} group */
  function removeButton(group) {
    const id = String(group.group);
    return button(words.admin_remove, () => ask({
      title: words.admin_remove_title,
      text: fill(words.admin_remove_text, { group: textOf(group.name) || id }),
      fields: [{ name: "reason", label: words.admin_reason, hint: words.admin_reason_hint, most: 250 }],
      yes: words.admin_remove,
      danger: true,
      act: async ({ reason }) => {
        await api.post("moderation/remove", { app, user, group: id, reason });
        toast(words.admin_removed);
        await changed();
      },
    }));
  }
}

/**
 * @param {number} seconds
 * @returns {[string, string]} the value and the label of an option of a select
 */
function spanOption(seconds) {
  return [String(seconds), spanOf(seconds)];
}

/** @param {number} seconds */
function spanOf(seconds) {
  return seconds >= DAY ? fill(words.admin_days, { count: seconds / DAY }) : fill(words.admin_hours, { count: seconds / HOUR });
}

/**
 * @param {string} span  seconds, or NO_LIMIT
 * @returns {number} seconds since 1970; 0: from the first message
 */
function sinceOf(span) {
  return Number(span) ? Math.floor(Date.now() / 1000) - Number(span) : 0;
}

function newPassword() {
  const random = crypto.getRandomValues(new Uint32Array(PASSWORD_LETTERS));
  return Array.from(random, (each) => LETTERS[each % LETTERS.length]).join("");
}
