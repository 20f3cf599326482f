// @ts-check
/** What all sections are made of: cards, tables, facts, times, dialogs with fields, notices. Texts are never read as HTML. */

import { copyText } from "../page-parts.js";
import { fill, listOf, make, moments, numberOf, pageData, textOf, timeOf } from "../text.js";
import { reasonOf } from "./api.js";
import { fieldOf, valuesOf } from "./fields.js";

/**
 * A place that can load its content again; gently: unless it is in use by then.
 *
 * @typedef {HTMLElement & { again: (isGentle?: boolean) => Promise<void> }} Filled
 */
/** @typedef {import("./fields.js").Field} Field */
/** @typedef {{ language: string, text: Record<string, string>, accountsApp: string, demo: boolean, meanings: Record<string, string> }} Page */

export const page = /** @type {Page} */ (pageData());
export const words = page.text;
/** Of events that a webhook has not taken, the server counts at most this number. */
const MOST_COUNTED = 10_000;
export const number = new Intl.NumberFormat(page.language);
const LOOK_MS = 5_000;
/** After an act, the part in which it was done loads itself; the others follow. */
const ACT_MS = 200;
/** What somebody types in or has opened: it stays as it is. */
const IN_USE = "input, select, textarea, details[open], button[aria-busy], [data-pages]";
const TOAST_MS = 8_000;
/** A notice with a button stays longer, so that the person can press it. */
const BUTTON_TOAST_MS = 48_000;
/** In seconds. */
const MINUTE = 60;
const HOUR = 3_600;
const DAY = 86_400;
const absolute = new Intl.DateTimeFormat(page.language, { dateStyle: "full", timeStyle: "medium", hourCycle: "h23" });
const relative = new Intl.RelativeTimeFormat(page.language, { numeric: "auto", style: "short" });
const short = moments(page.language);

// --- elements -------------------------------------------------------------------------------------------------------

/**
 * A button that is busy while it acts. If the act fails, a notice says why.
 *
 * @param {string} label
 * @param {() => unknown} act
 * @param {string} [classes]
 * @returns {HTMLButtonElement}
 */
export function button(label, act, classes = "quiet") {
  const made = /** @type {HTMLButtonElement} */ (make("button", classes, label));
  made.type = "button";
  made.addEventListener("click", async () => {
    if (made.getAttribute("aria-busy") === "true") return;
    made.setAttribute("aria-busy", "true");
    try {
      await act();
    } catch (error) {
      toast(reasonOf(error, words), { isProblem: true });
    } finally {
      made.removeAttribute("aria-busy");
    }
  });
  return made;
}

/**
 * The address of a section within the page.
 *
 * @param {...string} parts
 */
export function addressOf(...parts) {
  return `#${parts.map(encodeURIComponent).join("/")}`;
}

/**
 * @param {string | Node} label
 * @param {...string} parts
 * @returns {HTMLElement}
 */
export function link(label, ...parts) {
  const made = make("a", "", label);
  made.setAttribute("href", addressOf(...parts));
  return made;
}

/**
 * A name that others have chosen: in its own direction, and with a word in its place if it is empty.
 *
 * @param {unknown} text
 * @returns {HTMLElement}
 */
export function name(text) {
  return make("bdi", "", textOf(text) || "–");
}

/** @param {unknown[]} counts  of events that a webhook has not taken: added up, with a plus if one of them is as much as is counted */
export function countOf(...counts) {
  const numbers = counts.map(numberOf);
  const sum = numbers.reduce((total, each) => total + each, 0);
  const hasMore = numbers.some((each) => each >= MOST_COUNTED);
  return number.format(sum) + (hasMore ? "+" : "");
}

/** @param {unknown} text  an id, an address or another text for programs */
export function code(text) {
  return make("code", "", textOf(text) || "–");
}

/**
 * @param {unknown} text  a version, which may break before its build
 * @returns {HTMLElement}
 */
export function version(text) {
  const [release, build] = textOf(text).split("+");
  return make("bdi", "", release || "–", ...(build ? [make("wbr", ""), `+${build}`] : []));
}

/**
 * @param {string} text
 * @param {"good" | "bad" | "warn" | ""} [kind]
 */
export function badge(text, kind = "") {
  return make("span", `badge ${kind}`, text);
}

/** @param {unknown} seconds  since 1970 */
export function absoluteTime(seconds) {
  return absolute.format(new Date(timeOf(seconds)));
}

/**
 * A time in the words of people, with the whole time as its title.
 *
 * @param {unknown} seconds  since 1970; 0: none
 * @param {string} [none]
 * @returns {HTMLElement}
 */
export function time(seconds, none = "–") {
  const moment = timeOf(seconds);
  if (!moment) return make("span", "muted", none);
  const made = /** @type {HTMLTimeElement} */ (make("time", "", agoOf(moment)));
  made.dateTime = new Date(moment).toISOString();
  made.title = absolute.format(new Date(moment));
  return made;
}

/**
 * @param {number} moment  in milliseconds since 1970
 * @returns {string} how far away it is, before or after now; a day or more away: its date
 */
function agoOf(moment) {
  const seconds = (moment - Date.now()) / 1000;
  const distance = Math.abs(seconds);
  if (distance < MINUTE) return relative.format(Math.trunc(seconds), "second");
  if (distance < HOUR) return relative.format(Math.trunc(seconds / MINUTE), "minute");
  if (distance < DAY) return relative.format(Math.trunc(seconds / HOUR), "hour");
  return short.format(new Date(moment));
}

setInterval(() => {
  for (const each of document.querySelectorAll("time")) {
    const text = agoOf(Date.parse(each.dateTime));
    if (each.textContent !== text) each.textContent = text;
  }
}, LOOK_MS);

/**
 * @param {number} seconds
 * @returns {string} in its largest unit
 */
export function duration(seconds) {
  const units = /** @type {const} */ ([["days", DAY], ["hours", HOUR], ["minutes", MINUTE]]);
  for (const [unit, length] of units) {
    if (seconds >= length) return fill(words[`unit_${unit}`], { count: Math.floor(seconds / length) });
  }
  return fill(words.unit_seconds, { count: Math.floor(seconds) });
}

/**
 * @param {number} bytes
 * @returns {string}
 */
export function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const format = new Intl.NumberFormat(page.language, { maximumFractionDigits: value < 10 ? 1 : 0 });
  return `${format.format(value)} ${units[unit]}`;
}

/**
 * @param {string} title
 * @param {...(Node | string)} content
 * @returns {HTMLElement}
 */
export function card(title, ...content) {
  return make("section", "card", ...(title ? [make("h2", "", title)] : []), ...content);
}

/**
 * The heading of a section, and what can be done there.
 *
 * @param {string | Node} title
 * @param {string | Node} [hint]
 * @param {...Node} actions
 */
export function heading(title, hint = "", ...actions) {
  const text = make("div", "", make("h1", "", title), ...(hint ? [make("p", "muted", hint)] : []));
  return make("header", "section-head", text, ...(actions.length ? [make("div", "actions", ...actions)] : []));
}

/**
 * @param {[string, Node | string][]} pairs
 * @returns {HTMLElement}
 */
export function facts(pairs) {
  return make("dl", "facts", ...pairs.map(([label, value]) => make("div", "", make("dt", "", label), make("dd", "", value))));
}

/** A longer word may break within a cell. */
const LONG_WORD = /\S{22}/;

/** @param {Node | string} cell */
function isEmpty(cell) {
  const text = typeof cell === "string" ? cell : cell.textContent ?? "";
  return ["", "–"].includes(text.trim());
}

/**
 * A table; in a narrow window each row is a block with the headings beside the values. Columns in which nothing stands are left out.
 *
 * @param {string} label
 * @param {string[]} columns
 * @param {(Node | string)[][]} rows  the first cell of each names the row
 * @param {string} empty  what is shown without rows
 * @returns {HTMLElement}
 */
export function table(label, columns, rows, empty) {
  if (!rows.length) return make("p", "empty-note", empty);
  const isShown = columns.map((_, index) => index === 0 || rows.some((cells) => !isEmpty(cells[index])));
  const head = columns.filter((_, index) => isShown[index]).map((column) => {
    const cell = make("th", "", column || make("span", "heard", words.admin_actions));
    cell.setAttribute("scope", "col");
    return cell;
  });
  const body = rows.map((cells) => {
    const row = make("tr", "");
    for (const [index, content] of cells.entries()) {
      if (isShown[index]) row.append(cellOf(content, index, columns[index]));
    }
    return row;
  });
  const made = make("table", "", make("thead", "", make("tr", "", ...head)), make("tbody", "", ...body));
  made.setAttribute("aria-label", label);
  return made;
}

/**
 * @param {Node | string} content
 * @param {number} index  0: the cell names its row
 * @param {string} column  empty: the column of the row's buttons
 */
function cellOf(content, index, column) {
  const made = make(index ? "td" : "th", column ? "" : "row-actions", content);
  if (index) made.dataset.label = column;
  else made.setAttribute("scope", "row");
  made.classList.toggle("long", LONG_WORD.test(made.textContent ?? ""));
  made.classList.toggle("none", isEmpty(content));
  return made;
}

/**
 * @param {string} text
 * @returns {HTMLElement}
 */
export function problem(text) {
  const made = make("p", "problem", text);
  made.setAttribute("role", "alert");
  return made;
}

/**
 * Nodes that did not answer: what is shown lacks their part.
 *
 * @param {Record<string, any>} answer
 * @returns {HTMLElement[]}
 */
export function missing(answer) {
  const nodes = listOf(answer.missing_nodes);
  return nodes.length ? [make("p", "warning", fill(words.admin_missing, { nodes: nodes.join(", ") }))] : [];
}

// --- loading --------------------------------------------------------------------------------------------------------

/**
 * Loads something and draws it in a place; meanwhile the place says so. If it fails, the place says why, with a button that tries again.
 *
 * @template T
 * @param {HTMLElement} place
 * @param {() => Promise<T>} load
 * @param {(loaded: T) => (Node | string)[]} draw
 * @param {boolean} [isGentle]  what is in use when it is loaded stays
 * @returns {Promise<void>}
 */
export async function fillPlace(place, load, draw, isGentle = false) {
  const turn = String(Number(place.dataset.turn ?? 0) + 1); // which of several loadings of this place is the last
  place.dataset.turn = turn;
  place.setAttribute("aria-busy", "true");
  if (!place.childElementCount) place.append(make("p", "empty-note", words.admin_loading));
  let content;
  try {
    content = draw(await load());
  } catch (error) {
    const again = button(words.admin_retry, () => fillPlace(place, load, draw));
    content = [make("div", "failed", problem(reasonOf(error, words)), again)];
  }
  if (place.dataset.turn !== turn) return; // the place was loaded again meanwhile
  place.removeAttribute("aria-busy");
  place.dataset.loaded = String(Date.now());
  if (isGentle && isInUse(place)) return;
  place.replaceChildren(...content);
}

/**
 * A place that loads its content at once.
 *
 * @template T
 * @param {() => Promise<T>} load
 * @param {(loaded: T) => (Node | string)[]} draw
 * @returns {Filled}
 */
export function place(load, draw) {
  const made = Object.assign(make("div", "place"), { again: (isGentle = false) => fillPlace(made, load, draw, isGentle) });
  made.again();
  return made;
}

/**
 * Looks again every few seconds while the section is shown, but not while somebody acts there.
 *
 * @param {Filled} shown
 * @param {() => boolean} isShown
 * @param {number} [every]  milliseconds
 */
export function keepFresh(shown, isShown, every = LOOK_MS) {
  const timer = setInterval(() => {
    if (!isShown()) return clearInterval(timer);
    const isDisturbing = document.querySelector("dialog") || isInUse(shown);
    if (!document.hidden && !isDisturbing) shown.again(true);
  }, every);
}

/** @param {Element} place */
const isInUse = (place) => place.contains(document.activeElement) || place.querySelector(IN_USE) !== null || place.matches(IN_USE);

/**
 * Loads all places again, except those that are in use, being loaded, or were loaded since a time.
 *
 * @param {number} since  milliseconds since 1970
 */
function refresh(since) {
  for (const each of document.querySelectorAll("main .place")) {
    const place = /** @type {Filled} */ (each);
    if (!place.again) continue; // it only looks like a place
    const isOld = Number(place.dataset.loaded ?? since) < since;
    if (isOld && place.ariaBusy !== "true" && !isInUse(place)) place.again(true);
  }
}

/** Somebody has changed something: what else the section shows, such as its audit, may tell of it. */
export function refreshAfterAct() {
  const now = Date.now();
  setTimeout(() => refresh(now), ACT_MS);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh(Date.now());
});

/**
 * A list whose pages are loaded one after the other.
 *
 * @param {(cursor: string) => Promise<{ rows: any[], next: string, above?: HTMLElement[] }>} load  `""`: the first page
 * @param {(rows: any[]) => HTMLElement} draw
 * @returns {Filled}
 */
export function list(load, draw) {
  /** @type {any[]} */
  let rows = [];
  const made = place(async () => {
    const first = await load("");
    ({ rows } = first);
    delete made.dataset.pages;
    return first;
  }, show);
  return made;

  /** @param {{ next: string, above?: HTMLElement[] }} page */
  function show({ next, above = [] }) {
    const more = button(words.admin_more, async () => {
      const following = await load(next);
      rows = [...rows, ...following.rows];
      made.dataset.pages = "more"; // in use from now on: a refresh would drop the further pages
      made.replaceChildren(...show(following));
    });
    return [...above, draw(rows), ...(next ? [make("p", "more", more)] : [])];
  }
}

// --- dialogs --------------------------------------------------------------------------------------------------------

/**
 * Asks for some values, and does something with them. It stays open, with the reason, if that fails.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {string} [options.text]  what happens; of what cannot be undone, a sentence that says so
 * @param {Node[]} [options.content]  what else stands above the fields
 * @param {Field[]} [options.fields]
 * @param {string} options.yes  the word on the button
 * @param {boolean} [options.danger]
 * @param {(values: Record<string, string>) => Promise<unknown>} options.act
 * @returns {Promise<boolean>} whether it was done
 */
export async function ask({ title, text = "", content = [], fields = [], yes, danger = false, act }) {
  const form = /** @type {HTMLFormElement} */ (make("form", "ask"));
  const reason = make("p", "problem");
  reason.setAttribute("role", "alert");
  reason.hidden = true;
  const submit = /** @type {HTMLButtonElement} */ (make("button", danger ? "primary danger" : "primary", yes));
  form.append(...(text ? [make("p", "", text)] : []), ...content, ...fields.map(fieldOf), reason);
  const { dialog, closed, close } = openDialog(title, form);
  form.append(make("p", "dialog-row", button(words.admin_cancel, close), submit));
  let isDone = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    submit.setAttribute("aria-busy", "true");
    reason.hidden = true;
    try {
      await act(valuesOf(form));
      isDone = true;
      close();
    } catch (error) {
      reason.textContent = reasonOf(error, words);
      reason.hidden = false;
    } finally {
      submit.disabled = false;
      submit.removeAttribute("aria-busy");
    }
  });
  const first = dialog.querySelector(fields.length ? "input, select, textarea" : ".dialog-row button");
  if (first instanceof HTMLElement) first.focus();
  await closed;
  return isDone;
}

/**
 * Shows something that is shown only once, such as a new key.
 *
 * @param {string} title
 * @param {string} text
 * @param {string} secret
 */
export async function showSecret(title, text, secret) {
  const field = /** @type {HTMLInputElement} */ (make("input", "secret"));
  field.readOnly = true;
  field.value = secret;
  field.setAttribute("aria-label", title);
  const copy = button(words.admin_copy, async () => {
    const isCopied = await copyText(secret);
    copy.textContent = isCopied ? words.admin_copied : words.admin_copy_failed;
  }, "primary");
  const content = make("div", "ask", make("p", "", text), field);
  const { closed, close } = openDialog(title, content);
  content.append(make("p", "dialog-row", button(words.admin_close, close), copy));
  field.select();
  await closed;
}

/**
 * Opens a modal dialog. It closes by Escape, by a click beside it, or by `close`; `closed` is resolved then.
 *
 * @param {string} title
 * @param {HTMLElement} content
 */
function openDialog(title, content) {
  const dialog = /** @type {HTMLDialogElement} */ (make("dialog", "", make("h2", "", title), content));
  dialog.setAttribute("aria-label", title);
  document.body.append(dialog);
  // The button that opened the dialog waits for a person now, not for the server.
  for (const opener of document.querySelectorAll("button[aria-busy]")) opener.removeAttribute("aria-busy");
  /** @type {Promise<void>} */
  const closed = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve();
    });
  });
  dialog.addEventListener("mousedown", (event) => {
    if (event.target === dialog) dialog.close(); // a press beside the content
  });
  dialog.showModal();
  return { dialog, closed, close: () => dialog.close() };
}

/**
 * Fields above a list that choose what it shows. Text fields get a button, since they change only when they are left.
 *
 * @param {Field[]} fields
 * @param {(values: Record<string, string>) => unknown} act  called at each change
 */
export function filters(fields, act) {
  const usual = fields.filter((each) => !each.isRare);
  const rare = fields.filter((each) => each.isRare);
  const form = /** @type {HTMLFormElement} */ (make("form", "filters", ...usual.map(fieldOf)));
  if (fields.some(({ type = "text" }) => type === "text")) form.append(make("button", "quiet", words.admin_show));
  if (rare.length) {
    const summary = make("summary", "muted", words.admin_more_filters);
    const more = /** @type {HTMLDetailsElement} */ (make("details", "", summary, make("div", "filters", ...rare.map(fieldOf))));
    more.open = rare.some((each) => each.value);
    form.append(more);
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(valuesOf(form));
  });
  form.addEventListener("change", () => act(valuesOf(form)));
  return form;
}

// --- notices --------------------------------------------------------------------------------------------------------

/**
 * Shows a short notice. Screen readers announce it.
 *
 * @param {string} text
 * @param {{ label?: string, act?: () => unknown, isProblem?: boolean }} [options]  a button in it
 */
export function toast(text, { label = "", act, isProblem = false } = {}) {
  const region = document.getElementById("toasts");
  const made = make("p", isProblem ? "toast bad" : "toast", make("span", "", text));
  if (act) {
    made.append(button(label, async () => {
      await act();
      made.remove();
    }, "link"));
  }
  region?.append(made);
  setTimeout(() => made.remove(), act ? BUTTON_TOAST_MS : TOAST_MS);
}
