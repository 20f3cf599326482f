// @ts-check
/** The page of channels: subscriptions, the log and the subscribers of one channel, and a line that can be cut. */

import { ImClient } from "../sdk/imserver.js";
import { websocketUrl } from "./address.js";
import { Channel } from "./channel.js";
import { ConnectionView } from "./connection-view.js";
import { avatar, showNote } from "./page-parts.js";
import { cut, element, fill, make, pageData } from "./text.js";

/**
 * @typedef {object} Page  data from the server
 * @property {string} app
 * @property {string} channel      the first subscription
 * @property {string} user
 * @property {string} token        empty: anybody may log in
 * @property {string} websocketUrl
 * @property {string} seenHost
 * @property {string} publishUrl   of the HTTP API
 * @property {boolean} demo        the HTTP API needs no key
 * @property {string} language
 * @property {Record<string, string>} text
 */

/** @typedef {import("./channel.js").Row} Row */

const LIST_EACH_MS = 10_000;
/** A hidden page gets no animation frames: it draws after this time. */
const HIDDEN_DRAW_MS = 250;
/** `keyCode` of a key that an input method has taken. */
const INPUT_METHOD_KEY = 229;
const MAX_ROWS = 400;
const MAX_TEXT = 4_000;
const NEAR_BOTTOM_PX = 60;
const JSON_EXAMPLE = '{"state": "packed"}';

/** Owns the connection, the channels, and what is drawn of them. */
class ChannelsPage {
  /** In the order of the subscriptions. @type {Map<string, Channel>} */
  #channels = new Map();
  /** The parts of the list that change. @type {Map<string, { item: HTMLElement, button: HTMLElement, state: HTMLElement, count: HTMLElement }>} */
  #items = new Map();
  /** The channel whose log is shown. */
  #open = "";
  /** Whether the user has cut the line. */
  #cut = false;
  /** Whether a publication is on its way. */
  #busy = false;
  /** Rows that are added with the next drawing; null: all are drawn again. @type {Row[] | null} */
  #added = null;
  /** Rows that are drawn again with the next drawing. @type {Set<Row>} */
  #grown = new Set();
  /** What is drawn of each row. @type {WeakMap<Row, HTMLElement>} */
  #drawn = new WeakMap();
  /** Whether a drawing is scheduled. */
  #drawing = false;
  #log = element("log", HTMLElement);
  #content = element("content", HTMLTextAreaElement);
  #format = element("format", HTMLSelectElement);
  #send = element("send", HTMLButtonElement);
  #cutButton = element("cut", HTMLButtonElement);

  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.words = page.text;
    this.clock = new Intl.DateTimeFormat(page.language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
    this.view = new ConnectionView(page.text, { retry: () => this.client.retryNow(), reload: () => location.reload() });
    const { app, user, token } = page;
    this.client = new ImClient({ url: websocketUrl(page, "/acc"), app, user, token });
    this.client.on("state", (change) => this.#onState(change));
    element("me-name", HTMLElement).textContent = user;
    const picture = avatar(user);
    picture.id = "me-avatar";
    element("me-avatar", HTMLElement).replaceWith(picture);
    this.#listen();
    this.#subscribe(page.channel);
    this.client.connect().catch(() => {}); // #onState shows the reason
  }

  get #channel() {
    return this.#channels.get(this.#open);
  }

  // --- connection ---------------------------------------------------------------------------------------------

  /** @param {import("../sdk/imserver.js").StateChange} change */
  #onState(change) {
    this.view.show(change);
    if (change.state !== "online") for (const channel of this.#channels.values()) channel.lost();
    this.#draw();
  }

  #toggleLine() {
    this.#cut = !this.#cut;
    if (this.#cut) {
      this.client.close();
      element("terminal", HTMLDetailsElement).open = true;
    } else {
      this.client.connect().catch(() => {}); // #onState shows the reason
    }
    this.#draw();
  }

  // --- events -------------------------------------------------------------------------------------------------

  #listen() {
    const name = element("name", HTMLInputElement);
    element("subscribe", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (name.value.trim()) this.#subscribe(name.value.trim());
      name.value = "";
    });
    element("publish", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#publish();
    });
    this.#content.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.isComposing || event.keyCode === INPUT_METHOD_KEY) return; // this Enter belongs to the input method
      event.preventDefault();
      this.#publish();
    });
    this.#content.addEventListener("input", () => {
      showNote("note", "");
      this.#typed();
    });
    this.#format.addEventListener("change", () => this.#typed());
    this.#cutButton.addEventListener("click", () => this.#toggleLine());
    addEventListener("online", () => this.client.retryNow());
    addEventListener("offline", () => this.view.show(this.client.state));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.client.retryNow(); // timers of hidden pages are slow
      this.#draw();
    });
    addEventListener("pagehide", () => this.client.close());
    addEventListener("pageshow", (event) => {
      if (event.persisted) location.reload(); // the browser's cache brought back a page whose connection is closed
    });
    setInterval(() => {
      const channel = this.#channel;
      if (channel?.state === "subscribed" && this.#isOnline() && !document.hidden) channel.loadMembers();
    }, LIST_EACH_MS);
  }

  #isOnline() {
    return this.client.state.state === "online";
  }

  /** @param {string} name */
  #subscribe(name) {
    if (!this.#channels.has(name)) {
      const grown = (/** @type {Row} */ row) => {
        this.#grown.add(row);
        this.#draw();
      };
      const channel = new Channel(this.client, name, this.words, (row) => this.#changed(channel, row), grown);
      this.#channels.set(name, channel);
      this.#addItem(name);
    }
    this.#show(name);
  }

  /** @param {string} name */
  #unsubscribe(name) {
    this.#channels.get(name)?.close();
    this.#channels.delete(name);
    this.#items.get(name)?.item.remove();
    this.#items.delete(name);
    if (name === this.#open) this.#show([...this.#channels.keys()].at(-1) ?? "");
    (this.#items.get(this.#open)?.button ?? element("name", HTMLInputElement)).focus();
  }

  /** @param {string} name */
  #show(name) {
    this.#open = name;
    this.#added = null;
    showNote("note", "");
    this.#draw();
  }

  /**
   * @param {Channel} channel
   * @param {Row | null} row
   */
  #changed(channel, row) {
    if (channel.name === this.#open) {
      if (!row) this.#added = null;
      else this.#added?.push(row);
    }
    this.#draw();
  }

  // --- publishing ---------------------------------------------------------------------------------------------

  async #publish() {
    const channel = this.#channel;
    const text = this.#content.value.trim();
    if (!text || this.#busy || !channel) return this.#content.focus();
    if (!this.#isOnline()) return showNote("note", this.words.send_offline);
    this.#busy = true;
    this.#typed();
    const problem = await channel.publish(text, this.#format.value === "json");
    this.#busy = false;
    showNote("note", problem);
    if (!problem) this.#content.value = "";
    this.#typed();
    this.#content.focus();
  }

  /** The text, its format, or what may be done with it has changed. */
  #typed() {
    this.#content.readOnly = this.#busy;
    this.#content.classList.toggle("code", this.#format.value === "json");
    this.#content.placeholder = this.#format.value === "json" ? JSON_EXAMPLE : this.words.channels_write_text;
    this.#content.style.height = "auto";
    this.#content.style.height = `${this.#content.scrollHeight}px`;
    const ready = this.#isOnline() && this.#channel?.state === "subscribed" && !this.#busy && this.#content.value.trim();
    this.#send.setAttribute("aria-disabled", String(!ready));
  }

  // --- drawing ------------------------------------------------------------------------------------------------

  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    const draw = () => {
      this.#drawing = false;
      this.#drawAll();
    };
    if (document.hidden) setTimeout(draw, HIDDEN_DRAW_MS);
    else requestAnimationFrame(draw);
  }

  #drawAll() {
    const channel = this.#channel;
    if (channel && !document.hidden) channel.unread = 0;
    this.#drawList();
    this.#drawLog(channel);
    this.#drawHints(channel);
    this.#drawMembers(channel);
    this.#drawCommand(channel);
    this.#typed();
    element("channel-name", HTMLElement).textContent = channel?.name ?? this.words.channels_title;
    this.#cutButton.textContent = this.#cut ? this.words.channels_return : this.words.channels_cut;
    this.#cutButton.classList.toggle("is-cut", this.#cut);
    this.#cutButton.disabled = this.client.state.state === "refused";
  }

  /** @param {string} name */
  #addItem(name) {
    const label = make("bdi", "", name);
    const state = make("small", "");
    const count = make("span", "count");
    const button = make("button", "channel", make("span", "channel-words", label, state), count);
    button.setAttribute("type", "button");
    button.addEventListener("click", () => this.#show(name));
    const close = make("button", "round channel-close", "×");
    close.setAttribute("type", "button");
    close.setAttribute("aria-label", fill(this.words.channels_unsubscribe, { channel: name }));
    close.title = fill(this.words.channels_unsubscribe, { channel: name });
    close.addEventListener("click", () => this.#unsubscribe(name));
    const item = make("li", "", button, close);
    element("subscriptions", HTMLElement).append(item);
    this.#items.set(name, { item, button, state, count });
  }

  #drawList() {
    for (const [name, { button, state, count }] of this.#items) {
      const channel = /** @type {Channel} */ (this.#channels.get(name));
      state.textContent = this.#stateOf(channel);
      count.textContent = String(channel.unread);
      count.hidden = !channel.unread;
      if (name === this.#open) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    element("subscriptions-note", HTMLElement).hidden = this.#items.size > 0;
  }

  /** @param {Channel} channel @returns {string} why it is refused, or how far it is */
  #stateOf(channel) {
    const { words } = this;
    if (channel.refusal) return channel.refusal;
    if (channel.state === "pending") return words.channels_pending;
    return channel.last ? fill(words.channels_offset, { offset: channel.last.offset }) : words.channels_live;
  }

  /**
   * Adds the new rows to the log, or draws all rows of another channel. At its end, the log follows what is new.
   *
   * @param {Channel | undefined} channel
   */
  #drawLog(channel) {
    const { words } = this;
    const log = this.#log;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_BOTTOM_PX;
    if (this.#added) {
      for (const row of this.#grown) this.#drawn.get(row)?.replaceWith(this.#row(row));
      log.append(...this.#added.map((row) => this.#row(row)));
      while (log.childElementCount > MAX_ROWS) log.firstElementChild?.remove();
    } else {
      log.replaceChildren(...(channel?.rows ?? []).map((row) => this.#row(row)));
    }
    if (atEnd || !this.#added) log.scrollTop = log.scrollHeight;
    for (const row of this.#grown) {
      if (row.growing) this.#drawn.get(row)?.lastElementChild?.scrollTo(0, Number.MAX_SAFE_INTEGER); // to its end
    }
    this.#grown.clear();
    this.#added = [];
    element("empty", HTMLElement).hidden = log.childElementCount > 0;
    const [title, hint] = channel ? [words.channels_empty, words.channels_empty_hint] : [words.channels_choose, words.channels_choose_hint];
    element("empty-title", HTMLElement).textContent = channel?.refusal || title;
    element("empty-hint", HTMLElement).textContent = channel?.refusal ? "" : hint;
  }

  /** @param {Row} row */
  #row(row) {
    const item = this.#made(row);
    this.#drawn.set(row, item);
    return item;
  }

  /** @param {Row} row */
  #made({ kind, text, at, json, from, offset, tag, growing, incomplete }) {
    const { words } = this;
    if (kind !== "publication") return make("div", `event ${kind}`, make("bdi", "", cut(text, MAX_TEXT)));
    const time = make("time", "", at ? this.clock.format(at) : "");
    const who = make("span", "publisher", from ? make("bdi", "", from) : words.channels_back_end);
    const head = make("p", "from", make("b", "offset", offset ? `#${offset}` : "–"), who);
    if (from === this.page.user) head.append(words.self_mark);
    if (json) head.append(make("span", "tag plain", words.channels_json));
    if (tag) head.append(make("span", `tag ${tag}`, tag === "recovered" ? words.channels_recovered : words.channels_earlier));
    if (growing) head.append(make("span", "tag growing", words.channels_growing));
    if (incomplete) head.append(make("span", "tag", words.channels_incomplete));
    head.append(time);
    const body = make(json ? "code" : "span", "content", growing ? endOf(text) : cut(text, MAX_TEXT));
    body.dir = "auto";
    const item = make("div", "publication", head, body);
    item.classList.toggle("growing", growing === true);
    item.ariaBusy = String(growing === true); // a screen reader waits for the whole text
    item.dataset.offset = String(offset);
    return item;
  }

  /** @param {Channel | undefined} channel */
  #drawHints(channel) {
    const hints = [...(channel?.hints.values() ?? [])];
    const root = element("hints", HTMLElement);
    const before = root.dataset.drawn;
    root.dataset.drawn = hints.map(({ text, setting }) => text + setting).join("\n");
    if (before === root.dataset.drawn) return; // a screen reader would announce them again
    root.replaceChildren(...hints.map(({ text, setting }) => {
      const item = make("p", "", make("span", "", text));
      if (setting) item.append(" ", this.words.channels_setting, " ", make("code", "", setting));
      return item;
    }));
  }

  /** @param {Channel | undefined} channel */
  #drawMembers(channel) {
    const { words } = this;
    const self = this.page.user;
    const members = channel && this.#isOnline() ? [...channel.members] : [];
    const total = members.length ? channel?.total ?? 0 : 0;
    members.sort(([, one], [, other]) => Number(other === self) - Number(one === self)); // our own connections first
    const rows = members.map(([connection, user]) => {
      const row = make("li", "", avatar(user), make("bdi", "", user || "?"));
      if (user === self) row.append(make("small", "", words.self_mark));
      row.dataset.connection = connection;
      return row;
    });
    element("people-list", HTMLElement).replaceChildren(...rows);
    for (const id of ["people-count", "people-badge"]) element(id, HTMLElement).textContent = String(total);
    showNote("people-note", this.#membersNote(channel, members.length, total));
  }

  /**
   * @param {Channel | undefined} channel
   * @param {number} shown  how many subscribers the list has
   * @param {number} total
   */
  #membersNote(channel, shown, total) {
    const { words } = this;
    if (total > shown) return fill(words.people_more, { count: total - shown });
    if (channel && !channel.showsMembers) return words.channels_no_presence;
    return shown ? "" : words.channels_waiting;
  }

  /** Shows the command that publishes to the channel by the HTTP API. @param {Channel | undefined} channel */
  #drawCommand(channel) {
    const body = JSON.stringify({ app: String(this.page.app), channel: channel?.name ?? this.page.channel, text: "hello" });
    const key = this.page.demo ? "" : ' -H "Authorization: Bearer $KEY"';
    element("command", HTMLElement).textContent = `curl -d '${body.replaceAll("'", "'\\''")}'${key} ${this.page.publishUrl}`;
  }
}

/**
 * The end of a text that grows, without half a surrogate pair.
 *
 * @param {string} text
 */
function endOf(text) {
  return text.length > MAX_TEXT ? `…${text.slice(-MAX_TEXT).replace(/^[\udc00-\udfff]/, "")}` : text;
}

new ChannelsPage(pageData());
