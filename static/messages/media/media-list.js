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

/** Messages on a page. */
const PAGE = 60;
/** So many pictures are in one line. */
const STRIP = 8;
const PICTURE_TYPES = ["picture", "video"];
const FILE_TYPES = ["file", "voice"];
/** Messages that may have parts of each kind. */
const ALBUM = "album";

/**
 * Opens the panel: a tab with the pictures and videos, and one with the files.
 *
 * @param {Session} session
 * @param {number} conversation
 */
export async function openMedia(session, conversation) {
  const { words } = session;
  await loadStyle(new URL("../later/media-list.css", import.meta.url));
  const draw = (/** @type {string[]} */ types) => (/** @type {HTMLElement} */ place) => void new MediaPages(session, conversation, types, place);
  const tabs = makeTabs(words.messages_media, [
    { id: "messages_pictures", label: words.messages_pictures, draw: draw(PICTURE_TYPES) },
    { id: "messages_files", label: words.messages_files, draw: draw(FILE_TYPES) },
  ]);
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
  const { messages } = await session.messenger.history(conversation, { limit: STRIP, types: [...PICTURE_TYPES, ALBUM] });
  const parts = messages.reverse().flatMap((/** @type {Entry} */ entry) => (entry.kind === "message" ? partsOf(entry) : []));
  const shown = parts.filter(({ type = "", data }) => PICTURE_TYPES.includes(type) && data?.url).slice(0, STRIP);
  await session.people.load(shown.map(({ from }) => from));
  const tiles = shown.flatMap((entry) => drawn(() => pictureOf(entry, session), () => null) ?? []);
  const strip = make("ul", "media-list media-strip", ...tiles.map((each) => make("li", "", each)));
  strip.setAttribute("role", "list");
  strip.setAttribute("aria-label", session.words.messages_pictures);
  return tiles.length ? strip : null;
}

/**
 * @param {Entry} entry  a picture or video
 * @param {Session} session
 */
function pictureOf(entry, session) {
  return withOrigin(tile({ ...mediaOf(entry.data), type: entry.type }, session.words), { session, entry, caption: "" });
}

/** Owns one list, and loads it page by page. */
class MediaPages {
  /** Id of the oldest message that is loaded; 0: none. */
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

  /** Loads the next page. */
  async #load() {
    const { session } = this;
    const isLoaded = await attempt(this.more, this.note, session.words, async () => {
      const page = await session.messenger.history(this.conversation, { before: this.#before, limit: PAGE, types: [...this.types, ALBUM] });
      const parts = page.messages.reverse().flatMap((entry) => (entry.kind === "message" ? partsOf(entry) : []));
      const entries = parts.filter(({ type = "" }) => this.types.includes(type));
      this.#before = page.messages.at(-1)?.id ?? 0;
      await session.people.load(entries.map(({ from }) => from));
      const unshown = () => make("li", "muted", session.words.messages_unshown);
      this.#list.append(...entries.flatMap((entry) => drawn(() => this.#item(entry), unshown) ?? []));
      this.more.hidden = !page.hasMore;
      this.state.textContent = session.words.messages_no_media;
      this.state.hidden = this.#list.childElementCount > 0;
    });
    if (!isLoaded) this.state.hidden = true; // the note says why
  }

  /** @param {Entry} entry @returns {HTMLElement | null} null: it has nothing to show */
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
