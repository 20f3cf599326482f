// @ts-check
/** What the forms of accounts have in common: the rules of the app, identifiers, and the name of this device. */

import { make } from "../../text.js";
import { callApi } from "./api.js";
import { input } from "./form.js";

/**
 * The rules of the accounts of an app, as the server sends them.
 *
 * @typedef {object} Rules
 * @property {boolean} registration
 * @property {string[]} identifiers
 * @property {boolean} find
 * @property {boolean} [search]
 * @property {boolean} passwords
 * @property {boolean} reset
 * @property {boolean} [guests]
 */

export const IDENTIFIERS = /** @type {const} */ (["phone", "email", "name"]);
export const NAME_LENGTH = 64;
export const PASSWORD_LENGTH = 250;
/** Of a code of a second factor. */
export const CODE_LENGTH = 40;
export const LEAST_PASSWORD = 8;
const IDENTIFIER_LENGTH = 254;

/** Signs in the name of a browser or system → how people call it. The first one that fits counts: Edge also calls itself Chrome and Safari. */
const BROWSERS = [
  ["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["MicroMessenger", "WeChat"], ["Chrome/", "Chrome"], ["Safari/", "Safari"],
];
const SYSTEMS = [
  ["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["CrOS", "ChromeOS"],
  ["Linux", "Linux"],
];

/**
 * @param {string} app
 * @returns {Promise<Rules>}
 */
export function loadRules(app) {
  return callApi(app, "", "GET", "accounts/rules");
}

/**
 * A field for any of these identifiers, with the keyboard that fits.
 *
 * @param {readonly string[]} kinds
 * @returns {HTMLInputElement}
 */
export function identifierInput(kinds) {
  const inputMode = kinds.length > 1 ? "text" : { phone: "tel", email: "email" }[kinds[0]] ?? "text";
  return input({ maxLength: IDENTIFIER_LENGTH, inputMode, autocomplete: "username", autocapitalize: "none", spellcheck: false, required: true });
}

/**
 * @param {string} app
 * @param {Record<string, string>} words
 * @returns {HTMLElement} the house rules, which whoever comes in accepts; hidden if there are none
 */
export function houseRules(app, words) {
  const rules = make("p", "muted card-text");
  rules.dir = "auto";
  const details = make("details", "", make("summary", "field-hint", words.messages_house_rules), rules);
  details.hidden = true;
  callApi(app, "", "GET", "moderation/rules").then(({ text }) => {
    rules.textContent = text;
    details.hidden = !text;
  }, () => {}); // a server without reports has none
  return details;
}

/** @returns {string} the browser and its system, which need no translation, and a mark that no other device of the account has */
export function deviceName() {
  const nameIn = (/** @type {string[][]} */ names) => names.find(([sign]) => navigator.userAgent.includes(sign))?.[1];
  const known = [nameIn(BROWSERS), nameIn(SYSTEMS)].filter(Boolean).join(", ");
  const mark = Math.random().toString(36).slice(2, 6);
  return `${known} #${mark}`;
}
