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
 * @param {Session} session
 * @param {string} user
 * @param {() => void} close
 * @returns {HTMLElement[]}
 */
function cardParts(session, user, close) {
  const { people, words } = session;
  const card = people.card(user);
  const name = people.nameOf(user);
  const relation = card?.relation ?? "";
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
  const tile = (/** @type {string} */ key, /** @type {Parameters<typeof signOf>[0]} */ sign, /** @type {string} */ word, /** @type {() => unknown} */ act) => {
    const made = button("", "tile");
    made.dataset.key = key;
    made.append(signOf(sign), make("span", "", word));
    made.addEventListener("click", act);
    return made;
  };
  const message = tile("message", "thread", words.messages_message, () => {
    close();
    session.open({ user });
  });
  const toGroup = tile("to-group", TO_GROUP, words.messages_bot_add, () => withModule(import("./bots.js"), words, ({ openGroups }) => openGroups(session, user)));
  const newGroup = tile("group-with", "group", words.messages_new_group, () => withModule(import("./picker.js"), words, ({ openNewGroup }) => openNewGroup(session, [user])));
  const block = action(words.messages_block, "block", "link danger", fill(words.messages_block_question, { name }));
  const mayWrite = !session.isGuest || session.store.known(user);
  const request = tile("request", "contact", words.messages_ask, () => attempt(request, null, words, () => changeFriend(session, "request", user)));
  const isPerson = !session.isGuest && !card?.bot;
  const tiles = relation === "blocked" ? [] : [
    ...(mayWrite ? [message] : []), ...(isPerson ? [newGroup] : []), ...(session.isGuest ? [] : [toGroup]), ...(isPerson && !relation ? [request] : []),
  ];
  /** @type {Record<string, HTMLElement[]>} */
  const choices = {
    friend: [action(words.messages_unfriend, "remove", "link danger", fill(words.messages_unfriend_question, { name }))],
    incoming: [action(words.messages_accept, "accept", "wide"), action(words.messages_decline, "decline")],
    outgoing: [action(words.messages_withdraw, "remove")],
    blocked: [action(words.messages_unblock, "unblock")],
  };
  const answers = relation === "incoming" ? choices.incoming : [];
  const rest = relation === "incoming" ? [] : choices[relation] ?? [];
  const states = { friend: words.messages_is_contact, incoming: words.messages_has_asked, outgoing: words.messages_request_sent, blocked: words.messages_is_blocked };
  const lines = [
    card?.title ? make("p", "card-title", card.title) : "",
    card?.name ? make("p", "card-handle", `@${card.name}`) : "",
    card?.email ? make("p", "card-handle", mailLink(card.email)) : "",
    presenceOf(session, user) ? make("p", card?.presence === "online" ? "presence is-online" : "presence", presenceOf(session, user)) : "",
    relation && relation !== "self" ? make("p", "muted", states[relation]) : "",
  ].filter((each) => each instanceof HTMLElement);
  const head = make("div", "card-head", people.avatar(user, "large"), ...people.marks(user), ...lines);
  return [
    head, ...(answers.length ? [make("p", "card-actions", ...answers)] : []), ...(tiles.length ? [make("div", "tiles", ...tiles)] : []),
    make("p", "card-actions", ...rest, ...(relation === "blocked" ? [] : [block]), ...addedTo(session, user)),
  ];
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
  return rows.length ? [make("div", "common-groups", section(`${words.messages_common_groups} · ${rows.length}`, namedList(words.messages_common_groups, rows)))] : [];
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
