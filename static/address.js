// @ts-check
/** Where a page connects to. */

/**
 * @typedef {object} Where
 * @property {string} websocketUrl   full, or beginning with // for the page's own security
 * @property {string} seenHost       the Host that websocketUrl was made from; "" = it was configured
 */

/**
 * The page knows itself under another host when a proxy hid the port; then the socket is where the page is.
 *
 * @param {Where} page
 * @param {string} path
 * @returns {string}
 */
export function websocketUrl(page, path) {
  const moved = page.seenHost && page.seenHost !== location.host;
  return withScheme(moved ? `//${location.host}${path}` : page.websocketUrl, location.protocol === "https:" ? "wss:" : "ws:");
}

/**
 * @param {string} url
 * @param {string} scheme
 * @returns {string}
 */
export function withScheme(url, scheme) {
  return url.startsWith("//") ? scheme + url : url;
}
