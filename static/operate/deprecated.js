// @ts-check
/** Who uses what is deprecated. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { absoluteTime, card, code, link, name, number, place, table, time, words } from "./ui.js";

/** The id of a key; ids of keys in the settings file begin with `config:`. Any other text names no key. */
const KEY_ID = /^(config:)?[0-9a-f]+$/;

/**
 * Who has used what is deprecated; nothing if the principal may not see that.
 *
 * @param {import("./api.js").Api} api
 * @param {string} app  empty: of all apps
 * @returns {HTMLElement[]}
 */
export function deprecatedCard(api, app) {
  if (!api.may("GET keys/deprecated")) return [];
  const columns = [
    words.admin_deprecated, words.admin_instead, words.admin_key, words.admin_app, words.admin_address,
    words.admin_first_use, words.admin_last_use, words.admin_times,
  ];
  const shown = place(() => api.get("keys/deprecated", { app }), (answer) => {
    const rows = listOf(answer.deprecated).map(recordOf).flatMap((each) => listOf(each.uses).map((use) => rowOf(each, recordOf(use))));
    const none = answer.since ? fill(words.admin_nothing_deprecated, { time: absoluteTime(answer.since) }) : words.admin_no_use_stored;
    return [table(words.admin_deprecated, columns, rows, none)];
  });
  const made = card(words.admin_deprecated, make("p", "muted", words.admin_deprecated_hint), shown);
  made.id = "deprecated";
  return [made];
}

/**
 * @param {Record<string, any>} deprecated
 * @param {Record<string, any>} use
 */
function rowOf(deprecated, use) {
  const key = textOf(use.key);
  return [
    code(deprecated.name),
    code(deprecated.instead),
    KEY_ID.test(key) ? link(code(key), "key", key) : name(key),
    name(use.app),
    code(use.address),
    time(use.first),
    time(use.last),
    number.format(numberOf(use.answered) + numberOf(use.refused)),
  ];
}
