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
  const isOnline = people.card(user)?.presence === "online";
  const picture = make("span", isOnline ? "person-picture is-online" : "person-picture", people.avatar(user));
  const second = below ?? [people.card(user)?.title, presenceOf(session, user)].filter(Boolean).join(" · ");
  const heading = make("span", "person-name", make("bdi", "", people.nameOf(user)), ...people.marks(user), ...marks);
  const open = /** @type {HTMLButtonElement} */ (
    make("button", "person", picture, make("span", "person-words", heading, ...(second ? [make("small", "", second)] : [])))
  );
  open.type = "button";
  open.dataset.key = `open:${user}`;
  open.addEventListener("click", onOpen);
  return make("li", "person-row", open, ...(actions.length ? [make("span", "person-actions", ...actions)] : []));
}
