// @ts-check
/** The nodes of the cluster: how they are, and draining one. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { logCard, timingsCard } from "./timings.js";
import { ask, badge, button, card, duration, facts, heading, keepFresh, name, number, place, size, time, toast, version, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */

/**
 * A card for each node, what takes time on them, and their logs.
 *
 * @param {Place} at
 */
export function drawNodes({ api, isShown }) {
  /** Node → its processor seconds, and when they were read, in seconds. @type {Map<string, [number, number]>} */
  const before = new Map();
  /** @type {Filled} */
  const shown = place(() => api.get("nodes"), (answer) => {
    const nodes = listOf(answer.nodes).map(recordOf);
    const cards = nodes.map((node) => nodeCard(node, nodes.some((each) => each !== node && each.ready)));
    return [make("div", "nodes", ...cards)];
  });
  keepFresh(shown, isShown);
  const logs = api.may("POST nodes/log") ? [logCard(api)] : [];
  const timings = api.may("GET nodes/timings") ? [timingsCard(api)] : [];
  return [heading(words.admin_nodes, words.admin_nodes_hint), shown, ...timings, ...logs];

  /**
   * @param {Record<string, any>} node
   * @param {boolean} hasOthers  whether another node serves clients
   */
  function nodeCard(node, hasOthers) {
    const why = node.drained ? words.admin_drained : textOf(node.reason);
    const most = numberOf(node.most);
    const connections = number.format(numberOf(node.connections)) + (most ? ` / ${number.format(most)}` : "");
    const lag = Math.round(numberOf(node.lag) * 10_000) / 10; // milliseconds, with one decimal
    const head = make("header", "node-head", make("h2", "", name(node.node)), stateOf(node));
    if (node.own) head.append(badge(words.admin_own_node));
    const made = card("", head);
    if (why && !node.ready) made.append(make("p", "warning", fill(words.admin_why_not, { reason: why }), " ", time(node.since, "")));
    made.append(facts([
      [words.admin_connections, connections],
      [words.admin_users, number.format(numberOf(node.users))],
      [words.admin_load, load(node)],
      [words.admin_lag, fill(words.admin_milliseconds, { count: number.format(lag) })],
      [words.admin_memory, size(numberOf(node.memory))],
      [words.admin_disk, node.disk ? fill(words.admin_free, { size: size(numberOf(node.disk_free)) }) : "–"],
      [words.admin_up, node.started ? duration(Date.now() / 1000 - numberOf(node.started)) : "–"],
      [words.admin_version, version(node.version)],
      [words.admin_machine, name(node.host)],
    ]));
    if (node.drained) {
      if (api.may("POST nodes/undrain")) made.append(make("p", "dialog-row", undrainButton(node)));
    } else if (node.answers && api.may("POST nodes/drain")) {
      made.append(make("p", "dialog-row", drainButton(node, hasOthers)));
    }
    return made;
  }

  /** @param {Record<string, any>} node */
  function stateOf(node) {
    if (!node.answers) return badge(words.admin_silent, "bad");
    if (node.ready) return badge(words.admin_ready, "good");
    return badge(words.admin_not_ready, node.drained ? "warn" : "bad");
  }

  /**
   * The share of a processor that a node has used since the last look; at the first look, since its start.
   *
   * @param {Record<string, any>} node
   */
  function load(node) {
    const now = Date.now() / 1000;
    const cpu = numberOf(node.cpu);
    const [lastCpu, lastTime] = before.get(textOf(node.node)) ?? [0, numberOf(node.started)];
    if (now - lastTime > 1) before.set(textOf(node.node), [cpu, now]); // a shorter time gives no sound share
    const share = now > lastTime ? Math.max(0, (cpu - lastCpu) / (now - lastTime)) : 0;
    return fill(words.admin_load_of, { share: number.format(Math.round(share * 100)), cpus: numberOf(node.cpus) });
  }

  /**
   * @param {Record<string, any>} node
   * @param {boolean} hasOthers
   */
  function drainButton(node, hasOthers) {
    return button(words.admin_drain, () => ask({
      title: fill(words.admin_drain_title, { node: textOf(node.node) }),
      text: fill(hasOthers ? words.admin_drain_text : words.admin_drain_alone, { count: number.format(numberOf(node.connections)) }),
      yes: words.admin_drain,
      danger: true,
      act: async () => {
        await api.post("nodes/drain", { node: node.node });
        toast(words.admin_draining);
        await shown.again();
      },
    }));
  }

  /** @param {Record<string, any>} node */
  function undrainButton(node) {
    return button(words.admin_undrain, async () => {
      await api.post("nodes/undrain", { node: node.node });
      toast(words.admin_serves_again);
      await shown.again();
    }, "primary");
  }
}
