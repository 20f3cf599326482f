// @ts-check
/** What became of the last notifications of an app. */

import { listOf, recordOf, textOf } from "../text.js";
import { badge, card, filters, heading, link, missing, name, place, table, time, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 100;
/** Outcomes that somebody should look at. */
const BAD = new Set(["refused", "expired", "later", "gone"]);

/** @param {Record<string, any>} delivery */
export const isFailed = (delivery) => BAD.has(textOf(delivery.outcome));

/** @param {Record<string, any>} delivery @returns {"good" | "bad" | ""} what one should think of its outcome */
function judgementOf(delivery) {
  if (isFailed(delivery)) return "bad";
  return delivery.outcome === "taken" ? "good" : "";
}

/**
 * The last notifications of an app, or of one user.
 *
 * @param {Place} at
 */
export function drawNotifications({ api, app }) {
  let user = "";
  /** @type {Filled} */
  const rows = place(() => api.get("notifications/recent", { app, user, limit: PAGE }), (answer) => [
    ...missing(answer), recentTable(app, listOf(answer.deliveries), true),
  ]);
  const choose = filters([{ name: "user", label: words.admin_user }], (values) => {
    ({ user } = values);
    return rows.again();
  });
  return [heading(words.admin_notifications, words.admin_notifications_hint), choose, card("", rows)];
}

/**
 * @param {string} app
 * @param {any[]} deliveries
 * @param {boolean} [hasUsers]
 */
export function recentTable(app, deliveries, hasUsers = false) {
  const columns = [
    words.admin_last, ...(hasUsers ? [words.admin_user] : []), words.admin_outcome, words.admin_kind, words.admin_push_service, words.admin_problem,
  ];
  return table(words.admin_notifications, columns, deliveries.map(recordOf).map((each) => [
    time(each.time),
    ...(hasUsers ? [link(name(each.user), "person", app, textOf(each.user))] : []),
    badge(words[`admin_sent_${textOf(each.outcome)}`] ?? textOf(each.outcome), judgementOf(each)),
    name(words[`admin_notice_${textOf(each.kind)}`] ?? each.kind),
    name(each.host),
    name(each.problem),
  ]), words.admin_no_notifications);
}
