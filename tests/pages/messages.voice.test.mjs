// Recording a voice message.
import assert from "node:assert/strict";
import { it } from "node:test";

import { recordVoice } from "./static/messages/media/record.js";

/** A microphone of which a test sees whether it is on. */
function microphone() {
  const tracks = [{ isOn: true, stop() { this.isOn = false; } }];
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { mediaDevices: { getUserMedia: async () => ({ getTracks: () => tracks }) } } });
  return tracks[0];
}

it("the microphone is off after a failure to record", async () => {
  const track = microphone();
  globalThis.AudioContext = /** @type {any} */ (class {
    constructor() {
      throw new Error("too many contexts");
    }
  });
  await assert.rejects(recordVoice(/** @type {any} */ ({}), {}), /too many/);
  assert.equal(track.isOn, false);
});

it("the microphone is off if the conversation was left before it was allowed", async () => {
  const track = microphone();
  assert.equal(await recordVoice(/** @type {any} */ ({}), {}, AbortSignal.abort()), null);
  assert.equal(track.isOn, false);
});
