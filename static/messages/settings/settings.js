// @ts-check
/** The settings of this device and of the user's notifications, and the table of keys. Loaded when it is needed. */

import { make } from "../../text.js";
import { added, addFeatures } from "../parts/additions.js";
import { field, input, loadStyle, mayHaveKeys, newId, redraw, section, select } from "../parts/form.js";
import { button, openDialog, openPanel } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {{ theme?: "light" | "dark", size?: number, language?: string, enter?: "send" | "line" }} Look  missing: that of the system or browser */

/** Where `look.js` finds it. */
const KEY = "imserver:look";
const STYLE = new URL("../later/settings.css", import.meta.url);

/**
 * Opens the panel. The sections of notifications and of features are added when they are loaded.
 *
 * @param {Session} session
 */
export async function openSettings(session) {
  const { words } = session;
  await loadStyle(STYLE);
  const body = make("div", "settings");
  openPanel(words.messages_settings, body);
  const look = lookSection(session);
  const keys = mayHaveKeys() ? [keysSection(session)] : [];
  /** @type {HTMLElement[]} */
  let notices = [];
  /** @type {HTMLElement[]} */
  let others = [];
  const draw = () => redraw(body, [look, ...notices, ...keys, ...others]);
  draw();
  const loadOthers = async () => {
    await addFeatures(session, true);
    others = added.sections.map((makeSection) => {
      const { title, content } = makeSection();
      return section(title, content);
    });
    draw();
  };
  const loadNotices = async () => {
    const module = session.hasNotifications ? await import("./notice-settings.js").catch(() => null) : null;
    notices = module ? await module.noticeSection(session) : [];
    draw();
  };
  await Promise.all([loadOthers(), loadNotices()]);
}

/** @param {Session} session */
export async function openShortcuts({ words }) {
  await loadStyle(STYLE);
  const rows = [
    ["Ctrl K", words.messages_key_search], ["Ctrl ⇧ K", words.messages_key_search_here], ["Alt ↑ ↓", words.messages_key_step], ["P U M A F", words.messages_key_list],
    ["↑", words.messages_key_edit], ["⇧ Tab, ↑ ↓", words.messages_key_move], ["Enter", words.messages_key_menu], ["R", words.messages_reply], ["X", words.messages_select],
    ["⇧ Enter", words.messages_key_line], ["Ctrl B, I, ⇧ X, E", words.messages_key_format], ["Ctrl ⇧ 8, 9, U", words.messages_key_format_lines],
    ["@", words.messages_key_mention], [":", words.messages_key_emoji], ["/", words.messages_key_command], ["Esc", words.messages_key_escape], ["?", words.messages_key_help],
  ];
  const list = make("dl", "shortcuts");
  for (const [keys, meaning] of rows) list.append(make("dt", "", make("kbd", "", keys)), make("dd", "", meaning));
  const body = make("div", "", list, make("p", "muted", words.messages_formats));
  body.tabIndex = 0; // keys scroll it
  openDialog(words.messages_shortcuts, body);
}

/** @param {Session} session */
function keysSection(session) {
  const show = button(session.words.messages_shortcuts_show);
  show.dataset.key = "shortcuts";
  show.addEventListener("click", () => openShortcuts(session));
  return section(session.words.messages_shortcuts, make("p", "panel-buttons", show));
}

/** @param {Session} session @returns {HTMLElement} colours, size of the text, the key Enter, and the language */
function lookSection({ words, languages }) {
  const { theme = "", size = 100, language = "" } = readLook();
  /** @type {[string, string][]} */
  const themes = [["", words.messages_theme_system], ["light", words.messages_theme_light], ["dark", words.messages_theme_dark]];
  /** In percent. @type {[string, string][]} */
  const sizes = [["87.5", words.messages_size_small], ["100", words.messages_size_normal], ["112.5", words.messages_size_large], ["125", words.messages_size_larger]];
  /** @type {[string, string][]} */
  const enters = [["send", words.messages_enter_send], ["line", words.messages_enter_line]];
  const { enter = "send" } = document.documentElement.dataset;
  return section(
    words.messages_look,
    choice(words.messages_theme, themes, theme, (value) => saveLook({ theme: value === "" ? undefined : /** @type {"light" | "dark"} */ (value) })),
    choice(words.messages_size, sizes, String(size), (value) => saveLook({ size: value === "100" ? undefined : Number(value) })),
    choice(words.messages_enter, enters, enter, (value) => saveLook({ enter: /** @type {"send" | "line"} */ (value) })),
    languageChoice(words, languages, language),
  );
}

/**
 * @param {Record<string, string>} words
 * @param {[language: string, name: string][]} languages
 * @param {string} present  empty: that of the browser
 */
function languageChoice(words, languages, present) {
  const box = select([["", words.messages_language_browser], ...languages], present);
  box.dataset.key = "language";
  for (const option of box.options) option.lang = option.value; // its name is in itself
  box.addEventListener("change", () => {
    saveLook({ language: box.value || undefined });
    const address = new URL(location.href);
    if (box.value) address.searchParams.set("lang", box.value);
    else address.searchParams.delete("lang");
    location.replace(address); // the words come with the page
  });
  return field(words.messages_language, box);
}

/**
 * A choice between a few values, one beside the other.
 *
 * @param {string} label
 * @param {[value: string, label: string][]} offered
 * @param {string} present
 * @param {(value: string) => void} onPick
 * @returns {HTMLElement}
 */
function choice(label, offered, present, onPick) {
  const name = newId();
  const heading = make("span", "choice-label", label);
  heading.id = `${name}-label`;
  const group = make("div", "segments", ...offered.map(([value, text]) => {
    const box = input({ type: "radio", name, value, checked: value === present });
    box.dataset.key = `${label}:${value}`;
    box.addEventListener("change", () => onPick(value));
    const shown = make("span", "", text);
    return make("label", "segment", box, shown);
  }));
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-labelledby", heading.id);
  return make("div", "field-group", heading, group);
}

/** @returns {Look} */
function readLook() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

/** @param {Look} changes  are stored, and `look.js` applies them */
export function saveLook(changes) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...readLook(), ...changes }));
  } catch {
    return; // no storage: nothing can be changed
  }
  dispatchEvent(new Event("look"));
}
