// @ts-check
/** The admin page: login, navigation between sections, the app that is looked at. */

import { SavedLogin } from "../messages/session/saved-login.js";
import { element, fill, listOf, make, recordOf, textOf } from "../text.js";
import { Api, reasonOf, Refused } from "./api.js";
import { drawApp, drawApps, drawKey } from "./apps.js";
import { drawAudit } from "./audit.js";
import { drawChannel, drawConnection, drawConnections, drawGroup } from "./connections.js";
import { fieldOf, valuesOf } from "./fields.js";
import { Finder } from "./find.js";
import { drawHeld } from "./holds.js";
import { drawNodes } from "./nodes.js";
import { drawNotifications } from "./notifications.js";
import { drawOverview, stepsOf, tasksOf } from "./overview.js";
import { drawPeople, drawPerson } from "./people.js";
import { drawRefusals } from "./refusals.js";
import { drawReport, drawReports } from "./reports.js";
import { addressOf, button, card, heading, link, page, refreshAfterAct, toast, version, words } from "./ui.js";
import { drawWebhook, drawWebhooks } from "./webhooks.js";

/**
 * What a section is drawn for.
 *
 * @typedef {object} Place
 * @property {Api} api
 * @property {string} app  the app that is looked at; empty: all
 * @property {string[]} apps  those that may be looked at
 * @property {() => boolean} isShown  whether the section is still shown
 */

/**
 * @typedef {object} Section
 * @property {string} key
 * @property {string} label
 * @property {string[]} routes  that it needs
 * @property {boolean} [needsApp]
 * @property {(at: Place, ...parts: string[]) => Node[]} draw
 */

/** @type {Section[]} */
const SECTIONS = [
  { key: "people", label: words.admin_people, routes: ["GET accounts/list"], needsApp: true, draw: drawPeople },
  { key: "connections", label: words.admin_connections, routes: ["GET connections/list"], needsApp: true, draw: drawConnections },
  { key: "reports", label: words.admin_reports, routes: ["GET reports"], needsApp: true, draw: drawReports },
  { key: "refusals", label: words.admin_refusals, routes: ["GET refusals"], draw: drawRefusals },
  { key: "apps", label: words.admin_apps_and_keys, routes: ["GET apps"], draw: drawApps },
  { key: "webhooks", label: words.admin_webhooks, routes: ["GET webhooks"], draw: drawWebhooks },
  { key: "notifications", label: words.admin_notifications, routes: ["GET notifications/recent"], needsApp: true, draw: drawNotifications },
  { key: "nodes", label: words.admin_nodes, routes: ["GET nodes"], draw: drawNodes },
  { key: "audit", label: words.admin_audit, routes: ["GET audit"], draw: drawAudit },
];
/**
 * What links of other sections and hits lead to → the section in which it is, and what draws it.
 *
 * @type {Record<string, [string, (at: Place, ...parts: string[]) => Node[]]>}
 */
const DETAILS = {
  person: ["people", drawPerson],
  held: ["people", drawHeld],
  connection: ["connections", drawConnection],
  channel: ["connections", drawChannel],
  group: ["people", drawGroup],
  app: ["apps", drawApp],
  key: ["apps", drawKey],
  report: ["reports", drawReport],
  webhook: ["webhooks", drawWebhook],
  request: ["refusals", drawRequest],
};
const APP_ITEM = "imserver:admin-app";
/** Apps that are buttons where one must be chosen. */
const MOST_OFFERED = 24;
const MOST_APPS = 10_000;

const api = new Api();
const main = element("main", HTMLElement);
const finder = new Finder(api, element("find-form", HTMLFormElement), () => SECTIONS.filter(isThere).flatMap(({ key, label }) => [
  { label, detail: "", parts: [key] },
  ...tasksOf(api, key).map((task) => ({ label: task.label, detail: `${label} \u203a ${stepsOf(task)}`, parts: [key, task.key] })),
]));
/** The apps that may be looked at. @type {string[]} */
let apps = [];
/** The app that is looked at; empty: all. */
let app = "";
/** Which of the sections that were drawn is shown. */
let turn = 0;

/** @param {Section} section */
const isThere = (section) => api.may(...section.routes);

// --- login ----------------------------------------------------------------------------------------------------------

/** Logs in with what the tab has, or with the login of the chat; else it shows the form. */
async function start() {
  api.onLoginNeeded = () => {
    api.leave();
    showLogin(words.admin_login_ended);
  };
  const mayUseChat = !api.credential && !page.demo && !api.hasLeft;
  const chatToken = mayUseChat ? await loginOfChat() : "";
  api.onAct = refreshAfterAct;
  if (!api.credential && !page.demo && !chatToken) return showLogin("");
  try {
    if (chatToken) await api.enterWithChat(chatToken);
    else await api.enter(api.credential);
    await enter();
  } catch (error) {
    showLogin(startProblem(error));
    api.leave();
  }
}

/**
 * @param {unknown} error
 * @returns {string} empty: without a credential, a refusal only says that a login is needed
 */
function startProblem(error) {
  if (api.credential) return loginProblem(error);
  return error instanceof Refused && error.isOfLogin ? "" : reasonOf(error, words);
}

/**
 * The login of the chat in this browser, if its account answers for its app. Every account may ask that, so nothing is refused.
 *
 * @returns {Promise<string>} its token; empty: there is none
 */
async function loginOfChat() {
  const token = new SavedLogin(page.accountsApp).get()?.token ?? "";
  if (!token) return "";
  try {
    const { role } = await new Api().as(token).ask("GET", "accounts/show", { app: page.accountsApp });
    return role === "owner" || role === "moderator" ? token : "";
  } catch {
    return "";
  }
}

/** @param {unknown} error */
function loginProblem(error) {
  if (!(error instanceof Refused)) return reasonOf(error, words);
  const hasOwnWords = words[`admin_fault_${error.code}`] && error.code !== "not_allowed";
  if (hasOwnWords) return reasonOf(error, words);
  if (error.status === 401) return words.admin_login_wrong;
  return error.status === 403 ? words.admin_login_no_right : reasonOf(error, words);
}

/**
 * Shows the forms for a key and for an account and, if the chat is logged in here, a button that takes its login.
 *
 * @param {string} text  why a login is needed
 */
function showLogin(text) {
  document.body.dataset.view = "login";
  const reason = make("p", "problem", text);
  reason.setAttribute("role", "alert");
  reason.hidden = !text;
  /** @type {import("./ui.js").Field[]} */
  const ofAccount = [
    { name: "login", label: words.admin_login, hint: words.admin_login_hint, required: true },
    { name: "password", label: words.admin_login_password, type: "password", required: true },
  ];
  const account = loginForm(words.admin_login_account, ofAccount, words.admin_enter, async (values) => {
    const session = await api.ask("POST", "accounts/login", { app: page.accountsApp, ...values, device: words.admin_title });
    await api.enter(textOf(session.token));
  });
  const key = loginForm(words.admin_login_key, [
    { name: "key", label: words.admin_key, type: "password", required: true, hint: words.admin_login_key_hint },
  ], words.admin_enter, (values) => api.enter(values.key));
  const app = fieldOf({ name: "app", label: words.admin_app, value: page.accountsApp, required: true });
  account.querySelector("button")?.before(make("details", "", make("summary", "muted", words.admin_other_app), app));
  const place = element("login-place", HTMLElement);
  place.replaceChildren(reason, key, make("p", "or", words.admin_or), account);
  key.querySelector("input")?.focus();
  loginOfChat().then((token) => {
    if (!token || document.body.dataset.view !== "login") return;
    const enterButton = button(words.admin_login_chat, async () => {
      try {
        await api.enterWithChat(token);
        await enter();
      } catch (error) {
        reason.textContent = loginProblem(error);
        reason.hidden = false;
      }
    }, "primary");
    place.prepend(make("div", "card ask", make("p", "", words.admin_login_chat_why), enterButton), make("p", "or", words.admin_or));
  });

  /**
   * @param {string} title
   * @param {import("./ui.js").Field[]} fields
   * @param {string} yes
   * @param {(values: Record<string, string>) => Promise<void>} act
   */
  function loginForm(title, fields, yes, act) {
    const submit = /** @type {HTMLButtonElement} */ (make("button", "primary", yes));
    const form = /** @type {HTMLFormElement} */ (make("form", "card ask", make("h2", "", title), ...fields.map(fieldOf), submit));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      reason.hidden = true;
      try {
        await act(valuesOf(form));
        await enter();
      } catch (error) {
        api.leave();
        if (error instanceof Refused && error.code === "second_factor_required") askForCode();
        reason.textContent = loginProblem(error);
        reason.hidden = false;
      } finally {
        submit.disabled = false;
      }
    });
    return form;

    /** The password was right, and the account has a second factor. */
    function askForCode() {
      if (form.querySelector("[name=code]")) return;
      submit.before(fieldOf({ name: "code", label: words.admin_login_code, hint: words.admin_login_code_hint, required: true }));
    }
  }
}

/** The principal is known: show what it may see. */
async function enter() {
  element("login-place", HTMLElement).replaceChildren();
  apps = await appNames();
  const [first = ""] = apps;
  app = apps.length === 1 ? first : remembered();
  if (app && !apps.includes(app)) app = "";
  document.body.dataset.view = "page";
  drawFrame();
  show();
}

/** @returns {Promise<string[]>} the apps that the principal may look at */
async function appNames() {
  if (api.rights.apps) return api.rights.apps;
  if (!api.may("GET apps")) return [];
  const answer = await api.get("apps", { limit: MOST_APPS });
  return listOf(answer.apps).map(recordOf).filter((each) => !each.same_as).map((each) => textOf(each.app));
}

/** @returns {string} who has logged in */
function principal() {
  const { kind, id, name: nickname, rights } = api.rights;
  if (kind === "demo") return words.admin_demo;
  if (kind === "key") return fill(words.admin_with_key, { id });
  const role = rights.includes("own") ? words.admin_role_owner : words.admin_role_moderator;
  return fill(words.admin_with_role, { user: nickname || id, role });
}

/** Draws what stands around all sections: who has logged in, the links to the sections, and the choice of an app. */
function drawFrame() {
  const { kind, version: release } = api.rights;
  element("who", HTMLElement).textContent = principal();
  element("version", HTMLElement).replaceChildren(...(release ? [make("bdi", "", "imserver ", version(release))] : []));
  element("leave", HTMLElement).hidden = kind === "demo";
  element("to-chat", HTMLElement).hidden = kind !== "staff" || api.rights.apps?.[0] !== page.accountsApp;
  const places = SECTIONS.filter(isThere).map((section) => {
    const made = link(section.label, section.key);
    made.dataset.section = section.key;
    return make("li", "", made);
  });
  element("sections", HTMLElement).replaceChildren(...places);
  const choose = element("app", HTMLSelectElement);
  const options = ["", ...apps].map((each) => {
    const option = /** @type {HTMLOptionElement} */ (make("option", "", each || words.admin_all_apps));
    option.value = each;
    return option;
  });
  choose.replaceChildren(...(apps.length === 1 ? options.slice(1) : options));
  choose.value = app;
  element("app-place", HTMLElement).hidden = apps.length < 2;
}

// --- navigation -----------------------------------------------------------------------------------------------------

/** Draws what the address names. */
function show() {
  if (document.body.dataset.view !== "page") return;
  const [key = "", ...parts] = location.hash.slice(1).split("/").map(decoded);
  turn += 1;
  const ownTurn = turn;
  const [parentKey, drawDetail] = DETAILS[key] ?? ["", null]; // of a person, for example, the section with people
  const at = { api, app, apps, isShown: () => ownTurn === turn };
  element("app", HTMLSelectElement).value = parentKey && apps.includes(parts[0]) ? parts[0] : app;
  const section = SECTIONS.find((each) => (parentKey ? each.key === parentKey : each.key === key && isThere(each)));
  for (const each of document.querySelectorAll("[data-section]")) {
    if (each instanceof HTMLElement && each.dataset.section === section?.key) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  document.querySelector("[data-section][aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  document.title = `${section?.label ?? words.admin_title} · imserver`;
  if (drawDetail && parts.every(Boolean) && parts.length) main.replaceChildren(...drawDetail(at, ...parts));
  else if (!section) main.replaceChildren(...drawOverview(at, SECTIONS.filter(isThere)));
  else if (section.needsApp && !app) main.replaceChildren(...chooseApp(section));
  else main.replaceChildren(...section.draw(at));
  const tasks = section && !parentKey ? tasksOf(api, section.key) : [];
  const task = tasks.find((each) => each.key === parts[0]);
  if (task) begin(task, at);
  else scrollTo(0, 0);
}

/**
 * Says what to do above the part of the section where a task begins, and keeps that in view while the parts above it load.
 *
 * @param {import("./overview.js").Task} task
 * @param {Place} at
 */
function begin(task, { isShown }) {
  const note = make("p", "card hint", make("b", "", task.label), stepsOf(task));
  const first = task.at ? main.querySelector(task.at) : null;
  const part = first?.closest("#main > *");
  if (part) part.before(note);
  else main.querySelector(".section-head")?.after(note);
  if (first instanceof HTMLElement) {
    if (first.matches("h2")) first.tabIndex = -1;
    first.focus({ preventScroll: true });
  }
  const isFirstPart = part?.previousElementSibling?.previousElementSibling === main.firstElementChild; // below the heading and the note
  if (!part || isFirstPart) return scrollTo(0, 0);
  const sizes = new ResizeObserver(() => {
    if (isShown()) note.scrollIntoView();
    if (!isShown() || !main.querySelector("[aria-busy=true]")) sizes.disconnect();
  });
  sizes.observe(main);
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

/** @param {Section} section */
function chooseApp(section) {
  const offered = apps.slice(0, MOST_OFFERED).map((each) => button(each, () => choose(each)));
  const text = make("p", "", apps.length ? words.admin_choose_app : words.admin_no_apps);
  return [heading(section.label), card("", text, make("p", "choices", ...offered))];
}

/**
 * Looks at another app. If a person or another thing of the app before is open, its section opens instead.
 *
 * @param {string} chosen  empty: all apps
 */
function choose(chosen) {
  app = chosen;
  element("app", HTMLSelectElement).value = chosen;
  try {
    sessionStorage.setItem(APP_ITEM, chosen);
  } catch {
    // no storage
  }
  const [parentKey] = DETAILS[location.hash.slice(1).split("/")[0]] ?? [""];
  if (parentKey) location.hash = addressOf(parentKey);
  else show();
}

function remembered() {
  try {
    return sessionStorage.getItem(APP_ITEM) ?? "";
  } catch {
    return "";
  }
}

/**
 * A request, by its id: why it was refused, and what it has changed.
 *
 * @param {Place} at
 * @param {string} id
 */
function drawRequest(at, id) {
  const anywhere = { ...at, app: "" };
  return [
    ...(api.may("GET refusals") ? drawRefusals(anywhere, id) : []),
    ...(api.may("GET audit") ? drawAudit(anywhere, id) : []),
  ];
}

addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = target instanceof HTMLElement && target.matches("input, textarea, select");
  if (isTyping || document.querySelector("dialog")) return;
  event.preventDefault();
  finder.focus();
});
element("app", HTMLSelectElement).addEventListener("change", (event) => {
  if (event.target instanceof HTMLSelectElement) choose(event.target.value);
});
element("leave", HTMLElement).addEventListener("click", () => {
  api.leave();
  location.hash = "";
  main.replaceChildren();
  showLogin("");
  toast(words.admin_left);
});
start();
