// @ts-check
/** Live connections of an app, on all nodes, and one connection by its id. */

import { fill, listOf, make, numberOf, recordOf, textOf } from "../text.js";
import { ask, button, card, code, facts, heading, link, list, missing, name, place, table, time, toast, words } from "./ui.js";

/** @typedef {import("./app.js").Place} Place */
/** @typedef {import("./ui.js").Filled} Filled */
/** @typedef {import("./api.js").Api} Api */

const PAGE = 50;

/** @param {Place} at */
export function drawConnections({ api, app }) {
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("connections/list", { app, cursor, limit: PAGE });
    const count = make("p", "muted", fill(words.admin_online, { count: numberOf(answer.users) }));
    return { rows: listOf(answer.connections), next: textOf(answer.next), above: [...missing(answer), count] };
  }, (connections) => connectionTable(api, app, connections, () => rows.again(), true));
  return [heading(words.admin_connections, words.admin_connections_hint), card("", rows)];
}

/**
 * @param {Api} api
 * @param {string} app
 * @param {any[]} connections
 * @param {() => unknown} changed
 * @param {boolean} [hasUsers]  whether they are of several users
 */
export function connectionTable(api, app, connections, changed, hasUsers = false) {
  const mayClose = api.may("POST disconnect");
  const columns = [words.admin_address, words.admin_device, words.admin_dialect, words.admin_since, words.admin_node];
  if (hasUsers) columns.unshift(words.admin_user);
  if (mayClose) columns.push("");
  return table(words.admin_connections, columns, connections.map(recordOf).map((each) => [
    ...(hasUsers ? [link(name(each.user), "person", app, textOf(each.user))] : []),
    link(code(each.peer), "connection", app, textOf(each.connection)),
    name(each.device), name(each.dialect), time(each.since), code(each.node),
    ...(mayClose ? [closeButton(api, app, textOf(each.connection), changed)] : []),
  ]), words.admin_no_connections);
}

/**
 * @param {Api} api
 * @param {string} app
 * @param {string} connection
 * @param {() => unknown} changed
 */
function closeButton(api, app, connection, changed) {
  return button(words.admin_disconnect, async () => {
    await api.post("disconnect", { app, connections: [connection] });
    toast(words.admin_disconnected);
    await changed();
  });
}

/**
 * One connection: whose it is, from where, and to which channels it is subscribed.
 *
 * @param {Place} at
 * @param {string} app
 * @param {string} connection
 */
export function drawConnection({ api }, app, connection) {
  /** @type {Filled} */
  const shown = place(async () => {
    /** @type {Record<string, any>} */
    const nothing = {};
    return api.may("GET connections/show") ? api.get("connections/show", { app, connection }) : nothing;
  }, (found) => [card("", facts([
    [words.admin_user, link(name(found.user), "person", app, textOf(found.user))],
    [words.admin_address, code(found.peer)],
    [words.admin_device, name(found.device)],
    [words.admin_dialect, name(found.dialect)],
    [words.admin_since, time(found.since)],
    [words.admin_node, code(found.node)],
    [words.admin_channels, channelsOf(app, listOf(found.channels))],
  ]))]);
  const close = button(words.admin_disconnect, () => ask({
    title: words.admin_disconnect,
    text: words.admin_disconnect_text,
    yes: words.admin_disconnect,
    act: async () => {
      await api.post("disconnect", { app, connections: [connection] });
      toast(words.admin_disconnected);
    },
  }));
  return [heading(words.admin_connection, code(connection), ...(api.may("POST disconnect") ? [close] : [])), shown];
}

/**
 * @param {string} app
 * @param {any[]} channels
 */
function channelsOf(app, channels) {
  if (!channels.length) return make("span", "badges", "–");
  return make("span", "badges", ...channels.map((channel) => link(name(channel), "channel", app, textOf(channel))));
}

/**
 * A channel and its subscribers.
 *
 * @param {Place} at
 * @param {string} app
 * @param {string} channel
 */
export function drawChannel({ api }, app, channel) {
  const columns = [words.admin_user, words.admin_device, words.admin_dialect, words.admin_since];
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("channels/presence", { app, channel, cursor, limit: PAGE });
    return { rows: listOf(answer.subscribers), next: textOf(answer.next), above: missing(answer) };
  }, (subscribers) => table(words.admin_subscribers, columns, subscribers.map(recordOf).map((each) => [
    link(name(each.user), "person", app, textOf(each.user)), name(each.device), name(each.dialect), time(each.joined),
  ]), words.admin_no_connections));
  return [heading(name(channel), code(`${app} / ${channel}`)), card(words.admin_subscribers, rows)];
}

/**
 * A group and its members.
 *
 * @param {Place} at
 * @param {string} app
 * @param {string} group
 */
export function drawGroup({ api }, app, group) {
  if (!api.may("GET groups/show", "GET groups/members")) return [heading(words.admin_group, code(`${app} / ${group}`))];
  /** @type {Filled} */
  const shown = place(() => api.get("groups/show", { app, group }), (found) => [heading(name(found.name), code(`${app} / ${group}`))]);
  /** @type {Filled} */
  const rows = list(async (cursor) => {
    const answer = await api.get("groups/members", { app, group, cursor, limit: PAGE });
    return { rows: listOf(answer.members), next: textOf(answer.next) };
  }, (members) => table(words.admin_members, [words.admin_user, words.admin_role, words.admin_muted_until], members.map(recordOf).map((each) => [
    link(name(each.user), "person", app, textOf(each.user)), name(words[`admin_role_${textOf(each.role)}`] ?? each.role), time(each.muted_until),
  ]), words.admin_no_people));
  return [shown, card(words.admin_members, rows)];
}
