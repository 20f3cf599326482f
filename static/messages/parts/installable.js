// @ts-check
/** Makes the page an application: starts its service worker, and shows the number of unread messages on its icons. */

import { ROOT } from "../../text.js";

const ICON = document.querySelector("link[rel=icon]")?.getAttribute("href") ?? "";
/** More have an icon of their own. */
const MOST_ON_ICON = 9;

/**
 * @param {string} url  of the service worker, from the server
 * @param {() => void} changed  there is a new version, which a reload shows
 */
export function startWorker(url, changed) {
  if (!("serviceWorker" in navigator)) return; // without https, browsers have none
  if (navigator.serviceWorker.controller) navigator.serviceWorker.addEventListener("controllerchange", changed, { once: true });
  navigator.serviceWorker.register(url, { scope: url.replace(/-worker\.js$/, ""), updateViaCache: "none" }).catch(() => {}); // no storage
}

/** @param {number} count  of unread messages; 0: none */
export function showUnread(count) {
  const shown = count ? navigator.setAppBadge?.(count) : navigator.clearAppBadge?.();
  shown?.catch(() => {}); // the page is not installed
  const icon = count ? `${ROOT}/static/icons/unread-${count > MOST_ON_ICON ? "more" : count}.svg` : ICON;
  const link = document.querySelector("link[rel=icon]");
  if (link instanceof HTMLLinkElement && link.getAttribute("href") !== icon) link.href = icon;
}
