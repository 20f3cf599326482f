// @ts-check
/** Voice messages: a waveform, and playing at three speeds. */

import { fill, make } from "../../text.js";
import { button } from "../parts/panel.js";
import { fileView, icon, ownAddress, timeText } from "../parts/file.js";

/** @typedef {import("../parts/file.js").MediaData} MediaData */

/** The most bars of a waveform. */
export const BARS = 64;
/** The height of the highest one. */
export const LOUDEST = 31;
const SPEEDS = [1, 1.5, 2];
const SPEED_KEY = "imserver:voice-speed";
const SVG = "http://www.w3.org/2000/svg";

/** Whether this browser can record. It needs a secure origin. */
export function canRecord() {
  return "MediaRecorder" in globalThis && Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * @param {number[]} bars  heights, from 0 to {@link LOUDEST}
 * @returns {SVGElement}
 */
export function waveform(bars) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${bars.length * 3} 32`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  const lines = document.createElementNS(SVG, "path");
  const parts = bars.map((bar, index) => {
    const half = Math.max(1, Math.min(LOUDEST, bar) / 2);
    return `M${index * 3 + 1.5} ${16 - half}V${16 + half}`;
  });
  lines.setAttribute("d", parts.join(""));
  picture.append(lines);
  return picture;
}

/** The voice message that was played last. A new row of the same message goes on showing it. */
let last = { address: "", audio: /** @type {HTMLAudioElement | null} */ (null), shown: new AbortController() };
/** 0: not read from the storage of the browser yet. */
let chosenSpeed = 0;

/**
 * A voice message: play and pause, a waveform in which the user seeks, and the speed.
 *
 * @param {MediaData} data
 * @param {Record<string, string>} words
 * @returns {HTMLElement | null}
 */
export function voiceView(data, words) {
  const address = ownAddress(data.url);
  if (!address && data.url !== undefined) return fileView(data, words.messages_voice);
  const { seconds = 0 } = data;
  const bars = data.wave?.length ? data.wave.slice(0, BARS) : Array.from({ length: 32 }, () => 4);
  const play = button("", "round voice-play");
  const time = make("span", "voice-time", timeText(seconds));
  const done = make("span", "voice-done", waveform(bars));
  const seek = /** @type {HTMLInputElement} */ (make("input", "voice-seek"));
  Object.assign(seek, { type: "range", min: "0", max: "1000", value: "0" });
  seek.setAttribute("aria-label", words.messages_media_seek);
  const speed = button("", "voice-speed");
  const made = make("div", "voice", play, make("span", "voice-wave", make("span", "voice-all", waveform(bars)), done, seek), time, speed);
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", `${words.messages_voice}, ${timeText(seconds)}`);

  /** @type {HTMLAudioElement | null} */
  let audio = null;
  const length = () => (audio && Number.isFinite(audio.duration) ? audio.duration : seconds) || 1;
  const show = () => {
    const at = audio?.currentTime ?? 0;
    const share = Math.min(1, at / length());
    done.style.clipPath = `inset(0 ${100 - share * 100}% 0 0)`;
    if (document.activeElement !== seek || !audio?.paused) seek.value = String(Math.round(share * 1000));
    const total = seconds || (audio ? length() : 0);
    time.textContent = timeText(at > 0 ? at : total);
    const isPlaying = Boolean(audio && !audio.paused);
    play.replaceChildren(icon(isPlaying ? "pause" : "play"));
    play.setAttribute("aria-label", isPlaying ? words.messages_media_pause : words.messages_media_play);
    speed.textContent = `${speedNow()}×`;
    speed.setAttribute("aria-label", fill(words.messages_media_speed, { speed: speedNow() }));
  };
  const load = () => {
    if (audio) return audio;
    const known = last.address === address && last.audio;
    const sound = known || new Audio(address);
    last.shown.abort();
    last = { address, audio: sound, shown: new AbortController() };
    const { signal } = last.shown;
    signal.addEventListener("abort", () => {
      // Another row shows it.
      audio = null;
      show();
    });
    for (const event of ["timeupdate", "play", "pause", "durationchange", "seeked"]) sound.addEventListener(event, show, { signal });
    sound.addEventListener("ended", () => { sound.currentTime = 0; }, { signal });
    sound.addEventListener("play", () => pauseOthers(sound), { signal });
    sound.addEventListener("error", () => made.replaceWith(fileView(data, words.messages_voice) ?? ""), { signal });
    audio = sound;
    return sound;
  };
  play.addEventListener("click", () => {
    const sound = load();
    sound.playbackRate = speedNow();
    // The event `error` has the reason of a failure.
    if (sound.paused) sound.play().catch(() => {});
    else sound.pause();
  });
  seek.addEventListener("input", () => {
    load().currentTime = (Number(seek.value) / 1000) * length();
  });
  speed.addEventListener("click", () => {
    setSpeed(SPEEDS[(SPEEDS.indexOf(speedNow()) + 1) % SPEEDS.length]);
    if (audio) audio.playbackRate = speedNow();
    show();
  });
  play.disabled = seek.disabled = !address;
  if (address && last.address === address) load();
  show();
  return made;
}

/** @returns {number} the speed that the user chose last */
function speedNow() {
  if (!chosenSpeed) {
    try {
      chosenSpeed = Number(localStorage.getItem(SPEED_KEY));
    } catch {
      // the browser stores nothing
    }
    if (!SPEEDS.includes(chosenSpeed)) chosenSpeed = 1;
  }
  return chosenSpeed;
}

/** @param {number} speed */
function setSpeed(speed) {
  chosenSpeed = speed;
  try {
    localStorage.setItem(SPEED_KEY, String(speed));
  } catch {
    // the browser stores nothing
  }
}

/** Only one video or voice message plays at a time. @type {HTMLMediaElement | null} */
let playing = null;

/** @param {HTMLMediaElement} next  begins to play now */
export function pauseOthers(next) {
  if (playing && playing !== next) playing.pause();
  playing = next;
}
