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
 * @param {Session} session
 * @param {string} text  of the notice
 * @param {unknown} users
 */
export function openNamed(session, text, users) {
  const named = listOf(users).filter((user) => typeof user === "string").slice(0, MOST_ROWS);
  const body = make("div", "named-people");
  const layer = openDialog(text, body);
  const draw = () => redraw(body, [namedList(text, named.map((user) => personRow(session, user, () => openCard(session, user))))]);
  const off = session.on("people", draw);
  layer.closed.then(off);
  draw();
  session.people.load(named);
}
