// @ts-check
/** What a text box offers to complete: names behind an `@`, commands behind a `/`, emoji behind a `:`. Loaded when one is typed. */

import { fill, make } from "../../text.js";
import { rowsOf } from "../parts/api.js";
import { loadStyle } from "../parts/form.js";
import { plain } from "../parts/formatted.js";
import { fitOf, folded, wordsOf } from "../parts/names.js";
import { pageCommands } from "../parts/summary.js";
import { avatarOf, hueOf } from "../session/people.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */

const MOST_COMMANDS = 50;
const MENTION = /(?:^|[\s(（])@([^\s@]{0,32}(?: [^\s@]{1,32})?)$/u;
const COMMAND = /^\/([a-z0-9_]{0,32})$/;
/** Not `:)`, nor a time. At its end, a colon takes the emoji that has just this name. */
const EMOJI = /(?:^|[\s(（])(:([\p{L}\d+-][\p{L}\d_+-]{1,31})(:?))$/u;
const MOST_NAMES = 8;
/** Groups among them. */
const MOST_GROUPS = 3;
/** Typing pauses so long before the server searches groups. */
const SEARCH_AFTER_MS = 250;
/** Entries whose writers are offered first. */
const RECENT = 100;
const MEMBERS_PAGE = 500;

/** @typedef {{ bot: string, name: string, nickname: string, command: string, description: string }} Command  `name`: of the bot */

/** A group to mention. `members`: how many others it mentions. @typedef {{ group: string, handle: string, name: string, avatar: string, members: number }} MentionedGroup */

/**
 * What the text box offers to complete.
 *
 * @typedef {object} Choice
 * @property {HTMLElement[]} parts
 * @property {number} start    what is typed from here on is replaced
 * @property {string} text
 * @property {string} user     is mentioned by it, or the handle of a group behind an `@`; empty: nobody
 * @property {boolean} [sends]  a command without a text behind it
 */

/**
 * The text box.
 *
 * @typedef {object} Host
 * @property {HTMLTextAreaElement} field
 * @property {HTMLElement} list  shows the choices
 * @property {() => Map<string, string>} mentioned  names that were completed in this text, with their users
 * @property {(user: string) => string} nameOf
 * @property {() => void} changed  the text is another one now
 * @property {() => void} submit
 */

/** Owns the choices of one text box. */
export class Completions {
  /** Resolves when the page has its style. */
  ready = loadStyle(new URL("../later/completions.css", import.meta.url));
  /** @type {Conversation | null} */
  #conversation = null;
  /** Members of the open group whose names are completed; null: not loaded. @type {string[] | null} */
  #members = null;
  /** Groups whose handles are completed; null: not loaded. @type {MentionedGroup[] | null} */
  #groups = null;
  /** Not all of them are loaded. */
  #hasMoreGroups = false;
  /** The text for which groups were searched last. */
  #groupText = "";
  /** Commands of the bots of the open conversation; null: not loaded. @type {Command[] | null} */
  #commands = null;
  /** @type {Choice[]} */
  #choices = [];
  /** Finds emoji; null: it is not loaded. @type {import("./emoji-picker.js").FindEmoji | null} */
  #findEmoji = null;

  /**
   * @param {Session} session
   * @param {Host} host
   */
  constructor(session, host) {
    this.session = session;
    this.host = host;
  }

  /** @param {Conversation | null} conversation  that is open now */
  show(conversation) {
    this.#conversation = conversation;
    this.#members = this.#groups = this.#commands = null;
  }

  /** Somebody has come or gone: the members are loaded with the next mention. */
  membersChanged() {
    this.#members = this.#groups = null;
  }

  /**
   * @param {string} name
   * @returns {boolean} whether a bot of the open conversation has this command
   */
  hasCommand(name) {
    return this.#commands?.some(({ command }) => command === name) ?? false;
  }

  /** @param {Conversation} conversation */
  async #loadMembers(conversation) {
    const { session } = this;
    /** @type {string[]} */
    const loading = [];
    this.#members = loading; // once
    try {
      const rows = await rowsOf("members", (cursor) => session.api("GET", "groups/members", { group: String(conversation.id), cursor, limit: MEMBERS_PAGE }));
      const users = rows.map(({ user }) => user);
      await session.people.load(users);
      if (this.#members !== loading) return;
      this.#members = users;
      this.complete();
    } catch {
      if (this.#members === loading) this.#members = null; // nobody is completed
    }
  }

  /**
   * Loads the groups that may be mentioned; of very many, those that fit what is typed.
   *
   * @param {Conversation} conversation
   * @param {string} typed
   */
  async #loadGroups(conversation, typed) {
    const text = this.#groups && this.#hasMoreGroups ? typed : "";
    if (this.#groups && (!text || text === this.#groupText)) return;
    this.#groupText = text;
    const loading = (this.#groups ??= []);
    try {
      if (text) await new Promise((resolve) => setTimeout(resolve, SEARCH_AFTER_MS));
      if (text !== this.#groupText) return; // more was typed
      const { groups, more } = await this.session.api("GET", "groups/mentions", { group: String(conversation.id), text });
      if (loading !== this.#groups) return;
      const known = new Set(loading.map(({ group }) => group));
      loading.push(...groups.filter((/** @type {MentionedGroup} */ { group }) => !known.has(group)));
      if (!text) this.#hasMoreGroups = more;
      if (groups.length) this.complete();
    } catch {
      if (loading === this.#groups && !text) this.#groups = null; // no group is completed until it is typed again
    }
  }

  /**
   * @param {string} typed
   * @returns {{ user: string, name: string, parts: HTMLElement[] }[]} those whose handle begins with it, else those in whose name a word does
   */
  #groupsFor(typed) {
    const groups = this.#groups ?? [];
    const fitting = groups.filter(({ handle }) => handle.startsWith(folded(typed)));
    const others = groups.filter((each) => !fitting.includes(each) && !fitOf(`${each.handle} ${each.name}`, typed));
    return [...fitting, ...others].slice(0, MOST_GROUPS).map(({ group, handle, name, avatar, members }) => {
      const reaches = make("span", "whose", fill(this.session.words.messages_handle_reaches, { count: members }));
      const parts = [avatarOf(name, avatar, `group ${hueOf(`#${group}`)}`), make("bdi", "", handle), make("span", "description", name), reaches];
      return { user: `@${handle}`, name: handle, parts };
    });
  }

  /**
   * The commands of the bots in a conversation.
   *
   * @param {Conversation} conversation
   */
  async #loadCommands(conversation) {
    const { session } = this;
    this.#commands = []; // once
    const { id, group, peer } = conversation;
    try {
      await session.people.load([peer]);
      if (!group && !session.people.card(peer)?.bot) return;
      const { commands } = await session.api("GET", "bots/commands", id ? { conversation: String(id) } : { bot: peer }); // a new one has no id
      if (conversation !== this.#conversation) return;
      this.#commands = commands;
      this.complete();
    } catch {
      if (conversation === this.#conversation) this.#commands = null; // nothing is completed until it is typed again
    }
  }

  /** Offers what may be meant by the text before the cursor. */
  complete() {
    const { selectionStart, value } = this.host.field;
    const before = value.slice(0, selectionStart);
    const isCommand = before.startsWith("/");
    const code = EMOJI.exec(before);
    this.#choices = isCommand ? this.#commandsFor(before) : code ? this.#emojiFor(code, before.length) : this.#namesFor(before);
    if (code?.[3] && this.#choices.length) return this.#take(0);
    this.host.list.hidden = !this.#choices.length;
    if (!this.#choices.length) return this.host.field.removeAttribute("aria-activedescendant");
    this.host.list.setAttribute("aria-label", isCommand ? this.session.words.messages_commands : code ? this.session.words.messages_emoji_search : this.session.words.messages_mention);
    this.host.list.replaceChildren(...this.#choices.map(({ parts }, index) => {
      const option = make("li", "", ...parts);
      option.id = `${this.host.list.id}-${index}`;
      option.setAttribute("role", "option");
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the text box keeps the focus
        this.#take(index);
      });
      return option;
    }));
    this.#choose(this.#choices[0].user === "all" ? -1 : 0); // nobody mentions all by a mere Enter
  }

  /**
   * @param {string} before
   * @returns {Choice[]}
   */
  #namesFor(before) {
    const { people, user: self } = this.session;
    const conversation = this.#conversation;
    const found = conversation?.group ? MENTION.exec(before) : null;
    if (!conversation || !found || [...this.host.mentioned().keys()].some((name) => found[1].startsWith(`${name} `))) return []; // a text follows the name
    if (!this.#members) this.#loadMembers(conversation);
    this.#loadGroups(conversation, found[1]);
    const members = this.#members ?? [];
    if (found[1] && members.length && members.length < conversation.members) import("../people/directory.js").then(({ findMembers }) => findMembers(this.session, conversation.id, found[1], members, () => this.complete())).catch(() => {}); // then those who are loaded
    const others = members.filter((user) => user !== self);
    const writers = [...new Set((conversation.entries ?? []).slice(-RECENT).reverse().filter(({ kind }) => kind === "message").map(({ from }) => from))];
    const groups = this.#groupsFor(found[1]);
    const users = mentionable(others, found[1], (user) => this.host.nameOf(user), MOST_NAMES - groups.length, writers).map((user) => {
      const name = this.host.nameOf(user);
      const face = user === "all" ? make("span", "avatar group", "@") : people.avatar(user);
      return { user, name, parts: [face, make("bdi", "", name), ...people.marks(user)] };
    });
    const isFirst = Boolean(found[1]) && groups[0]?.name.startsWith(folded(found[1]));
    const all = users.at(-1)?.user === "all" ? users.splice(-1) : [];
    return [...(isFirst ? groups : []), ...users, ...(isFirst ? [] : groups), ...all].map(({ user, name, parts }) => ({ parts, start: before.lastIndexOf("@"), text: `@${name} `, user }));
  }

  /**
   * @param {RegExpExecArray} code
   * @param {number} end
   * @returns {Choice[]}
   */
  #emojiFor([, whole, name, isClosed], end) {
    if (!this.#findEmoji) {
      import("./emoji-picker.js").then(({ emojiFinder }) => emojiFinder(this.session)).catch(() => null).then((find) => {
        this.#findEmoji = find; // without it, what is typed next tries again
        if (find) this.complete();
      });
      return [];
    }
    return this.#findEmoji(name, isClosed !== "").slice(0, MOST_NAMES).map(({ emoji, code }) => (
      { parts: [make("span", "emoji-sign", plain.draw(emoji)), make("bdi", "", `:${code}:`)], start: end - whole.length, text: isClosed ? emoji : `${emoji} `, user: "" }
    ));
  }

  /**
   * @param {string} before
   * @returns {Choice[]}
   */
  #commandsFor(before) {
    const conversation = this.#conversation;
    const found = COMMAND.exec(before);
    if (!conversation || !found) return [];
    if (!this.#commands) this.#loadCommands(conversation);
    const all = this.#commands ?? [];
    const isFitting = (/** @type {{ command: string }} */ { command }) => command.startsWith(found[1]);
    const own = pageCommands.filter(isFitting).map(({ command, word }) => ({ parts: [make("b", "", `/${command}`), make("span", "description", word)], start: 0, text: `/${command}`, user: "", sends: true }));
    const fitting = all.filter(isFitting);
    return [...fitting.slice(0, MOST_COMMANDS).map(({ name, nickname, command, description }) => {
      const isShared = all.filter((each) => each.command === command).length > 1;
      const whose = conversation.group ? [make("bdi", "whose", nickname || name)] : [];
      const parts = [make("b", "", `/${command}`), make("span", "description", description), ...whose];
      return { parts, start: 0, text: isShared ? `/${command}@${name} ` : `/${command} `, user: "" };
    }), ...own];
  }

  /** @param {number} index  -1: none is chosen */
  #choose(index) {
    [...this.host.list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    if (index < 0) return this.host.field.removeAttribute("aria-activedescendant");
    this.host.list.children[index].scrollIntoView({ block: "nearest" });
    this.host.field.setAttribute("aria-activedescendant", this.host.list.children[index].id);
  }

  /**
   * @param {KeyboardEvent} event
   * @returns {boolean} whether the list has used it
   */
  onKey({ key, shiftKey }) {
    const options = [...this.host.list.children];
    const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
    const isTyped = at >= 0 && !this.#choices[at].user && this.#choices[at].text.trimEnd() === this.host.field.value; // a whole command: Enter sends it
    if (key === "ArrowDown") this.#choose((at + 1) % options.length);
    else if (key === "ArrowUp") this.#choose((Math.max(at, 0) + options.length - 1) % options.length);
    else if (at >= 0 && ((key === "Enter" && !shiftKey && !isTyped) || key === "Tab")) this.#take(at);
    else return false;
    return true;
  }

  /** @param {number} index  of the choice that replaces what is typed */
  #take(index) {
    const { start, text, user, sends } = this.#choices[index];
    if (user) this.host.mentioned().set(text.slice(1).trimEnd(), user);
    this.host.field.setRangeText(text, start, this.host.field.selectionStart, "end");
    this.host.changed();
    if (sends) this.host.submit();
  }

  close() {
    this.host.list.hidden = true;
    this.host.field.removeAttribute("aria-activedescendant");
  }
}

/**
 * Who may be meant by what is typed after an `@`: first who has written lately, then those in whose names a word begins with it, then the
 * others whose names contain it; all of a group at the end. Of two words, which may be a mention and a text, the first one is a whole
 * word of the name, and another word begins with the second one.
 *
 * @param {string[]} members
 * @param {string} typed
 * @param {(user: string) => string} nameOf
 * @param {number} most
 * @param {string[]} [writers]  who has written lately, the last one first
 * @returns {string[]}
 */
export function mentionable(members, typed, nameOf, most, writers = []) {
  const before = typed.split(" ").slice(0, -1).flatMap(wordsOf);
  const fit = (/** @type {string} */ user) => {
    const fits = fitOf(nameOf(user), typed);
    return before.length && (fits || !before.every((word) => wordsOf(nameOf(user)).includes(word))) ? 2 : fits;
  };
  const fits = new Map(members.map((user) => [user, fit(user)]));
  const recent = writers.filter((user) => fits.has(user));
  const ordered = [...new Set([...recent, ...members.filter((user) => fits.get(user) === 0), ...members])].filter((user) => fits.get(user) !== 2);
  const all = fit("all") < 2 ? ["all"] : [];
  return [...ordered.slice(0, most - all.length), ...all];
}
