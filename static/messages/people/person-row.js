// @ts-check
/** A row with a person, in lists of people. */

import { make } from "../../text.js";
import { presenceOf } from "../session/presence.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * A row with a person. The button opens what `onOpen` opens.
 *
 * @param {Session} session
 * @param {string} user
 * @param {() => void} onOpen
 * @param {{ below?: string, marks?: HTMLElement[], actions?: HTMLElement[] }} [more]  `below`: instead of the presence
 * @returns {HTMLElement} `li`
 */
export function personRow(session, user, onOpen, { below, marks = [], actions = [] } = {}) {
  const { people } = session;
  const { presence, title } = people.card(user) ?? {};
  const picture = make("span", presence === "online" ? "person-picture is-online" : "person-picture", people.avatar(user));
  const heading = make("span", "person-name", make("bdi", "", people.nameOf(user)), ...people.marks(user), ...marks);
  const texts = make("span", "person-words", heading);
  const second = below ?? [title, presenceOf(session, user)].filter(Boolean).join(" · ");
  if (second) texts.append(make("small", "", second));
  const open = /** @type {HTMLButtonElement} */ (make("button", "person", picture, texts));
  open.type = "button";
  open.dataset.key = `open:${user}`;
  open.addEventListener("click", onOpen);
  return make("li", "person-row", open, ...(actions.length ? [make("span", "person-actions", ...actions)] : []));
}
