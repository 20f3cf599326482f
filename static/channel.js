// @ts-check
/** One channel: its subscription, what has happened in it, who is there, and what its settings do not allow. It draws nothing. */

import { CommandRefused, NotConnected } from "../sdk/imserver.js";
import { fill } from "./text.js";

/** @typedef {import("../sdk/imserver.js").ImClient} ImClient */
/** @typedef {import("../sdk/imserver.js").Publication} Publication */
/** @typedef {import("../sdk/imserver.js").StreamUpdate} StreamUpdate */
/** @typedef {import("../sdk/imserver.js").ChannelClient} ChannelClient */

/**
 * @typedef {object} Row         a line of the log
 * @property {"publication" | "joined" | "left" | "cut" | "back" | "wrong"} kind
 * @property {string} text
 * @property {number} at         milliseconds since 1970; 0: unknown
 * @property {boolean} [json]    of a publication
 * @property {string} [from]     who has published it; empty: a back end
 * @property {number} [offset]   0: the channel has no history
 * @property {"recovered" | "earlier" | ""} [tag]  how it arrived, unless live
 * @property {boolean} [growing]     a streamed message, whose text is not whole yet
 * @property {boolean} [incomplete]  a streamed message that its publisher did not finish
 */

/** @typedef {{ text: string, setting: string }} Hint */

const MAX_ROWS = 400;
/** Publications before the subscription that are loaded. */
const EARLIER = 20;
/** Subscribers of a page of the server. */
const MAX_SHOWN = 200;
const NOTICE_MS = 2_000;
/** Only the server subscribes clients to channels with these beginnings. */
const RESERVED = ["user:", "group:", "#"];

/** Option of a channel → the value that allows what the hint of this name says. */
const SETTINGS = /** @type {const} */ ({
  subscribe: "subscribe: anybody",
  publish: "publish: subscribers",
  presence: "presence: true",
  notices: "join_leave: true",
  history: "{history_size: 100, history_seconds: 600}",
});

/** Owns the subscription. It checks that each publication arrives once: see {@link Channel#lost}. */
export class Channel {
  /** @type {Row[]} */
  rows = [];
  /** @type {"pending" | "subscribed" | "refused"} */
  state = "pending";
  /** Subscribers: id of the connection → user. @type {Map<string, string>} */
  members = new Map();
  /** The number of subscribers; {@link Channel#members} has the first of them. */
  total = 0;
  /** Name of an option → what is not allowed. @type {Map<string, Hint>} */
  hints = new Map();
  unread = 0;
  /** The rows of open streamed messages, by the ids of these. @type {Map<string, Row>} */
  #growing = new Map();
  /** Position of the last publication; null: the channel has no history. @type {{ epoch: string, offset: number } | null} */
  last = null;
  /** Whether it was subscribed before. */
  #begun = false;
  /** Whether publications are those of the time without a connection. */
  #catchingUp = false;
  /** Whether the server could not recover all of them. */
  #reloaded = false;
  /** Publications that did not arrive, and those that arrived twice. */
  #missing = 0;
  #doubled = 0;
  /** Offsets that were recovered since the connection was lost. @type {number[]} */
  #recovered = [];
  /** Whether the members were loaded since the subscription. */
  #listed = false;
  /** Whether a notice has said that somebody came or left. */
  #noticed = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #noticeTimer;

  /**
   * Throws TypeError if the client has a subscription to this channel already.
   *
   * @param {ImClient} client
   * @param {string} name
   * @param {Record<string, string>} words
   * @param {(row: Row | null) => void} changed  called after each change; with the row, if one was added at the end
   * @param {(row: Row) => void} grown  called when a row in the log has other contents
   */
  constructor(client, name, words, changed, grown) {
    this.client = client;
    this.name = name;
    this.words = words;
    this.changed = changed;
    this.grown = grown;
    this.subscription = client.subscribe(name, {
      onPublication: (publication) => this.#add(publication),
      onStream: (update) => this.#grow(update),
      onJoin: (who) => this.#move(who, true),
      onLeave: (who) => this.#move(who, false),
      onReload: () => {
        this.#reloaded = true;
      },
      onSubscribed: () => this.#subscribed(),
      onEnd: (error) => this.#ended(error),
    });
    this.subscription.ready.catch(() => {}); // #ended shows the reason
  }

  /** @returns {string} why the channel is refused; empty: it is not */
  get refusal() {
    return (this.state === "refused" && this.hints.get("subscribe")?.text) || "";
  }

  /** @returns {boolean} whether the server shows who is there */
  get showsMembers() {
    return !this.hints.has("presence");
  }

  /** The connection is lost. What follows until the next subscription is recovered. */
  lost() {
    if (this.state !== "subscribed" || this.#catchingUp) return;
    this.#catchingUp = true;
    for (const row of this.#growing.values()) this.#set(row, { ...row, growing: false, incomplete: true }); // those still open come again
    this.#log({ kind: "cut", text: this.words.channels_lost, at: Date.now() });
  }

  /** Ends the subscription. */
  close() {
    clearTimeout(this.#noticeTimer);
    this.subscription.unsubscribe().catch(() => {});
  }

  /**
   * @param {string} text
   * @param {boolean} json
   * @returns {Promise<string>} why it was not published; empty: it was
   */
  async publish(text, json) {
    let content;
    try {
      content = json ? JSON.parse(text) : text;
    } catch (error) {
      return fill(this.words.channels_bad_json, { reason: /** @type {Error} */ (error).message });
    }
    try {
      // A string would be published as a text.
      await this.subscription.publish(json && typeof content === "string" ? [content] : content);
      this.hints.delete("publish");
    } catch (error) {
      return this.#explain(error, "publish");
    }
    return "";
  }

  /** Loads who is there. */
  async loadMembers() {
    try {
      const { total, subscribers } = await this.subscription.presence({ limit: MAX_SHOWN });
      const found = new Map(subscribers.map(({ connection, user }) => [connection, user]));
      const same = found.size === this.members.size && [...found.keys()].every((each) => this.members.has(each));
      if (this.#listed && !same && !this.#noticed) this.#expectNotice();
      this.#listed = true;
      this.members = found;
      this.total = total;
      this.hints.delete("presence");
    } catch (error) {
      this.#listed = false;
      if (error instanceof CommandRefused && error.refused === "not_available") this.#hint("presence");
    }
    this.changed(null);
  }

  /** Somebody came or left. If no notice of it arrives, the channel has none. */
  #expectNotice() {
    clearTimeout(this.#noticeTimer);
    this.#noticeTimer = setTimeout(() => {
      if (!this.#noticed) this.#hint("notices");
      this.changed(null);
    }, NOTICE_MS);
  }

  /** The subscription has begun, or has begun again after a lost connection. */
  #subscribed() {
    const { position } = this.subscription;
    this.state = "subscribed";
    this.hints.delete("subscribe");
    if (position) this.hints.delete("history");
    else this.#hint("history");
    if (this.#begun) this.#log(this.#summary(position));
    else if (position) this.#loadEarlier(position);
    this.#begun = true;
    this.last = position;
    this.#catchingUp = false;
    this.#reloaded = false;
    this.#listed = false;
    this.#missing = 0;
    this.#doubled = 0;
    this.#recovered = [];
    this.changed(null);
    this.loadMembers();
  }

  /**
   * What has become of the publications of the time without a connection.
   *
   * @param {{ epoch: string, offset: number } | null} position  where the server says that we are now
   * @returns {Row}
   */
  #summary(position) {
    const { words } = this;
    const row = (/** @type {"back" | "wrong"} */ kind, /** @type {string} */ text) => ({ kind, text, at: Date.now() });
    if (!position) return row("wrong", words.channels_back_live);
    if (this.#reloaded) return row("wrong", words.channels_reload);
    const missing = this.#missing + position.offset - (this.last?.offset ?? 0); // between them, and after the last one
    const count = this.#recovered.length;
    if (missing || this.#doubled) return row("wrong", fill(words.channels_back_wrong, { count, missing, doubled: this.#doubled }));
    if (!count) return row("back", words.channels_back_quiet);
    return row("back", fill(words.channels_back, { count, first: this.#recovered[0], last: this.#recovered[count - 1] }));
  }

  /** @param {{ epoch: string, offset: number }} position  of the subscription: what came later arrives by itself */
  async #loadEarlier(position) {
    try {
      const { publications } = await this.subscription.history({ limit: EARLIER, reverse: true });
      const earlier = publications.filter(({ epoch, offset = 0 }) => epoch === position.epoch && offset <= position.offset);
      this.rows.unshift(...earlier.reverse().map((each) => rowOf(each, "earlier")));
      this.changed(null);
    } catch {
      // the log begins with what is published from now on
    }
  }

  /**
   * Logs a publication, and checks by its offset that none is missing or doubled.
   *
   * @param {Publication} publication
   */
  #add(publication) {
    const { epoch, offset = 0 } = publication;
    if (epoch && offset) {
      if (this.last?.epoch === epoch) {
        if (offset <= this.last.offset) this.#doubled += 1;
        else this.#missing += offset - this.last.offset - 1;
      }
      this.last = { epoch, offset };
      if (this.#catchingUp) this.#recovered.push(offset);
    }
    this.unread += 1;
    const row = rowOf(publication, this.#catchingUp ? "recovered" : "");
    const { stream = "" } = publication;
    const begun = this.#growing.get(stream);
    this.#growing.delete(stream);
    if (begun) this.#set(begun, row);
    else this.#log(row);
  }

  /**
   * A piece of a streamed message, or its end. A publication follows an end with a text.
   *
   * @param {StreamUpdate} update
   */
  #grow({ stream, text, done, incomplete, from = "" }) {
    const begun = this.#growing.get(stream);
    const row = /** @type {Row} */ ({ kind: "publication", text, from, offset: 0, at: begun?.at ?? Date.now(), growing: !done, incomplete });
    if (begun && done && !text) {
      this.#growing.delete(stream);
      this.rows = this.rows.filter((each) => each !== begun);
      this.changed(null);
    } else if (begun) {
      this.#set(begun, row);
    } else if (!done) {
      this.#growing.set(stream, row);
      this.#log(row);
    }
  }

  /**
   * @param {Row} row  in the log
   * @param {Row} content
   */
  #set(row, content) {
    Object.assign(row, content);
    this.grown(row);
  }

  /**
   * @param {ChannelClient} who
   * @param {boolean} joined
   */
  #move({ user, client }, joined) {
    this.#noticed = true;
    this.hints.delete("notices");
    if (joined && !this.members.has(client)) {
      this.members.set(client, user);
      this.total += 1;
    } else if (!joined && this.members.delete(client)) {
      this.total -= 1;
    }
    const { channels_joined: came, channels_left: left } = this.words;
    this.#log({ kind: joined ? "joined" : "left", text: fill(joined ? came : left, { user }), at: Date.now() });
  }

  /** @param {Error | null} error  null: the server has ended the subscription */
  #ended(error) {
    if (error instanceof NotConnected) return;
    this.state = "refused";
    this.members.clear();
    this.total = 0;
    const text = error ? this.#explain(error, "subscribe") : this.words.channels_fault_ended;
    if (!this.hints.has("subscribe")) this.hints.set("subscribe", { text, setting: "" });
    this.changed(null);
  }

  /**
   * @param {unknown} error
   * @param {"subscribe" | "publish"} option  that allows it, if it was denied
   * @returns {string} the reason, in the language of the page
   */
  #explain(error, option) {
    const { words } = this;
    if (error instanceof NotConnected) return words.no_answer;
    if (!(error instanceof CommandRefused)) return String(error);
    if (error.refused === "denied" && RESERVED.some((each) => this.name.startsWith(each))) return words.channels_fault_reserved;
    if (error.refused === "denied") {
      this.#hint(option);
      this.changed(null);
      return fill(words[`channels_hint_${option}`], { channel: this.name });
    }
    return words[`channels_fault_${error.refused}`] ?? fill(words.channels_fault_other, { channel: this.name, reason: error.message });
  }

  /** @param {keyof typeof SETTINGS} option */
  #hint(option) {
    const colon = this.name.indexOf(":");
    const namespace = colon < 0 ? '"*"' : this.name.slice(0, colon);
    const name = `apps.${this.client.app}.channels.${namespace}`;
    const setting = option === "history" ? `${name}: ${SETTINGS.history}` : `${name}.${SETTINGS[option]}`;
    this.hints.set(option, { text: fill(this.words[`channels_hint_${option}`], { channel: this.name }), setting });
  }

  /** @param {Row} row */
  #log(row) {
    this.rows.push(row);
    if (this.rows.length > MAX_ROWS) this.rows.shift();
    this.changed(row);
  }
}

/**
 * @param {Publication} publication
 * @param {"recovered" | "earlier" | ""} tag
 * @returns {Row}
 */
function rowOf({ text = "", data, from = "", offset = 0, incomplete = false }, tag) {
  const json = data !== undefined;
  const content = { text: json ? JSON.stringify(data) : text, json, growing: false, incomplete };
  return { kind: "publication", ...content, from, offset, tag, at: tag ? 0 : Date.now() };
}
