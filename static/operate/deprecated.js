// @ts-check
/** Who uses what is deprecated. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { absoluteTime, card, code, link, name, number, place, table, time, words } from "./ui.js";

/**
 * @param {import("./api.js").Api} api
 * @param {string} app  empty: of all apps
 * @returns {HTMLElement[]}
 */
export function deprecatedCard(api, app) {
  if (!api.may("GET keys/deprecated")) return [];
  const columns = [words.admin_deprecated, words.admin_instead, words.admin_key, words.admin_app, words.admin_address, words.admin_first_use, words.admin_last_use, words.admin_times];
  const shown = place(() => api.get("keys/deprecated", { app }), (answer) => {
    /** @type {Record<string, any>[]} */
    const rows = listOf(answer.deprecated).map(recordOf).flatMap((each) => listOf(each.uses).map((use) => ({ ...recordOf(use), name: each.name, instead: each.instead })));
    const none = answer.since ? fill(words.admin_nothing_deprecated, { time: absoluteTime(answer.since) }) : words.admin_no_use_stored;
    return [table(words.admin_deprecated, columns, rows.map((use) => [
      code(use.name), code(use.instead), /^(config:)?[0-9a-f]+$/.test(textOf(use.key)) ? link(code(use.key), "key", textOf(use.key)) : name(use.key),
      name(use.app), code(use.address), time(use.first), time(use.last), number.format(numberOf(use.answered) + numberOf(use.refused)),
    ]), none)];
  });
  return [Object.assign(card(words.admin_deprecated, make("p", "muted", words.admin_deprecated_hint), shown), { id: "deprecated" })];
}
