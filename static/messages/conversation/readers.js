// @ts-check
/** Who has read a message of ours in a group. */

import { fill, make } from "../../text.js";
import { openCard } from "../people/card.js";
import { load, namedList, noteLine, redraw } from "../parts/form.js";
import { button, openDialog } from "../parts/panel.js";
import { personRow } from "../people/person-row.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** Readers that are loaded at once. */
const PAGE = 100;

/**
 * Opens the list of the readers.
 *
 * @param {Session} session
 * @param {Entry} entry
 */
export function openReaders(session, { conversation, id }) {
  const { words, people, messenger } = session;
  const note = noteLine();
  const body = make("div", "");
  const layer = openDialog(words.messages_readers, make("div", "chooser", note, body));
  const more = button(words.more, "link");
  /** @type {string[]} */
  let users = [];
  let title = "";
  let hasMore = true;
  const draw = () => {
    const rows = users.map((user) => personRow(session, user, () => openCard(session, user)));
    const parts = [make("p", "muted", title), namedList(words.messages_readers, rows)];
    redraw(body, hasMore ? [...parts, more] : parts);
  };
  const loadNext = () => load(body, note, session, async () => {
    const [page, { counts: [count] }] = await Promise.all([
      messenger.receipts(conversation, { message: id, after: users.at(-1) ?? "", limit: PAGE }),
      messenger.receiptCounts(conversation, [id]),
    ]);
    users = [...users, ...page.receipts.map(({ user }) => user)];
    hasMore = page.hasMore;
    title = count?.read ? fill(words.messages_read_by, { count: count.read, members: count.members }) : words.messages_read_by_nobody;
    draw();
    await people.load(users);
  });
  more.addEventListener("click", loadNext);
  const stopListening = session.on("people", draw);
  layer.closed.then(stopListening);
  loadNext();
}
