// Which addresses of files the page loads.
import assert from "node:assert/strict";
import { it } from "node:test";

import { ownAddress } from "./static/messages/parts/file.js";
import { limitOver } from "./static/messages/media/preview.js";

it("loads files of this server only", () => {
  const server = "https://im.example";
  globalThis.location = /** @type {any} */ ({ href: `${server}/home/messages`, origin: server });
  for (const path of ["/api/v1/uploads/x1/thumbnail", "/static/favicon.svg?2"]) {
    assert.equal(ownAddress(path), server + path);
    assert.equal(ownAddress(server + path), server + path);
  }
  for (const address of [
    "https://evil.example/static/a.png", "//evil.example/static/a.png", "/connection/sse?cf_connect={}", "/static/../connection/sse",
    "/static/..%2Fconnection/sse", "/static\\..\\connection\\sse", "/api/v1/events?app=101", "/api/v1/uploads", "javascript:1", "", 1, undefined,
  ]) assert.equal(ownAddress(address), "", String(address));
});

it("knows the files that the server would refuse, by their kind", () => {
  const limits = { picture: 20, voice: 30, file: 100 };
  const over = (size, type) => limitOver({ size, type }, limits);
  assert.deepEqual([over(20, "image/png"), over(21, "image/png"), over(31, "audio/mpeg"), over(100, ""), over(101, "text/plain")], [0, 20, 30, 0, 100]);
  assert.deepEqual([over(99, "image/svg+xml"), over(1e9, "video/mp4"), limitOver({ size: 1e9, type: "" }, {})], [0, 0, 0]);
});
