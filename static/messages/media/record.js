// @ts-check
/** The recording of a voice message, with a waveform. Loaded when it is needed. */

import { make } from "../../text.js";
import { button } from "../parts/panel.js";
import { timeText } from "../parts/file.js";
import "../session/upload.js"; // what is recorded needs it, perhaps when there is no connection
import { BARS, LOUDEST, waveform } from "./voice.js";

/** @typedef {{ file: File, seconds: number, wave: number[] }} Recording */

const SAMPLE_MS = 50;
/** The waveform shows so many of the last samples while it records. */
const SHOWN_SAMPLES = 48;
/** A recording is sent when it is so long. */
const MOST_SECONDS = 600;
/** The browser hands over pieces of the recording so often. */
const PIECE_MS = 1_000;
/** While it records, a sample of this loudness has the highest bar, unless one is louder. So silence stays low. */
const LEAST_WHILE_RECORDING = 0.25;
/** The formats of a recording: the first one that the browser supports is used. */
const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];

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
 * Records a stream, and shows the bar meanwhile.
 *
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
    const power = buffer.reduce((sum, each) => sum + each * each, 0) / buffer.length;
    samples.push(Math.sqrt(power));
    const seconds = (performance.now() - begun) / 1000;
    time.textContent = timeText(seconds);
    wave.replaceChildren(waveform(barsOf(samples.slice(-SHOWN_SAMPLES), SHOWN_SAMPLES, LEAST_WHILE_RECORDING)));
    if (seconds > MOST_SECONDS) send.click();
  }, SAMPLE_MS);
  recorder.start(PIECE_MS);
  send.focus();
  const isAgreed = await new Promise((resolve) => {
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
  if (!isAgreed) return null;
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
    const start = Math.floor((index * samples.length) / bars);
    const end = Math.floor(((index + 1) * samples.length) / bars);
    const part = samples.slice(start, end);
    return Math.round((Math.max(...part) / loudest) * LOUDEST);
  });
}
