// @ts-check
/**
 * Texts and elements of a page; the server sends the table of texts with the page. Readers of JSON that others have written, or an earlier
 * version of the page: a value of another type counts as missing.
 */

/** The path below which a proxy serves this server, as `/im`; empty: none. */
export const ROOT = /^https?:\/\/[^/]+(.*?)(\/release\/\w+)?\/static\/text\.js$/.exec(import.meta.url)?.[1] ?? "";

/**
 * The address of a file, which the API names without {@link ROOT}: messages outlive the address of their server.
 *
 * @param {string} url
 * @returns {string}
 */
export function fileAddress(url) {
  return /^\/(?!\/)/.test(url) ? ROOT + url : url;
}

/** In the year 9999, in milliseconds since 1970: a later time cannot be shown. */
const LATEST = 253_402_300_799_000;

/**
 * The data that the server put into the page.
 *
 * @template T
 * @returns {T}
 */
export function pageData() {
  return JSON.parse(document.getElementById("page-data")?.textContent ?? "{}");
}

/** The plural categories of the forms of a text, in their order. */
const FORMS = ["zero", "one", "two", "few", "many", "other"];

/**
 * The form of a text for a number.
 *
 * @param {string[]} forms  for one and for more; or as many as the language of the page has, in the order zero, one, two, few, many, other
 * @param {unknown} count
 * @returns {string}
 */
function formFor(forms, count) {
  if (forms.length <= 2) return forms[String(count) === "1" ? 0 : forms.length - 1];
  const rules = new Intl.PluralRules(document.documentElement.lang);
  const { pluralCategories } = rules.resolvedOptions();
  const ownForms = FORMS.filter((form) => pluralCategories.includes(/** @type {Intl.LDMLPluralRule} */ (form)));
  return forms[ownForms.indexOf(rules.select(Number(count)))] ?? forms[forms.length - 1];
}

/**
 * @param {string} template  text with names in braces; it may have forms for different values of `count`: `{count} day|{count} days`
 * @param {Record<string, string | number>} values
 * @returns {string}
 */
export function fill(template, values) {
  const form = formFor(template.split("|"), values.count);
  return form.replace(/\{(\w+)\}/g, (blank, name) => (name in values ? String(values[name]) : blank));
}

/**
 * The start of a text, without half a surrogate pair at its end.
 *
 * @param {string} text
 * @param {number} length  in UTF-16 units
 * @returns {string}
 */
export function cut(text, length) {
  if (text.length <= length) return text;
  const endsInHalf = (text.charCodeAt(length - 1) & 0xfc00) === 0xd800; // the first half of a pair
  return text.slice(0, endsInHalf ? length - 1 : length);
}

/**
 * The element with this id. Throws TypeError if the template has none.
 *
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new TypeError(`no ${type.name} #${id} in this page`);
  return found;
}

/**
 * A new element with classes and children. Strings become text, never markup.
 *
 * @param {string} tag
 * @param {string} classes
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function make(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

/**
 * @param {string} text
 * @returns {number} a hash of it, FNV-1a of 32 bits
 */
export function hashOf(text) {
  let hash = 2_166_136_261;
  for (const character of text) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 16_777_619) >>> 0;
  return hash;
}

/**
 * @param {unknown} value
 * @returns {string}
 */
export function textOf(value) {
  return typeof value === "string" ? value : "";
}

/**
 * @param {unknown} value
 * @returns {number}
 */
export function numberOf(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

/**
 * @param {unknown} seconds  since 1970
 * @returns {number} milliseconds since 1970, of a time that can be shown
 */
export function timeOf(seconds) {
  return Math.max(0, Math.min(numberOf(seconds) * 1000, LATEST));
}

/**
 * A day with its time, as all pages show it: the hours of a day are 0 to 23, as in the rows of messages.
 *
 * @param {string} language
 * @param {"short" | "medium" | "full"} [dateStyle]
 * @returns {Intl.DateTimeFormat}
 */
export function moments(language, dateStyle = "medium") {
  return new Intl.DateTimeFormat(language, { dateStyle, timeStyle: "short", hourCycle: "h23" });
}

/**
 * @param {unknown} value
 * @returns {any[]}
 */
export function listOf(value) {
  return Array.isArray(value) ? value : [];
}

/**
 * @param {unknown} value
 * @returns {Record<string, any>}
 */
export function recordOf(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : {};
}

/**
 * The fields of a record that have the types of a pattern's fields. Others are left out.
 *
 * @template {Record<string, any>} T
 * @param {unknown} value
 * @param {T} pattern
 * @returns {Partial<T>}
 */
export function fieldsLike(value, pattern) {
  const fits = (/** @type {[string, any]} */ [name, field]) => {
    return Object.hasOwn(pattern, name) && typeof field === typeof pattern[name] && field !== null;
  };
  return /** @type {Partial<T>} */ (Object.fromEntries(Object.entries(recordOf(value)).filter(fits)));
}

/**
 * Draws what somebody has written.
 *
 * @template T
 * @param {() => T} draw
 * @param {() => T} instead  draws something plain, if it throws
 * @returns {T}
 */
export function drawn(draw, instead) {
  try {
    return draw();
  } catch (error) {
    console.warn(error); // a defect of a view: the rest of the page goes on
    return instead();
  }
}
