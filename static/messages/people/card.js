// @ts-check
/** The card of a person: what we know of them, and what we can do with them. */

import { drawn, element, fill, make } from "../../text.js";
import { added, addFeatures } from "../parts/additions.js";
import { attempt, redraw, withModule } from "../parts/form.js";
import { button, confirm, openDialog, toast } from "../parts/panel.js";
import { presenceOf } from "../session/presence.js";

/** @typedef {import("../session/session.js").Session} Session */

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
  const root = make("div", "card-of-person");
  const layer = openDialog(people.nameOf(user), root);
  const draw = () => redraw(root, cardParts(session, user, layer.close));
  const ends = [session.on("people", draw), people.watch(() => [user])];
  draw();
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
  const message = button(words.messages_message, "wide");
  message.dataset.key = "message";
  message.addEventListener("click", () => {
    close();
    session.open({ user });
  });
  const toGroup = button(words.messages_bot_add);
  toGroup.dataset.key = "to-group";
  toGroup.addEventListener("click", () => withModule(import("./bots.js"), words, ({ openGroups }) => openGroups(session, user)));
  const block = action(words.messages_block, "block", "link danger", fill(words.messages_block_question, { name }));
  const mayWrite = !session.isGuest || session.store.known(user);
  /** @type {Record<string, HTMLElement[]>} */
  const choices = {
    "": session.isGuest ? [...(mayWrite ? [message] : [])] : card?.bot ? [message, toGroup] : [message, action(words.messages_ask, "request"), toGroup],
    self: [],
    friend: [message, toGroup, action(words.messages_unfriend, "remove", "quiet", fill(words.messages_unfriend_question, { name }))],
    incoming: [action(words.messages_accept, "accept", "wide"), action(words.messages_decline, "decline"), message],
    outgoing: [message, action(words.messages_withdraw, "remove")],
    blocked: [action(words.messages_unblock, "unblock")],
  };
  const actions = choices[relation];
  const states = { friend: words.messages_is_contact, incoming: words.messages_has_asked, outgoing: words.messages_request_sent, blocked: words.messages_is_blocked };
  const lines = [
    card?.name ? make("p", "card-handle", `@${card.name}`) : "",
    presenceOf(session, user) ? make("p", card?.presence === "online" ? "presence is-online" : "presence", presenceOf(session, user)) : "",
    relation && relation !== "self" ? make("p", "muted", states[relation]) : "",
  ].filter((each) => each instanceof HTMLElement);
  const head = make("div", "card-head", people.avatar(user, "large"), ...people.marks(user), ...lines);
  return [head, make("p", "card-actions", ...actions), make("p", "card-actions", ...(relation === "blocked" ? [] : [block]), ...addedTo(session, user))];
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
