// @ts-check
/** Webhooks: what waits, the last answers, dead events; another address, a try, and sending again. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import {
  ask, badge, button, card, code, countOf, facts, heading, keepFresh, link, list, missing, name, number, place, table, time, toast, words,
} from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

const PAGE = 50;
const LOOK_MS = 30_000;
const MOST_CHARACTERS = 4_000;
/** Instead of the id of an event: all of them. */
const ALL = "";

/**
 * The webhooks of all apps, or of the one that is looked at.
 *
 * @param {Place} at
 */
export function drawWebhooks({ api, app, isShown }) {
  const columns = [words.admin_app, words.admin_state, words.admin_waiting, words.admin_aside, words.admin_dead, words.admin_last_answer];
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("webhooks", { app, cursor, limit: PAGE });
    return { rows: listOf(answer.webhooks), next: textOf(answer.next), above: missing(answer) };
  }, (webhooks) => table(words.admin_webhooks, columns, webhooks.map(recordOf).map((each) => [
    link(name(each.app), "webhook", textOf(each.app)),
    stateOf(each),
    number.format(numberOf(each.waiting) + numberOf(each.stored)),
    countOf(each.aside),
    countOf(each.dead),
    lastOf(each),
  ]), words.admin_no_webhooks));
  keepFresh(rows, isShown, LOOK_MS);
  return [heading(words.admin_webhooks, words.admin_webhooks_hint), card("", rows)];
}

/** @param {Record<string, any>} webhook */
function stateOf(webhook) {
  if (!webhook.url) return badge(words.admin_reads_itself);
  return webhook.failing ? badge(words.admin_failing, "bad") : badge(words.admin_works, "good");
}

/** @param {Record<string, any>} webhook */
function lastOf(webhook) {
  const last = recordOf(listOf(webhook.answers)[0]);
  return last.time ? time(last.time) : name("");
}

/** @param {Record<string, any>} webhook */
function factsCard(webhook) {
  /** @type {[string, Node | string][]} */
  const pairs = [
    [words.admin_state, stateOf(webhook)],
    [words.admin_waiting, number.format(numberOf(webhook.waiting) + numberOf(webhook.stored))],
    [words.admin_aside, countOf(webhook.aside)],
  ];
  if (webhook.aside) pairs.push([words.admin_next_try, time(webhook.next_try, words.admin_at_once)]);
  pairs.push([words.admin_dead, countOf(webhook.dead)], [words.admin_events, name(listOf(webhook.events).join(", "))]);
  return card("", facts(pairs));
}

/** @param {Record<string, any>} webhook */
function answersCard(webhook) {
  const columns = [words.admin_last, words.admin_status, words.admin_problem, words.admin_took, words.admin_events];
  const rows = listOf(webhook.answers).map(recordOf).map((each) => [
    time(each.time),
    each.problem ? badge(String(each.status || "–"), "bad") : badge(String(each.status), "good"),
    name(each.status ? "" : each.problem),
    fill(words.admin_milliseconds, { count: number.format(Math.round(numberOf(each.seconds) * 1000)) }),
    number.format(numberOf(each.events)),
  ]);
  return card(words.admin_last_answers, table(words.admin_last_answers, columns, rows, words.admin_no_answers));
}

/**
 * The webhook of one app: how it is, what may be done with it, and its dead events.
 *
 * @param {Place} at
 * @param {string} app
 */
export function drawWebhook({ api, isShown }, app) {
  const mayReplay = api.may("POST events/replay");
  /** @type {Filled} */
  const shown = place(async () => {
    const answer = await api.get("webhooks", { app });
    return { answer, webhook: recordOf(listOf(answer.webhooks)[0]) };
  }, ({ answer, webhook }) => {
    const { url } = webhook;
    const head = heading(fill(words.admin_webhook_of, { app }), code(url || ""), ...actions(textOf(url), numberOf(webhook.aside)));
    const cards = webhook.app ? [factsCard(webhook), answersCard(webhook)] : [card("", words.admin_no_webhook)];
    return [head, ...missing(answer), ...cards];
  });
  /** @type {Filled} */
  const dead = list(async (cursor) => {
    const answer = await api.get("events/dead", { app, cursor, limit: PAGE });
    return { rows: listOf(answer.events), next: textOf(answer.next) };
  }, (events) => {
    replayAll.hidden = !events.length;
    return deadTable(events);
  });
  const replayAll = button(words.admin_send_all_again, () => replay(ALL));
  replayAll.hidden = true;
  keepFresh(shown, isShown, LOOK_MS);
  keepFresh(dead, isShown, LOOK_MS);
  if (!api.may("GET events/dead")) return [shown];
  return [shown, card(words.admin_dead_events, dead, ...(mayReplay ? [replayAll] : []))];

  /** @param {any[]} events */
  function deadTable(events) {
    const columns = [words.admin_event, words.admin_user, words.admin_attempts, words.admin_first_failed, words.admin_content];
    if (mayReplay) columns.push("");
    return table(words.admin_dead_events, columns, events.map(recordOf).map((each) => [
      code(each.id), name(each.user), number.format(numberOf(each.attempts)), time(each.since), content(each.event),
      ...(mayReplay ? [button(words.admin_send_again, () => replay(textOf(each.id)))] : []),
    ]), words.admin_no_dead);
  }

  /** @param {string} id  of a dead event, or ALL */
  async function replay(id) {
    const { replayed } = await api.post("events/replay", { app, id });
    toast(fill(words.admin_replayed, { count: numberOf(replayed) }));
    await Promise.all([shown.again(), dead.again()]);
  }

  /**
   * @param {string} url
   * @param {number} aside  how many events were put aside
   */
  function actions(url, aside) {
    const found = [];
    if (aside && mayReplay) found.push(button(words.admin_try_now, () => replay(ALL)));
    if (api.may("POST webhooks/address")) {
      found.push(button(words.admin_change_address, () => ask({
        title: words.admin_change_address,
        text: words.admin_change_address_text,
        fields: [{ name: "url", label: words.admin_address_url, type: "url", value: url, required: true }],
        yes: words.admin_save,
        act: async (values) => {
          await api.post("webhooks/address", { app, url: values.url });
          toast(words.admin_saved);
          await shown.again();
        },
      })));
    }
    if (url && api.may("POST webhooks/test")) {
      found.push(button(words.admin_try, async () => {
        const { status, problem } = await api.post("webhooks/test", { app });
        if (problem) toast(fill(words.admin_tried_failed, { problem: textOf(problem) }), { isProblem: true });
        else toast(fill(words.admin_tried, { status: numberOf(status) }));
        await shown.again();
      }, "primary"));
    }
    return found;
  }
}

/** @param {unknown} event */
function content(event) {
  const summary = make("summary", "", textOf(recordOf(event).event) || words.admin_content);
  const body = make("pre", "", JSON.stringify(event, null, 1).slice(0, MOST_CHARACTERS));
  return make("details", "", summary, body);
}
