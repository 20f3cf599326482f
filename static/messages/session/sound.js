// @ts-check
/** The sound of a new message. */

/** Frequency, in Hz, and beginning of its two notes, in seconds. */
const NOTES = /** @type {const} */ ([[659.3, 0], [987.8, 0.09]]);
const NOTE_SECONDS = 0.35;
/** Of the loudest possible sound. */
const LOUDNESS = 0.12;
/** How long no page of this browser plays a second sound. */
const PAUSE_MS = 1_500;

/** @type {AudioContext | undefined} */
let context;

/**
 * Plays it, unless another page plays it already. Browsers play nothing before the user has clicked on the page.
 *
 * @returns {Promise<boolean>} whether it was played
 */
export async function playSound() {
  if (!navigator.userActivation?.hasBeenActive) return false;
  return new Promise((resolve) => {
    const play = async (/** @type {Lock | null} */ lock) => {
      if (!lock) return resolve(false); // another page plays it
      resolve(await ring());
      await new Promise((end) => setTimeout(end, PAUSE_MS)); // keeps the lock
    };
    if (navigator.locks) navigator.locks.request("imserver:sound", { ifAvailable: true }, play).catch(() => resolve(false));
    else ring().then(resolve); // without HTTPS, pages have no locks
  });
}

/** @returns {Promise<boolean>} whether the device has a sound */
async function ring() {
  try {
    context ??= new AudioContext();
    await context.resume();
    for (const [frequency, after] of NOTES) {
      const begin = context.currentTime + after;
      const tone = new OscillatorNode(context, { type: "sine", frequency });
      const volume = new GainNode(context, { gain: 0 });
      volume.gain.setValueAtTime(0, begin);
      volume.gain.linearRampToValueAtTime(LOUDNESS, begin + 0.01);
      volume.gain.exponentialRampToValueAtTime(0.0001, begin + NOTE_SECONDS);
      tone.connect(volume).connect(context.destination);
      tone.start(begin);
      tone.stop(begin + NOTE_SECONDS);
    }
    return true;
  } catch {
    return false; // the device has no sound
  }
}
