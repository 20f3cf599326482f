// @ts-check
/** All data of a person or an app: archives that are made and kept for a while, and their erasure. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { Refused } from "./api.js";
import { ask, badge, button, card, duration, facts, name, number, place, size, table, time, toast, words } from "./ui.js";

/** @typedef {import("./api.js").Api} Api */
/** @typedef {import("./ui.js").Filled} Filled */

const UNDO_SECONDS = 60;
const LOOK_MS = 1_000;

/**
 * Archives of a person or an app, or nothing if nobody here may make one.
 *
 * @param {Api} api
 * @param {string} app
 * @param {string} [user]  empty: of the whole app
 * @returns {HTMLElement[]}
 */
export function exportCard(api, app, user = "") {
  if (!api.may("GET exports", "POST exports/start")) return [];
  /** @type {Filled} */
  const rows = place(() => api.get("exports", { app, user }), (answer) => {
    const jobs = listOf(answer.exports).map(recordOf).filter((each) => textOf(each.user) === user);
    if (jobs.some((each) => each.state === "under way")) loadSoon(rows);
    const columns = [words.admin_created, words.admin_state, words.admin_size, words.admin_ends, ""];
    return [table(words.admin_archives, columns, jobs.map((job) => [
      time(job.created), stateOf(job), name(size(numberOf(job.bytes))), time(job.ends), make("div", "actions", ...actionsOf(job)),
    ]), words.admin_no_archives)];
  });
  const start = button(user ? words.admin_export : words.admin_export_app, async () => {
    await api.post("exports/start", { app, user });
    await rows.again();
  });
  return [card(words.admin_archives, make("p", "muted", words.admin_archives_hint), rows, make("p", "dialog-row", start))];

  /** @param {Record<string, any>} job */
  function stateOf(job) {
    if (job.state === "done") return badge(words.admin_archive_done, "good");
    if (job.state === "failed") return badge(words.admin_archive_failed, "bad");
    const made = make("span", "", fill(words.admin_archive_rows, { count: number.format(numberOf(job.records)) }));
    made.setAttribute("role", "status");
    return made;
  }

  /** @param {Record<string, any>} job */
  function actionsOf(job) {
    const id = textOf(job.id);
    const found = [];
    if (job.state === "done") {
      found.push(button(words.admin_download, () => api.download("exports/file", { app, id }, `${user || app}.zip`)));
    }
    if (api.may("POST exports/delete")) {
      found.push(button(words.admin_delete, async () => {
        await api.post("exports/delete", { app, id });
        await rows.again();
      }, "quiet danger"));
    }
    return found;
  }
}

/**
 * Loads a place again soon, unless it is removed by then.
 *
 * @param {Filled} shown
 */
function loadSoon(shown) {
  setTimeout(() => {
    if (shown.isConnected) shown.again();
  }, LOOK_MS);
}

/**
 * The route that erases a person or an app, and what the page says of it.
 *
 * @param {string} user  empty: the whole app
 */
function erasureOf(user) {
  if (user) {
    return {
      path: "users/erase",
      title: words.admin_erase,
      text: words.admin_erase_text,
      hint: words.admin_erase_reason_hint,
      waits: words.admin_erase_waits,
      goes: words.admin_erase_goes,
      ended: words.admin_erase_ended,
      undone: words.admin_erase_undone,
    };
  }
  return {
    path: "apps/delete",
    title: words.admin_app_delete,
    text: words.admin_app_delete_text,
    hint: "",
    waits: words.admin_app_delete_waits,
    goes: words.admin_app_delete_goes,
    ended: words.admin_app_delete_ended,
    undone: words.admin_app_delete_undone,
  };
}

/**
 * How far the erasure of a person or an app is; nothing if there is none.
 *
 * @param {Api} api
 * @param {string} app
 * @param {string} user  empty: the whole app
 * @param {() => unknown} changed  called when it was undone
 * @returns {Filled | null}
 */
export function erasureNote(api, app, user, changed) {
  const { path, waits, goes, ended, undone } = erasureOf(user);
  /** @type {Record<string, string>} */
  const whom = user ? { app, user } : { app };
  if (!api.may(`GET ${path}/show`)) return null;
  /** @type {Filled} */
  const note = place(() => api.get(`${path}/show`, whom), ({ state, ends }) => {
    if (state === "none") return [];
    const text = make("p", "", state === "ended" ? ended : goes);
    const made = make("div", "card notice", text);
    if (state !== "waiting") {
      text.setAttribute("role", "status");
      if (state === "under way") loadSoon(note);
      return [made];
    }
    countDown();
    if (api.may(`POST ${path}/undo`)) made.append(button(words.admin_undo, undo, "primary"));
    return [made];

    /** Only the text changes until the erasure begins, so that the button stays for somebody who is about to press it. */
    function countDown() {
      const seconds = Math.max(0, Math.ceil(numberOf(ends) - Date.now() / 1000));
      text.textContent = fill(waits, { span: duration(seconds) });
      if (!seconds) return loadSoon(note);
      setTimeout(() => {
        if (text.isConnected) countDown();
      }, LOOK_MS);
    }
  });
  return note;

  async function undo() {
    await api.post(`${path}/undo`, whom);
    toast(undone);
    await Promise.all([note.again(), changed()]);
  }
}

/**
 * Asks for the erasure of a person or an app, and says what will go. It begins a minute later.
 *
 * @param {Api} api
 * @param {string} app
 * @param {string} user  empty: the whole app
 * @param {string} proof  what is typed again: the name for logins or of the app, or else the id
 * @param {() => unknown} changed
 */
export function erase(api, app, user, proof, changed) {
  const { path, title, text, hint } = erasureOf(user);
  /** @type {Filled} */
  const counts = place(() => (user ? countsOf(api, app, user) : countsOfApp(api, app)), (pairs) => {
    if (!pairs.length) return [];
    return [facts(pairs.map(([label, count]) => [label, number.format(count)]))];
  });
  const opened = ask({
    title,
    text,
    fields: [
      { name: "reason", label: words.admin_reason, hint, most: 250, required: true },
      { name: "again", label: fill(words.admin_erase_again, { user: proof }), required: true },
    ],
    yes: title,
    danger: true,
    act: async ({ reason, again: typed }) => {
      if (typed !== proof) throw new Refused("differs", "", 0);
      await api.post(path, { app, ...(user ? { user } : { confirm: typed }), seconds: UNDO_SECONDS, reason });
      await changed();
    },
  });
  document.querySelector("dialog .ask > p")?.after(counts); // the dialog opens at once, before it is answered
  return opened;
}

/**
 * @param {Api} api
 * @param {string} app
 * @returns {Promise<[string, number][]>} what the server has of an app, as far as this node counts it
 */
async function countsOfApp(api, app) {
  if (!api.may("GET apps/usage")) return [];
  const { stored } = await api.get("apps/usage", { app, stored: true });
  const { accounts, messages, uploads, groups } = recordOf(stored);
  return pairsOf([
    [words.admin_login_accounts, accounts],
    [words.admin_messages, messages],
    [words.admin_files, uploads],
    [words.admin_groups, groups],
  ]);
}

/**
 * @param {Api} api
 * @param {string} app
 * @param {string} user
 * @returns {Promise<[string, number][]>} what the server has of a person, as far as this node counts it
 */
async function countsOf(api, app, user) {
  /** @param {string} path @param {Record<string, string | number>} query */
  const count = async (path, query) => {
    if (!api.may(`GET ${path}`)) return {};
    return recordOf(await api.get(path, { app, user, ...query }).catch(() => ({})));
  };
  const [messages, files, groups] = await Promise.all([
    count("moderation/count", { since: 0 }), count("uploads", { limit: 1 }), count("groups", { limit: 1 }),
  ]);
  const { conversations } = messages;
  return pairsOf([
    [words.admin_messages, messages.count],
    [words.admin_conversations, conversations && listOf(conversations).length],
    [words.admin_files, files.total],
    [words.admin_groups, groups.count],
  ]);
}

/**
 * @param {[string, unknown][]} pairs
 * @returns {[string, number][]} the pairs that have a number
 */
function pairsOf(pairs) {
  return pairs.flatMap(([label, found]) => (typeof found === "number" ? [[label, found]] : []));
}
