// @ts-check
/** The one way to choose people, and conversations: for a new group, a group, a question, and messages that are forwarded. */

import { fill, make } from "../../text.js";
import { attempt, field, input, loadStyle, mayHaveKeys, noteLine, redraw, show } from "../parts/form.js";
import { button, openDialog } from "../parts/panel.js";
import { Everybody, Members } from "./choices.js";
import { kindField } from "./group-kinds.js";
import { tellInvited } from "./invitations.js";
import { RowList } from "./row-list.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("./choices.js").People} People */

/**
 * @typedef {object} Choice  a row that may be chosen, or a heading
 * @property {string} key        of its row
 * @property {string} [heading]
 * @property {string} [id]       what is chosen by it
 */

/**
 * @typedef {object} Choices  see {@link People}
 * @property {(text: string) => Choice[]} list
 * @property {(text: string) => void} find
 * @property {() => void} more
 * @property {(text: string) => boolean} isLoading
 * @property {() => void} stop
 * @property {(id: string) => { name: string, below?: string, look?: string, face: () => HTMLElement }} show  `look`: of the face
 */

/**
 * @typedef {object} PickerOptions
 * @property {string} title
 * @property {(count: number) => string} go        what the button says
 * @property {(changed: () => void) => Choices} choices
 * @property {HTMLElement[]} [head]                 above the search
 * @property {string[]} [chosen]                    from the beginning
 * @property {number} [most]
 * @property {(count: number) => string} [fault]    why it cannot be done; empty: it can
 * @property {(ids: string[]) => void} [changed]    others are chosen
 * @property {(ids: string[]) => unknown} act       the dialog stays open if it fails
 */

// In characters.
const SEARCH_LENGTH = 64;
const NAME_LENGTH = 50;
const DESCRIPTION_LENGTH = 500;
/** The name of a group that is given none has the names of so many members. */
const NAMES_IN_TITLE = 4;
/** So many people with whom the user has talked lately stand at the top. */
const RECENT = 5;

/**
 * A dialog in which the user chooses: a search, a chip for each that is chosen, a long list, and a button that stays in view.
 *
 * @param {Session} session
 * @param {PickerOptions} options
 */
export function openPicker(session, options) {
  const { title, go: wordOf, choices: makeChoices, head = [], chosen: first = [], most = Infinity, fault: faultOf, changed = () => {}, act } = options;
  const { words } = session;
  loadStyle(new URL("../later/picker.css", import.meta.url));
  const chosen = new Set(first);
  const search = input({ type: "search", maxLength: SEARCH_LENGTH, enterKeyHint: "done", className: "search-field" });
  search.placeholder = search.ariaLabel = words.messages_find;
  search.id = "picker-text";
  const chips = make("div", "chosen-row");
  const state = make("p", "muted picker-state");
  state.setAttribute("role", "status");
  const note = noteLine();
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide"));
  const list = new RowList(title, () => choices.more());
  const scroller = make("div", "picker-list", list.root, state);
  const form = make("form", "picker", ...head, make("div", "picker-find", search, chips), scroller, note, go);
  const layer = openDialog(title, form);
  const typed = () => search.value.trim();

  const draw = () => {
    const text = typed();
    const rows = choices.list(text);
    list.show(rows.map(({ key, heading, id = "" }) => {
      if (heading !== undefined) return { key, heading };
      return { key, draw: () => rowOf(id), version: () => `${chosen.has(id)} ${JSON.stringify(choices.show(id))}` };
    }));
    const none = text ? words.messages_search_none : words.messages_no_contacts_to_choose;
    const why = choices.isLoading(text) ? words.messages_loading : none;
    state.textContent = rows.length ? "" : why;
    state.hidden = rows.length > 0;
    go.textContent = wordOf(chosen.size);
    changed([...chosen]);
  };
  const drawChips = () => {
    chips.hidden = !chosen.size;
    const count = make("span", "heard", fill(words.messages_chosen_people, { count: chosen.size }));
    count.setAttribute("role", "status");
    redraw(chips, [count, ...[...chosen].map((id) => {
      const { name, face } = choices.show(id);
      const chip = button("", "quiet chosen");
      chip.dataset.key = `chosen:${id}`;
      const shown = [face(), make("bdi", "", name), make("span", "", "×")];
      for (const each of shown) each.setAttribute("aria-hidden", "true"); // the next one says it
      chip.append(...shown, make("span", "heard", fill(words.messages_unchoose, { name })));
      chip.addEventListener("click", () => unchoose(id));
      return chip;
    })]);
    chips.scrollTop = chips.scrollHeight;
  };
  /** @param {string} id */
  const unchoose = (id) => {
    show(note, "");
    chosen.delete(id);
    drawChips();
    draw();
  };
  /** @param {string} id */
  const choose = (id) => {
    const isFull = chosen.size >= most;
    show(note, isFull ? fill(words.messages_choose_most, { count: most }) : "");
    if (!isFull) chosen.add(id);
    drawChips();
    if (!typed()) return draw();
    search.value = ""; // the next one is typed now
    choices.find(""); // it draws, too
    if (mayHaveKeys()) search.focus();
  };
  /** @param {string} id */
  const rowOf = (id) => {
    const { name, below, face } = choices.show(id);
    const box = input({ type: "checkbox", checked: chosen.has(id) });
    box.dataset.key = id;
    box.addEventListener("change", () => (box.checked ? choose(id) : unchoose(id)));
    const text = make("span", "person-words", make("span", "person-name", make("bdi", "", name)), ...(below ? [make("small", "", below)] : []));
    return make("li", "person-row", make("label", "person pick", face(), text, box));
  };

  const choices = makeChoices(draw);
  search.addEventListener("input", () => choices.find(typed()));
  search.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Backspace" && !search.value && chosen.size) unchoose([...chosen].at(-1) ?? "");
    if (event.key === "ArrowDown") {
      event.preventDefault();
      scroller.querySelector("input")?.focus();
    }
    if (event.key !== "Enter" || !typed()) return;
    event.preventDefault(); // it chooses, and does not send the form
    const next = choices.list(typed()).find(({ id }) => id && !chosen.has(id));
    if (next?.id) choose(next.id);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const defaultFault = chosen.size ? "" : words.messages_choose_people;
    const fault = faultOf ? faultOf(chosen.size) : defaultFault;
    if (fault) return show(note, fault);
    if (await attempt(go, note, words, async () => act([...chosen]))) layer.close();
  });
  const ends = [session.on("people", () => list.update()), session.on("changed", () => list.update())];
  layer.closed.then(() => {
    for (const end of ends) end();
    choices.stop();
  });
  drawChips();
  draw();
  if (mayHaveKeys() && !head.some((each) => each.querySelector("input, select"))) search.focus();
  return layer;
}

/**
 * @param {Session} session
 * @param {People} people
 * @returns {Choices}
 */
function choicesOf(session, people) {
  return {
    list: (text) => people.list(text).map((entry) => ("user" in entry ? { key: entry.key, id: entry.user } : entry)),
    find: (text) => people.find(text),
    more: () => people.more(),
    isLoading: (text) => people.isLoading(text),
    stop: () => people.stop(),
    show: (user) => {
      const { name = "", title = "", avatar: look } = session.people.card(user) ?? {};
      return { name: session.people.nameOf(user), below: title || (name && `@${name}`), look, face: () => session.people.avatar(user) };
    },
  };
}

/**
 * A dialog in which the user chooses people.
 *
 * @param {Session} session
 * @param {Omit<PickerOptions, "choices"> & { group?: string, without?: string[] }} options  `group`: members of it alone; `without`: who is not offered
 */
export function choosePeople(session, { group, without = [], ...options }) {
  const excluded = new Set(without);
  /** @param {() => void} changed */
  const choices = (changed) => {
    const people = group ? new Members(session, group, changed, excluded) : new Everybody(session, changed, excluded, RECENT);
    return choicesOf(session, people);
  };
  return openPicker(session, { ...options, choices });
}

/**
 * A dialog that makes a group of people. Without a name, it has those of its members.
 *
 * @param {Session} session
 * @param {string[]} [chosen]
 */
export function openNewGroup(session, chosen = []) {
  const { words, people } = session;
  const name = input({ maxLength: NAME_LENGTH });
  name.id = "group-name";
  const about = input({ maxLength: DESCRIPTION_LENGTH });
  about.id = "group-about";
  const described = field(words.messages_description, about); // once it has a name: the list of people needs the room
  described.hidden = true;
  name.addEventListener("input", () => { described.hidden = !name.value.trim() && !about.value; });
  const kind = kindField(session);
  const nameFrom = (/** @type {string[]} */ users) => {
    const names = users.slice(0, NAMES_IN_TITLE).map((user) => people.nameOf(user));
    return names.join(words.messages_and).slice(0, NAME_LENGTH);
  };
  const layer = choosePeople(session, {
    title: words.messages_new_group,
    go: (count) => (count ? `${words.messages_create} · ${count}` : words.messages_create),
    head: [field(words.messages_group_name, name), described, kind.root],
    chosen,
    fault: (count) => (count || name.value.trim() ? "" : words.messages_fault_group_name),
    changed: (ids) => { name.placeholder = nameFrom(ids); },
    act: async (ids) => {
      const fields = { name: name.value.trim() || nameFrom(ids), description: about.value.trim(), members: ids, ...kind.fields() };
      const created = await session.api("POST", "groups/create", fields);
      await session.store.load();
      layer.close();
      session.open({ conversation: Number(created.group) });
      tellInvited(session, created);
    },
  });
  layer.dialog.querySelector("button.wide")?.setAttribute("id", "group-create");
  if (mayHaveKeys()) name.focus();
}
