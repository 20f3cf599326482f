// @ts-check
/** The page of stored messages: login or session, which view is shown, the address of the page, and the keyboard. */

import { ConnectionView, OFFLINE_PROBE_MS } from "../connection-view.js";
import { element, fill, make, pageData } from "../text.js";
import { ApiError } from "./parts/api.js";
import { SavedLogin } from "./session/saved-login.js";
import { ConversationList } from "./list/conversation-list.js";
import { showMe, showView } from "./session/first-view.js";
import { withModule } from "./parts/loading.js";
import { startWorker } from "./parts/installable.js";
import { closeLayers, navigate, startPanels, toast } from "./parts/panel.js";
import { Session } from "./session/session.js";

/** @typedef {import("./session/session.js").Login} Login */
/** @typedef {import("./session/session.js").Page & { workerUrl: string }} Page */
/** @typedef {import("./session/session.js").Target} Target */
/** @typedef {import("./session/store.js").Conversation} Conversation */
/** @typedef {import("./conversation/conversation.js").ConversationView} ConversationView */
/** @typedef {import("./login/login.js").LoginView} LoginView */

/** If the list could not be loaded, it is requested again after this time. */
const RETRY_LIST_MS = 3_000;
/** The requests of contacts are counted so long after the list was loaded. */
const COUNT_AFTER_MS = 4_000;
/** A hidden page, which gets no animation frames, is drawn after this time. */
const DRAW_HIDDEN_MS = 250;
/** Within this time, what may be needed next begins to load, also while the page is busy. */
const IDLE_MS = 2_000;
/** Close code of a user who is banned for a time; the server does not say for how long. */
const BANNED = 4503;
const RETRY_BANNED_MS = 20_000;

/**
 * Owns the session and its views; there is one session at a time. The list of conversations, or the login, comes first; all else is loaded
 * afterwards, or when it is needed.
 */
class App {
  /** @type {Session | null} */
  #session = null;
  /** @type {ConversationList | null} */
  #list = null;
  /** @type {ConversationView | null} */
  #conversation = null;
  /** Resolves when the view of conversations is loaded, or has failed to load; null: nothing has loaded it. @type {Promise<void> | null} */
  #loading = null;
  /** Once it is needed. @type {import("./search/search.js").Search | null} */
  #search = null;
  /** @type {LoginView | null} */
  #login = null;
  #hasWorker = false;
  /** What notifies the user, once it is needed. @type {Promise<import("./session/notices.js").Notices | null> | null} */
  #notices = null;
  /** The page is drawn in the next frame. */
  #isScheduled = false;
  /** The part of the address after `#` that is shown. */
  #routed = "";
  /** The conversation of it, as soon as it is known: its view may still be loading. @type {Conversation | null} */
  #current = null;

  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    /** @type {Record<string, string>} */
    this.words = page.text;
    this.saved = new SavedLogin(page.app);
    // Links and other sites lead here with a code.
    const [, kind, code] = /^#(oauth|reset|owner)=(.+)$/.exec(location.hash) ?? [];
    // The other codes stay in the address until they are used: a reload needs them.
    if (kind === "oauth") history.replaceState(null, "", location.pathname + location.search);
    startPanels(page.text);
    this.connection = new ConnectionView({ ...page.text, refused_4503: page.text.messages_fault_banned }, {
      retry: () => this.#session?.messenger.retryNow(),
      reload: () => location.reload(),
      appeal: { word: page.text.messages_appeal, act: () => this.#appeal() },
    });
    this.#listen();
    const login = kind === "owner" ? null : this.saved.get();
    if (login) this.#start(login);
    else this.#showLogin("");
    if (kind === "oauth") this.#withLogin((view) => view.finish(code, login !== null));
    else if (kind === "owner") this.#withLogin((view) => view.showOwner(code));
    else if (kind) withModule(import("./login/log-in-with.js"), page.text, ({ openReset }) => openReset(page, code));
  }

  // --- session ------------------------------------------------------------------------------------------------

  /** Begins a session, and shows its conversations. @param {Login} login */
  #start(login) {
    const session = new Session(this.page, login);
    this.#session = session;
    this.#list = new ConversationList(session);
    session.on("state", (change) => {
      this.connection.show(change);
      if (change.code === BANNED) setTimeout(() => session === this.#session && session.messenger.connect().catch(() => {}), RETRY_BANNED_MS);
      if (change.state !== "online") return;
      if (!session.store.isLoaded) return this.#loadList();
      // The lost connection may have missed messages, and conversations.
      this.#conversation?.refresh();
      session.store.loadRest();
    });
    session.on("anew", () => this.#loadList()); // then the conversation of the address is opened again
    session.on("changed", () => {
      this.#askBeforeLeaving();
      this.#schedule();
    });
    session.on("people", () => {
      this.#drawMe();
      this.#schedule();
    });
    session.on("contact", () => this.#countRequests());
    session.people.watch(() => [this.#current?.peer ?? ""]);
    session.on("entry", (entry) => {
      if (this.#isOfFeature(entry)) this.#addFeatures();
      if (entry.kind === "message" && entry.from !== session.user) this.#notify((notices) => notices.heard(entry));
    });
    session.on("open", (target) => this.#open(target));
    session.on("choose", (options) => withModule(import("./people/picker.js"), session.words, ({ choosePeople }) => choosePeople(session, options)));
    session.on("ended", (ended) => this.#stop(ended));
    this.#drawMe();
    showView("list");
    this.#around((around) => around.watch(session));
    session.start().then(() => this.#route()); // the browser may have stored the conversation of the address
  }

  /** Loads the view of the open conversation. */
  async #loadView() {
    const session = /** @type {Session} */ (this.#session);
    // The template lists the modules that this one imports. It is empty after the first time.
    document.head.append(element("next-modules", HTMLTemplateElement).content);
    this.#loading ??= withModule(import("./conversation/conversation.js"), session.words, ({ ConversationView }) => {
      if (session !== this.#session) return;
      this.#conversation = new ConversationView(session, {
        info: (conversation) => this.#showInfo(conversation),
        person: (user) => withModule(import("./people/card.js"), session.words, ({ openCard }) => openCard(session, user)),
        notices: ({ id }) => withModule(import("./settings/notice-settings.js"), session.words, ({ openNotices }) => openNotices(session, id)),
        sent: () => this.#notify((notices) => notices.sent()),
      });
      this.#conversation.show(null);
    });
    await this.#loading;
    // If it could not be loaded, the next conversation tries again.
    if (!this.#conversation) this.#loading = null;
  }

  /** Loads what features of the server add to the page: the list is drawn again with it. */
  async #addFeatures() {
    const session = this.#session;
    if (!session?.additions.some(({ later }) => !later)) return;
    // Without this module the page works, but shows nothing of features.
    const module = await import("./parts/additions.js").catch(() => null);
    await module?.addFeatures(session, false);
    this.#schedule();
  }

  /**
   * @param {{ type?: string, meta?: any } | undefined | null} message
   * @returns {boolean} whether a feature of the server draws it
   */
  #isOfFeature(message) {
    const { type = "text", meta } = message ?? {};
    return Boolean(meta?.ask) || (type !== "text" && !(`messages_${type}` in this.words));
  }

  /** Loads what the user may open next, after the first view is shown. */
  #prepare() {
    whenIdle(async () => {
      if (this.#session) await this.#loadView();
      // The list shows messages of features, too.
      if (this.#session?.store.lists.listed.some(({ last }) => this.#isOfFeature(last))) this.#addFeatures();
      this.#list?.showSigns();
      // Newcomers find their way without the welcome.
      if (this.#session?.login.isNew) import("./list/newcomer.js").then(({ welcome }) => this.#session && welcome(this.#session, this.saved)).catch(() => {});
      if (this.#hasWorker || this.page.isEmbedded) return;
      this.#hasWorker = true;
      startWorker(this.page.workerUrl, () => toast(this.words.messages_new_version, { label: this.words.messages_reload, act: () => location.reload() }));
    });
  }

  /** We are banned, and say something to those who moderate the app. */
  #appeal() {
    const { token = "" } = this.#session ?? {};
    withModule(import("./login/appeal.js"), this.words, ({ openAppeal }) => openAppeal(this.page, token));
  }

  /** @param {(view: LoginView) => void} use */
  #withLogin(use) {
    return withModule(import("./login/login.js"), this.words, ({ LoginView }) => {
      this.#login ??= new LoginView(this.page, this.saved, (login) => {
        this.saved.set(login);
        // Another tab has logged in meanwhile.
        if (this.#session) return location.reload();
        this.#start(login);
      });
      use(this.#login);
    });
  }

  /**
   * Ends the session and its views, and shows the login, or begins the session of a newer login.
   *
   * @param {import("./session/session.js").Ended} ended
   */
  #stop({ reason, isGood, isForgotten }) {
    const user = this.#session?.user;
    // Another tab may have logged in meanwhile: its login stays.
    if (this.saved.get()?.token === this.#session?.token) {
      if (isForgotten) this.saved.set(null);
      else this.saved.retire();
    }
    this.#list?.stop();
    this.#conversation?.stop();
    this.#search?.stop();
    this.#notices?.then((notices) => notices?.stop());
    this.#session = this.#notices = this.#list = this.#current = this.#conversation = this.#loading = this.#search = null;
    this.#askBeforeLeaving();
    // There is one if a guest has become a member, or another tab has logged in.
    const login = this.saved.get();
    navigate(login?.user === user ? location.hash : "", true);
    if (login) this.#start(login);
    else this.#showLogin(reason, isGood);
  }

  /**
   * @param {string} reason
   * @param {boolean} [isGood]
   */
  async #showLogin(reason, isGood = false) {
    if (this.page.isEmbedded) return this.#around(async (around) => {
      await around.giveLogin();
      const login = this.saved.get();
      if (login) this.#start(login);
    });
    showView("login");
    await this.#withLogin((view) => view.show(reason, isGood));
    this.#prepare();
  }

  /** Uses the page around this one, if this page is in a frame. @param {(around: import("./embedded.js").Surroundings) => unknown} use */
  async #around(use) {
    if (this.page.isEmbedded) await withModule(import("./embedded.js"), this.words, ({ surroundings }) => use(surroundings(this.page)));
  }

  /** Loads the list of conversations, and then what needs it. If it cannot be loaded, it tries again while there is a connection. */
  async #loadList() {
    const session = this.#session;
    await this.#list?.load();
    if (session !== this.#session || !session) return;
    if (!session.store.isLoaded) {
      const retry = () => session === this.#session && session.isOnline && this.#loadList();
      if (session.isOnline) setTimeout(retry, RETRY_LIST_MS);
      return;
    }

    this.#route().then(() => this.#conversation?.refresh());
    setTimeout(() => {
      if (session !== this.#session) return;
      this.#countRequests();
      this.#addPlaces();
    }, COUNT_AFTER_MS);
    session.store.loadRest();
    if (session.wishes.device.on) this.#notify(() => {});
  }

  /** Loads what notifies the user, when it is first needed. @param {(notices: import("./session/notices.js").Notices) => void} use */
  async #notify(use) {
    const session = this.#session;
    if (!session?.hasNotifications) return;
    this.#notices ??= import("./session/notices.js").catch(() => null).then((module) => {
      return module && session === this.#session ? new module.Notices(session, () => this.#current) : null;
    });
    const notices = await this.#notices;
    if (notices && session === this.#session) use(notices);
  }

  /** Adds the places of features beside the settings, if the user moderates the app. @param {string} [report]  id of a report that is opened there */
  async #addPlaces(report = "") {
    const session = this.#session;
    if (!session?.isOnline) return;
    await session.people.refresh([session.user]);
    const role = session?.people.card(session.user)?.role ?? "member";
    if (session !== this.#session || !role || role === "member") return;
    // If it cannot be loaded, menus load it later.
    const module = await import("./parts/additions.js").catch(() => null);
    await module?.addFeatures(session, true);
    if (report) module?.openPlace("manage", report);
  }

  /** Shows how many people have asked to be our contacts. */
  async #countRequests() {
    const session = this.#session;
    if (!session?.isOnline) return;
    const count = await session.api("GET", "friends", { list: "incoming", limit: 1 }).then((page) => Number(page.count), () => null);
    if (count === null || session !== this.#session) return;
    const button = element("new-conversation", HTMLButtonElement);
    button.dataset.count = count ? String(count) : "";
    const label = count ? `${this.words.messages_people} · ${fill(this.words.messages_request_count, { count })}` : this.words.messages_people;
    button.setAttribute("aria-label", label);
  }

  /** Makes the browser ask before it leaves the page, while a message would be lost. At other times a listener would only delay navigation. */
  #askBeforeLeaving() {
    if (this.#session?.outbox.isUnsaved) addEventListener("beforeunload", prevent);
    else removeEventListener("beforeunload", prevent);
  }

  /** Draws at most once per frame. */
  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const draw = () => {
      this.#isScheduled = false;
      this.#list?.draw(this.#current);
      this.#conversation?.draw();
    };
    if (document.hidden) setTimeout(draw, DRAW_HIDDEN_MS);
    else requestAnimationFrame(draw);
  }

  #drawMe() {
    const session = this.#session;
    if (!session) return;
    showMe(session.people.nameOf(session.user), session.people.avatar(session.user), session.isGuest);
  }

  // --- what is shown ------------------------------------------------------------------------------------------

  /**
   * Opens a conversation by its address. On a wide page, it takes the place of the one that is open in the browser's history.
   *
   * @param {Target} target
   */
  async #open(target) {
    const session = this.#session;
    if (!session) return;
    const known = "user" in target ? session.store.withUser(target.user) : session.store.conversations.get(target.conversation);
    const id = known?.id ?? ("conversation" in target ? target.conversation : 0);
    // If the change fails, the conversation stays marked.
    if (known && session.inbox.isMarked(known)) session.inbox.change(known, { marked: 0 }).catch(() => {});
    const address = id ? `#c/${id}` : `#u/${encodeURIComponent(known?.peer ?? "")}`;
    await navigate(address, Boolean(this.#current && matchMedia("(width >= 720px)").matches));
    await this.#route("message" in target ? target.message : 0);
  }

  /**
   * Shows what the address of the page names: an invitation, a report, a conversation, or the list. After each `await`, the address or the
   * session may be another one.
   *
   * @param {number} [message]  that is shown in the conversation; 0: none
   * @returns {Promise<void>}
   */
  async #route(message = 0) {
    const { store } = this.#session ?? {};
    if (!store) return;
    if (location.hash.startsWith("#invite=") && store.isLoaded) {
      const { hash } = location;
      await navigate("", true);
      withModule(import("./people/invitations.js"), this.words, ({ followInvitation, invitationCode }) => {
        if (this.#session) followInvitation(this.#session, invitationCode(hash));
      });
    }
    const report = /^#manage=(\w+)$/.exec(location.hash)?.[1];
    if (report && store.isLoaded) {
      await navigate("", true);
      this.#addPlaces(report);
    }
    // Notifications name a message, too.
    const [, kind, name, about = ""] = /^#([cu])\/([^/]+)(?:\/(\d+))?$/.exec(location.hash) ?? [];
    const user = kind === "u" ? decoded(name) : "";
    const isUnknown = !name && location.hash.length > 1 && !/^#(invite|reset|owner|oauth|manage)=/.test(location.hash);
    if (isUnknown && store.isLoaded) {
      toast(this.words.messages_fault_link);
      await navigate("", true);
    }
    const conversation = (user ? this.#conversationWith(user) : store.conversations.get(Number(name))) ?? null;
    if (name && !conversation && store.isLoaded) {
      const { hash } = location;
      // It may be among older conversations.
      const isLoaded = kind === "c" && store.hasMore && (await store.load(true).then(() => true, () => false));
      const isSomebody = user && (await this.#isSomebody(user));
      if (location.hash !== hash || store !== this.#session?.store) return;
      if (isSomebody) store.withUser(user);
      if (isLoaded || isSomebody) return this.#route(message);
      toast(user ? this.words.messages_fault_unknown_account : this.words.messages_fault_unknown_conversation);
      await navigate("", true);
      // Browsers ignore too many changes of the address: then the list is shown.
      if (location.hash !== hash) return this.#route();
    }
    if (conversation && about && store.isLoaded) history.replaceState(history.state, "", `#c/${conversation.id}`);

    const routed = location.hash;
    this.#routed = routed;
    this.#current = conversation;
    showView(conversation ? "conversation" : "list");
    if (conversation) document.body.toggleAttribute("data-searching", Boolean(history.state?.searching));
    if (conversation?.peer && this.#session?.isOnline) this.#session.people.refresh([conversation.peer]);
    if (conversation) await Promise.all([this.#addFeatures(), this.#loadView()]);
    // The user has gone on meanwhile.
    if (routed !== this.#routed) return;
    await this.#conversation?.show(conversation, message || Number(about));
    this.#schedule();
    if (store.isLoaded || store.conversations.size) this.#prepare();
  }

  /**
   * @param {string} user  of the address
   * @returns {Conversation | undefined} undefined: the address may be wrong
   */
  #conversationWith(user) {
    const { store, outbox } = /** @type {Session} */ (this.#session);
    return outbox.waitsFor(user) ? store.withUser(user) : store.known(user);
  }

  /**
   * Whether we have a conversation with a user, or they have an account. Apps that let anybody in take messages to users who do not exist.
   *
   * @param {string} user
   */
  async #isSomebody(user) {
    const session = /** @type {Session} */ (this.#session);
    // Without a connection, nobody knows.
    if (!session.isOnline) return true;
    try {
      await session.store.seek(user);
      if (user !== session.user && !session.store.known(user)) await session.api("GET", "accounts/show", { of: user });
      return true;
    } catch (error) {
      return !(error instanceof ApiError && error.code === "unknown_account");
    }
  }

  /** Listens to the browser, and to the buttons that are always there. */
  #listen() {
    // Another tab has logged in.
    addEventListener("storage", () => {
      const login = !this.#session && this.saved.get();
      if (login) this.#start(login);
    });
    // With the same address, a layer was closed, or the search was opened or left.
    addEventListener("popstate", () => {
      if (location.hash !== this.#routed) this.#route();
      else this.#search?.follow();
    });
    addEventListener("hashchange", () => this.#route());
    addEventListener("online", () => this.#session?.messenger.retryNow());
    addEventListener("offline", () => {
      if (this.#session) this.connection.show(this.#session.messenger.state);
      // A server on this machine still answers.
      this.#session?.messenger.probe(OFFLINE_PROBE_MS);
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return this.#session?.drafts.save();
      // Timers of hidden pages are slow.
      this.#session?.messenger.retryNow();
      // The device may have slept, or changed its network.
      this.#session?.messenger.probe();
      this.#schedule();
      this.#countRequests();
    });
    addEventListener("pagehide", () => {
      this.#session?.drafts.save();
      this.#session?.close();
      // Nothing waits any more: the browser does not ask about a reload after this.
      this.#askBeforeLeaving();
    });
    // The browser's cache may bring back a page whose connection is closed.
    addEventListener("pageshow", (event) => {
      if (event.persisted) location.reload();
    });
    element("back", HTMLButtonElement).addEventListener("click", () => this.#back());
    element("me", HTMLButtonElement).addEventListener("click", () => withModule(import("./settings/profile.js"), this.words, ({ openProfile }) => {
      if (this.#session) openProfile(this.#session);
    }));
    for (const id of ["new-conversation", "find-people"]) {
      element(id, HTMLButtonElement).addEventListener("click", () => withModule(import("./people/contacts.js"), this.words, async ({ openContacts }) => {
        if (this.#session) await openContacts(this.#session);
        this.#countRequests();
      }));
    }
    element("search-here", HTMLButtonElement).addEventListener("click", () => this.#searchHere());
    const plus = element("new-menu", HTMLButtonElement);
    plus.addEventListener("click", () => withModule(import("./list/new-menu.js"), this.words, ({ openNewMenu }) => {
      if (this.#session) openNewMenu(this.#session, plus, this.#current);
    }));
    element("search", HTMLInputElement).addEventListener("focus", () => {
      document.body.dataset.searching = "true";
      this.#withSearch(() => {});
    });
    const palette = element("palette-open", HTMLButtonElement);
    palette.addEventListener("click", () => this.#openPalette());
    if (/Mac|iP/.test(navigator.platform)) element("palette-keys", HTMLElement).textContent = "⌘ K";
    element("settings", HTMLButtonElement).addEventListener("click", () => this.#openSettings("openSettings"));
    // In the other language, the page shows the same conversation.
    document.querySelector(".languages")?.addEventListener("click", ({ target }) => {
      if (target instanceof HTMLAnchorElement) target.hash = location.hash;
    });
    addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Goes back to the list, where the conversation gets the focus. A frame with one conversation is closed. */
  async #back() {
    if (document.body.dataset.embedded === "one") return this.#around((around) => around.leave());
    const id = this.#current?.id ?? 0;
    await navigate("");
    this.#search?.close();
    await this.#route();
    this.#list?.focus(id);
  }

  /** Shows the group of a conversation, or the other user. @param {Conversation} conversation */
  #showInfo({ id, group, peer }) {
    const session = this.#session;
    if (!session) return;
    const search = () => this.#searchHere();
    if (group) withModule(import("./groups/group-info.js"), session.words, ({ openGroupInfo }) => openGroupInfo(session, id, search));
    else if (peer) withModule(import("./people/card.js"), session.words, ({ openCard }) => openCard(session, peer));
  }

  // --- search -------------------------------------------------------------------------------------------------

  /** @param {(search: import("./search/search.js").Search) => void} use  is called once the search is loaded */
  #withSearch(use) {
    const session = this.#session;
    withModule(import("./search/search.js"), this.words, ({ Search }) => {
      if (session && session === this.#session) use((this.#search ??= new Search(session)));
    });
  }

  #searchHere() {
    this.#withSearch((search) => search.open(this.#current));
  }

  #openPalette() {
    const session = this.#session;
    withModule(import("./search/palette.js"), this.words, ({ openPalette }) => {
      if (!session || session !== this.#session) return;
      openPalette(session, { open: this.#current, info: (conversation) => this.#showInfo(conversation), search: () => this.#searchHere() });
    });
  }

  // --- keyboard -----------------------------------------------------------------------------------------------

  /** Carries out a key of the whole page, unless a dialog is open or something else has used the key. @param {KeyboardEvent} event */
  #onKey(event) {
    if (!this.#session || document.querySelector("dialog:modal") || event.defaultPrevented || event.isComposing) return;
    const { key, target } = event;
    const isTyping = target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement;
    const isCommandK = (event.ctrlKey || event.metaKey) && key.toLowerCase() === "k";
    if (isCommandK && event.shiftKey) this.#searchHere();
    else if (isCommandK) this.#openPalette();
    else if (event.altKey && (key === "ArrowDown" || key === "ArrowUp")) this.#list?.step(key === "ArrowDown" ? 1 : -1);
    else if (key === "?" && !isTyping) this.#openSettings("openShortcuts");
    else if (key === "Escape") this.#escape();
    else return;
    event.preventDefault();
  }

  /** Closes or leaves the innermost thing that is open. */
  #escape() {
    const { activeElement } = document;
    if (this.#conversation?.cancel() || closeLayers() || this.#search?.cancel()) return;
    if (element("log", HTMLElement).contains(activeElement)) return element("message", HTMLElement).focus();
    if (this.#current) this.#back();
  }

  /** @param {"openSettings" | "openShortcuts"} which */
  #openSettings(which) {
    withModule(import("./settings/settings.js"), this.words, (settings) => this.#session && settings[which](this.#session));
  }
}

/** @param {Event} event */
function prevent(event) {
  event.preventDefault();
}

/**
 * @param {string} text  a part of an address
 * @returns {string} empty: it is damaged
 */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** @param {() => void} act */
function whenIdle(act) {
  if ("requestIdleCallback" in window) requestIdleCallback(act, { timeout: IDLE_MS });
  else setTimeout(act, 0); // Safari
}

/** @type {Page} */
const page = pageData();
new App(page);
