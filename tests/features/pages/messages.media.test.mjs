// Which addresses of files the page loads.
import assert from "node:assert/strict";
import { it } from "node:test";

import { ownAddress } from "./static/messages/media/file.js";

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
