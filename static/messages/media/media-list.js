// @ts-check
/** The pictures, videos and files of a conversation. */

import { drawn, make } from "../../text.js";
import { attempt, loadStyle, noteLine } from "../parts/form.js";
import { partsOf, tile, withOrigin } from "./album.js";
import { mediaOf } from "../parts/file.js";
import { button, openPanel } from "../parts/panel.js";
import { makeTabs } from "../parts/tabs.js";
import { contentOf } from "../parts/summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../../../sdk/messenger.js").Entry} Entry */

const PAGE = 60;
/** So many pictures are in one line. */
const STRIP = 8;
const KINDS = /** @type {const} */ ([["messages_pictures", ["picture", "video"]], ["messages_files", ["file", "voice"]]]);
/** Messages that may have parts of each kind. */
const ALBUM = "album";

/**
 * @param {Session} session
 * @param {number} conversation
 */
export async function openMedia(session, conversation) {
  const { words } = session;
  await loadStyle(new URL("../later/media-list.css", import.meta.url));
  const tabs = makeTabs(words.messages_media, KINDS.map(([label, types]) => (
    { id: label, label: label === "messages_files" ? words.messages_files : words.messages_pictures, draw: (place) => void new MediaPages(session, conversation, [...types], place) })));
  tabs.place.className = "media-body";
  openPanel(words.messages_media, make("div", "media-list", tabs.row, tabs.place));
  tabs.choose(0);
}

/**
 * @param {Session} session
 * @param {number} conversation
 * @returns {Promise<HTMLElement | null>} its newest pictures and videos in one line; null: there are none
 */
export async function mediaStrip(session, conversation) {
  const types = [...KINDS[0][1]];
  const { messages } = await session.messenger.history(conversation, { limit: STRIP, types: [...types, ALBUM] });
  const entries = messages.reverse().flatMap((/** @type {Entry} */ entry) => (entry.kind === "message" ? partsOf(entry) : []));
  const shown = entries.filter(({ type = "", data }) => types.includes(/** @type {"picture"} */ (type)) && data?.url).slice(0, STRIP);
  await session.people.load(shown.map(({ from }) => from));
  const tiles = shown.flatMap((entry) => drawn(() => pictureOf(entry, session), () => null) ?? []);
  const strip = make("ul", "media-list media-strip", ...tiles.map((each) => make("li", "", each)));
  strip.setAttribute("role", "list");
  strip.setAttribute("aria-label", session.words.messages_pictures);
  return tiles.length ? strip : null;
}

/**
 * @param {Entry} entry
 * @param {Session} session
 */
function pictureOf(entry, session) {
  return withOrigin(tile({ ...mediaOf(entry.data), type: entry.type }, session.words), { session, entry, caption: "" });
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
      const page = await session.messenger.history(this.conversation, { before: this.#before, limit: PAGE, types: [...this.types, ALBUM] });
      const parts = page.messages.reverse().flatMap((entry) => (entry.kind === "message" ? partsOf(entry) : []));
      const entries = parts.filter(({ type = "" }) => this.types.includes(type));
      this.#before = page.messages.at(-1)?.id ?? 0;
      await session.people.load(entries.map(({ from }) => from));
      this.#list.append(...entries.flatMap((entry) => drawn(() => this.#item(entry), () => make("li", "muted", session.words.messages_unshown)) ?? []));
      this.more.hidden = !page.hasMore;
      this.state.textContent = session.words.messages_no_media;
      this.state.hidden = this.#list.childElementCount > 0;
    }).then((done) => { if (!done) this.state.hidden = true; });
  }

  /** @param {Entry} entry */
  #item(entry) {
    const { session } = this;
    const isPicture = this.types.includes("picture");
    const content = isPicture && entry.data?.url ? pictureOf(entry, session) : contentOf(entry, session);
    if (!content) return null;
    if (isPicture) return make("li", "", content);
    const when = new Intl.DateTimeFormat(session.language, { dateStyle: "medium" }).format(entry.time);
    return make("li", "", content, make("small", "muted", `${session.people.nameOf(entry.from)} · ${when}`));
  }
}
