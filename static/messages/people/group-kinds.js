// @ts-check
/** What kind a group is: announcements, an open one, or everybody's; in the form of a new group, and in the rules of one. */

import { attempt, field, select, switchBox } from "../parts/form.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} Kind
 * @property {"member" | "admin"} write  the least role that may
 * @property {"member" | "admin"} reply  in threads
 * @property {boolean} open              others find it, and may join
 * @property {"" | "members" | "all"} everybody  whose it is without joining
 */

/** Kind → the options of a new group of this kind. Later members read earlier messages in all kinds but the first. */
const KINDS = {
  group: {},
  news: { write: "admin", history: "all" },
  open: { open: true, history: "all" },
  everybody: { everybody: "members", history: "all" },
  everybody_news: { everybody: "members", write: "admin", history: "all" },
};

/**
 * @param {Session} session
 * @returns {boolean} whether the user is an owner of the app, who alone makes groups of everybody
 */
function ownsApp({ people, user }) {
  return /** @type {any} */ (people.card(user))?.role === "owner";
}

/**
 * Lets one choose of which kind a new group is.
 *
 * @param {Session} session
 * @returns {{ root: HTMLElement, fields: () => object }} `fields`: of the request that makes it
 */
export function kindField(session) {
  const { words } = session;
  const mayOfferAll = ownsApp(session);
  const kinds = Object.keys(KINDS).filter((kind) => mayOfferAll || !kind.startsWith("everybody"));
  const box = select(kinds.map((kind) => [kind, words[`messages_kind_${kind}`]]), "group");
  box.id = "group-kind";
  const root = field(words.messages_kind, box, words.messages_kind_group_hint);
  const hint = root.querySelector(".field-hint");
  box.addEventListener("change", () => {
    if (hint) hint.textContent = words[`messages_kind_${box.value}_hint`];
  });
  return { root, fields: () => KINDS[/** @type {keyof typeof KINDS} */ (box.value)] };
}

/**
 * @param {Kind} group
 * @param {Record<string, string>} words
 * @returns {string} of which kind it is, in a few words; empty: a plain one
 */
export function kindText({ write, open, everybody }, words) {
  return [
    write === "admin" ? words.messages_kind_news : "",
    open ? words.messages_kind_open : "",
    everybody ? words.messages_kind_everybody : "",
  ].filter(Boolean).join(" · ");
}

/**
 * The rules of a group that say of which kind it is.
 *
 * @template {Kind} T
 * @param {Session} session
 * @param {T} group
 * @param {(route: "options" | "open" | "everybody", change: object) => Promise<T>} change  resolves to the changed group
 * @returns {HTMLElement[]}
 */
export function kindRules(session, group, change) {
  const { words } = session;
  /** @type {[string, string][]} */
  const roles = [["member", words.messages_all_members], ["admin", words.messages_admins]];
  /** @param {"options" | "open" | "everybody"} route @param {object} changes */
  const save = async (route, changes) => showFor(await change(route, changes));
  const choice = (/** @type {"write" | "reply"} */ right, /** @type {string} */ label) => {
    const box = select(roles, group[right]);
    box.dataset.key = right;
    box.addEventListener("change", async () => {
      if (!(await attempt(box, null, words, () => save("options", { [right]: box.value })))) box.value = group[right];
    });
    return field(label, box);
  };
  const reply = choice("reply", words.messages_may_reply);
  const open = switchBox(words.messages_others_join, group.open, words, (on) => save("open", { open: on }));
  const all = switchBox(words.messages_everybody_is_in, group.everybody !== "", words, (on) => save("everybody", { everybody: on ? "members" : "" }));
  const guests = switchBox(words.messages_guests_are_in, group.everybody === "all", words, (on) => save("everybody", { everybody: on ? "all" : "members" }));
  /** Shows the rules that matter for a group of its kind. @param {T} changed */
  const showFor = (changed) => {
    group = changed;
    reply.hidden = group.write !== "admin";
    open.hidden = group.everybody !== "";
    guests.hidden = group.everybody === "";
  };
  showFor(group);
  return [choice("write", words.messages_may_write), reply, open, ...(ownsApp(session) ? [all, guests] : [])];
}
