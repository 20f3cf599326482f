// @ts-check
/** The pictures, videos and files of a conversation. */

import { make } from "../text.js";
import { attempt, noteLine } from "./form.js";
import { button, openPanel } from "./panel.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("../../sdk/messenger.js").Entry} Entry */

const PAGE = 60;
const KINDS = /** @type {const} */ ([["messages_pictures", ["picture", "video"]], ["messages_files", ["file", "voice"]]]);

/**
 * @param {Session} session
 * @param {number} conversation
 */
export function openMedia(session, conversation) {
  const { words } = session;
  const body = make("div", "media-body");
  body.id = "media-body";
  const tabs = make("div", "tabs");
  tabs.setAttribute("role", "tablist");
  tabs.setAttribute("aria-label", words.messages_media);
  const buttons = KINDS.map(([label, types], index) => {
    const tab = button(label === "messages_pictures" ? words.messages_pictures : words.messages_files, "tab");
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", body.id);
    tab.addEventListener("click", () => choose(index));
    tab.addEventListener("keydown", ({ key }) => {
      if (key !== "ArrowLeft" && key !== "ArrowRight") return;
      choose(1 - index);
      buttons[1 - index].focus();
    });
    return { tab, types };
  }).map(({ tab }) => tab);
  tabs.append(...buttons);
  body.setAttribute("role", "tabpanel");
  openPanel(words.messages_media, make("div", "media-list", tabs, body));
  choose(0);

  /** @param {number} index */
  function choose(index) {
    buttons.forEach((tab, each) => {
      tab.setAttribute("aria-selected", String(each === index));
      tab.tabIndex = each === index ? 0 : -1;
    });
    body.setAttribute("aria-label", buttons[index].textContent ?? "");
    new MediaPages(session, conversation, [...KINDS[index][1]], body);
  }
}

/** Owns one list, and loads it page by page. */
class MediaPages {
  #before = 0;
  #list;

  /**
   * @param {Session} session
   * @param {number} conversation
   * @param {string[]} types
   * @param {HTMLElement} body
   */
  constructor(session, conversation, types, body) {
    this.session = session;
    this.conversation = conversation;
    this.types = types;
    const { words } = session;
    this.#list = make("ul", types.includes("picture") ? "media-grid" : "file-list");
    this.#list.setAttribute("role", "list");
    this.note = noteLine();
    this.state = make("p", "muted", words.messages_loading);
    this.more = button(words.messages_media_more);
    this.more.hidden = true;
    this.more.addEventListener("click", () => this.#load());
    body.replaceChildren(this.#list, this.state, this.note, this.more);
    this.#load();
  }

  #load() {
    const { session } = this;
    return attempt(this.more, this.note, session.words, async () => {
      const page = await session.messenger.history(this.conversation, { before: this.#before, limit: PAGE, types: this.types });
      const entries = page.messages.filter(({ kind, type = "" }) => kind === "message" && this.types.includes(type)).reverse();
      this.#before = page.messages[0]?.id ?? 0;
      await session.people.load(entries.map(({ from }) => from));
      this.#list.append(...entries.flatMap((entry) => this.#item(entry) ?? []));
      this.more.hidden = !page.hasMore;
      this.state.textContent = session.words.messages_no_media;
      this.state.hidden = this.#list.childElementCount > 0;
    }).then((done) => { if (!done) this.state.hidden = true; });
  }

  /** @param {Entry} entry */
  #item(entry) {
    const media = mediaOf(entry);
    if (!media) return null;
    const { session } = this;
    const when = new Intl.DateTimeFormat(session.language, { dateStyle: "medium" }).format(entry.time);
    const link = /** @type {HTMLAnchorElement} */ (make("a", "media-item"));
    link.href = media.url;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    const who = `${session.people.nameOf(entry.from)} · ${when}`;
    if (this.types.includes("picture")) {
      link.setAttribute("aria-label", [media.name, who].filter(Boolean).join(" · "));
      if (media.thumbnail) {
        const picture = /** @type {HTMLImageElement} */ (make("img", ""));
        Object.assign(picture, { alt: "", loading: "lazy", decoding: "async", src: media.thumbnail });
        link.append(picture);
      } else {
        link.append(make("span", "media-play", "▶"));
      }
    } else {
      const name = media.name || (entry.type === "voice" ? session.words.messages_voice : session.words.messages_file);
      link.append(make("bdi", "file-name", name), make("small", "muted", [size(media.bytes, session.language), who].filter(Boolean).join(" · ")));
    }
    return make("li", "", link);
  }
}

/**
 * The file of a message; null if it has none that this page may show.
 *
 * @param {Entry} entry
 * @returns {{ url: string, name: string, bytes: number, thumbnail: string } | null}
 */
export function mediaOf({ type, data, text }) {
  const given = data && typeof data === "object" ? data : { url: text };
  const url = address(given.url);
  if (!url) return null;
  const small = typeof given.thumbnail === "object" ? given.thumbnail?.url : given.thumbnail;
  const thumbnail = address(small) || (type === "picture" ? url : "");
  return {
    url: url.href,
    name: typeof given.name === "string" ? given.name : "",
    bytes: Number(given.bytes) || 0,
    thumbnail: thumbnail && thumbnail.origin === location.origin ? thumbnail.href : "",
  };
}

/** @param {unknown} url */
function address(url) {
  if (typeof url !== "string" || !URL.canParse(url, location.href)) return "";
  const parsed = new URL(url, location.href);
  return ["http:", "https:"].includes(parsed.protocol) ? parsed : "";
}

/**
 * @param {number} bytes
 * @param {string} language
 * @returns {string}
 */
function size(bytes, language) {
  if (!bytes) return "";
  const [value, unit] = bytes < 1_000_000 ? [bytes / 1000, "kilobyte"] : [bytes / 1_000_000, "megabyte"];
  return new Intl.NumberFormat(language, { style: "unit", unit, maximumFractionDigits: 1 }).format(value);
}
