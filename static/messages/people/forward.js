// @ts-check
/** Forwards messages to one or several conversations, also to people of the directory. */

import { fill, make } from "../../text.js";
import { Chosen } from "./chosen.js";
import { FoundPeople } from "./directory.js";
import { loadStyle, redraw } from "../parts/form.js";
import { button, openDialog, toast } from "../parts/panel.js";
import { keyOf } from "../session/store.js";
import { summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

const MOST_SHOWN = 50;
/** Most conversations at once. */
const MOST_CHOSEN = 10;

/**
 * Asks for conversations. The messages go through the outbox, in order.
 *
 * @param {Session} session
 * @param {Entry[]} entries  in order
 * @returns {Promise<boolean>} false: the user has cancelled
 */
export async function openForward(session, entries) {
  const { words, store, people } = session;
  await loadStyle(new URL("../later/selection.css", import.meta.url));
  const filter = /** @type {HTMLInputElement} */ (make("input", "search-field"));
  Object.assign(filter, { type: "search", placeholder: words.messages_filter, ariaLabel: words.messages_filter });
  const list = make("ul", "choices");
  const send = button("", "wide");
  const chips = new Chosen(words, (key) => {
    chosen.delete(key);
    draw();
  });
  const about = entries.length > 1 ? fill(words.messages_select_count, { count: entries.length }) : summaryOf(entries[0], words);
  const dialog = openDialog(words.messages_forward_to, make("div", "chooser", make("p", "muted one-line", about), filter, chips.root, list, send));
  /** @type {Map<string, Conversation>} */
  const chosen = new Map();
  let isSent = false;
  let drawn = "";
  const draw = () => {
    send.textContent = chosen.size ? fill(words.messages_forward_send, { count: chosen.size }) : words.messages_forward;
    chips.draw([...chosen].map(([key, each]) => [key, store.nameOf(each)]));
    send.disabled = !chosen.size;
    const wanted = filter.value.trim().toLowerCase();
    const saved = [store.withUser(session.user)].filter((each) => store.nameOf(each).toLowerCase().includes(wanted));
    const named = store.sorted.filter((each) => (each.group || each.peer) && !each.left && store.nameOf(each).toLowerCase().includes(wanted)).slice(0, MOST_SHOWN);
    const others = directory.users.filter((user) => user !== session.user).map((user) => store.withUser(user));
    const found = [...new Set([...saved, ...named, ...others])];
    const more = directory.more ? [directory.more] : [];
    const version = JSON.stringify([more.length, found.map((each) => [keyOf(each), store.nameOf(each), people.card(each.peer), chosen.has(keyOf(each))])]);
    if (version === drawn) return; // a button that is being clicked must stay
    drawn = version;
    redraw(list, [...found.map((each) => {
      const key = keyOf(each);
      const choice = button("", "choice");
      choice.dataset.key = key;
      choice.setAttribute("role", "checkbox");
      choice.setAttribute("aria-checked", String(chosen.has(key)));
      choice.append(people.face(each), make("bdi", "", store.nameOf(each)), make("span", "choice-mark"));
      choice.addEventListener("click", () => {
        if (!chosen.delete(key)) {
          if (chosen.size >= MOST_CHOSEN) return toast(fill(words.messages_forward_most, { count: MOST_CHOSEN }));
          chosen.set(key, each);
        }
        draw();
      });
      return make("li", "", choice);
    }), ...more]);
  };
  const directory = new FoundPeople(session, draw);
  filter.addEventListener("input", () => directory.find(filter.value)); // which draws
  send.addEventListener("click", () => {
    isSent = true;
    dialog.close();
  });
  const ends = [session.on("changed", draw), session.on("people", draw)]; // a new conversation is listed after its first message
  draw();
  filter.focus();
  await dialog.closed;
  ends.forEach((end) => end());
  directory.stop();
  if (!isSent) return false;
  const targets = [...chosen.values()];
  for (const target of targets) {
    for (const { type, text, data, meta, from, id } of entries) session.outbox.add(target, { type, text, data, forward: meta?.forwarded ?? { from, id } });
  }
  const [first] = targets;
  if (targets.length === 1) session.open(first.id ? { conversation: first.id } : { user: first.peer });
  else toast(fill(words.messages_forward_sent, { count: targets.length }));
  return true;
}
