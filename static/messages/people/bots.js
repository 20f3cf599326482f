// @ts-check
/** The user's own bots, the incoming webhooks of a group, and adding a bot to a group. */

import { fill, make, ROOT } from "../../text.js";
import { rowsOf } from "../parts/api.js";
import { pictureButtons } from "./avatar-crop.js";
import { copyButton } from "../parts/copy-button.js";
import { attempt, field, input, load, namedList, newId, noteLine, redraw, section, show, switchBox } from "../parts/form.js";
import { tellInvited } from "./invitations.js";
import { button, confirm, openDialog, openPanel, toast } from "../parts/panel.js";
import { avatarOf, hueOf } from "../session/people.js";
import { personRow } from "./person-row.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} Bot
 * @property {string} id
 * @property {string} name
 * @property {string} nickname
 * @property {string} avatar
 * @property {{ name: string, description: string }[]} commands
 * @property {string} description
 * @property {boolean} listed   the app offers it to all accounts
 * @property {string} hook_url  empty: none
 */

/** @typedef {{ id: string, nickname: string }} Hook  an incoming webhook: the account of its bot, and its name */

// In characters.
const NAME_LENGTH = 50;
const USER_NAME_LENGTH = 32;
const URL_LENGTH = 2_000;
const DESCRIPTION_LENGTH = 500;
const COMMANDS_LENGTH = 8_000;
/** A line of the commands: the name of one, and its description. */
const COMMAND = /^\/?([a-z0-9_]{1,32})(?:\s+(.*))?$/;

/** @param {Session} session */
export function openBots(session) {
  openPanel(session.words.messages_my_bots, botsView(session));
}

/**
 * @param {Session} session
 * @returns {HTMLElement} the user's bots
 */
export function botsView(session) {
  const root = make("div", "bots");
  new BotsView(session, root);
  return root;
}

/** Owns the list of the user's bots, and the dialogs that make and change them. */
class BotsView {
  /**
   * @param {Session} session
   * @param {HTMLElement} root
   */
  constructor(session, root) {
    this.session = session;
    this.note = noteLine();
    this.body = make("div", "bots-body");
    const create = button(session.words.messages_bot_new);
    create.id = "new-bot";
    create.addEventListener("click", () => this.#create());
    root.append(make("p", "muted", session.words.messages_bots_hint), make("p", "panel-buttons", create), this.note, this.body);
    this.#load();
  }

  /** @returns {Promise<boolean>} */
  #load() {
    const { session } = this;
    return load(this.body, this.note, session, async () => {
      const bots = /** @type {Bot[]} */ (await rowsOf("bots", (cursor) => session.api("GET", "bots", { cursor })));
      session.people.add(bots.map(({ id, name, nickname, avatar }) => ({ user: id, name, nickname, avatar, bot: true })));
      const rows = bots.map((bot) => personRow(session, bot.id, () => this.#open(bot), { below: bot.name && `@${bot.name}` }));
      redraw(this.body, [rows.length ? namedList(session.words.messages_my_bots, rows) : make("p", "muted", session.words.messages_bots_none)]);
    });
  }

  /** Asks for the names of a new bot, makes it, and shows its token. */
  #create() {
    const { session } = this;
    const { words } = session;
    const nickname = input({ maxLength: NAME_LENGTH, required: true });
    const name = input({ maxLength: USER_NAME_LENGTH, required: true, autocapitalize: "none", spellcheck: false });
    nickname.id = "bot-nickname";
    name.id = "bot-name";
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_create));
    const form = make("form", "panel-form", field(words.messages_bot_nickname, nickname), field(words.messages_login_name, name, words.messages_login_name_hint), note, go);
    openDialog(words.messages_bot_new, form);
    nickname.focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!nickname.value.trim()) return show(note, words.messages_fault_nickname);
      attempt(go, note, words, async () => {
        const { token } = await session.api("POST", "bots", { nickname: nickname.value.trim(), name: name.value.trim() });
        showOnce(form, secretForm(words, words.messages_bot_token, words.messages_bot_token_hint, token));
        await this.#load();
      });
    });
  }

  /**
   * Opens the panel of a bot.
   *
   * @param {Bot} bot
   */
  #open(bot) {
    const { session } = this;
    const { words } = session;
    const note = noteLine();
    const listed = switchBox(words.messages_bot_listed, bot.listed, words, (on) => this.#update(bot, { listed: on }));
    const message = button(words.messages_message);
    const add = button(words.messages_bot_add);
    const rotate = button(words.messages_bot_rotate);
    const remove = button(words.messages_bot_delete, "quiet danger");
    const content = make(
      "div", "bots", this.#face(bot, note), make("div", "", listed, make("p", "muted", words.messages_bot_listed_hint)), this.#form(bot, note),
      make("p", "panel-buttons", message, add, rotate, remove),
    );
    const layer = openPanel(bot.nickname || bot.name, content);
    message.addEventListener("click", () => session.open({ user: bot.id }));
    add.addEventListener("click", () => openGroups(session, bot.id));
    rotate.addEventListener("click", async () => {
      if (!(await confirm(words.messages_bot_rotate_question, { yes: words.messages_bot_rotate, danger: true }))) return;
      await attempt(rotate, note, words, async () => {
        const { token } = await session.api("POST", "bots/rotate", { bot: bot.id });
        openDialog(words.messages_bot_token, secretForm(words, words.messages_bot_token, words.messages_bot_token_hint, token));
      });
    });
    remove.addEventListener("click", async () => {
      const question = fill(words.messages_bot_delete_question, { name: bot.nickname || bot.name });
      if (!(await confirm(question, { yes: words.messages_bot_delete, danger: true }))) return;
      await attempt(remove, note, words, async () => {
        await session.api("POST", "bots/delete", { bot: bot.id });
        layer.close();
        await this.#load();
      });
    });
  }

  /**
   * @param {Bot} bot  is changed
   * @param {object} changes
   * @returns {Promise<{ hook_secret?: string }>} the bot as it is then; `hook_secret`: a new one, if the address of the webhook is new
   */
  async #update(bot, changes) {
    const answer = await this.session.api("POST", "bots/update", { bot: bot.id, ...changes });
    Object.assign(bot, answer);
    return answer;
  }

  /**
   * @param {Bot} bot
   * @param {HTMLElement} note
   * @returns {HTMLElement} its picture, which the user can change, and its user name
   */
  #face(bot, note) {
    const face = make("div", "card-head");
    const draw = () => {
      const picture = avatarOf(bot.nickname || bot.name, bot.avatar, `${hueOf(String(bot.id))} large`);
      const handle = bot.name ? [make("p", "card-handle", `@${bot.name}`)] : [];
      const buttons = pictureButtons(this.session, bot.avatar, note, async (avatar) => {
        await this.#update(bot, { avatar });
        draw();
        await this.#load();
      });
      redraw(face, [picture, ...handle, buttons]);
    };
    draw();
    return face;
  }

  /**
   * @param {Bot} bot
   * @param {HTMLElement} note
   * @returns {HTMLElement} changes its name, description, commands and webhook
   */
  #form(bot, note) {
    const { words } = this.session;
    const nickname = input({ value: bot.nickname, maxLength: NAME_LENGTH, required: true });
    nickname.id = "bot-nickname";
    const commands = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
    Object.assign(commands, { id: "bot-commands", rows: 4, maxLength: COMMANDS_LENGTH, spellcheck: false });
    commands.value = bot.commands.map(({ name, description }) => `/${name} ${description}`.trim()).join("\n");
    const description = /** @type {HTMLTextAreaElement} */ (make("textarea", ""));
    Object.assign(description, { id: "bot-description", rows: 3, maxLength: DESCRIPTION_LENGTH, value: bot.description });
    const hook = input({ type: "url", value: bot.hook_url, maxLength: URL_LENGTH, placeholder: "https://", spellcheck: false });
    hook.id = "bot-hook";
    const save = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_save));
    const form = make(
      "form", "panel-form", field(words.messages_bot_nickname, nickname), field(words.messages_description, description),
      field(words.messages_commands, commands, words.messages_bot_commands_hint), field(words.messages_bot_hook, hook, words.messages_bot_hook_hint), note, save,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!nickname.value.trim()) return show(note, words.messages_fault_nickname);
      const given = commandsIn(commands.value);
      if (!given) return show(note, words.messages_bot_commands_fault);
      attempt(save, note, words, async () => {
        const url = hook.value.trim();
        const hookChange = url === bot.hook_url ? {} : { hook_url: url };
        const changes = { nickname: nickname.value.trim(), description: description.value.trim(), commands: given, ...hookChange };
        const { hook_secret: secret } = await this.#update(bot, changes);
        const title = words.messages_bot_hook_secret;
        if (secret) openDialog(title, secretForm(words, title, words.messages_bot_hook_secret_hint, secret));
        else toast(words.messages_saved);
        await this.#load();
      });
    });
    return form;
  }
}

/**
 * @param {string} text  a command and its description in each line
 * @returns {{ name: string, description: string }[] | null}  null: a line is no command
 */
export function commandsIn(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const matches = lines.map((line) => COMMAND.exec(line));
  if (!matches.every((match) => match !== null)) return null;
  return matches.map(([, name, description = ""]) => ({ name, description }));
}

/**
 * @param {Record<string, string>} words
 * @param {string} title
 * @param {string} hint
 * @param {string} secret  the server shows it once
 * @returns {HTMLElement} shows it, with a button that copies it
 */
function secretForm(words, title, hint, secret) {
  const text = input({ value: secret, readOnly: true, spellcheck: false });
  text.id = newId();
  text.className = "secret";
  return make("div", "panel-form", field(title, text, hint), copyButton(text, words.messages_copy, words));
}

/**
 * Replaces a form by what it has made.
 *
 * @param {HTMLElement} form
 * @param {HTMLElement} made
 */
function showOnce(form, made) {
  form.replaceWith(made);
  made.querySelector("button")?.focus();
}

/**
 * A dialog that adds a person or a bot to one of our groups.
 *
 * @param {Session} session
 * @param {string} user
 */
export function openGroups(session, user) {
  const { words, store } = session;
  const rows = store.sorted.filter(({ group }) => group).map((each) => {
    const choice = button("", "choice");
    choice.append(session.people.face(each), make("bdi", "", store.nameOf(each)));
    choice.addEventListener("click", () => attempt(choice, null, words, async () => {
      const added = await session.api("POST", "groups/invite", { group: String(each.id), members: [user] });
      session.open({ conversation: each.id });
      tellInvited(session, added);
    }));
    return make("li", "", choice);
  });
  openDialog(words.messages_bot_add, rows.length ? make("ul", "choices", ...rows) : make("p", "muted", words.messages_bot_no_groups));
}

/** The incoming webhooks of a group, for its admins. */
export class HooksView {
  /** @type {Hook[] | null} */
  #hooks = null;

  /**
   * @param {Session} session
   * @param {string} group
   */
  constructor(session, group) {
    this.session = session;
    this.group = group;
    this.root = section(session.words.messages_hooks, make("p", "muted", session.words.messages_hooks_hint));
    this.note = noteLine();
    this.body = make("div", "hooks-body");
    this.root.append(this.note, this.body);
    this.#load();
  }

  /** @returns {Promise<boolean>} */
  #load() {
    const { session, group } = this;
    return load(this.body, this.note, session, async () => {
      const { hooks } = await session.api("GET", "hooks", { group });
      this.#hooks = hooks;
      this.#draw();
    });
  }

  #draw() {
    const { session } = this;
    const { words } = session;
    const create = button(words.messages_hook_new);
    create.dataset.key = "new-hook";
    create.addEventListener("click", () => this.#create());
    const rows = (this.#hooks ?? []).map((hook) => {
      const revoke = button(words.messages_revoke, "quiet danger");
      revoke.dataset.key = `revoke:${hook.id}`;
      revoke.setAttribute("aria-label", `${words.messages_revoke}: ${hook.nickname}`);
      revoke.addEventListener("click", () => this.#revoke(revoke, hook));
      return make("li", "person-row", make("span", "person-words", make("bdi", "", hook.nickname)), make("span", "person-actions", revoke));
    });
    redraw(this.body, [...(rows.length ? [namedList(words.messages_hooks, rows)] : []), make("p", "panel-buttons", create)]);
  }

  #create() {
    const { session, group } = this;
    const { words } = session;
    const nickname = input({ maxLength: NAME_LENGTH, required: true });
    nickname.id = "hook-nickname";
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_create));
    const form = make("form", "panel-form", field(words.messages_hook_nickname, nickname, words.messages_hook_nickname_hint), note, go);
    openDialog(words.messages_hook_new, form);
    nickname.focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!nickname.value.trim()) return show(note, words.messages_fault_nickname);
      attempt(go, note, words, async () => {
        const { url } = await session.api("POST", "hooks", { group, nickname: nickname.value.trim() });
        showOnce(form, secretForm(words, words.messages_hook_url, words.messages_hook_url_hint, location.origin + ROOT + url));
        await this.#load();
      });
    });
  }

  /**
   * @param {HTMLElement} control
   * @param {Hook} hook
   */
  async #revoke(control, { id, nickname }) {
    const { session } = this;
    const { words } = session;
    if (!(await confirm(fill(words.messages_hook_revoke_question, { name: nickname }), { yes: words.messages_revoke, danger: true }))) return;
    await attempt(control, this.note, words, async () => {
      await session.api("POST", "hooks/revoke", { hook: id });
      await this.#load();
    });
  }
}
