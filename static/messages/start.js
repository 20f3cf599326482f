// @ts-check
/**
 * The first module that runs. The list of the last visit is painted before the other modules take the time of the processor. Then the
 * connection begins, while the modules of the page are still loading.
 */

import { pageData } from "../text.js";
import { showStored } from "./session/first-view.js";
import { SavedLogin } from "./session/saved-login.js";

/** If the browser paints nothing, for instance in a hidden tab, the rest begins after this time. */
const PAINT_MS = 200;

/** @type {import("./session/session.js").Page} */
const page = pageData();
// The owner of the server logs in anew.
const login = location.hash.startsWith("#owner=") ? null : new SavedLogin(page.app).get();
let isStarted = false;

/** Begins the connection, and loads the page. It may be called again. */
async function start() {
  if (isStarted) return;
  isStarted = true;
  // Only the page that the worker has stored has this template.
  preload("first-modules");
  if (!login) preload("login-modules");
  // If it cannot be loaded, the page connects later.
  if (login) await import("./session/connection.js").then(({ connectEarly }) => connectEarly(page, login)).catch(() => {});
  // The console says why it fails. A reload tries again.
  import("./app.js").catch(() => {});
}

/** @param {string} id  of a template with links */
function preload(id) {
  const links = document.getElementById(id);
  if (links instanceof HTMLTemplateElement) document.head.append(links.content);
}

if (page.isEmbedded) {
  import("./embedded.js").then(({ surroundings }) => surroundings(page).giveLogin()).then(() => import("./app.js")).catch(() => {});
} else if (login && showStored(page, login.user)) {
  requestAnimationFrame(() => setTimeout(start));
  setTimeout(start, PAINT_MS);
} else start();
