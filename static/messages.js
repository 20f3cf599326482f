// @ts-check
/** The page of stored messages: login, connection, and which view is shown. */

import { Messenger } from "../sdk/messenger.js";
import { Account, reasonOf } from "./account.js";
import { websocketUrl } from "./address.js";
import { ConnectionView } from "./connection-view.js";
import { ConversationList } from "./conversation-list.js";
import { ConversationView } from "./conversation.js";
import { ConversationStore } from "./conversations.js";
import { startWorker } from "./messages/installable.js";
import { avatar, element, pageData, showNote } from "./text.js";

/**
 * @typedef {object} Page  data from the server
 * @property {string} app
 * @property {string} websocketUrl
 * @property {string} seenHost
 * @property {string} language
 * @property {Record<string, string>} text
 */

/** @typedef {import("../sdk/messenger.js").Entry} Entry */
/** @typedef {import("../sdk/imserver.js").StateChange} StateChange */

/** Codes after which the token is not valid any more; a logout on all devices kicks this session (4502). */
const TOKEN_INVALID = new Set([1003, 4502, 4504]);

/** Owns the account, and the connection and the conversations of one login at a time. */
class MessagesPage {
  /** @type {Messenger | null} */
  #messenger = null;
  /** @type {ConversationStore | null} */
  #store = null;
  /** The list of conversations could not be loaded. */
  #listMissing = false;
  #form = element("login-form", HTMLFormElement);
  #phone = element("phone", HTMLInputElement);
  #password = element("password", HTMLInputElement);
  #nickname = element("nickname", HTMLInputElement);
  #submit = element("login-submit", HTMLButtonElement);
  #switch = element("login-switch", HTMLButtonElement);

  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.words = page.text;
    this.account = new Account(page.app, pageStorage());
    this.connection = new ConnectionView(page.text, { retry: () => this.#messenger?.retryNow(), reload: () => location.reload() });
    this.conversation = new ConversationView(this.account, page.text, page.language, {
      stored: (entry) => this.#addEntry(entry),
      changed: () => this.#draw(),
    });
    this.list = new ConversationList(this.account, page.text, page.language, (conversation) => {
      showView("conversation");
      this.conversation.show(conversation);
    });
    this.#listen();
    this.#showLoginForm(false);
    if (this.account.login) this.#start();
    else showView("login");
  }

  #listen() {
    this.#switch.addEventListener("click", () => this.#showLoginForm(this.#form.dataset.mode === "login"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#logIn();
    });
    element("logout", HTMLButtonElement).addEventListener("click", () => {
      this.account.logOut();
      this.#stop("");
    });
    element("back", HTMLButtonElement).addEventListener("click", () => {
      showView("list");
      this.conversation.show(null);
    });
    addEventListener("online", () => this.#messenger?.retryNow());
    addEventListener("offline", () => this.#messenger && this.connection.show(this.#messenger.state));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.#messenger?.retryNow(); // timers of hidden pages are slow
      this.conversation.markRead();
      this.#draw();
    });
    addEventListener("pagehide", () => this.#messenger?.close());
    addEventListener("pageshow", (event) => {
      if (event.persisted) location.reload(); // the browser's cache brought back a page whose connection is closed
    });
  }

  // --- login --------------------------------------------------------------------------------------------------

  /** @param {boolean} register  create an account instead of logging in to one */
  #showLoginForm(register) {
    const { words } = this;
    const title = register ? words.messages_register : words.messages_login;
    this.#form.dataset.mode = register ? "register" : "login";
    element("login-title", HTMLElement).textContent = title;
    this.#submit.textContent = title;
    this.#switch.textContent = register ? words.messages_to_login : words.messages_to_register;
    element("nickname-label", HTMLElement).hidden = !register;
    element("password-hint", HTMLElement).hidden = !register;
    this.#password.autocomplete = register ? "new-password" : "current-password";
    showNote("login-note", "");
  }

  async #logIn() {
    const [phone, password, nickname] = [this.#phone.value.trim(), this.#password.value, this.#nickname.value.trim()];
    showNote("login-note", "");
    this.#submit.disabled = true;
    try {
      if (this.#form.dataset.mode === "register") await this.account.register(phone, password, nickname);
      else await this.account.logIn(phone, password);
      this.#password.value = "";
      this.#start();
    } catch (error) {
      showNote("login-note", reasonOf(error, this.words));
      this.#password.focus();
    }
    this.#submit.disabled = false;
  }

  // --- connection ---------------------------------------------------------------------------------------------

  /** Connects with the login of the account. */
  #start() {
    const { login, user } = this.account;
    if (!login) return this.#stop("");
    const messenger = new Messenger({
      url: websocketUrl(this.page, "/acc"),
      app: this.page.app,
      user,
      token: login.token,
      device: `web-${Math.random().toString(36).slice(2, 10)}`, // each tab is a device
      cursor: null, // a conversation loads its history when it is opened
    });
    const store = new ConversationStore(messenger);
    this.#messenger = messenger;
    this.#store = store;
    const isCurrent = () => messenger === this.#messenger;
    messenger.on("state", (change) => isCurrent() && this.#onState(change));
    messenger.on("entry", (entry) => isCurrent() && this.#addEntry(entry));
    messenger.on("anew", () => isCurrent() && this.#loadList());
    messenger.on("typing", (signal) => isCurrent() && this.conversation.showTyping(signal));
    messenger.on("receipt", (receipt) => {
      if (!isCurrent()) return;
      store.applyReceipt(receipt);
      this.#draw();
    });
    this.#showUser(login.nickname || user, user);
    showView("list");
    this.list.start(store);
    this.conversation.start(messenger, store);
    messenger.connect().catch(() => {}); // #onState shows the reason
    this.#loadList();
  }

  /** @param {string} reason  shown above the login form */
  #stop(reason) {
    this.#messenger?.close();
    this.#messenger = this.#store = null;
    this.list.stop();
    this.conversation.stop();
    showView("login");
    showNote("login-note", reason);
    this.#phone.focus();
  }

  /** @param {StateChange} change */
  #onState(change) {
    if (change.state === "refused" && TOKEN_INVALID.has(change.code)) {
      this.account.forget();
      return this.#stop(this.words.messages_expired);
    }
    this.connection.show(change);
    this.conversation.refresh();
    if (change.state === "online" && this.#listMissing) this.#loadList();
  }

  /** Loads the list from the start: at the login, and when the server has nothing left at our cursor. */
  async #loadList() {
    const store = this.#store;
    store?.conversations.clear();
    const loaded = await this.list.load();
    if (store !== this.#store) return;
    this.#listMissing = !loaded;
    this.#draw();
    const again = store?.conversations.get(this.conversation.open?.id ?? 0);
    if (again) this.conversation.show(again);
  }

  /** @param {Entry} entry */
  async #addEntry(entry) {
    const store = this.#store;
    if (!store) return;
    const known = store.conversations.has(entry.conversation);
    const conversation = store.add(entry);
    const { open } = this.conversation;
    if (open && !open.id && !conversation.group && open.peer === conversation.peer) {
      return this.conversation.show(conversation); // the first message of the open conversation
    }
    await this.account.loadNames([conversation.peer, entry.from, ...(entry.meta?.users ?? [])]);
    if ((!known && conversation.group) || entry.kind === "group") await store.load().catch(() => {}); // the name of the group
    if (store !== this.#store) return;
    if (conversation === this.conversation.open) {
      await this.conversation.add(entry);
    } else if (entry.kind === "message" && entry.from !== this.account.user) {
      this.#messenger?.received(entry.conversation, entry.id).catch(() => {});
    }
    this.#draw();
  }

  #draw() {
    this.list.draw(this.conversation.open);
    this.conversation.refresh();
  }

  /**
   * @param {string} name
   * @param {string} user
   */
  #showUser(name, user) {
    element("me-name", HTMLElement).textContent = name;
    element("me-number", HTMLElement).textContent = user;
    const picture = avatar(name);
    picture.id = "me-avatar";
    element("me-avatar", HTMLElement).replaceWith(picture);
  }
}

/**
 * A narrow window shows one view at a time; a wide one shows the list and the conversation side by side.
 *
 * @param {"login" | "list" | "conversation"} view
 */
function showView(view) {
  document.body.dataset.view = view;
  element("login", HTMLElement).hidden = view !== "login";
  element("inbox", HTMLElement).hidden = view === "login";
}

/** @returns {Storage | null} null: the browser forbids it; then a reload asks for the password again */
function pageStorage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

/** @type {Page & { workerUrl: string }} */
const page = pageData();
new MessagesPage(page);
startWorker(page.workerUrl);
