// @ts-check
/** Everybody of the app from A to Z, contacts, friend requests, and the way to new groups, invitations and bots. */

import { fill, make } from "../../text.js";
import { attempt, input, load, mayHaveKeys, namedList, noteLine, redraw, section, withModule } from "../parts/form.js";
import { button, openPanel } from "../parts/panel.js";
import { signOf } from "../parts/signs.js";
import { changeFriend, openCard } from "./card.js";
import { Everybody, loadContacts } from "./choices.js";
import { byName, hasDirectory } from "./directory.js";
import { openInvitations } from "./invitations.js";
import { personRow } from "./person-row.js";
import { openNewGroup } from "./picker.js";
import { RowList } from "./row-list.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("./choices.js").ListName} ListName */
/** @typedef {"everybody" | "friends" | "outgoing" | "blocked"} Tab */

/** @type {ListName[]} */
const LISTS = ["friends", "incoming", "outgoing", "blocked"];
/** Of the search: the most characters of an e-mail address. */
const TEXT_LENGTH = 254;
/** With more people, letters beside the list lead to them. */
const LETTERS_FROM = 100;
/** Contacts whose presence is loaded at once. */
const MOST_FRESH = 200;

/**
 * The people of the app.
 *
 * @param {Session} session
 * @returns {Promise<void>} when it is closed
 */
export function openContacts(session) {
  const root = make("div", "contacts");
  const layer = openPanel(session.words.messages_people, root);
  const view = new ContactsView(session, root);
  return layer.closed.then(() => view.close());
}

/** Owns the content of the panel. */
class ContactsView {
  /** @type {Record<ListName, string[]>} */
  lists = { friends: [], incoming: [], outgoing: [], blocked: [] };
  /** @type {Tab} */
  #tab = "everybody";
  /** Null: it is not known yet. @type {boolean | null} */
  #hasDirectory = null;
  #isLoaded = false;
  #frame = 0;
  #text = input({ type: "search", maxLength: TEXT_LENGTH, enterKeyHint: "search", autocapitalize: "none", spellcheck: false, className: "search-field" });
  #requests = make("div", "contact-requests");
  #tabs = make("div", "chips");
  #tiles;
  #none = make("p", "muted");
  /** For pointers alone: keys have the search. */
  #letters = make("div", "letters");
  /** Looks for what is typed as a whole phone number, e-mail address or user name. */
  #exact = button("", "link find-exact");
  /** @type {(() => void)[]} */
  #ends;

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   */
  constructor(session, root) {
    const { words } = session;
    this.session = session;
    this.note = noteLine();
    this.people = new Everybody(session, () => this.#draw());
    this.list = new RowList(words.messages_people, () => this.#tab === "everybody" && this.people.more());
    this.#tiles = this.#actions();
    this.#text.id = "find-text";
    this.#text.placeholder = this.#text.ariaLabel = words.messages_find;
    this.#text.addEventListener("input", () => this.people.find(this.#typed));
    this.#text.addEventListener("keydown", (event) => this.#onKey(event));
    this.#exact.addEventListener("click", () => this.#find());
    this.#tabs.setAttribute("role", "group");
    this.#tabs.setAttribute("aria-label", words.messages_people);
    this.#none.setAttribute("role", "status");
    this.#letters.setAttribute("aria-hidden", "true");
    const jumpToLetter = (/** @type {PointerEvent} */ { buttons, clientX, clientY }) => {
      const letter = buttons ? document.elementFromPoint(clientX, clientY) : null;
      if (letter instanceof HTMLElement && letter.dataset.to) this.list.reveal(letter.dataset.to, this.#text.offsetHeight);
    };
    this.#letters.addEventListener("pointerdown", jumpToLetter);
    this.#letters.addEventListener("pointermove", jumpToLetter);
    const list = make("div", "", this.#letters, this.list.root);
    root.append(make("div", "contacts-find", this.#text), this.note, this.#tiles, this.#requests, this.#tabs, list, this.#none, this.#exact);
    this.#ends = [
      session.on("people", () => this.#draw()), // somebody may have come online
      session.on("contact", () => this.#load()),
      session.people.watch(() => this.#shown),
    ];
    hasDirectory(session).then((has) => {
      this.#hasDirectory = has;
      if (!has) this.#tab = "friends";
      this.#draw();
    });
    if (mayHaveKeys()) this.#text.focus();
    this.#load();
  }

  close() {
    for (const end of this.#ends) end();
    this.people.stop();
  }

  get #typed() {
    return this.#text.value.trim();
  }

  /** @returns {string[]} the people whose rows are in the document: their presence is kept fresh */
  get #shown() {
    return [...this.list.root.querySelectorAll("[data-user]")].map((row) => /** @type {HTMLElement} */ (row).dataset.user ?? "");
  }

  /** Loads the lists of contacts and requests. */
  #load() {
    return load(this.#requests, this.note, this.session, async () => {
      const lists = await Promise.all(LISTS.map((name) => loadContacts(this.session, name)));
      LISTS.forEach((name, index) => { this.lists[name] = lists[index]; });
      this.#isLoaded = true;
      this.#draw();
      await this.session.people.refresh(this.lists.friends.slice(0, MOST_FRESH));
    }).finally(() => this.#draw());
  }

  /** @returns {HTMLElement} the ways to new groups, open groups, invitations and bots */
  #actions() {
    const { session } = this;
    const { words } = session;
    const action = (/** @type {string} */ id, /** @type {Parameters<typeof signOf>[0]} */ sign, /** @type {string} */ word, /** @type {() => unknown} */ act) => {
      const made = button("", "tile");
      made.id = id;
      made.append(signOf(sign), make("span", "", word));
      made.addEventListener("click", act);
      return made;
    };
    const openGroups = () => withModule(import("./open-groups.js"), words, ({ openOpenGroups }) => openOpenGroups(session));
    const openBots = () => withModule(import("./gallery.js"), words, ({ openGallery }) => openGallery(session));
    return make(
      "div", "tiles",
      action("new-group", "group", words.messages_new_group, () => openNewGroup(session)),
      action("open-groups", "search", words.messages_open_groups, openGroups),
      action("my-link", "link", words.messages_invite_people, () => openInvitations(session)),
      action("bot-gallery", "bot", words.messages_bots, openBots),
    );
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.isComposing || !["Enter", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    const [first] = /** @type {NodeListOf<HTMLButtonElement>} */ (this.list.root.querySelectorAll("button.person"));
    const isName = this.#typed !== "" && !/[@\d]/.test(this.#typed); // not an e-mail address or a phone number
    if (event.key === "ArrowDown") first?.focus();
    else if (first && isName) first.click();
    else this.#find();
  }

  /** Looks for the person with this phone number, e-mail address or user name. */
  #find() {
    const text = this.#typed;
    if (!text) return;
    attempt(this.#exact, this.note, this.session.words, async () => {
      const card = await this.session.api("POST", "accounts/find", { text });
      this.session.people.add([card]);
      this.#open(card.user);
    });
  }

  /** @param {string} user */
  #open(user) {
    openCard(this.session, user).then(() => this.#load());
  }

  /** Draws once before the next frame, however many events ask for it. */
  #draw() {
    this.#frame ||= requestAnimationFrame(() => this.#drawNow());
  }

  #drawNow() {
    this.#frame = 0;
    if (!this.list.root.isConnected) return;
    const { session, lists } = this;
    const { words } = session;
    const text = this.#typed;
    this.#drawRequests(text);
    this.#drawTabs(text);
    this.#tiles.hidden = Boolean(text);
    const tab = text ? "everybody" : this.#tab;
    const entries = tab === "everybody" ? this.people.list(text) : byName(session, lists[tab]).map((user) => ({ key: user, user }));
    this.list.show(entries.map((entry) => {
      if (!("user" in entry)) return entry;
      return { key: entry.key, draw: () => this.#row(entry.user), version: () => this.#versionOf(entry.user) };
    }));
    const letters = entries.flatMap((entry) => ("heading" in entry && entry.key.startsWith("letter:") ? [entry] : []));
    this.#drawLetters(entries.length > LETTERS_FROM ? letters : []);

    const isLoading = tab === "everybody" ? this.people.isLoading(text) : !this.#isLoaded;
    const none = text ? words.messages_search_none : words.messages_no_contacts;
    const state = isLoading ? words.messages_loading : none;
    this.#none.hidden = entries.length > 0 || (isLoading && !this.note.hidden);
    this.#none.textContent = this.#none.hidden ? "" : state;
    this.#exact.hidden = !text;
    this.#exact.textContent = fill(words.messages_find_exact, { text });
  }

  /** @param {{ key: string, heading: string }[]} letters */
  #drawLetters(letters) {
    const shown = letters.map(({ key }) => key).join();
    if (this.#letters.dataset.shown === shown) return; // one of them may be pressed
    this.#letters.dataset.shown = shown;
    this.#letters.replaceChildren(...letters.map(({ key, heading }) => {
      const letter = make("span", "", heading);
      letter.dataset.to = key;
      return letter;
    }));
  }

  /** @param {string} text  with one, only what is found is shown */
  #drawRequests(text) {
    const { words } = this.session;
    const rows = this.lists.incoming.map((user) => this.#row(user, [
      this.#action("accept", user, words.messages_accept, "quiet yes"),
      this.#action("decline", user, words.messages_decline, "quiet"),
    ], ""));
    redraw(this.#requests, rows.length && !text ? [section(words.messages_requests, namedList(words.messages_requests, rows))] : []);
  }

  /** @param {string} text */
  #drawTabs(text) {
    const { words } = this.session;
    const { friends, outgoing, blocked } = this.lists;
    /** @type {{ name: Tab, word: string, count: number, isOffered: boolean }[]} */
    const all = [
      { name: "everybody", word: words.messages_everybody, count: 0, isOffered: this.#hasDirectory === true },
      { name: "friends", word: words.messages_contacts, count: friends.length, isOffered: true },
      { name: "outgoing", word: words.messages_asked, count: outgoing.length, isOffered: outgoing.length > 0 },
      { name: "blocked", word: words.messages_blocked, count: blocked.length, isOffered: blocked.length > 0 },
    ];
    const tabs = all.filter(({ name, isOffered }) => isOffered || name === this.#tab);
    this.#tabs.hidden = Boolean(text) || this.#hasDirectory === null || tabs.length < 2;
    redraw(this.#tabs, tabs.map(({ name, word, count }) => {
      const chip = button(count ? `${word} · ${count}` : word, "chip");
      chip.dataset.key = `tab:${name}`;
      chip.setAttribute("aria-pressed", String(name === this.#tab));
      chip.addEventListener("click", () => {
        this.#tab = name;
        this.#draw();
      });
      return chip;
    }));
  }

  /** @param {string} user @returns {string} another one when the row of the user has to be drawn again */
  #versionOf(user) {
    return JSON.stringify([this.#tab, this.session.people.card(user)]);
  }

  /**
   * @param {string} user
   * @param {HTMLElement[]} [actions]
   * @param {string} [below]
   */
  #row(user, actions = this.#actionsOf(user), below = undefined) {
    const made = personRow(this.session, user, () => this.#open(user), { actions, below });
    made.dataset.user = user;
    return made;
  }

  /** @param {string} user */
  #actionsOf(user) {
    const { session } = this;
    const { words } = session;
    if (this.#tab === "outgoing") return [this.#action("remove", user, words.messages_withdraw, "quiet")];
    if (this.#tab === "blocked") return [this.#action("unblock", user, words.messages_unblock, "quiet")];
    const write = button("", "round");
    write.append(signOf("thread"));
    write.dataset.key = `write:${user}`;
    write.title = words.messages_message;
    write.setAttribute("aria-label", `${words.messages_message}: ${session.people.nameOf(user)}`);
    write.addEventListener("click", () => session.open({ user }));
    return [write];
  }

  /**
   * A button that changes the relation to a user.
   *
   * @param {string} change  see {@link changeFriend}
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
