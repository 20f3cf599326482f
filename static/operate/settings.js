// @ts-check
/** The settings of an app as fields, made from the schemas that the server has for them. */

import { copyText } from "../page-parts.js";
import { fill, listOf, make, recordOf, textOf } from "../text.js";
import { reasonOf } from "./api.js";
import { choiceControl, isSame, jsonControl, linesControl, numberControl, severalControl, switchControl, textControl } from "./controls.js";
import { ask, badge, button, card, code, number, page, place, problem, toast, words } from "./ui.js";

/** @typedef {import("./api.js").Api} Api */
/** @typedef {import("./controls.js").Control} Control */
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

/** Name of the schema of all settings, and the beginning of references to schemas. */
const ROOT = "AppSettingsGiven";
const REFERENCE = "#/components/schemas/";
const CONTROLS = "input, select, textarea, fieldset";

/**
 * Loads the settings of an app and their schemas, and draws the form.
 *
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

/** Owns the fields of all settings of an app, and the bar that saves them. */
class Form {
  /**
   * @param {Api} api
   * @param {string} app
   * @param {Schema} described  the schemas of the settings, and which of them the app has
   * @param {Schema} shown  the app with its values
   * @param {() => unknown} saved  called when changes were saved
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
    const groups = this.#groups(shown); // fills `settings`
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
    const onlyGiven = /** @type {HTMLInputElement} */ (make("input", ""));
    onlyGiven.type = "checkbox";
    onlyGiven.id = "settings-own";
    const label = make("label", "", words.admin_settings_own);
    label.setAttribute("for", onlyGiven.id);
    const filter = () => this.#filter(find.value, onlyGiven.checked);
    find.addEventListener("input", filter);
    onlyGiven.addEventListener("change", filter);
    const filters = make("div", "settings-find", find, make("div", "field check", onlyGiven, label));
    const warning = this.isOfFile ? [make("p", "warning", words.admin_settings_of_file)] : [];
    return [make("h2", "part-head", words.admin_settings), make("p", "muted", words.admin_settings_apply), ...warning, filters];
  }

  /**
   * Hides the settings without all words of the text, and the groups that are empty then.
   *
   * @param {string} text
   * @param {boolean} onlyGiven  only what differs from the defaults
   */
  #filter(text, onlyGiven) {
    const searched = text.trim().toLowerCase().split(/\s+/);
    for (const setting of this.settings) {
      const content = `${setting.name} ${setting.row.textContent}`.toLowerCase();
      const isFound = searched.every((word) => content.includes(word));
      const isUsual = !this.given.has(setting.name) && !isChanged(setting);
      setting.row.hidden = !isFound || (onlyGiven && isUsual);
    }
    const groups = new Set(this.settings.map(({ row }) => row.closest("section")));
    for (const group of groups) {
      if (group) group.hidden = !group.querySelector(".setting:not([hidden])");
    }
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
      const inner = this.#schemaNamedBy(schema);
      if (!inner?.properties) {
        alone.push(this.#setting(name, schema, shown[name], recordOf(schema)));
        continue;
      }
      const values = recordOf(shown[name]);
      const rows = Object.entries(inner.properties).map(([key, each]) => {
        const marks = { ...each, "x-by-key": each["x-by-key"] || schema["x-by-key"], signed: values.signed };
        return this.#setting(`${name}.${key}`, each, values[key], marks);
      });
      groups.push(card("", make("h2", "", code(name)), english("p", "muted", textOf(inner.description)), ...rows));
    }
    return [card(words.admin_settings_general, ...alone), ...groups];
  }

  /** @param {Schema} schema @returns {Schema | undefined} the schema to which it refers */
  #schemaNamedBy(schema) {
    return this.schemas[textOf(schema.$ref).replace(REFERENCE, "")];
  }

  /** @param {Schema} schema @returns {boolean} whether there is a secret in it */
  #hasSecret(schema) {
    if (schema.writeOnly) return true;
    const parts = [this.#schemaNamedBy(schema), schema.items, schema.additionalProperties, ...Object.values(recordOf(schema.properties))];
    return parts.some((each) => each && typeof each === "object" && this.#hasSecret(each));
  }

  /**
   * Makes the row of a setting, with its field, and adds it to `settings`.
   *
   * @param {string} name
   * @param {Schema} schema
   * @param {unknown} applies  the value in force
   * @param {Schema} marks  the schema with what its group says of it: `x-by-key`, and `signed`, whether a secret is stored
   */
  #setting(name, schema, applies, marks) {
    const usual = defaultOf(schema);
    const control = this.#control(name, schema, applies, usual);
    const isFixed = this.isReadOnly || this.#isByKey(marks);
    const isGiven = this.given.has(name);
    let before = isGiven ? applies ?? usual : usual;
    if (schema.writeOnly) before = "";
    control.write(before);

    const id = `setting-${name}`;
    const note = make("p", "setting-text", english("span", "", textOf(schema.description)));
    note.id = `${id}-text`;
    const input = control.node.matches(CONTROLS) ? control.node : control.node.querySelector(CONTROLS);
    if (input) {
      input.id = id;
      input.setAttribute("aria-describedby", note.id);
      if (isFixed) input.setAttribute("disabled", "");
      if (input instanceof HTMLFieldSetElement) input.setAttribute("aria-label", name);
    }
    const [, key = name] = name.split(".");
    const label = make("label", "setting-name", code(key));
    label.setAttribute("for", id);

    const reset = button(words.admin_setting_reset, () => {
      setting.write(usual);
      update();
    }, "link");
    reset.hidden = isSame(before, usual);
    const facts = this.#factsOf(name, schema, usual, marks);
    if (!isFixed && input && !schema.writeOnly) facts.append(reset);
    const reason = problem("");
    reason.hidden = true;
    const row = make("div", "setting", make("div", "", label, note, facts, reason), control.node);
    /** @type {Setting} */
    const setting = { name, schema, usual, before, read: control.read, write: control.write, row, reason };
    const update = () => {
      reset.hidden = isSame(setting.read(), usual);
      this.#count();
    };
    row.addEventListener("input", update);
    row.addEventListener("change", update);
    this.settings.push(setting);
    return row;
  }

  /** @param {Schema} marks @returns {boolean} whether only a key may change it, and a person has logged in */
  #isByKey(marks) {
    return this.api.rights.kind === "staff" && marks["x-by-key"] === true;
  }

  /**
   * What stands below the text of a setting: where its value comes from, its default, and when a change applies.
   *
   * @param {string} name
   * @param {Schema} schema
   * @param {unknown} usual
   * @param {Schema} marks
   */
  #factsOf(name, schema, usual, marks) {
    const facts = make("p", "setting-facts");
    if (this.given.has(name)) facts.append(badge(this.isOfFile ? words.admin_setting_file : words.admin_setting_here));
    if (schema.writeOnly) facts.append(make("span", "", marks.signed ? words.admin_setting_secret : words.admin_setting_no_secret));
    else facts.append(make("span", "", fill(words.admin_setting_default, { value: "" }), code(textFor(usual))));
    if (this.newLogins.has(name)) facts.append(make("span", "", words.admin_setting_new_logins));
    if (this.#isByKey(marks)) facts.append(make("span", "", words.admin_setting_by_key));
    return facts;
  }

  /**
   * The field of the right kind. A setting with secrets in it is shown without them, and is changed by the command.
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
    const command = code(`imserver app set ${this.app} ${name}=@FILE`);
    const node = make("div", "", value, make("p", "muted", words.admin_setting_with_secrets, " "), command);
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
    if (!changes.length || this.bar.dataset.count === String(changes.length)) return; // the bar says so already
    this.bar.dataset.count = String(changes.length);
    const discard = button(words.admin_discard, () => {
      for (const each of this.changes) each.write(each.before);
      delete this.bar.dataset.count;
      this.#count();
    });
    const save = this.isOfFile
      ? button(words.admin_settings_yaml, () => this.#showYaml(), "primary")
      : button(words.admin_save, () => this.#save(), "primary");
    this.bar.replaceChildren(make("span", "", fill(words.admin_settings_changed, { count: changes.length })), discard, save);
  }

  /** Saves the changes when they are confirmed. If the server refuses one, its field says why. */
  async #save() {
    const { changes } = this;
    for (const { reason } of this.settings) reason.hidden = true;
    const wrong = changes.find((each) => each.read() === undefined);
    if (wrong) return refuse(wrong, words.admin_setting_no_value);
    /** @type {unknown} */
    let failure = null;
    const isConfirmed = await ask({
      title: words.admin_settings_save,
      content: changes.map(changeOf),
      yes: words.admin_save,
      act: async () => {
        try {
          await this.api.post("apps/set", { app: this.app, merge: true, ...requestOf(changes) });
        } catch (error) {
          failure = error; // the dialog closes, and the field says it
        }
      },
    });
    if (!isConfirmed) return;
    if (!failure) {
      toast(words.admin_saved);
      await this.saved();
      return;
    }
    const text = reasonOf(failure, words);
    const named = changes.filter(({ name }) => isNamed(failure, name));
    const [refused] = named.sort((one, other) => other.name.length - one.name.length); // a longer name may begin with a shorter one
    if (refused) refuse(refused, text);
    else toast(text, { isProblem: true });
  }

  /** Shows the changes as lines to copy: a setting of the file is changed there. */
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

// --- changes --------------------------------------------------------------------------------------------------------

/** @param {Setting} setting */
function isChanged({ read, before }) {
  return !isSame(read(), before);
}

/** @param {Schema} schema */
function defaultOf(schema) {
  if (schema.default !== undefined && schema.default !== null) return schema.default;
  if (schema.type === "array") return [];
  return schema.type === "object" ? {} : "";
}

/** @param {unknown} value @returns {string} */
function textFor(value) {
  if (typeof value === "number") return number.format(value);
  if (typeof value === "string") return value;
  return Array.isArray(value) && !value.length ? "" : JSON.stringify(value);
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
    if (isSame(value, usual) && !inner) unset.push(name);
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
  let openGroup = ""; // the group whose heading the last line follows
  for (const { name, read, schema } of changes) {
    const [group, inner] = name.split(".");
    const value = JSON.stringify(schema.writeOnly ? "…" : read());
    if (!inner) {
      openGroup = "";
      lines.push(`    ${name}: ${value}`);
      continue;
    }
    if (group !== openGroup) lines.push(`    ${group}:`);
    openGroup = group;
    lines.push(`      ${inner}: ${value}`);
  }
  return lines.join("\n");
}

/**
 * @param {unknown} error
 * @param {string} name
 * @returns {boolean} whether the text of the error names the setting, or a part of it
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
