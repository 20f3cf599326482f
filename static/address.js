// @ts-check
/** The addresses that a page connects to. */

import { ROOT } from "./text.js";

/**
 * @typedef {object} PageAddress
 * @property {string} websocketUrl   full, or starts with // to use the page's own scheme
 * @property {string} seenHost       Host header from which websocketUrl was made; "": it is configured
 */

/**
 * The address of the WebSocket. If the browser sees another host than the server did, a proxy is between them:
 * then the WebSocket has the host of the page.
 *
 * @param {PageAddress} page
 * @param {string} path
 * @returns {string}
 */
export function websocketUrl(page, path) {
  const isBehindProxy = page.seenHost && page.seenHost !== location.host;
  const url = isBehindProxy ? `//${location.host}${ROOT}${path}` : page.websocketUrl;
  return withScheme(url, location.protocol === "https:" ? "wss:" : "ws:");
}

/**
 * @param {string} url
 * @param {string} scheme
 * @returns {string}
 */
export function withScheme(url, scheme) {
  return url.startsWith("//") ? scheme + url : url;
}
