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

/** So many commands are offered. */
const MOST_COMMANDS = 50;
/** At the end of a text: an `@`, and up to two words of a name. */
const MENTION = /(?:^|[\s(（])@([^\s@]{0,32}(?: [^\s@]{1,32})?)$/u;
const COMMAND = /^\/([a-z0-9_]{0,32})$/;
/** Not `:)`, nor a time. A colon at its end stands for the emoji whose whole name it is. */
const EMOJI = /(?:^|[\s(（])(:([\p{L}\d+-][\p{L}\d_+-]{1,31})(:?))$/u;
/** So many names or emoji are offered. */
const MOST_NAMES = 8;
/** So many of the names are groups. */
const MOST_GROUPS = 3;
/** Typing pauses so long before the server searches groups. */
const SEARCH_AFTER_MS = 250;
/** Entries whose writers are offered first. */
const RECENT = 100;
/** Members that are loaded at once. */
const MEMBERS_PAGE = 500;
/** Index of the choice, if none is chosen. */
const NONE = -1;
/** How {@link fitOf} says that a name begins with what is typed, or does not fit. */
const BEGINS = 0;
const FITS_NOT = 2;

/** @typedef {{ bot: string, name: string, nickname: string, command: string, description: string }} Command  `name`: of the bot */

/** A group to mention. `members`: how many others it mentions. @typedef {{ group: string, handle: string, name: string, avatar: string, members: number }} MentionedGroup */

/** A user or a group to mention, and what its choice shows. @typedef {{ user: string, name: string, parts: HTMLElement[] }} Named */

/**
 * What the text box offers to complete.
 *
 * @typedef {object} Choice
 * @property {HTMLElement[]} parts
 * @property {number} start    what is typed from here on is replaced
 * @property {string} text     replaces it
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
  /** Finds emoji; null: this function is not loaded. @type {import("./emoji-picker.js").FindEmoji | null} */
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
    // An empty list keeps the next key from loading them again. If it was replaced meanwhile, the answer is out of date.
    /** @type {string[]} */
    const loading = [];
    this.#members = loading;
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
   * Loads the groups that may be mentioned. If there are too many for one answer, the server searches groups for the typed text, too.
   *
   * @param {Conversation} conversation
   * @param {string} typed
   */
  async #loadGroups(conversation, typed) {
    const text = this.#groups && this.#hasMoreGroups ? typed : "";
    const isKnown = this.#groups && (!text || text === this.#groupText);
    if (isKnown) return;
    this.#groupText = text;
    this.#groups ??= [];
    const loading = this.#groups;
    try {
      if (text) await new Promise((resolve) => setTimeout(resolve, SEARCH_AFTER_MS));
      // The user has typed on.
      if (text !== this.#groupText) return;
      const { groups, more } = await this.session.api("GET", "groups/mentions", { group: String(conversation.id), text });
      if (loading !== this.#groups) return;
      const known = new Set(loading.map(({ group }) => group));
      loading.push(...groups.filter((/** @type {MentionedGroup} */ { group }) => !known.has(group)));
      if (!text) this.#hasMoreGroups = more;
      if (groups.length) this.complete();
    } catch {
      // The next key tries again.
      if (loading === this.#groups && !text) this.#groups = null;
    }
  }

  /**
   * @param {string} typed
   * @returns {Named[]} first the groups whose handle begins with it, then the groups whose name has a word that does
   */
  #groupsFor(typed) {
    const groups = this.#groups ?? [];
    const fitting = groups.filter(({ handle }) => handle.startsWith(folded(typed)));
    const others = groups.filter((group) => !fitting.includes(group) && fitOf(`${group.handle} ${group.name}`, typed) === BEGINS);
    return [...fitting, ...others].slice(0, MOST_GROUPS).map(({ group, handle, name, avatar, members }) => {
      const face = avatarOf(name, avatar, `group ${hueOf(`#${group}`)}`);
      const reaches = make("span", "whose", fill(this.session.words.messages_handle_reaches, { count: members }));
      return { user: `@${handle}`, name: handle, parts: [face, make("bdi", "", handle), make("span", "description", name), reaches] };
    });
  }

  /**
   * Loads the commands of the bots in a conversation.
   *
   * @param {Conversation} conversation
   */
  async #loadCommands(conversation) {
    const { session } = this;
    // An empty list keeps the next key from loading them again.
    this.#commands = [];
    const { id, group, peer } = conversation;
    try {
      await session.people.load([peer]);
      if (!group && !session.people.card(peer)?.bot) return;
      // A new conversation has no id.
      const { commands } = await session.api("GET", "bots/commands", id ? { conversation: String(id) } : { bot: peer });
      if (conversation !== this.#conversation) return;
      this.#commands = commands;
      this.complete();
    } catch {
      // The next key tries again.
      if (conversation === this.#conversation) this.#commands = null;
    }
  }

  /** Offers what may be meant by the text before the cursor. */
  complete() {
    const { words } = this.session;
    const { selectionStart, value } = this.host.field;
    const before = value.slice(0, selectionStart);
    const code = EMOJI.exec(before);
    if (before.startsWith("/")) {
      this.#choices = this.#commandsFor(before);
      this.#drawChoices(words.messages_commands);
    } else if (code) {
      this.#choices = this.#emojiFor(code, before.length);
      const isClosed = code[3] !== "";
      if (isClosed && this.#choices.length) this.#take(0);
      else this.#drawChoices(words.messages_emoji_search);
    } else {
      this.#choices = this.#namesFor(before);
      this.#drawChoices(words.messages_mention);
    }
  }

  /** @param {string} label  of the list; without choices, the list is hidden */
  #drawChoices(label) {
    const { field, list } = this.host;
    list.hidden = !this.#choices.length;
    if (!this.#choices.length) return field.removeAttribute("aria-activedescendant");
    list.setAttribute("aria-label", label);
    list.replaceChildren(...this.#choices.map(({ parts }, index) => {
      const option = make("li", "", ...parts);
      option.id = `${list.id}-${index}`;
      option.setAttribute("role", "option");
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the text box keeps the focus
        this.#take(index);
      });
      return option;
    }));
    // Enter alone must not mention all.
    this.#choose(this.#choices[0].user === "all" ? NONE : 0);
  }

  /**
   * @param {string} before  the text before the cursor
   * @returns {Choice[]} groups whose handle begins with the typed text, then users, other groups, and all of the group
   */
  #namesFor(before) {
    const { people, user: self } = this.session;
    const conversation = this.#conversation;
    const typed = conversation?.group ? MENTION.exec(before)?.[1] : undefined;
    if (!conversation || typed === undefined) return [];
    const isBehindName = [...this.host.mentioned().keys()].some((name) => typed.startsWith(`${name} `));
    if (isBehindName) return [];

    if (!this.#members) this.#loadMembers(conversation);
    this.#loadGroups(conversation, typed);
    const members = this.#members ?? [];
    if (typed && members.length && members.length < conversation.members) this.#searchMembers(conversation, typed, members);

    const groups = this.#groupsFor(typed);
    const others = members.filter((user) => user !== self);
    const found = mentionable(others, typed, (user) => this.host.nameOf(user), MOST_NAMES - groups.length, recentWriters(conversation));
    const users = found.map((user) => {
      const name = this.host.nameOf(user);
      const face = user === "all" ? make("span", "avatar group", "@") : people.avatar(user);
      return { user, name, parts: [face, make("bdi", "", name), ...people.marks(user)] };
    });
    const all = users.at(-1)?.user === "all" ? users.splice(-1) : [];
    const isHandle = typed !== "" && groups[0]?.name.startsWith(folded(typed));
    const ordered = isHandle ? [...groups, ...users, ...all] : [...users, ...groups, ...all];
    return ordered.map(({ user, name, parts }) => ({ parts, start: before.lastIndexOf("@"), text: `@${name} `, user }));
  }

  /**
   * Lets the server search a group that has more members than are loaded. Its answer is offered with the next {@link complete}.
   *
   * @param {Conversation} conversation
   * @param {string} typed
   * @param {string[]} members  the loaded ones: found ones are added
   */
  #searchMembers({ id }, typed, members) {
    import("../people/directory.js").then(({ findMembers }) => findMembers(this.session, id, typed, members, () => this.complete())).catch(() => {});
  }

  /**
   * @param {RegExpExecArray} code
   * @param {number} end  where it ends in the text
   * @returns {Choice[]} none while the names of emoji are loading
   */
  #emojiFor([, whole, name, colon], end) {
    if (!this.#findEmoji) {
      // If it cannot be loaded, the next key tries again.
      import("./emoji-picker.js").then(({ emojiFinder }) => emojiFinder(this.session)).catch(() => null).then((find) => {
        this.#findEmoji = find;
        if (find) this.complete();
      });
      return [];
    }
    const isClosed = colon !== "";
    return this.#findEmoji(name, isClosed).slice(0, MOST_NAMES).map(({ emoji, code }) => ({
      parts: [make("span", "emoji-sign", plain.draw(emoji)), make("bdi", "", `:${code}:`)],
      start: end - whole.length,
      text: isClosed ? emoji : `${emoji} `,
      user: "",
    }));
  }

  /**
   * @param {string} before  the text before the cursor
   * @returns {Choice[]} commands of bots, then commands of the page
   */
  #commandsFor(before) {
    const conversation = this.#conversation;
    const typed = COMMAND.exec(before)?.[1];
    if (!conversation || typed === undefined) return [];
    if (!this.#commands) this.#loadCommands(conversation);
    const commands = this.#commands ?? [];
    const isFitting = (/** @type {{ command: string }} */ { command }) => command.startsWith(typed);
    const ofBots = commands.filter(isFitting).slice(0, MOST_COMMANDS).map(({ name, nickname, command, description }) => {
      const isShared = commands.filter((other) => other.command === command).length > 1;
      const whose = conversation.group ? [make("bdi", "whose", nickname || name)] : [];
      const parts = [make("b", "", `/${command}`), make("span", "description", description), ...whose];
      return { parts, start: 0, text: isShared ? `/${command}@${name} ` : `/${command} `, user: "" };
    });
    const ofPage = pageCommands.filter(isFitting).map(({ command, word }) => {
      const parts = [make("b", "", `/${command}`), make("span", "description", word)];
      return { parts, start: 0, text: `/${command}`, user: "", sends: true };
    });
    return [...ofBots, ...ofPage];
  }

  /** @param {number} chosen  index of the choice, or `NONE` */
  #choose(chosen) {
    const { field, list } = this.host;
    [...list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === chosen)));
    if (chosen === NONE) return field.removeAttribute("aria-activedescendant");
    list.children[chosen].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", list.children[chosen].id);
  }

  /**
   * @param {KeyboardEvent} event
   * @returns {boolean} whether the list has used it
   */
  onKey({ key, shiftKey }) {
    const options = [...this.host.list.children];
    const chosen = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (key === "ArrowDown") this.#choose((chosen + 1) % options.length);
    else if (key === "ArrowUp") this.#choose((Math.max(chosen, 0) + options.length - 1) % options.length);
    else if (chosen === NONE) return false;
    else if (key === "Tab" || (key === "Enter" && !shiftKey && !this.#isTyped(this.#choices[chosen]))) this.#take(chosen);
    else return false;
    return true;
  }

  /**
   * @param {Choice} choice
   * @returns {boolean} whether it is a command that was typed to its end: Enter sends it
   */
  #isTyped({ user, text }) {
    return !user && text.trimEnd() === this.host.field.value;
  }

  /** @param {number} index  of the choice that replaces what is typed */
  #take(index) {
    const { start, text, user, sends } = this.#choices[index];
    if (user) this.host.mentioned().set(text.slice(1).trimEnd(), user);
    this.host.field.setRangeText(text, start, this.host.field.selectionStart, "end");
    this.host.changed();
    if (sends) this.host.submit();
  }

  /** Hides the list. */
  close() {
    this.host.list.hidden = true;
    this.host.field.removeAttribute("aria-activedescendant");
  }
}

/**
 * @param {Conversation} conversation
 * @returns {string[]} the writers of its newest messages, the last one first
 */
function recentWriters({ entries }) {
  const messages = (entries ?? []).slice(-RECENT).filter(({ kind }) => kind === "message");
  return [...new Set(messages.reverse().map(({ from }) => from))];
}

/**
 * Finds the users whom the typed text after an `@` may mean. Recent writers come first, then users whose name has a word that begins with
 * the text, then users whose name contains the text. All of a group come last.
 *
 * Two typed words may be a name with a text behind it. So the first word must be a whole word of the name.
 *
 * @param {string[]} members
 * @param {string} typed
 * @param {(user: string) => string} nameOf
 * @param {number} most  users
 * @param {string[]} [writers]  who has written lately, the last one first
 * @returns {string[]}
 */
export function mentionable(members, typed, nameOf, most, writers = []) {
  const wholeWords = typed.split(" ").slice(0, -1).flatMap(wordsOf);
  const fitOfUser = (/** @type {string} */ user) => {
    const fit = fitOf(nameOf(user), typed);
    if (!wholeWords.length) return fit;
    const nameWords = wordsOf(nameOf(user));
    return fit === BEGINS && wholeWords.every((word) => nameWords.includes(word)) ? BEGINS : FITS_NOT;
  };
  const fitByUser = new Map(members.map((user) => [user, fitOfUser(user)]));
  const recent = writers.filter((user) => fitByUser.has(user));
  const beginning = members.filter((user) => fitByUser.get(user) === BEGINS);
  const ordered = [...new Set([...recent, ...beginning, ...members])].filter((user) => fitByUser.get(user) !== FITS_NOT);
  const all = fitOfUser("all") === FITS_NOT ? [] : ["all"];
  return [...ordered.slice(0, most - all.length), ...all];
}
