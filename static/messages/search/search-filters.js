// @ts-check
/** The menu of the filters of a search, and the way to a day of a conversation. Loaded when it is needed. */

import { make } from "../../text.js";
import { attempt, field, input, loadStyle, newId, noteLine, section, select, show } from "../parts/form.js";
import { button, openDialog, whenLeft } from "../parts/panel.js";
import { dateText, timeOf } from "./search-query.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("./search-query.js").Query} Query */
/** @typedef {import("./search-query.js").Content} Content */

/**
 * @typedef {object} FilterMenu
 * @property {Query} query                      what is typed
 * @property {string[]} names                   of people who may have written
 * @property {{ id: number, name: string }[]} places  conversations
 * @property {number} within                    the conversation that is searched; 0: all
 * @property {readonly Content[]} contents
 * @property {(text: string) => void} apply     takes the text with the filters
 * @property {(act: () => unknown) => unknown} go  called with what leads to a message
 */

const DAY_MS = 86_400_000;
/** A search stops after a time. So many times it is continued. */
const EMPTY_PAGES = 20;
const FIRST_ENTRIES = 20;

/**
 * Opens the menu. The chosen filters become the text of the search.
 *
 * @param {Session} session
 * @param {FilterMenu} menu
 */
export function openFilters(session, { query, names, places, within, contents, apply, go }) {
  const { words } = session;
  loadStyle(new URL("../later/search-filters.css", import.meta.url));
  const from = input({ type: "text", value: query.from, placeholder: words.messages_filter_anybody, maxLength: 64 });
  const known = make("datalist", "", ...names.map((name) => new Option(name, name)));
  known.id = newId();
  from.setAttribute("list", known.id);
  const place = select([["", words.messages_filter_everywhere], ...places.map(({ name }) => /** @type {[string, string]} */ ([name, name]))], query.in);
  const since = day(query.since);
  const until = day(query.until);
  const boxes = contents.map((content) => ({ content, box: input({ type: "checkbox", checked: query.has.includes(content) }) }));
  const checks = boxes.map(({ content, box }) => make("label", "check", box, make("span", "", words[`messages_has_${content}`])));
  const clear = button(words.messages_filter_clear);
  const submit = button(words.messages_filter_show, "wide");
  submit.type = "submit";
  const form = make(
    "form", "filter-form", field(words.messages_filter_sender, from), known, ...(within ? [] : [field(words.messages_filter_place, place)]),
    make("div", "filter-days", field(words.messages_filter_since, since), field(words.messages_filter_until, until)),
    make("fieldset", "filter-contents", make("legend", "", words.messages_filter_contents), ...checks),
    make("div", "filter-acts", clear, submit),
  );
  const chosenPlace = () => within || places.find(({ name }) => name === place.value)?.id || 0;
  const jump = jumpSection(session, chosenPlace, async (act) => {
    layer.close();
    await whenLeft();
    go(act);
  });
  const layer = openDialog(words.messages_filters, make("div", "filters", form, jump));
  layer.dialog.classList.add("filter-menu");

  /** @param {string} text  for the search */
  const leaveWith = async (text) => {
    layer.close();
    await layer.closed;
    apply(text);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = boxes.filter(({ box }) => box.checked).map(({ content }) => words[`messages_has_${content}`]);
    const values = [
      ["from", from.value.trim()], ["in", within ? "" : place.value], ...chosen.map((each) => ["has", each]), ["after", since.value], ["before", until.value],
    ];
    const filters = values.filter(([, value]) => value).map(([name, value]) => `${words[`messages_filter_${name}`]}:${quoted(value)}`);
    leaveWith([query.words, ...filters].filter(Boolean).join(" ") + " ");
  });
  clear.addEventListener("click", () => leaveWith(query.words));
}

/**
 * The section that leads to the first message of a day.
 *
 * @param {Session} session
 * @param {() => number} placeOf  the conversation that is chosen; 0: none
 * @param {(act: () => unknown) => unknown} go  called with what leads to the message
 * @returns {HTMLElement}
 */
function jumpSection(session, placeOf, go) {
  const { words } = session;
  const when = day(0);
  const jump = button(words.messages_jump_go, "wide");
  const note = noteLine();
  jump.addEventListener("click", () => {
    const conversation = placeOf();
    if (!conversation || !when.value) {
      show(note, conversation ? words.messages_jump_day : words.messages_jump_place);
      (conversation ? when : jump).focus();
      return;
    }
    attempt(jump, note, words, async () => {
      const message = await firstOfDay(session, conversation, timeOf(when.value));
      if (message) go(() => session.open({ conversation, message }));
      else show(note, words.messages_jump_none);
    });
  });
  return section(words.messages_jump, make("div", "filter-jump", field(words.messages_jump_on, when), jump), note);
}

/**
 * @param {Session} session
 * @param {number} conversation
 * @param {number} begin  of the day, in milliseconds
 * @returns {Promise<number>} the first message from then on; the last one before if there is none; 0: there are no messages
 */
async function firstOfDay({ messenger }, conversation, begin) {
  let before = 0;
  let last = 0;
  for (let pages = 0; pages < EMPTY_PAGES && !last; pages++) {
    // the last message before the day: the history goes on from there
    const page = await messenger.search("", { conversation, until: begin, limit: 1, ...(before && { before }) });
    last = page.messages.at(-1)?.id ?? 0;
    before = page.before ?? 0;
    if (!page.hasMore) break;
  }
  const { messages } = await messenger.history(conversation, { after: last, limit: FIRST_ENTRIES });
  return messages.find(({ kind }) => !kind || kind === "message")?.id ?? last;
}

/** @param {number} time  in milliseconds; 0: none */
function day(time) {
  const tomorrow = new Date(Date.now() + DAY_MS); // the bound `before` excludes its day
  return input({ type: "date", value: time ? dateText(new Date(time)) : "", max: dateText(tomorrow) });
}

/** @param {string} value  of a filter */
function quoted(value) {
  return /\s/.test(value) ? `"${value.replaceAll('"', "")}"` : value;
}
