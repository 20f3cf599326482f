// @ts-check
/** Media of the page: how messages with files are shown, and the buttons that send them. */

import { cut, make } from "../../text.js";
import { ApiError, noAnswer } from "../parts/api.js";
import { loadStyle, withModule } from "../parts/loading.js";
import { button, toast } from "../parts/panel.js";
import { pageCommands, registerView } from "../parts/summary.js";
import { albumSummary, albumView, captioned, captionOf, captionSummary, pictureView, videoView, withOrigin } from "./album.js";
import { fileView, icon, mediaOf, timeText } from "../parts/file.js";
import { canRecord, voiceView } from "./voice.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("../parts/file.js").MediaData} MediaData */

/**
 * @typedef {object} TextBox
 * @property {HTMLElement} place   takes files
 * @property {HTMLElement} before  for the button for files
 * @property {HTMLElement} after   for the button for voice messages
 * @property {HTMLElement} form    the bar of a recording is put into it
 * @property {() => Conversation | null} conversation
 * @property {() => { text: string, replyTo?: number, thread?: number, also?: boolean }} draft  what is typed: it becomes the caption
 * @property {(target: Conversation | null) => void} sent  the draft in this conversation is used up; null: it is not
 */

/** Type of a message → how its `data` is shown. */
const DRAW = /** @type {Record<string, (data: MediaData, words: Record<string, string>) => HTMLElement | null>} */ ({
  picture: pictureView, video: videoView, voice: voiceView, file: (data, words) => fileView(data, words.messages_file),
});

for (const [type, draw] of Object.entries(DRAW)) {
  registerView(type, {
    draw: (entry, session) => {
      const { data, text } = entry;
      const content = draw(mediaOf(data && typeof data === "object" ? data : { url: text ?? "" }), session.words);
      const caption = captionOf(entry);
      return withOrigin(content && captioned(content, caption), { session, entry, caption });
    },
    summary: (entry, words) => {
      const { name, seconds } = mediaOf(entry.data);
      const word = words[`messages_${type}`];
      if (captionOf(entry)) return captionSummary(entry);
      if (type === "file") return cut(name || word, 200);
      return seconds ? `${word} ${timeText(seconds)}` : word;
    },
  });
}
registerView("album", {
  draw: (entry, session) => {
    const content = albumView(entry, session.words);
    const caption = captionOf(entry);
    return withOrigin(content && captioned(content, caption), { session, entry, caption });
  },
  summary: (entry, words) => (captionOf(entry) ? captionSummary(entry) : albumSummary(entry, words)),
});

/**
 * Adds the buttons for files and voice messages to the text box, and takes files that are pasted or dropped.
 *
 * @param {Session} session
 * @param {TextBox} textBox
 * @param {AbortSignal} signal  ends it
 */
export function startMedia(session, { place, before, after, form, conversation, draft, sent }, signal) {
  const { words } = session;
  /** @type {Promise<Record<string, number>> | null} */
  let asked = null;
  const limits = async () => {
    // Without a connection, the server refuses a large file later.
    if (!session.isOnline) return {};
    asked ??= session.api("GET", "uploads", { limit: 1 }).then((answer) => answer.limits ?? {}, () => {
      asked = null;
      return {};
    });
    return asked;
  };
  const offer = async (/** @type {File[]} */ files) => {
    const target = conversation();
    if (!target || !files.length) return;
    const given = await limits();
    await withModule(import("./preview.js"), words, async ({ MOST_CAPTION, confirmFiles, sendFiles }) => {
      const { text, ...place } = draft();
      // A longer text stays where it is.
      const isCaption = text.length <= MOST_CAPTION;
      const confirmed = await confirmFiles(files, words, { limits: given, caption: isCaption ? text : "" });
      if (!confirmed) return;
      sendFiles(session, target, confirmed, place);
      sent(isCaption ? target : null);
    });
  };
  const begin = (/** @type {import("../parts/summary.js").PageCommand["act"]} */ act) => {
    const target = conversation();
    if (target) act(session, target, "", draft());
  };
  const attach = tool("attach", words.messages_media_attach, async () => {
    const others = pageCommands.filter(({ sign }) => sign);
    if (!others.length) return offer(await chooseFiles());
    await withModule(import("../parts/menu.js"), words, ({ openMenu }) => openMenu({
      label: words.messages_media_attach, anchor: attach, from: () => attach,
      groups: [
        [{ word: words.messages_media_files, sign: "attach", act: async () => offer(await chooseFiles()) }],
        others.map(({ word, sign, act }) => ({ word, sign, act: () => begin(act) })),
      ],
    }));
  });
  attach.setAttribute("aria-haspopup", "menu");
  before.append(attach);
  listenForFiles(place, words, offer, signal);
  signal.addEventListener("abort", () => attach.remove());
  if (!canRecord() && isSecureContext) return;
  const record = tool("microphone", words.messages_media_record, async () => {
    const target = conversation();
    if (!canRecord()) return toast(words.messages_media_needs_https);
    if (!target || form.classList.contains("records")) return;
    form.classList.add("records");
    try {
      await loadStyle(new URL("../later/record.css", import.meta.url));
      const { recordVoice } = await import("./record.js").catch(() => {
        throw new ApiError("no_answer", noAnswer(words));
      });
      const recording = await recordVoice(form, words, signal);
      if (recording) {
        const { file, seconds, wave } = recording;
        const { thread, also } = draft();
        session.outbox.add(target, { type: "voice", data: { seconds, wave }, thread, also }, { content: file, options: { name: file.name }, more: { seconds, wave } });
        sent(null);
      }
    } catch (error) {
      toast(error instanceof ApiError ? error.message : words.messages_media_no_microphone);
    }
    form.classList.remove("records");
    record.focus();
  });
  after.append(record);
  signal.addEventListener("abort", () => record.remove());
}

/**
 * @param {"attach" | "microphone"} sign
 * @param {string} label
 * @param {() => void} act
 */
function tool(sign, label, act) {
  const made = button("", "round");
  made.append(icon(sign));
  made.setAttribute("aria-label", label);
  made.title = label;
  made.addEventListener("click", act);
  return made;
}

/**
 * Opens the browser's dialog.
 *
 * @returns {Promise<File[]>}  none: it was closed
 */
function chooseFiles() {
  const input = document.createElement("input");
  input.type = "file";
  input.multiple = true;
  input.hidden = true;
  // Some browsers forget an input that is in no document.
  document.body.append(input);
  return new Promise((resolve) => {
    const finish = () => {
      input.remove();
      resolve([...(input.files ?? [])]);
    };
    input.addEventListener("change", finish);
    input.addEventListener("cancel", finish);
    input.click();
  });
}

/**
 * Calls `onFiles` with files that are pasted or dropped into an element.
 *
 * @param {HTMLElement} target
 * @param {Record<string, string>} words
 * @param {(files: File[]) => void} onFiles
 * @param {AbortSignal} signal  ends it
 */
function listenForFiles(target, words, onFiles, signal) {
  const over = make("div", "drop-here", words.messages_media_drop);
  over.hidden = true;
  target.append(over);
  signal.addEventListener("abort", () => over.remove());
  const hasFiles = (/** @type {DragEvent} */ { dataTransfer }) => dataTransfer?.types.includes("Files") ?? false;
  target.addEventListener("paste", (event) => {
    const data = event.clipboardData;
    // A copied table is in the clipboard as a picture, too.
    if (!data?.files.length || data.types.includes("text/plain")) return;
    event.preventDefault();
    onFiles([...data.files]);
  }, { signal });
  target.addEventListener("dragenter", (event) => { if (hasFiles(event)) over.hidden = false; }, { signal });
  target.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); }, { signal });
  target.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!(relatedTarget instanceof Node && target.contains(relatedTarget))) over.hidden = true;
  }, { signal });
  target.addEventListener("drop", (event) => {
    over.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    // A folder has neither size nor type.
    onFiles([...(event.dataTransfer?.files ?? [])].filter((file) => file.size || file.type));
  }, { signal });
}
