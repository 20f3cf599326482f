// @ts-check
/** The text box: drafts, replies, edits, mentions and emoji. It never loses a text: what cannot be sent waits in the outbox. */

import { leftOf, leftText } from "../../page-parts.js";
import { element, fill, moments, timeOf } from "../../text.js";
import { icon } from "../parts/file.js";
import { withModule } from "../parts/loading.js";
import { loaded, namedIn, namesIn } from "../parts/names.js";
import { button, toast } from "../parts/panel.js";
import { History } from "../session/history.js";
import { keyOf } from "../session/store.js";
import { pageCommands, pageTools, summaryOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/entries.js").Entry} Entry */

/** Name of the file with a text that is too long for a message. */
const FILE_NAME = "text.txt";
/** While the user types, others are told at most this often. */
const TYPING_EACH_MS = 3_000;
/** While one cannot write, this is checked so often: a mute ends at its time, without an entry. */
const MUTE_CHECK_MS = 5_000;
/** The list of completions closes so much later than the text box loses the focus. */
const CLOSE_AFTER_MS = 150;
/** `keyCode` of a key that belongs to an input method. In Safari, `isComposing` is already false at its last key. */
const INPUT_METHOD_KEY = 229;

/**
 * Where a text box is, and what it writes.
 *
 * @typedef {object} Box
 * @property {() => void} sent
 * @property {() => Entry | null} last  our newest message that can be edited
 * @property {string} [prefix]          of the ids of its elements
 * @property {{ get: (key: string) => import("../session/drafts.js").Draft, set: (key: string, draft: import("../session/drafts.js").Draft) => void }} [drafts]  default: those of the conversations
 * @property {() => Pick<import("../session/outbox.js").Content, "thread" | "also">} [place]  of what is written; missing: the conversation
 */

export class Composer {
  /** @type {Conversation | null} */
  #conversation = null;
  /** Id of the message that the text replies to; 0: none. */
  #replyTo = 0;
  /** That message; null: there is none, or it is not loaded. @type {Entry | null} */
  #replied = null;
  /** The message whose edit is in the text box. @type {Entry | null} */
  #editing = null;
  /** Names that were completed in this text, with their users. @type {Map<string, string>} */
  #mentioned = new Map();
  /** Once they are needed. @type {import("./completions.js").Completions | null} */
  #completions = null;
  #typingSentAt = 0;
  /** Buttons of features. @type {Map<import("../parts/summary.js").PageTool, HTMLElement>} */
  #tools = new Map();
  /** The bar of formats; a promise while it is loading; null: it is not loaded. @type {HTMLElement | Promise<void> | null} */
  #formats = null;
  /** @type {Promise<import("./emoji-picker.js").Picker> | null} */
  #picker = null;
  /** Checks again whether one can write. @type {ReturnType<typeof setTimeout> | undefined} */
  #muteTimer;
  #ends = new AbortController();
  #form;
  #field;
  #send;
  #left;
  #asFile;
  #grid;
  #opener;
  #bar;
  #names;
  #readOnlyNote;

  /**
   * @param {Session} session
   * @param {Box} box
   */
  constructor(session, box) {
    this.session = session;
    this.box = box;
    this.drafts = box.drafts ?? session.drafts;
    const { prefix = "" } = box;
    this.#form = element(`${prefix}composer`, HTMLFormElement);
    this.#field = element(`${prefix}message`, HTMLTextAreaElement);
    this.#send = element(`${prefix}send`, HTMLButtonElement);
    this.#left = element(`${prefix}left`, HTMLElement);
    this.#asFile = element(`${prefix}as-file`, HTMLButtonElement);
    this.#grid = element(`${prefix}emoji`, HTMLElement);
    this.#opener = element(`${prefix}emoji-open`, HTMLButtonElement);
    this.#bar = element(`${prefix}reply-bar`, HTMLElement);
    this.#names = element(`${prefix}mentions`, HTMLElement);
    this.#readOnlyNote = element(`${prefix}read-only`, HTMLElement);
    this.#listen(this.#ends.signal, prefix);
  }

  /**
   * @param {AbortSignal} signal  ends it
   * @param {string} prefix  of the ids of the elements
   */
  #listen(signal, prefix) {
    const off = this.session.on("draft", (key) => {
      const conversation = this.#conversation;
      if (!this.box.drafts && conversation && !this.#editing && keyOf(conversation) === key) this.#showDraft(conversation);
    });
    signal.addEventListener("abort", off);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    }, { signal });
    this.#field.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    this.#field.addEventListener("input", () => {
      this.#changed();
      this.#sendTyping();
    }, { signal });
    const drawEnter = () => { this.#field.enterKeyHint = sendsOnEnter() ? "send" : "enter"; };
    addEventListener("look", drawEnter, { signal });
    drawEnter();
    let width = 0;
    const sizes = new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width === width) return;
      width = contentRect.width;
      // With another width, the text has other lines.
      requestAnimationFrame(() => this.#grow());
    });
    sizes.observe(this.#field);
    signal.addEventListener("abort", () => sizes.disconnect());
    this.#asFile.addEventListener("click", () => this.#sendAsFile(), { signal });
    this.#field.addEventListener("blur", () => setTimeout(() => this.#completions?.close(), CLOSE_AFTER_MS), { signal });
    this.#opener.addEventListener("click", () => {
      if (this.#grid.hidden) this.#openEmoji();
      else this.#toggleEmoji(false);
    }, { signal });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#grid.hidden) return;
      event.stopPropagation();
      this.#toggleEmoji(false);
      this.#field.focus();
    }, { signal });
    document.addEventListener("selectionchange", () => this.#offerFormats(), { signal });
    element(`${prefix}reply-cancel`, HTMLButtonElement).addEventListener("click", () => this.#clearBar(), { signal });
  }

  /** Ends the session of this composer. */
  stop() {
    this.#ends.abort();
    this.show(null);
  }

  /**
   * Shows the draft of a conversation.
   *
   * @param {Conversation | null} conversation  null: hide the text box
   */
  show(conversation) {
    this.#conversation = conversation;
    this.draw();
    this.#editing = null;
    this.#completions?.show(conversation);
    this.#toggleEmoji(false);
    if (!conversation) return;
    this.#showDraft(conversation);
  }

  /** @returns {string} why one cannot write in the open conversation; empty: one can */
  get readOnlyReason() {
    const { words, language, people } = this.session;
    const { left = false, mutedUntil = 0, peer = "" } = this.#conversation ?? {};
    if (left) return words.messages_fault_unknown_group;
    if (people.card(peer)?.relation === "blocked") return fill(words.messages_blocked_here, { name: people.nameOf(peer) });
    const reason = loaded.kinds?.readOnlyReason(this.#conversation, this.box.place, words);
    if (reason || mutedUntil * 1000 <= Date.now()) return reason ?? "";
    return fill(words.messages_muted_until, { when: moments(language).format(timeOf(mutedUntil)) });
  }

  /** Shows the text box, or why one cannot write. */
  draw() {
    const { readOnlyReason } = this;
    const hadFocus = this.#form.contains(document.activeElement);
    this.#form.hidden = !this.#conversation || Boolean(readOnlyReason);
    if (this.#readOnlyNote.textContent !== readOnlyReason) this.#readOnlyNote.textContent = readOnlyReason;
    this.#readOnlyNote.hidden = !readOnlyReason;
    if (hadFocus && readOnlyReason) this.focus();
    for (const tool of pageTools) this.#drawTool(tool);
    clearTimeout(this.#muteTimer);
    if (readOnlyReason && !this.#conversation?.left) this.#muteTimer = setTimeout(() => this.draw(), MUTE_CHECK_MS);
  }

  /**
   * Draws the button of a feature, with the number of its things in the open conversation.
   *
   * @param {import("../parts/summary.js").PageTool} tool
   */
  #drawTool(tool) {
    const { word, count } = tool;
    const key = this.#tools.get(tool) ?? this.#makeTool(tool);
    const number = this.#conversation ? count(this.#conversation) : 0;
    key.dataset.count = number ? String(number) : "";
    key.title = word;
    key.setAttribute("aria-label", number ? `${word} · ${number}` : word);
  }

  /** @param {import("../parts/summary.js").PageTool} tool */
  #makeTool(tool) {
    const key = button("", "round page-tool");
    this.#tools.set(tool, key);
    key.append(icon(tool.icon));
    key.setAttribute("aria-haspopup", "dialog");
    key.addEventListener("click", () => {
      const content = this.#editing ? null : this.#content;
      if (this.#conversation) tool.act(this.session, this.#conversation, content, () => this.#clear());
    });
    this.#send.before(key);
    this.#ends.signal.addEventListener("abort", () => key.remove());
    return key;
  }

  /** Somebody has come or gone: the members are loaded with the next mention. */
  membersChanged() {
    this.#completions?.membersChanged();
  }

  /** @param {Conversation} conversation */
  #showDraft(conversation) {
    const { text, replyTo = 0, mentions = [] } = this.drafts.get(keyOf(conversation));
    this.#field.value = text;
    this.#mentioned = new Map(mentions);
    this.#replyTo = replyTo;
    this.#replied = conversation.entries?.find(({ id }) => id === replyTo) ?? null;
    if (replyTo && !this.#replied) this.#findReplied(conversation, replyTo);
    this.#drawBar();
    this.#changed();
  }

  /**
   * Finds the message that a draft replies to, which is not loaded. If it is gone, the draft is no reply any more.
   *
   * @param {Conversation} conversation
   * @param {number} id
   */
  async #findReplied(conversation, id) {
    const { session } = this;
    const found = await new History(session.store).find(conversation.id, id).catch(() => undefined);
    if (conversation !== this.#conversation || this.#editing || this.#replyTo !== id) return;
    const isRecalled = found && found.kind !== "message";
    const isUnknown = found === null && session.isOnline;
    if (isRecalled || isUnknown) this.#replyTo = 0;
    else this.#replied = found ?? null;
    this.#drawBar();
    this.#changed();
  }

  /** The text and the place that would be sent now. Files are sent with it. An edit is no draft: it stays in the text box. */
  get draft() {
    const place = this.box.place?.();
    if (this.#editing) return { text: "", replyTo: undefined, ...place };
    return { text: this.#field.value.trim(), replyTo: this.#replyTo || undefined, ...place };
  }

  /** The draft was sent, with files. */
  takeDraft() {
    if (this.#editing) return;
    // On a phone, the focus would open the keyboard.
    this.#clear({ focuses: matchMedia("(hover: hover)").matches });
  }

  /** Gives up a list of completions, a reply or an edit. Returns false if there is none. */
  cancel() {
    if (!this.#names.hidden) this.#completions?.close();
    else if (this.#editing || this.#replyTo) this.#clearBar();
    else return false;
    return true;
  }

  /** Focuses the text box, or the messages if one cannot write. */
  focus() {
    if (this.#form.hidden) /** @type {HTMLElement | null | undefined} */ (this.#form.parentElement?.querySelector("[role=log]"))?.focus();
    else this.#field.focus();
  }

  /** @param {Entry} entry */
  reply(entry) {
    if (this.readOnlyReason) return toast(this.readOnlyReason);
    if (this.#editing) this.#clearBar();
    this.#replyTo = entry.id;
    this.#replied = entry;
    this.#drawBar();
    this.#changed();
    this.focus();
  }

  /**
   * @param {Entry} entry
   * @returns {{ text: string, meta: any }} as it is shown: perhaps by an edit that waits
   */
  #textOf({ id, text, meta }) {
    const waiting = this.session.outbox.editOf(id);
    return waiting ? { text: waiting.text ?? "", meta: waiting } : { text: text ?? "", meta: meta ?? {} };
  }

  /** @param {Entry} entry */
  edit(entry) {
    if (this.readOnlyReason) return toast(this.readOnlyReason);
    const { text, meta } = this.#textOf(entry);
    this.#editing = entry;
    this.#replyTo = 0;
    this.#replied = null;
    this.#field.value = text;
    this.#mentioned = new Map(namesIn(meta, (user) => this.#nameOf(user)));
    this.#drawBar();
    this.#changed();
    this.focus();
    this.#field.setSelectionRange(this.#field.value.length, this.#field.value.length);
  }

  /** @param {string} text  inserted at the cursor */
  insert(text) {
    const { selectionStart, selectionEnd } = this.#field;
    this.#field.setRangeText(text, selectionStart, selectionEnd, "end");
    this.#changed();
  }

  // --- sending ------------------------------------------------------------------------------------------------

  /** Sends the edit or the message in the text box, or carries out a command of the page. */
  #submit() {
    const content = this.#content;
    const conversation = this.#conversation;
    if (!content || !conversation) return this.#field.focus();
    const { text, mentions } = content;
    if (this.#editing) {
      const isChanged = text !== this.#textOf(this.#editing).text;
      if (isChanged) this.session.outbox.add(conversation, { text, edit: this.#editing.id, mentions });
      return this.#clearBar();
    }

    const [, name, argument] = /^\/(\w+)\s*([^]*)$/.exec(text) ?? [];
    const pageCommand = pageCommands.find(({ command }) => command === name && !this.#completions?.hasCommand(name));
    if (pageCommand) {
      this.#clear();
      pageCommand.act(this.session, conversation, argument, this.draft);
      return;
    }

    this.session.outbox.add(conversation, { ...this.draft, mentions });
    this.#clear();
    this.box.sent();
  }

  /** What is written, with whom it mentions; null: nothing, or too much. */
  get #content() {
    const text = this.#field.value.trim();
    if (!text || leftOf(this.#field) < 0) return null;
    const named = new Set(namedIn(this.#mentioned, text).map(([, user]) => user));
    return { ...this.draft, text, mentions: named.has("all") ? ["all"] : [...named] };
  }

  /** Sends a text that is too long for a message. */
  #sendAsFile() {
    const conversation = this.#conversation;
    if (!conversation) return;
    const file = new File([this.#field.value], FILE_NAME, { type: "text/plain" });
    const data = { name: file.name, bytes: file.size };
    const { text: _text, ...place } = this.draft;
    this.session.outbox.add(conversation, { type: "file", data, ...place }, { content: file, options: { name: file.name }, more: {} });
    this.#clear();
    this.box.sent();
  }

  /** Empties the text box, as after its text was sent. */
  #clear({ focuses = true } = {}) {
    this.#field.value = "";
    this.#editing = null;
    this.#replied = null;
    this.#replyTo = 0;
    this.#mentioned.clear();
    this.#typingSentAt = 0;
    this.#toggleEmoji(false);
    this.#drawBar();
    this.#changed();
    if (focuses) this.focus();
  }

  /** Tells the others that we are typing a message. A thread has no typing notices. */
  #sendTyping() {
    const conversation = this.#conversation;
    if (!conversation || conversation.peer === this.session.user || this.box.place) return;
    if (!this.#field.value || this.#editing || Date.now() - this.#typingSentAt < TYPING_EACH_MS) return;
    this.#typingSentAt = Date.now();
    this.session.messenger.typing(conversation.group ? { conversation: conversation.id } : { to: conversation.peer });
  }

  // --- the bar above the text ---------------------------------------------------------------------------------

  /** Gives up a reply or an edit. After an edit, the draft from before is back. */
  #clearBar() {
    const wasEditing = this.#editing !== null;
    this.#editing = null;
    this.#replied = null;
    this.#replyTo = 0;
    if (wasEditing && this.#conversation) {
      this.#showDraft(this.#conversation);
    } else {
      this.#drawBar();
      this.#changed();
    }
    this.focus();
  }

  #drawBar() {
    const { words } = this.session;
    const about = this.#editing ?? this.#replied;
    this.#bar.hidden = !about && !this.#replyTo;
    const title = about ? fill(words.messages_replying, { name: this.#nameOf(about.from) }) : words.messages_quote;
    const { prefix = "" } = this.box;
    element(`${prefix}reply-title`, HTMLElement).textContent = this.#editing ? words.messages_editing : title;
    element(`${prefix}reply-text`, HTMLElement).textContent = about ? summaryOf(about, words) : words.messages_quote_far;
  }

  // --- the text -----------------------------------------------------------------------------------------------

  /**
   * A key of the text box goes to the first of these that uses it: the list of completions, a format, the edit of our newest message, or
   * the sending of the text.
   *
   * @param {KeyboardEvent} event
   */
  #onKey(event) {
    if (event.isComposing || event.keyCode === INPUT_METHOD_KEY) return;
    if (!this.#names.hidden && this.#completions?.onKey(event)) return event.preventDefault();

    const format = formatOf(event);
    if (format) {
      event.preventDefault();
      withModule(import("./formatting.js"), this.session.words, (module) => module.format(this.#field, format));
      return;
    }

    const hasCommandKey = event.ctrlKey || event.metaKey;
    const isBare = !(event.altKey || event.shiftKey || hasCommandKey);
    if (event.key === "ArrowUp" && isBare && !this.#field.value) {
      const last = this.box.last();
      if (!last) return;
      event.preventDefault();
      return this.edit(last);
    }

    if (event.key !== "Enter" || !(sendsOnEnter() ? isBare : hasCommandKey)) return;
    event.preventDefault();
    this.#submit();
  }

  /** Shows the bar of formats while some of the text is selected. */
  #offerFormats() {
    const { selectionStart, selectionEnd } = this.#field;
    const isSelected = document.activeElement === this.#field && selectionEnd > selectionStart;
    if (this.#formats instanceof HTMLElement) this.#formats.hidden = !isSelected;
    if (!isSelected || this.#formats) return;
    this.#formats = import("./formatting.js").then(({ makeBar }) => makeBar(this.#field, this.session.words)).catch(() => null).then((bar) => {
      this.#formats = bar;
      // The next selection tries again.
      if (!bar) return;
      this.#bar.before(bar);
      this.#ends.signal.addEventListener("abort", () => bar.remove());
      this.#offerFormats();
    });
  }

  /** The text box gets the height of its text. */
  #grow() {
    const { clientWidth } = this.#field;
    // A hidden text box has no width: it keeps the height of one row.
    if (!clientWidth) return;
    // The height of its content is never less than its own height.
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }

  /** Draws and saves what depends on the text, and offers completions. */
  #changed() {
    this.#grow();
    const isEmpty = !this.#field.value.trim();
    const isOver = leftOf(this.#field) < 0;
    const text = leftText(this.#field, this.session.words);
    if (this.#left.textContent !== text) this.#left.textContent = text;
    this.#asFile.hidden = !isOver || this.#editing !== null;
    this.#send.setAttribute("aria-disabled", String(isEmpty || isOver));
    this.#form.dataset.empty = String(isEmpty);
    if (this.#conversation && !this.#editing) this.#saveDraft(this.#conversation);
    this.#complete();
  }

  /** @param {Conversation} conversation */
  #saveDraft(conversation) {
    const text = this.#field.value;
    const mentions = namedIn(this.#mentioned, text);
    this.drafts.set(keyOf(conversation), { text, ...(this.#replyTo && { replyTo: this.#replyTo }), ...(mentions.length && { mentions }) });
  }

  /** Loads the emoji, and shows them. */
  async #openEmoji() {
    const { session } = this;
    await withModule(import("./emoji-picker.js"), session.words, async ({ makePicker }) => {
      this.#picker ??= makePicker(this.#grid, session, (picked) => this.insert(picked));
      const picker = await this.#picker;
      if (!this.#conversation || this.#ends.signal.aborted) return;
      this.#toggleEmoji(true);
      picker.open();
    });
  }

  /** @param {boolean} open */
  #toggleEmoji(open) {
    this.#grid.hidden = !open;
    this.#opener.setAttribute("aria-expanded", String(open));
  }

  // --- mentions and commands ----------------------------------------------------------------------------------

  /** @param {string} user */
  #nameOf(user) {
    if (user === "all") return this.session.words.messages_all;
    return user === this.session.user ? this.session.words.you : this.session.people.nameOf(user);
  }

  /** Offers what may be meant by the text before the cursor. */
  #complete() {
    if (this.#completions) return this.#completions.complete();
    if (!/^\/|@|:[\p{L}\d+-]/u.test(this.#field.value)) return;
    withModule(import("./completions.js"), this.session.words, async ({ Completions }) => {
      this.#completions ??= new Completions(this.session, {
        field: this.#field, list: this.#names, mentioned: () => this.#mentioned, nameOf: (user) => this.#nameOf(user),
        changed: () => this.#changed(), submit: () => this.#submit(),
      });
      this.#completions.show(this.#conversation);
      await this.#completions.ready;
      this.#completions.complete();
    });
  }
}

/**
 * @param {KeyboardEvent} event
 * @returns {import("./formatting.js").Format | undefined} what its keys stand for
 */
function formatOf({ key, code, altKey, ctrlKey, metaKey, shiftKey }) {
  if (altKey || !(ctrlKey || metaKey)) return undefined;
  // With Shift, the key of a digit stands for another sign, which depends on the keyboard: its place does not.
  const place = code.startsWith("Digit") ? code : key.toLowerCase();
  if (shiftKey) return /** @type {const} */ ({ x: "struck", u: "link", Digit8: "list", Digit9: "quote" })[place];
  return /** @type {const} */ ({ b: "bold", i: "italic", e: "code" })[key.toLowerCase()];
}

/** @returns {boolean} false: Enter begins a new line, as the settings say, or as phones do it */
function sendsOnEnter() {
  return document.documentElement.dataset.enter !== "line";
}
