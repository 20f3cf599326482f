// @ts-check
/** The sound of a new message. */

/** Frequency and beginning of its two notes. */
const NOTES = /** @type {const} */ ([[659.3, 0], [987.8, 0.09]]);
const NOTE_SECONDS = 0.35;
const LOUDNESS = 0.12;
/** There is no second sound so soon, whatever page of this browser made the first. */
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
      resolve(lock !== null && (await ring()));
      if (lock) await new Promise((done) => setTimeout(done, PAUSE_MS));
    };
    if (navigator.locks) navigator.locks.request("imserver:sound", { ifAvailable: true }, play).catch(() => resolve(false));
    else ring().then(resolve); // the page came without https
  });
}

/** @returns {Promise<boolean>} */
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
