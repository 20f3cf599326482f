// @ts-check
/** The people whom a notice only counts. */

import { listOf, make } from "../../text.js";
import { namedList, redraw } from "../parts/form.js";
import { openDialog } from "../parts/panel.js";
import { openCard } from "../people/card.js";
import { personRow } from "../people/person-row.js";

/** @typedef {import("../session/session.js").Session} Session */

/** More are not listed: the list of members has them. */
const MOST_ROWS = 500;

/**
 * Opens the list of these people.
 *
 * @param {Session} session
 * @param {string} text  of the notice
 * @param {unknown} users  as the entry has them: they may be anything
 */
export function openNamed(session, text, users) {
  const named = listOf(users).filter((user) => typeof user === "string").slice(0, MOST_ROWS);
  const body = make("div", "named-people");
  const layer = openDialog(text, body);
  const draw = () => {
    const rows = named.map((user) => personRow(session, user, () => openCard(session, user)));
    redraw(body, [namedList(text, rows)]);
  };
  const stopListening = session.on("people", draw);
  layer.closed.then(stopListening);
  draw();
  session.people.load(named);
}
