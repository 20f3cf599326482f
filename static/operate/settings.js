// @ts-check
/** The settings of an app as fields, made from the schemas that the server has for them. */

import { copyText } from "../page-parts.js";
import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { reasonOf } from "./api.js";
import { ask, badge, button, card, code, duration, number, page, place, problem, size, toast, words } from "./ui.js";

/** @typedef {import("./api.js").Api} Api */
/** @typedef {import("./ui.js").Filled} Filled */
/** @typedef {Record<string, any>} Schema */

/**
 * One setting. Values are those of the API; `undefined`: what is written is no value.
 *
 * @typedef {object} Setting
 * @property {string} name  of one in a group `webhook.url`
 * @property {Schema} schema
 * @property {unknown} usual  the default
 * @property {unknown} before  what the app has
 * @property {() => unknown} read  what the field has
 * @property {(value: unknown) => void} write
 * @property {HTMLElement} row
 * @property {HTMLElement} reason  of the server
 */

/** @typedef {{ node: HTMLElement, read: () => unknown, write: (value: unknown) => void }} Control */

const ROOT = "AppSettingsGiven";
const REFERENCE = "#/components/schemas/";

/**
 * @param {Api} api
 * @param {string} app
 * @param {() => unknown} changed  called when something was saved
 * @returns {Filled}
 */
export function settingsOf(api, app, changed) {
  /** @type {Filled} */
  const made = place(async () => {
    const language = page.language.startsWith("zh") ? "zh" : "en";
    const [described, shown] = await Promise.all([api.get("apps/settings", { app, language }), api.get("apps/show", { app })]);
    return { described, shown };
  }, ({ described, shown }) => new Form(api, app, described, shown, async () => {
    await made.again();
    await changed();
  }).parts);
  return made;
}

class Form {
  /**
   * @param {Api} api
   * @param {string} app
   * @param {Schema} described
   * @param {Schema} shown
   * @param {() => unknown} saved
   */
  constructor(api, app, described, shown, saved) {
    this.api = api;
    this.app = app;
    this.schemas = recordOf(described.schemas);
    this.given = new Set(listOf(described.given));
    this.newLogins = new Set(listOf(described.new_logins));
    this.isOfFile = shown.configured === true;
    this.isReadOnly = !api.may("POST apps/set");
    this.saved = saved;
    /** @type {Setting[]} */
    this.settings = [];
    const groups = this.#groups(shown);
    this.bar = make("div", "save-bar");
    this.bar.setAttribute("role", "status");
    this.none = make("p", "empty-note", words.admin_settings_none);
    this.none.hidden = true;
    this.parts = [...this.#head(), ...groups, this.none, this.bar];
    this.#count();
  }

  /** @returns {HTMLElement[]} what the settings are for, and what finds them */
  #head() {
    const find = /** @type {HTMLInputElement} */ (make("input", ""));
    find.type = "search";
    find.placeholder = words.admin_settings_find;
    find.setAttribute("aria-label", words.admin_settings_find);
    const own = /** @type {HTMLInputElement} */ (make("input", ""));
    own.type = "checkbox";
    own.id = "settings-own";
    const label = make("label", "", words.admin_settings_own);
    label.setAttribute("for", own.id);
    const show = () => this.#filter(find.value, own.checked);
    find.addEventListener("input", show);
    own.addEventListener("change", show);
    const filters = make("div", "settings-find", find, make("div", "field check", own, label));
    const why = this.isOfFile ? [make("p", "warning", words.admin_settings_of_file)] : [];
    return [make("h2", "part-head", words.admin_settings), make("p", "muted", words.admin_settings_apply), ...why, filters];
  }

  /**
   * @param {string} text
   * @param {boolean} isOwn  only what differs from the defaults
   */
  #filter(text, isOwn) {
    const searched = text.trim().toLowerCase().split(/\s+/);
    for (const each of this.settings) {
      const read = `${each.name} ${each.row.textContent}`.toLowerCase();
      each.row.hidden = !searched.every((word) => read.includes(word)) || (isOwn && !this.given.has(each.name) && !isChanged(each));
    }
    const groups = new Set(this.settings.map(({ row }) => row.closest("section")));
    for (const group of groups) if (group) group.hidden = !group.querySelector(".setting:not([hidden])");
    this.none.hidden = this.settings.some(({ row }) => !row.hidden);
  }

  /**
   * @param {Schema} shown
   * @returns {HTMLElement[]} a card for the settings outside of groups, and one for each group
   */
  #groups(shown) {
    const alone = [];
    const groups = [];
    for (const [name, schema] of Object.entries(recordOf(this.schemas[ROOT]?.properties))) {
      if (schema.deprecated) continue;
      const inner = this.#named(schema);
      if (!inner?.properties) {
        alone.push(this.#setting(name, schema, shown[name], recordOf(schema)));
        continue;
      }
      const rows = Object.entries(inner.properties).map(([key, each]) => this.#setting(`${name}.${key}`, each, recordOf(shown[name])[key], { ...each, "x-by-key": each["x-by-key"] || schema["x-by-key"], signed: recordOf(shown[name]).signed }));
      groups.push(card("", make("h2", "", code(name)), english("p", "muted", textOf(inner.description)), ...rows));
    }
    return [card(words.admin_settings_general, ...alone), ...groups];
  }

  /** @param {Schema} schema @returns {Schema | undefined} what it names */
  #named(schema) {
    return this.schemas[textOf(schema.$ref).replace(REFERENCE, "")];
  }

  /** @param {Schema} schema @returns {boolean} whether there is a secret in it */
  #hasSecret(schema) {
    if (schema.writeOnly) return true;
    const named = this.#named(schema);
    return [named, schema.items, schema.additionalProperties, ...Object.values(recordOf(schema.properties))].some((each) => each && typeof each === "object" && this.#hasSecret(each));
  }

  /**
   * @param {string} name
   * @param {Schema} schema
   * @param {unknown} applies  what holds now
   * @param {Schema} marks
   */
  #setting(name, schema, applies, marks) {
    const isGiven = this.given.has(name);
    const usual = schema.default ?? (schema.type === "array" ? [] : schema.type === "object" ? {} : "");
    const before = schema.writeOnly ? "" : isGiven ? applies ?? usual : usual;
    const control = this.#control(name, schema, applies, usual);
    const isFixed = this.isReadOnly || (this.api.rights.kind === "staff" && marks["x-by-key"] === true);
    control.write(before);
    const input = control.node.matches("input, select, textarea, fieldset") ? control.node : control.node.querySelector("input, select, textarea, fieldset");
    const id = `setting-${name}`;
    const note = make("p", "setting-text", "");
    note.id = `${id}-text`;
    if (input) {
      input.id = id;
      input.setAttribute("aria-describedby", note.id);
      if (isFixed) input.setAttribute("disabled", "");
      if (input instanceof HTMLFieldSetElement) input.setAttribute("aria-label", name);
    }
    const [, key = name] = name.split(".");
    const label = make("label", "setting-name", code(key));
    label.setAttribute("for", id);
    note.append(english("span", "", textOf(schema.description)));
    const reset = button(words.admin_setting_reset, () => {
      setting.write(usual);
      look();
    }, "link");
    const facts = make("p", "setting-facts");
    if (isGiven) facts.append(badge(this.isOfFile ? words.admin_setting_file : words.admin_setting_here));
    if (schema.writeOnly) facts.append(make("span", "", marks.signed ? words.admin_setting_secret : words.admin_setting_no_secret));
    else facts.append(make("span", "", fill(words.admin_setting_default, { value: "" }), code(textFor(usual))));
    if (this.newLogins.has(name)) facts.append(make("span", "", words.admin_setting_new_logins));
    if (marks["x-by-key"] && this.api.rights.kind === "staff") facts.append(make("span", "", words.admin_setting_by_key));
    const reason = problem("");
    reason.hidden = true;
    if (!isFixed && input && !schema.writeOnly) facts.append(reset);
    const row = make("div", "setting", make("div", "", label, note, facts, reason), control.node);
    /** @type {Setting} */
    const setting = { name, schema, usual, before, read: control.read, write: control.write, row, reason };
    const look = () => {
      reset.hidden = same(setting.read(), usual);
      this.#count();
    };
    reset.hidden = same(before, usual);
    row.addEventListener("input", look);
    row.addEventListener("change", look);
    this.settings.push(setting);
    return row;
  }

  /**
   * The field of the right kind.
   *
   * @param {string} name
   * @param {Schema} schema
   * @param {unknown} applies
   * @param {unknown} usual
   * @returns {Control}
   */
  #control(name, schema, applies, usual) {
    if (schema.writeOnly) return textControl("secret");
    if (schema.enum) return choiceControl(listOf(schema.enum), usual, applies);
    if (schema.type === "boolean") return switchControl();
    if (schema.type === "integer" || schema.type === "number") return numberControl(name, schema);
    if (schema.type === "array" && schema.items?.enum) return severalControl(listOf(schema.items.enum));
    if (schema.type === "array" && schema.items?.type === "string") return linesControl();
    if (schema.type === "string") return textControl(textOf(schema.pattern).includes("https?://") ? "url" : "text");
    if (!this.#hasSecret(schema)) return jsonControl();
    const value = make("pre", "", JSON.stringify(applies, null, 1));
    const node = make("div", "", value, make("p", "muted", words.admin_setting_with_secrets, " "), code(`imserver app set ${this.app} ${name}=@FILE`));
    return { node, read: () => applies, write: () => {} };
  }

  get changes() {
    return this.settings.filter(isChanged);
  }

  /** Says how many settings have changed, and offers to save them. */
  #count() {
    for (const each of this.settings) each.row.classList.toggle("changed", isChanged(each));
    const { changes } = this;
    this.bar.hidden = !changes.length;
    if (!changes.length || this.bar.dataset.count === String(changes.length)) return;
    this.bar.dataset.count = String(changes.length);
    const discard = button(words.admin_discard, () => {
      for (const each of this.changes) each.write(each.before);
      delete this.bar.dataset.count;
      this.#count();
    });
    const go = this.isOfFile ? button(words.admin_settings_yaml, () => this.#showYaml(), "primary") : button(words.admin_save, () => this.#save(), "primary");
    this.bar.replaceChildren(make("span", "", fill(words.admin_settings_changed, { count: changes.length })), discard, go);
  }

  async #save() {
    const { changes } = this;
    for (const { reason } of this.settings) reason.hidden = true;
    const wrong = changes.find((each) => each.read() === undefined);
    if (wrong) return refuse(wrong, words.admin_setting_no_value);
    /** @type {unknown} */
    let failure = null;
    const isDone = await ask({
      title: words.admin_settings_save,
      content: changes.map(changeOf),
      yes: words.admin_save,
      act: async () => {
        try {
          await this.api.post("apps/set", { app: this.app, merge: true, ...requestOf(changes) });
        } catch (error) {
          failure = error; // it is said at the field
        }
      },
    });
    if (!isDone) return;
    if (!failure) {
      toast(words.admin_saved);
      await this.saved();
      return;
    }
    const text = reasonOf(failure, words);
    const at = changes.filter(({ name }) => isNamed(failure, name)).sort((one, other) => other.name.length - one.name.length)[0];
    if (at) refuse(at, text);
    else toast(text, { isProblem: true });
  }

  async #showYaml() {
    const wrong = this.changes.find((each) => each.read() === undefined);
    if (wrong) return refuse(wrong, words.admin_setting_no_value);
    const text = yamlOf(this.app, this.changes);
    const written = make("pre", "yaml", text);
    written.dir = "ltr";
    await ask({
      title: words.admin_settings_yaml,
      text: words.admin_settings_yaml_text,
      content: [written],
      yes: words.admin_copy,
      act: async () => {
        if (!await copyText(text)) throw new Error(words.admin_copy_failed);
        toast(words.admin_copied);
      },
    });
  }
}

// --- fields ---------------------------------------------------------------------------------------------------------

/** @returns {Control} */
function switchControl() {
  const input = /** @type {HTMLInputElement} */ (make("input", "switch"));
  input.type = "checkbox";
  input.setAttribute("role", "switch");
  return { node: make("div", "setting-field", input), read: () => input.checked, write: (value) => { input.checked = value === true; } };
}

/**
 * @param {"text" | "url" | "secret"} type
 * @returns {Control}
 */
function textControl(type) {
  const input = /** @type {HTMLInputElement} */ (make("input", type === "secret" ? "masked" : "")); // no password: no manager shall offer one
  input.type = type === "url" ? "url" : "text";
  input.autocomplete = "off";
  input.spellcheck = false;
  if (type === "url") input.dir = "ltr";
  return { node: make("div", "setting-field", input), read: () => input.value.trim(), write: (value) => { input.value = textOf(value); } };
}

/**
 * A number with its unit, and in the words of people if it is a time or a size.
 *
 * @param {string} name
 * @param {Schema} schema
 * @returns {Control}
 */
function numberControl(name, schema) {
  const input = /** @type {HTMLInputElement} */ (make("input", ""));
  input.type = "number";
  input.step = schema.type === "integer" ? "1" : "any";
  if ("minimum" in schema) input.min = String(schema.minimum);
  if ("maximum" in schema) input.max = String(schema.maximum);
  const unit = make("small", "muted");
  const say = () => {
    const value = input.valueAsNumber;
    const bounds = input.min && input.max && numberOf(schema.maximum) < 2 ** 31 - 1 ? `${number.format(numberOf(schema.minimum))} – ${number.format(numberOf(schema.maximum))}` : "";
    if (!(value > 0)) unit.textContent = bounds;
    else if (/(^|_)seconds$/.test(name) && !/_per_second/.test(name)) unit.textContent = duration(value);
    else if (/_days$/.test(name)) unit.textContent = duration(value * 86_400);
    else if (/bytes$/.test(name)) unit.textContent = size(value);
    else unit.textContent = bounds;
  };
  input.addEventListener("input", say);
  return {
    node: make("div", "setting-field", input, unit),
    read: () => (Number.isFinite(input.valueAsNumber) && input.validity.valid ? input.valueAsNumber : undefined),
    write: (value) => {
      input.value = typeof value === "number" ? String(value) : "0";
      say();
    },
  };
}

/**
 * @param {string[]} choices
 * @param {unknown} usual
 * @param {unknown} applies
 * @returns {Control}
 */
function choiceControl(choices, usual, applies) {
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  const none = usual === "" && !choices.includes("") ? [""] : [];
  for (const each of [...none, ...choices]) {
    const now = textOf(applies);
    const option = /** @type {HTMLOptionElement} */ (make("option", "", each || (now ? fill(words.admin_setting_usual, { value: now }) : words.admin_setting_of_server)));
    option.value = each;
    select.append(option);
  }
  return { node: make("div", "setting-field", select), read: () => select.value, write: (value) => { select.value = textOf(value); } };
}

/**
 * @param {string[]} choices
 * @returns {Control}
 */
function severalControl(choices) {
  const boxes = choices.map((each) => {
    const box = /** @type {HTMLInputElement} */ (make("input", ""));
    box.type = "checkbox";
    box.value = each;
    return box;
  });
  const node = make("fieldset", "setting-several", ...boxes.map((box) => make("label", "", box, code(box.value))));
  /** @type {string[]} */
  let first = [];
  return {
    node,
    read: () => {
      const chosen = boxes.filter(({ checked }) => checked).map(({ value }) => value);
      return same([...chosen].sort(), [...first].sort()) ? first : chosen;
    },
    write: (value) => {
      first = listOf(value);
      for (const box of boxes) box.checked = first.includes(box.value);
    },
  };
}

/** @returns {Control} texts, one on each line */
function linesControl() {
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
  area.rows = 2;
  area.dir = "ltr";
  area.spellcheck = false;
  return {
    node: make("div", "setting-field", area, make("small", "muted", words.admin_setting_lines)),
    read: () => area.value.split("\n").map((each) => each.trim()).filter(Boolean),
    write: (value) => {
      area.value = listOf(value).join("\n");
      area.rows = Math.min(6, Math.max(2, listOf(value).length));
    },
  };
}

/** @returns {Control} */
function jsonControl() {
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", "json"));
  area.dir = "ltr";
  area.spellcheck = false;
  return {
    node: make("div", "setting-field", area, make("small", "muted", "JSON")),
    read: () => {
      try {
        return JSON.parse(area.value);
      } catch {
        return undefined;
      }
    },
    write: (value) => {
      area.value = JSON.stringify(value, null, 1);
      area.rows = Math.min(12, area.value.split("\n").length + 1);
    },
  };
}

// --- changes --------------------------------------------------------------------------------------------------------

/** @param {Setting} setting */
function isChanged({ read, before }) {
  return !same(read(), before);
}

/**
 * @param {unknown} one
 * @param {unknown} other
 */
function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** @param {unknown} value @returns {string} */
function textFor(value) {
  if (typeof value === "number") return number.format(value);
  return value === "" || (Array.isArray(value) && !value.length) ? "" : typeof value === "string" ? value : JSON.stringify(value);
}

/** @param {Setting} setting @returns {HTMLElement} the old and the new value */
function changeOf({ name, schema, before, read }) {
  const values = schema.writeOnly ? [code("…")] : [make("del", "", code(textFor(before))), " → ", make("ins", "", code(textFor(read())))];
  return make("p", "change", make("b", "", code(name)), make("span", "", ...values));
}

/**
 * What the API is asked for: settings, and those that return to their defaults.
 *
 * @param {Setting[]} changes
 */
function requestOf(changes) {
  /** @type {Record<string, any>} */
  const settings = {};
  const unset = [];
  for (const { name, usual, read } of changes) {
    const [group, inner] = name.split(".");
    const value = read();
    if (same(value, usual) && !inner) unset.push(name);
    else if (inner) settings[group] = { ...settings[group], [inner]: value };
    else settings[group] = value;
  }
  return { settings, unset };
}

/**
 * The lines of the settings file: JSON is YAML.
 *
 * @param {string} app
 * @param {Setting[]} changes
 */
function yamlOf(app, changes) {
  const lines = ["apps:", `  ${JSON.stringify(app)}:`];
  let open = "";
  for (const { name, read, schema } of changes) {
    const [group, inner] = name.split(".");
    if (inner && group !== open) lines.push(`    ${group}:`);
    open = inner ? group : "";
    lines.push(`${inner ? "      " : "    "}${inner ?? group}: ${JSON.stringify(schema.writeOnly ? "…" : read())}`);
  }
  return lines.join("\n");
}

/**
 * @param {unknown} error
 * @param {string} name
 */
function isNamed(error, name) {
  const escaped = name.replaceAll(".", "\\.");
  return error instanceof Error && new RegExp(`(^|[\\s.\`$])${escaped}(?![\\w])`).test(error.message);
}

/**
 * Says at the field why its value is refused.
 *
 * @param {Setting} setting
 * @param {string} text
 */
function refuse({ row, reason }, text) {
  row.hidden = false;
  reason.textContent = text;
  reason.hidden = false;
  row.scrollIntoView({ block: "center" });
  const input = row.querySelector("input, select, textarea");
  if (input instanceof HTMLElement) input.focus({ preventScroll: true });
}

/**
 * A text of the server: Chinese if it is translated for this page, else English.
 *
 * @param {string} tag
 * @param {string} classes
 * @param {string} text  with code between backquotes
 */
function english(tag, classes, text) {
  const made = make(tag, classes, ...text.split("`").map((part, index) => (index % 2 ? make("code", "", part) : part)));
  const isChinese = page.language.startsWith("zh") && /\p{Script=Han}/u.test(text);
  if (!isChinese && !page.language.startsWith("en")) {
    made.lang = "en";
    made.dir = "ltr";
  }
  return made;
}
