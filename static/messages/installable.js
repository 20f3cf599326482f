// @ts-check
/** Makes the page an application: starts its service worker, and shows the number of unread messages on its icon. */

/** @param {string} url  of the service worker, from the server */
export function startWorker(url) {
  if (!("serviceWorker" in navigator)) return; // without https, browsers have none
  navigator.serviceWorker.register(url, { scope: url.replace(/-worker\.js$/, ""), updateViaCache: "none" }).catch(() => {}); // no storage
}

/** @param {number} count  of unread messages; 0: none */
export function showBadge(count) {
  const shown = count ? navigator.setAppBadge?.(count) : navigator.clearAppBadge?.();
  shown?.catch(() => {}); // the page is not installed
}
