// @ts-check
/** Messages with videos. They play while they load: the browser asks for ranges of the file. */

import { make } from "../../text.js";
import { fileIcon, fileView, ownAddress, reserve, timeText } from "./file.js";

/** @typedef {import("./file.js").MediaData} MediaData */

/**
 * @param {MediaData} data
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}
 */
export function videoView(data, words) {
  const address = ownAddress(data.url);
  if (!address) return data.url === undefined ? waiting(data) : fileView(data, words.messages_video);
  const video = /** @type {HTMLVideoElement} */ (make("video", "media-video"));
  video.controls = true;
  video.playsInline = true;
  const poster = ownAddress(data.thumbnail);
  video.preload = poster ? "none" : "metadata";
  if (poster) video.poster = poster;
  video.setAttribute("aria-label", [words.messages_video, data.name, data.seconds ? timeText(data.seconds) : ""].filter(Boolean).join(", "));
  reserve(video, data);
  video.addEventListener("error", () => video.replaceWith(fileView(data, words.messages_video) ?? ""));
  video.addEventListener("play", () => pauseOthers(video));
  video.src = address;
  return video;
}

/** @param {MediaData} data */
function waiting(data) {
  const box = make("span", "media-waiting", data.preview ?? fileIcon(data.name ?? ""));
  reserve(box, data);
  return box;
}

/** Only one video or voice message plays at a time. @type {HTMLMediaElement | null} */
let playing = null;

/** @param {HTMLMediaElement} next */
export function pauseOthers(next) {
  if (playing && playing !== next) playing.pause();
  playing = next;
}
