// @ts-check
/** Texts and how they are filled in; the table of them comes from the server with the page. */

const HUES = 10; // as many as chat.css has

/**
 * What the server put into the page.
 *
 * @template T
 * @returns {T}
 */
export function pageData() {
  return JSON.parse(document.getElementById("page-data")?.textContent ?? "{}");
}

/**
 * @param {string} template  text with names in braces
 * @param {Record<string, string | number>} values
 * @returns {string}
 */
export function fill(template, values) {
  return template.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/**
 * The beginning of a text, never half a character pair.
 *
 * @param {string} text
 * @param {number} length  in UTF-16 units
 * @returns {string}
 */
export function cut(text, length) {
  if (text.length <= length) return text;
  const end = (text.charCodeAt(length - 1) & 0xfc00) === 0xd800 ? length - 1 : length;
  return text.slice(0, end);
}

/**
 * The element with this id; its absence is a mistake in the template.
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
 * A new element with classes and children; strings become text, never markup.
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
 * A square with the first character of a name, in a colour that is always the same for that name.
 *
 * @param {string} name
 * @returns {HTMLElement}
 */
export function avatar(name) {
  let hash = 2_166_136_261; // FNV-1a
  for (const character of name) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 16_777_619) >>> 0;
  const made = make("span", `avatar hue-${(hash >>> 8) % HUES}`, Array.from(name.trim())[0] ?? "?");
  made.setAttribute("aria-hidden", "true");
  return made;
}
