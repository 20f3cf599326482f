// @ts-check
/** What moderators and owners of the app manage on the messages page: a panel with a view for each subject. Loaded when it is opened. */

import { drawGuests, drawLinks, drawPeople } from "./people.js";
import { drawReport, drawReports } from "./reports.js";
import { drawRules } from "./rules.js";

/** The path below which a proxy serves this server; empty: none. */
const ROOT = new URL(import.meta.url).pathname.replace(/\/(release\/\w+\/)?features\/.*$/, "");
/** Views → whether they are for owners alone. */
const VIEWS = /** @type {const} */ ({ reports: false, people: false, guests: true, links: true, rules: true });

/**
 * What the views draw with.
 *
 * @typedef {object} Desk
 * @property {any} page      the additions
 * @property {any} session
 * @property {Record<string, string>} words
 * @property {boolean} isOwner
 * @property {string} root   what addresses of this server begin with
 * @property {(draw: () => Promise<Node[]> | Node[]) => Promise<void>} show  shows what it returns, in place of what is shown
 * @property {(view: keyof typeof VIEWS) => Promise<void>} open
 * @property {(act: () => Promise<unknown>) => Promise<void>} attempt  tells why it fails
 * @property {(seconds: number) => string} time
 * @property {(seconds: number) => string} day
 */

/**
 * @param {any} page
 * @param {any} session
 * @param {string} report  that is opened; empty: the queue
 * @param {() => void} onClose
 * @returns {Promise<{ changed: () => void }>} `changed`: reports are new or closed
 */
export async function openManage(page, session, report, onClose) {
  const { button, make } = page;
  const [own] = await Promise.all([page.loadWords(import.meta.url), page.loadStyle(new URL("./manage.css", import.meta.url)), session.people.load([session.user])]);
  const words = { ...page.words, ...own };
  const isOwner = session.people.card(session.user)?.role === "owner";
  const today = new Intl.DateTimeFormat(session.language, { timeStyle: "short" });
  const times = new Intl.DateTimeFormat(session.language, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
  const days = new Intl.DateTimeFormat(session.language, { dateStyle: "medium" });
  let turn = 0;
  /** The view that is open; empty: a report is. @type {keyof typeof VIEWS | ""} */
  let current = "";

  /** @type {Desk} */
  const desk = {
    page, session, words, isOwner, root: ROOT,
    show: async (draw) => {
      const mine = ++turn;
      body.setAttribute("aria-busy", "true");
      try {
        const parts = await draw();
        if (mine === turn) body.replaceChildren(...parts);
      } catch (error) {
        const again = button(words.manage_again);
        again.addEventListener("click", () => desk.show(draw));
        if (mine === turn) body.replaceChildren(make("p", "note", page.reason(error)), make("p", "panel-buttons", again));
      }
      if (mine === turn) body.removeAttribute("aria-busy");
    },
    open: async (view) => tabs.choose(views.indexOf(view)),
    attempt: async (act) => {
      try {
        await act();
      } catch (error) {
        page.toast(page.reason(error));
      }
    },
    time: (seconds) => (new Date(seconds * 1000).toDateString() === new Date().toDateString() ? today : times).format(seconds * 1000),
    day: (seconds) => days.format(seconds * 1000),
  };
  const openReport = (/** @type {string} */ id) => {
    current = "";
    return desk.show(() => drawReport(desk, id, () => desk.open("reports")));
  };
  const draws = {
    reports: () => drawReports(desk, openReport),
    people: drawPeople, guests: drawGuests, links: drawLinks, rules: drawRules,
  };
  const views = /** @type {(keyof typeof VIEWS)[]} */ (Object.keys(VIEWS)).filter((view) => isOwner || !VIEWS[view]);
  const tabs = await page.makeTabs(words.manage_title, views.map((view) => ({
    id: `manage-${view}`, label: words[`manage_${view}`],
    draw: () => {
      current = view;
      return desk.show(() => draws[view](desk));
    },
  })));
  const body = tabs.place;
  body.classList.add("manage-body");
  const admin = Object.assign(make("a", "muted", words.manage_admin), { href: `${ROOT}/admin`, target: "_blank", rel: "noopener" });
  const layer = page.openPanel(words.manage_title, make("div", "manage", tabs.row, body, make("p", "manage-foot", admin)));
  layer.closed.then(onClose);
  desk.open("reports");
  if (report) openReport(report);
  return { changed: () => void (current === "reports" && desk.open("reports")) };
}
