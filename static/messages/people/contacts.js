// @ts-check
/** Finding people, friend requests, the contact list, and new groups. */

import { make } from "../../text.js";
import { rowsOf } from "../parts/api.js";
import { changeFriend, openCard } from "./card.js";
import { Chosen } from "./chosen.js";
import { FoundPeople, hasDirectory } from "./directory.js";
import { attempt, field, input, load, namedList, newId, noteLine, redraw, section, show, withModule } from "../parts/form.js";
import { openInvitations, tellInvited } from "./invitations.js";
import { fitOf } from "../parts/names.js";
import { button, openDialog, openPanel } from "../parts/panel.js";
import { personRow } from "./person-row.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {"friends" | "incoming" | "outgoing" | "blocked"} ListName */

/** @type {ListName[]} */
const LISTS = ["friends", "incoming", "outgoing", "blocked"];
/** List → what its people are to us. */
const RELATIONS = /** @type {const} */ ({ friends: "friend", incoming: "incoming", outgoing: "outgoing", blocked: "blocked" });
const PAGE = 200;
const NAME_LENGTH = 50;
/** An id of an account. */
const NUMBER = /^\d+$/;

/**
 * The contact list.
 *
 * @param {Session} session
 * @returns {Promise<void>} when it is closed
 */
export function openContacts(session) {
  const root = make("div", "contacts");
  const view = new ContactsView(session, root);
  const layer = openPanel(session.words.messages_contacts, root);
  return layer.closed.then(() => view.close());
}

/** Owns the content of the panel. */
class ContactsView {
  /** @type {Record<ListName, string[]>} */
  lists = { friends: [], incoming: [], outgoing: [], blocked: [] };
  #isLoaded = false;
  /** @type {(() => void)[]} */
  #ends = [];

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   */
  constructor(session, root) {
    this.session = session;
    this.lower = make("div", "contacts-lists");
    this.note = noteLine();
    root.append(this.#findForm(), this.#buttons(), this.note, this.lower);
    this.#ends.push(
      session.on("people", () => this.#draw()),
      session.on("contact", () => this.#load()),
      session.people.watch(() => this.lists.friends),
    );
    this.#load();
  }

  close() {
    for (const end of this.#ends) end();
  }

  #load() {
    return load(this.lower, this.note, this.session, async () => {
      const lists = await Promise.all(LISTS.map((name) => loadList(this.session, name)));
      LISTS.forEach((name, index) => { this.lists[name] = lists[index]; });
      this.#isLoaded = true;
      this.#draw();
      await this.session.people.refresh(this.lists.friends);
    });
  }

  /** @returns {HTMLElement} */
  #findForm() {
    const { session } = this;
    const { words } = session;
    const text = input({ type: "search", maxLength: 254, enterKeyHint: "search", autocapitalize: "none", spellcheck: false });
    text.id = "find-text";
    const note = noteLine();
    const found = make("div", "found");
    found.setAttribute("aria-live", "polite");
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_find_go));
    const hinted = field(words.messages_find, text, words.messages_find_hint);
    const line = make("div", "field-line", hinted, go);
    const form = make("form", "panel-form find", line, note, found);
    form.setAttribute("role", "search");
    form.setAttribute("aria-label", words.messages_find);
    const people = new FoundPeople(session, () => {
      const rows = people.users.map((user) => this.#foundRow(user));
      if (people.more) rows.push(people.more);
      found.replaceChildren(...(rows.length ? [namedList(words.messages_found, rows)] : people.isDone ? [make("p", "muted", words.messages_find_enter)] : []));
    });
    hasDirectory(session).then((has) => {
      if (!has) return;
      const hint = hinted.querySelector(".field-hint");
      if (hint) hint.textContent = words.messages_find_hint_names;
      text.addEventListener("input", () => people.find(text.value));
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = text.value.trim();
      if (!wanted) return text.focus();
      people.stop();
      attempt(go, note, words, async () => {
        const card = await session.api("POST", "accounts/find", { text: wanted }).catch(async (error) => {
          await people.findNow(wanted); // a part of a name
          if (!people.users.length) throw error;
        });
        if (!card) return;
        session.people.add([card]);
        found.replaceChildren(namedList(words.messages_found, [this.#foundRow(card.user)]));
        this.#open(card.user);
      });
    });
    return form;
  }

  /** @param {string} user */
  #foundRow(user) {
    const name = this.session.people.card(user)?.name;
    return personRow(this.session, user, () => this.#open(user), { below: name && `@${name}` });
  }

  /** @returns {HTMLElement} */
  #buttons() {
    const { session } = this;
    const { words } = session;
    const group = button(words.messages_new_group);
    group.id = "new-group";
    group.addEventListener("click", () => openNewGroup(session, this.#isLoaded ? this.lists.friends : undefined));
    const link = button(words.messages_invite_people);
    link.id = "my-link";
    link.addEventListener("click", () => openInvitations(session));
    const bots = button(words.messages_bots);
    bots.id = "bot-gallery";
    bots.addEventListener("click", () => withModule(import("./gallery.js"), words, ({ openGallery }) => openGallery(session)));
    return make("p", "panel-buttons", group, link, bots);
  }

  /** @param {string} user */
  #open(user) {
    openCard(this.session, user).then(() => this.#load());
  }

  #draw() {
    if (!this.#isLoaded) return;
    const { session, lists } = this;
    const { words } = session;
    const sections = [];
    if (lists.incoming.length) {
      const rows = lists.incoming.map((user) => this.#row(user, [
        this.#action("accept", user, words.messages_accept, "quiet yes"),
        this.#action("decline", user, words.messages_decline, "quiet"),
      ], ""));
      sections.push(section(words.messages_requests, namedList(words.messages_requests, rows)));
    }
    const friends = byName(session, lists.friends).map((user) => this.#row(user));
    const none = make("p", "muted", words.messages_no_contacts);
    const title = friends.length ? `${words.messages_contacts} · ${friends.length}` : words.messages_contacts;
    sections.push(section(title, friends.length ? namedList(words.messages_contacts, friends) : none));
    if (lists.outgoing.length) {
      const rows = lists.outgoing.map((user) => this.#row(user, [this.#action("remove", user, words.messages_withdraw, "quiet")], ""));
      sections.push(section(words.messages_asked, namedList(words.messages_asked, rows)));
    }
    if (lists.blocked.length) {
      const rows = lists.blocked.map((user) => this.#row(user, [this.#action("unblock", user, words.messages_unblock, "quiet")], ""));
      sections.push(section(words.messages_blocked, namedList(words.messages_blocked, rows)));
    }
    redraw(this.lower, sections);
  }

  /**
   * @param {string} user
   * @param {HTMLElement[]} [actions]
   * @param {string} [below]
   */
  #row(user, actions = [], below = undefined) {
    return personRow(this.session, user, () => this.#open(user), { actions, below });
  }

  /**
   * @param {string} change
   * @param {string} user
   * @param {string} label
   * @param {string} classes
   */
  #action(change, user, label, classes) {
    const made = button(label, classes);
    made.dataset.key = `${change}:${user}`;
    made.setAttribute("aria-label", `${label}: ${this.session.people.nameOf(user)}`);
    made.addEventListener("click", () => attempt(made, null, this.session.words, async () => {
      await changeFriend(this.session, change, user);
      await this.#load();
    }));
    return made;
  }
}

/**
 * A dialog that makes a group of people.
 *
 * @param {Session} session
 * @param {string[]} [known]  the contacts, if they are loaded
 */
export function openNewGroup(session, known) {
  const { words } = session;
  const name = input({ maxLength: NAME_LENGTH, required: true });
  name.id = "group-name";
  const note = noteLine();
  const picker = new Picker(session, known);
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_create));
  go.id = "group-create";
  const form = make("form", "panel-form", field(words.messages_group_name, name), picker.root, note, go);
  const layer = openDialog(words.messages_new_group, form);
  name.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const title = name.value.trim();
    if (!title) {
      show(note, words.messages_fault_group_name);
      return name.focus();
    }
    attempt(go, note, words, async () => {
      const created = await session.api("POST", "groups/create", { name: title, members: picker.chosen });
      await session.store.load();
      layer.close();
      session.open({ conversation: Number(created.group) });
      tellInvited(session, created);
    });
  });
}

/**
 * A dialog in which the user chooses people.
 *
 * @param {Session} session
 * @param {string} title
 * @param {string} yes
 * @param {Set<string>} without  who is not offered
 * @param {(users: string[]) => Promise<unknown>} act  the dialog stays open if it fails
 */
export function openPicker(session, title, yes, without, act) {
  const note = noteLine();
  const picker = new Picker(session, undefined, without);
  const go = /** @type {HTMLButtonElement} */ (make("button", "wide", yes));
  const form = make("form", "panel-form", picker.root, note, go);
  const layer = openDialog(title, form);
  hasDirectory(session).then(() => picker.root.querySelector("input")?.focus()); // it is shown by then
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!picker.chosen.length) return show(note, session.words.messages_choose_people);
    if (await attempt(go, note, session.words, () => act(picker.chosen))) layer.close();
  });
}

/** A list of people with a box to tick for each: those whom the user knows, and the directory. */
class Picker {
  /** @type {Set<string>} */
  #chosen = new Set();
  #chips;
  #list = make("div", "picker-list");
  #filter = input({ type: "search", maxLength: 64, enterKeyHint: "done" });
  #found;
  #hasDirectory = false;

  /**
   * @param {Session} session
   * @param {string[]} [known]
   * @param {Set<string>} [without]
   */
  constructor(session, known, without = new Set()) {
    this.session = session;
    this.without = without;
    /** @type {string[] | undefined} */
    this.users = known;
    const { words } = session;
    this.#filter.id = "picker-text";
    this.#chips = new Chosen(words, (user) => {
      this.#chosen.delete(user);
      this.#draw();
    });
    this.root = make("div", "picker", field(words.messages_find, this.#filter), this.#chips.root, this.#list);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", words.messages_people);
    this.#found = new FoundPeople(session, () => this.#draw());
    this.#filter.addEventListener("input", () => (this.#hasDirectory ? this.#found.find(this.#filter.value) : this.#draw()));
    this.#filter.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing || !this.#filter.value.trim()) return;
      event.preventDefault(); // it chooses, and does not send the form
      this.#chooseFirst();
    });
    this.#draw();
    hasDirectory(session).then((has) => {
      this.#hasDirectory = has;
      this.#draw();
    });
    if (known) return;
    loadList(session, "friends").then((users) => { this.users = users; }, () => { this.users = []; }).then(() => this.#draw());
  }

  /** @returns {string[]} */
  get chosen() {
    return [...this.#chosen];
  }

  /** @returns {string[]} contacts, and people with whom the user has a conversation */
  get #known() {
    const { store, people, user: self } = this.session;
    const peers = store.sorted.filter(({ group, peer }) => !group && NUMBER.test(peer)).map(({ peer }) => peer);
    const known = [...new Set([...peers, ...(this.users ?? [])])].filter((user) => user !== self);
    return known.filter((user) => people.card(user)?.nickname && !people.card(user)?.bot && people.card(user)?.relation !== "blocked");
  }

  /** @returns {string[]} who fits what is typed: first those in whose names a word begins with it; without it, the chosen ones first */
  get #offered() {
    const { people } = this.session;
    const wanted = this.#filter.value.trim();
    const known = byName(this.session, this.#known);
    const fits = new Map(known.map((user) => [user, fitOf(`${people.nameOf(user)} ${people.card(user)?.name ?? ""}`, wanted)]));
    const fitting = wanted ? [0, 1].flatMap((fit) => known.filter((user) => fits.get(user) === fit)) : [...this.#chosen, ...known];
    return [...new Set([...fitting, ...this.#found.users])].filter((user) => !this.without.has(user));
  }

  #chooseFirst() {
    const [first] = this.#offered.filter((user) => !this.#chosen.has(user));
    if (!first) return;
    this.#chosen.add(first);
    this.#filter.value = "";
    this.#found.find("");
  }

  #draw() {
    const { words } = this.session;
    const offered = this.#offered;
    const wanted = this.#filter.value.trim();
    const rows = offered.map((user) => this.#row(user));
    this.#drawChips();
    if (this.#found.more) rows.push(this.#found.more);
    this.#filter.closest("label")?.toggleAttribute("hidden", !this.#hasDirectory && !wanted && offered.length < 8);
    const isLoading = this.#hasDirectory ? wanted && !this.#found.isDone : !this.users;
    const none = wanted ? words.messages_search_none : this.#hasDirectory ? words.messages_type_name : words.messages_no_contacts_to_choose;
    redraw(this.#list, rows.length ? [namedList(words.messages_people, rows)] : [make("p", "muted", isLoading ? words.messages_loading : none)]);
  }

  #drawChips() {
    this.#chips.draw(this.chosen.map((user) => [user, this.session.people.nameOf(user)]));
  }

  /** @param {string} user */
  #row(user) {
    const box = input({ type: "checkbox", checked: this.#chosen.has(user) });
    box.dataset.key = user;
    box.id = newId();
    box.addEventListener("change", () => {
      if (box.checked) this.#chosen.add(user);
      else this.#chosen.delete(user);
      this.#drawChips();
    });
    const { people } = this.session;
    const name = people.card(user)?.name;
    const words = make("span", "person-words", make("span", "person-name", make("bdi", "", people.nameOf(user))), ...(name ? [make("small", "", `@${name}`)] : []));
    return make("li", "person-row", make("label", "person pick", people.avatar(user), words, box));
  }
}

/**
 * @param {Session} session
 * @param {ListName} list
 * @returns {Promise<string[]>} users, whose cards are loaded then
 */
async function loadList(session, list) {
  const friends = await rowsOf("friends", (cursor) => session.api("GET", "friends", { list, cursor, limit: PAGE }));
  session.people.add(friends.map(({ user, nickname, avatar }) => ({ user, nickname, avatar, relation: RELATIONS[list] })));
  return friends.map(({ user }) => String(user));
}

/**
 * @param {Session} session
 * @param {string[]} users
 * @returns {string[]}
 */
function byName(session, users) {
  const collator = new Intl.Collator(session.language);
  return [...users].sort((a, b) => collator.compare(session.people.nameOf(a), session.people.nameOf(b)));
}
