// @ts-check
/** The list of conversations, and the dialog that starts a new one. */

import { showBadge } from "./messages/installable.js";
import { ApiError, reasonOf } from "./account.js";
import { conversationName, messageText, noticeText } from "./conversation.js";
import { avatar, cut, element, fill, make, showNote } from "./text.js";

/** @typedef {import("./account.js").Account} Account */
/** @typedef {import("./conversations.js").Conversation} Conversation */
/** @typedef {import("./conversations.js").ConversationStore} ConversationStore */

const PREVIEW_LENGTH = 80;

/** Owns the list and the dialog; reads the conversations from the store of the login. */
export class ConversationList {
  /** @type {ConversationStore | null} */
  #store = null;
  #list = element("conversations", HTMLElement);
  #note = element("conversations-note", HTMLElement);
  #more = element("conversations-more", HTMLButtonElement);
  #title = document.title;
  #dialog = element("new-dialog", HTMLDialogElement);
  #users = element("new-users", HTMLInputElement);
  #groupName = element("new-group-name", HTMLInputElement);

  /**
   * @param {Account} account
   * @param {Record<string, string>} words
   * @param {string} language
   * @param {(conversation: Conversation) => void} onSelect  the user chose or started this conversation
   */
  constructor(account, words, language, onSelect) {
    this.account = account;
    this.words = words;
    this.onSelect = onSelect;
    this.time = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hour12: false });
    this.date = new Intl.DateTimeFormat(language, { month: "numeric", day: "numeric" });
    this.#more.addEventListener("click", () => this.#loadOlder());
    element("new-conversation", HTMLButtonElement).addEventListener("click", () => this.#openDialog());
    element("new-cancel", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
    element("new-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** @param {ConversationStore} store  of the new login */
  start(store) {
    this.#store = store;
    this.#note.textContent = "";
    this.draw(null);
  }

  /** Ends the login. */
  stop() {
    this.#store = null;
    this.#dialog.close();
    showBadge(0);
    document.title = this.#title;
  }

  /**
   * Loads the most recent conversations and the names of their users.
   *
   * @returns {Promise<boolean>} false: it failed, and the list shows why
   */
  async load() {
    const store = this.#store;
    if (!store) return true;
    try {
      await store.load();
      await this.#loadNames(store);
      this.#note.textContent = this.words.messages_none;
      return true;
    } catch (error) {
      if (store === this.#store) this.#note.textContent = reasonOf(error, this.words);
      return false;
    }
  }

  /** @param {Conversation | null} open  the open conversation */
  draw(open) {
    const store = this.#store;
    if (!store) return;
    this.#list.replaceChildren(...store.sorted.map((each) => this.#row(each, each === open)));
    this.#note.hidden = store.conversations.size > 0;
    this.#more.hidden = !store.hasMore;
    showBadge(store.unread);
    document.title = store.unread ? `(${store.unread}) ${this.#title}` : this.#title;
  }

  async #loadOlder() {
    const store = this.#store;
    if (!store) return;
    await store.load(true).catch(() => {}); // the button is still there
    await this.#loadNames(store);
    const current = this.#list.querySelector("[aria-current]");
    const id = current instanceof HTMLElement ? Number(current.dataset.conversation) : 0;
    this.draw(store.conversations.get(id) ?? null);
  }

  /** @param {ConversationStore} store */
  async #loadNames(store) {
    await this.account.loadNames(store.sorted.map(({ peer }) => peer));
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} isOpen
   * @returns {HTMLElement}
   */
  #row(conversation, isOpen) {
    const { id, last, unread } = conversation;
    const name = conversationName(conversation, this.account, this.words);
    const heading = make("span", "row-line", make("b", "", make("bdi", "", name)), make("time", "", last ? this.#when(last.time) : ""));
    const below = make("span", "row-line", make("span", "preview", this.#preview(conversation)));
    if (unread) {
      const count = make("span", "count", String(unread));
      count.setAttribute("aria-label", fill(this.words.messages_unread, { count: unread }));
      below.append(count);
    }
    const button = make("button", "conversation", avatar(name), make("span", "row-words", heading, below));
    button.setAttribute("type", "button");
    button.dataset.conversation = String(id);
    if (isOpen) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.onSelect(conversation));
    return make("li", "", button);
  }

  /** @param {Conversation} conversation */
  #preview({ last, group }) {
    if (!last) return "";
    if (last.kind !== "message") return noticeText(last, this.account, this.words);
    const text = cut(messageText(last, this.words).replace(/\s+/g, " "), PREVIEW_LENGTH);
    return group && last.from !== this.account.user ? `${this.account.nameOf(last.from)}: ${text}` : text;
  }

  /** @param {number} time */
  #when(time) {
    const today = new Date(time).toDateString() === new Date().toDateString();
    return (today ? this.time : this.date).format(time);
  }

  #openDialog() {
    this.#users.value = this.#groupName.value = "";
    showNote("new-note", "");
    this.#dialog.showModal();
  }

  async #submit() {
    const users = [...new Set(this.#users.value.split(/[\s,，、;；]+/).filter(Boolean))];
    if (!users.length) return this.#users.focus();
    const submit = element("new-submit", HTMLButtonElement);
    showNote("new-note", "");
    submit.disabled = true;
    try {
      const conversation = await this.#create(users, this.#groupName.value.trim());
      this.#dialog.close();
      if (conversation) this.onSelect(conversation);
    } catch (error) {
      showNote("new-note", reasonOf(error, this.words));
    }
    submit.disabled = false;
  }

  /**
   * @param {string[]} users
   * @param {string} name  of the group; empty for a conversation with one user
   * @returns {Promise<Conversation | undefined>}
   */
  async #create(users, name) {
    if (users.includes(this.account.user)) throw new ApiError("self", "");
    if (users.length > 1 && !name) throw new ApiError("group_name", "");
    await this.account.checkUsers(users);
    if (!name) return this.#store?.withUser(users[0]);
    const id = await this.account.createGroup(name, users);
    await this.#store?.load();
    return this.#store?.conversations.get(id);
  }
}
