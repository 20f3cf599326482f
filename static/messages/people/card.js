// @ts-check
/** The card of a person: what we know of them, and what we can do with them. */

import { drawn, element, fill, make } from "../../text.js";
import { added, addFeatures } from "../parts/additions.js";
import { attempt, loadStyle, namedList, redraw, section, withModule } from "../parts/form.js";
import { button, confirm, openDialog, toast } from "../parts/panel.js";
import { signOf } from "../parts/signs.js";
import { presenceOf } from "../session/presence.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {{ group: string, name: string, avatar: string }} CommonGroup */

const MOST_GROUPS = 20;
/** The lines of an icon: two bubbles, and one more. */
const TO_GROUP = "M4 4.5h11v8H9.5L6 15.5v-3H4zM18 8.5h2.5v8h-2v3L15 16.5h-4";

/**
 * The card of a person: what we know of them, and what we can do with them.
 *
 * @param {Session} session
 * @param {string} user
 * @returns {Promise<void>} when it is closed
 */
export function openCard(session, user) {
  if (user === session.user) {
    element("me", HTMLButtonElement).click(); // the profile
    return Promise.resolve();
  }
  const { people } = session;
  loadStyle(new URL("../later/row-list.css", import.meta.url));
  const root = make("div", "card-of-person");
  const layer = openDialog(people.nameOf(user), root);
  /** @type {CommonGroup[]} */
  let groups = [];
  const draw = () => redraw(root, [...cardParts(session, user, layer.close), ...groupsOf(session, groups)]);
  const ends = [session.on("people", draw), people.watch(() => [user])];
  draw();
  session.api("GET", "groups", { member: user, limit: MOST_GROUPS }).then((page) => {
    groups = page.groups;
    draw();
  }, () => {}); // without them the card is what it was
  people.refresh([user]);
  addFeatures(session, true).then(draw);
  return layer.closed.then(() => ends.forEach((end) => end()));
}

/**
 * The card without the groups in common.
 *
 * @param {Session} session
 * @param {string} user
 * @param {() => void} close  closes the card
 * @returns {HTMLElement[]}
 */
function cardParts(session, user, close) {
  const { words } = session;
  const name = session.people.nameOf(user);
  const relation = session.people.card(user)?.relation ?? "";
  /**
   * @param {string} label
   * @param {string} change  to the list of friends
   * @param {string} [classes]
   * @param {string} [question]
   */
  const action = (label, change, classes = "quiet", question = "") => {
    const made = button(label, classes);
    made.dataset.key = change;
    made.addEventListener("click", async () => {
      if (question && !(await confirm(question, { yes: label, danger: true }))) return;
      await attempt(made, null, words, () => changeFriend(session, change, user));
    });
    return made;
  };
  const block = action(words.messages_block, "block", "link danger", fill(words.messages_block_question, { name }));
  /** The buttons at the end for each relation. @type {Record<string, HTMLElement[]>} */
  const choices = {
    friend: [action(words.messages_unfriend, "remove", "link danger", fill(words.messages_unfriend_question, { name })), block],
    outgoing: [action(words.messages_withdraw, "remove"), block],
    blocked: [action(words.messages_unblock, "unblock")],
  };
  const parts = [headOf(session, user)];
  if (relation === "incoming") {
    parts.push(make("p", "card-actions", action(words.messages_accept, "accept", "wide"), action(words.messages_decline, "decline")));
  }
  const tiles = relation === "blocked" ? [] : tilesOf(session, user, close);
  if (tiles.length) parts.push(make("div", "tiles", ...tiles));
  return [...parts, make("p", "card-actions", ...(choices[relation] ?? [block]), ...addedTo(session, user))];
}

/**
 * @param {Session} session
 * @param {string} user
 * @returns {HTMLElement} the picture and what we know of the person
 */
function headOf(session, user) {
  const { people, words } = session;
  const { title, name, email, presence: status, relation } = people.card(user) ?? {};
  const states = { friend: words.messages_is_contact, incoming: words.messages_has_asked, outgoing: words.messages_request_sent, blocked: words.messages_is_blocked };
  const presence = presenceOf(session, user);
  const head = make("div", "card-head", people.avatar(user, "large"), ...people.marks(user));
  if (title) head.append(make("p", "card-title", title));
  if (name) head.append(make("p", "card-handle", `@${name}`));
  if (email) head.append(make("p", "card-handle", mailLink(email)));
  if (presence) head.append(make("p", status === "online" ? "presence is-online" : "presence", presence));
  if (relation && relation !== "self") head.append(make("p", "muted", states[relation]));
  return head;
}

/**
 * @param {Session} session
 * @param {string} user
 * @param {() => void} close  closes the card
 * @returns {HTMLElement[]} what we can do with the person, as icons
 */
function tilesOf(session, user, close) {
  const { people, words, isGuest } = session;
  const card = people.card(user);
  const tile = (/** @type {string} */ key, /** @type {Parameters<typeof signOf>[0]} */ sign, /** @type {string} */ word, /** @type {() => unknown} */ act) => {
    const made = button("", "tile");
    made.dataset.key = key;
    made.append(signOf(sign), make("span", "", word));
    made.addEventListener("click", act);
    return made;
  };
  const write = () => {
    close();
    session.open({ user });
  };
  const openNewGroup = () => withModule(import("./picker.js"), words, (module) => module.openNewGroup(session, [user]));
  const openGroups = () => withModule(import("./bots.js"), words, (module) => module.openGroups(session, user));
  const request = tile("request", "contact", words.messages_ask, () => attempt(request, null, words, () => changeFriend(session, "request", user)));
  const mayWrite = !isGuest || session.store.known(user);
  const isPerson = !card?.bot;
  const tiles = [];
  if (mayWrite) tiles.push(tile("message", "thread", words.messages_message, write));
  if (!isGuest && isPerson) tiles.push(tile("group-with", "group", words.messages_new_group, openNewGroup));
  if (!isGuest) tiles.push(tile("to-group", TO_GROUP, words.messages_bot_add, openGroups));
  if (!isGuest && isPerson && !card?.relation) tiles.push(request);
  return tiles;
}

/** @param {string} address */
function mailLink(address) {
  const link = /** @type {HTMLAnchorElement} */ (make("a", "", address));
  link.href = `mailto:${encodeURIComponent(address).replace("%40", "@")}`;
  return link;
}

/**
 * @param {Session} session
 * @param {CommonGroup[]} groups
 * @returns {HTMLElement[]} the groups in common; none if there are none
 */
function groupsOf(session, groups) {
  const { words, people } = session;
  const rows = groups.map(({ group, name, avatar }) => {
    const open = button("", "choice");
    open.dataset.key = `common:${group}`;
    open.append(people.face({ id: Number(group), group: true, peer: "", name, avatar }), make("bdi", "", name));
    open.addEventListener("click", () => session.open({ conversation: Number(group) }));
    return make("li", "", open);
  });
  if (!rows.length) return [];
  const title = words.messages_common_groups;
  return [make("div", "common-groups", section(`${title} · ${rows.length}`, namedList(title, rows)))];
}

/**
 * @param {Session} session
 * @param {string} user
 * @returns {HTMLElement[]} the buttons of features of the server
 */
function addedTo(session, user) {
  const actions = added.personActions.map((makeAction) => drawn(() => makeAction(session, user), () => null));
  return actions.flatMap((action, index) => {
    if (!action) return [];
    const made = button(action.word, action.danger ? "link danger" : "link");
    made.dataset.key = `added-${index}`;
    made.addEventListener("click", action.act);
    return [made];
  });
}

/**
 * @param {Session} session
 * @param {string} change  a route below `friends/`
 * @param {string} user
 */
export async function changeFriend(session, change, user) {
  const { status } = await session.api("POST", `friends/${change}`, { friend: user });
  if (status === "asked") toast(session.words.messages_request_sent);
  await session.people.refresh([user]);
}
