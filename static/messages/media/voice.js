// @ts-check
/** Voice messages: recording with a waveform, and playing at three speeds. */

import { fill, make } from "../../text.js";
import { button } from "../panel.js";
import { fileView, icon, ownAddress, timeText } from "./file.js";
import { pauseOthers } from "./video.js";

/** @typedef {import("./file.js").MediaData} MediaData */

/** @typedef {{ file: File, seconds: number, wave: number[] }} Recording */

const BARS = 64;
const LOUDEST = 31;
const SAMPLE_MS = 50;
const SHOWN_SAMPLES = 48;
const MOST_SECONDS = 600;
const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
const SPEEDS = [1, 1.5, 2];
const SPEED_KEY = "imserver:voice-speed";
const SVG = "http://www.w3.org/2000/svg";

// --- recording ------------------------------------------------------------------------------------------------

/** Whether this browser can record. It needs a secure origin. */
export function canRecord() {
  return "MediaRecorder" in globalThis && Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * Records until the user sends or cancels. Rejected with a DOMException if there is no microphone, or no permission.
 *
 * @param {HTMLElement} place  the bar with time, waveform and buttons is put at its end
 * @param {Record<string, string>} words
 * @param {AbortSignal} [signal]  cancels it
 * @returns {Promise<Recording | null>} null: cancelled
 */
export async function recordVoice(place, words, signal) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  try {
    return signal?.aborted ? null : await recordFrom(stream, place, words, signal);
  } finally {
    for (const track of stream.getTracks()) track.stop(); // else the browser shows that it still listens
  }
}

/**
 * @param {MediaStream} stream
 * @param {HTMLElement} place
 * @param {Record<string, string>} words
 * @param {AbortSignal} [signal]
 * @returns {Promise<Recording | null>}
 */
async function recordFrom(stream, place, words, signal) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const type = TYPES.find((each) => MediaRecorder.isTypeSupported(each));
  const recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
  /** @type {Blob[]} */
  const pieces = [];
  recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
  const ended = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));

  const time = make("span", "record-time", "0:00");
  const wave = make("span", "record-wave");
  const cancel = button("×", "round");
  cancel.setAttribute("aria-label", words.messages_cancel);
  const send = button(words.messages_media_send, "wide record-send");
  const dot = make("span", "record-dot");
  const bar = make("div", "record-bar", cancel, dot, time, wave, send);
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", words.messages_media_recording);
  place.append(bar);

  /** @type {number[]} */
  const samples = [];
  const buffer = new Float32Array(analyser.fftSize);
  const begun = performance.now();
  const measure = setInterval(() => {
    analyser.getFloatTimeDomainData(buffer);
    samples.push(Math.sqrt(buffer.reduce((sum, each) => sum + each * each, 0) / buffer.length));
    const seconds = (performance.now() - begun) / 1000;
    time.textContent = timeText(seconds);
    wave.replaceChildren(waveform(barsOf(samples.slice(-SHOWN_SAMPLES), SHOWN_SAMPLES, 0.25)));
    if (seconds > MOST_SECONDS) send.click();
  }, SAMPLE_MS);
  recorder.start(1_000);
  send.focus();
  const agreed = await new Promise((resolve) => {
    send.addEventListener("click", () => resolve(true));
    cancel.addEventListener("click", () => resolve(false));
    bar.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      resolve(false);
    });
    signal?.addEventListener("abort", () => resolve(false));
    recorder.addEventListener("error", () => resolve(false));
  });
  const seconds = Math.round((performance.now() - begun) / 100) / 10;
  clearInterval(measure);
  bar.remove();
  recorder.stop();
  await ended;
  await context.close();
  if (!agreed) return null;
  const blob = new Blob(pieces, { type: recorder.mimeType.split(";")[0] });
  const file = new File([blob], `voice.${blob.type.split("/")[1] ?? "webm"}`, { type: blob.type });
  return { file, seconds, wave: barsOf(samples, BARS) };
}

/**
 * Loudness as at most `count` numbers from 0 to 31. The loudest sample, or `least`, is 31.
 *
 * @param {number[]} samples
 * @param {number} count
 * @param {number} [least]
 * @returns {number[]}
 */
export function barsOf(samples, count, least = 0.02) {
  const bars = Math.min(count, samples.length);
  const loudest = samples.reduce((most, each) => Math.max(most, each), least);
  return Array.from({ length: bars }, (_, index) => {
    const part = samples.slice(Math.floor((index * samples.length) / bars), Math.floor(((index + 1) * samples.length) / bars));
    return Math.round((Math.max(...part) / loudest) * LOUDEST);
  });
}

/**
 * @param {number[]} bars
 * @returns {SVGElement}
 */
function waveform(bars) {
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

// --- playing --------------------------------------------------------------------------------------------------

/** The voice message that was played last. A new row of the same message goes on showing it. */
let last = { address: "", audio: /** @type {HTMLAudioElement | null} */ (null), shown: new AbortController() };
let chosenSpeed = 0;

/**
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
    time.textContent = timeText(at > 0 ? at : seconds || (audio ? length() : 0));
    const isPlaying = Boolean(audio && !audio.paused);
    play.replaceChildren(icon(isPlaying ? "pause" : "play"));
    play.setAttribute("aria-label", isPlaying ? words.messages_media_pause : words.messages_media_play);
    speed.textContent = `${speedNow()}×`;
    speed.setAttribute("aria-label", fill(words.messages_media_speed, { speed: speedNow() }));
  };
  const load = () => {
    if (audio) return audio;
    const isSame = last.address === address && last.audio;
    const each = isSame || new Audio(address);
    last.shown.abort();
    last = { address, audio: each, shown: new AbortController() };
    const { signal } = last.shown;
    signal.addEventListener("abort", () => {
      audio = null; // another row shows it
      show();
    });
    for (const event of ["timeupdate", "play", "pause", "durationchange", "seeked"]) each.addEventListener(event, show, { signal });
    each.addEventListener("ended", () => void (each.currentTime = 0), { signal });
    each.addEventListener("play", () => pauseOthers(each), { signal });
    each.addEventListener("error", () => made.replaceWith(fileView(data, words.messages_voice) ?? ""), { signal });
    audio = each;
    return each;
  };
  play.addEventListener("click", () => {
    const each = load();
    each.playbackRate = speedNow();
    if (each.paused) each.play().catch(() => {}); // the event `error` has the reason
    else each.pause();
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
