// @ts-check
/** Makes the page an application: starts its service worker, and shows the number of unread messages on its icons. */

import { ROOT } from "../../text.js";

/** The icon without a number. */
const ICON = document.querySelector("link[rel=icon]")?.getAttribute("href") ?? "";
/** Icons show numbers up to this one. There is one icon for all larger numbers. */
const MOST_ON_ICON = 9;

/**
 * @param {string} url  of the service worker, from the server
 * @param {() => void} changed  there is a new version, which a reload shows
 */
export function startWorker(url, changed) {
  // Without HTTPS, browsers have none.
  if (!("serviceWorker" in navigator)) return;
  const { serviceWorker } = navigator;
  // Without a worker before, the first one is no new version.
  if (serviceWorker.controller) serviceWorker.addEventListener("controllerchange", changed, { once: true });
  const scope = url.replace(/-worker\.js$/, "");
  // No storage.
  serviceWorker.register(url, { scope, updateViaCache: "none" }).catch(() => {});
}

/** @param {number} count  of unread messages; 0: none */
export function showUnread(count) {
  const badge = count ? navigator.setAppBadge?.(count) : navigator.clearAppBadge?.();
  badge?.catch(() => {}); // the page is not installed
  const number = count > MOST_ON_ICON ? "more" : count;
  const icon = count ? `${ROOT}/static/icons/unread-${number}.svg` : ICON;
  const link = document.querySelector("link[rel=icon]");
  if (link instanceof HTMLLinkElement && link.getAttribute("href") !== icon) link.href = icon;
}
