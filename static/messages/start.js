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
const login = location.hash.startsWith("#owner=") ? null : new SavedLogin(page.app).get(); // the owner logs in anew
let isStarted = false;

async function start() {
  if (isStarted) return;
  isStarted = true;
  preload("first-modules"); // the worker stores the page with it
  if (!login) preload("login-modules");
  if (login) await import("./session/connection.js").then(({ connectEarly }) => connectEarly(page, login)).catch(() => {}); // then the page connects later
  import("./app.js").catch(() => {}); // the console says why; a reload tries again
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
