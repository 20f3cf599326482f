// @ts-check
/** The groups of the app that anybody may join. */

import { make } from "../../text.js";
import { attempt, field, input, load, namedList, noteLine, redraw } from "../parts/form.js";
import { button, openPanel } from "../parts/panel.js";
import { SEARCH_AFTER_MS } from "./directory.js";
import { membersText } from "./invitations.js";
import { avatarOf } from "../session/people.js";
import { kindText } from "./group-kinds.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("./group-kinds.js").Kind & { group: string, name: string, avatar: string, description: string, role: string, members: number }} OpenGroup */

const TEXT_LENGTH = 64;
const PAGE = 50;

/** @param {Session} session */
export function openOpenGroups(session) {
  const root = make("div", "panel-form open-groups");
  const layer = openPanel(session.words.messages_open_groups, root);
  const view = new OpenGroupsView(session, root, layer.close);
  layer.closed.then(() => view.close());
}

/** Owns the content of the panel. */
class OpenGroupsView {
  /** @type {OpenGroup[]} */
  #groups = [];
  /** Where the next page begins; empty: there is none. */
  #next = "";
  #text = input({ type: "search", maxLength: TEXT_LENGTH, enterKeyHint: "search" });
  #list = make("div", "open-group-list");
  #note = noteLine();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #typing;

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   * @param {() => void} leave  closes the panel
   */
  constructor(session, root, leave) {
    this.session = session;
    this.leave = leave;
    this.#text.id = "open-group-text";
    this.#text.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#load(), SEARCH_AFTER_MS);
    });
    root.append(field(session.words.messages_find_group, this.#text), this.#note, this.#list);
    this.#load();
  }

  close() {
    clearTimeout(this.#typing);
  }

  /** Loads the first page for what is typed. */
  #load() {
    return load(this.#list, this.#note, this.session, async () => {
      const { groups, next } = await this.#page("");
      this.#groups = groups;
      this.#next = next;
      this.#draw();
    });
  }

  /** @param {string} cursor  where the page begins; empty: at the first group */
  #page(cursor) {
    return this.session.api("GET", "groups/open", { text: this.#text.value.trim(), cursor, limit: PAGE });
  }

  #draw() {
    const { words } = this.session;
    const rows = this.#groups.map((group) => this.#row(group));
    if (this.#next) {
      const more = button(words.more, "link");
      more.dataset.key = "more";
      more.addEventListener("click", () => attempt(more, null, words, async () => {
        const groups = this.#groups;
        const page = await this.#page(this.#next);
        if (groups !== this.#groups) return; // the list was loaded again meanwhile
        this.#groups.push(...page.groups);
        this.#next = page.next;
        this.#draw();
      }));
      rows.push(make("li", "", more));
    }
    const none = this.#text.value.trim() ? words.messages_search_none : words.messages_open_groups_none;
    redraw(this.#list, [rows.length ? namedList(words.messages_open_groups, rows) : make("p", "muted", none)]);
  }

  /** @param {OpenGroup} group @returns {HTMLElement} with a button that opens the group, or joins it */
  #row(group) {
    const { words } = this.session;
    const { name, avatar, description, members, role } = group;
    const kind = kindText({ ...group, open: false }, words); // all groups of the list are open
    const facts = [membersText(members, words), kind].filter(Boolean).join(" · ");
    const heading = make("span", "person-name", make("bdi", "", name));
    const texts = make("span", "person-words", heading, make("small", "", facts), ...(description ? [make("small", "about", description)] : []));
    const row = make("span", "person", make("span", "person-picture", avatarOf(name, avatar, "group")), texts);
    const isMember = Boolean(role);
    const act = isMember ? button(words.messages_open_it, "quiet") : button(words.messages_join, "quiet yes");
    act.dataset.key = group.group;
    act.setAttribute("aria-label", `${act.textContent}: ${name}`);
    act.addEventListener("click", () => {
      if (isMember) this.#open(group);
      else attempt(act, this.#note, words, () => this.#join(group));
    });
    return make("li", "person-row", row, make("span", "person-actions", act));
  }

  /** @param {OpenGroup} group */
  async #join({ group, members }) {
    await this.session.api("POST", "groups/join", { group });
    await this.session.store.load();
    const listed = this.#groups.find((each) => each.group === group); // the list may have been loaded again
    if (listed) Object.assign(listed, { role: "member", members: members + 1 });
    this.#draw();
  }

  /** @param {OpenGroup} group */
  #open({ group }) {
    this.leave();
    this.session.open({ conversation: Number(group) });
  }
}
