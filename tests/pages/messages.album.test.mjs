// Albums: what is in them, and how they are uploaded.
import assert from "node:assert/strict";
import { it } from "node:test";

import { albumSummary, captionSummary, partsOf } from "./static/messages/media/album.js";
import { uploadOf } from "./static/messages/session/upload.js";
import { sizeOf } from "./static/messages/parts/file.js";

const words = { messages_album_picture: "{count} picture|{count} pictures", messages_album_items: "{count} things" };
const entry = (type, data) => /** @type {any} */ ({ id: 7, kind: "message", from: "ann", type, data });

it("an album is named by what is in it, and none of its data is trusted", () => {
  const picture = { type: "picture", url: "/a" };
  assert.equal(albumSummary(entry("album", { items: [picture, picture] }), words), "2 pictures");
  assert.equal(albumSummary(entry("album", { items: [picture, { type: "video" }, null, 5] }), words), "2 things");
  assert.equal(albumSummary(entry("album", { items: Array.from({ length: 40 }, () => picture) }), words), "10 pictures");
  for (const data of [undefined, "x", { items: "xy" }, { items: [{ type: "constructor" }] }]) assert.match(albumSummary(entry("album", data), words), /^[01] things$/);
  assert.equal(captionSummary(entry("album", { caption: "the *hills*" })), "the hills");
  assert.equal(captionSummary(entry("picture", { caption: { length: 9 } })), "");
});

it("its parts are like messages of their own, without a caption", () => {
  const parts = partsOf(entry("album", { items: [{ type: "picture", url: "/a" }, { url: "/b" }], caption: "hills" }));
  assert.deepEqual(parts.map(({ id, type, data }) => [id, type, data.url]), [[7, "picture", "/a"], [7, "file", "/b"]]);
  assert.deepEqual(partsOf(entry("picture", { url: "/a", caption: "hill" })).map(({ data }) => data), [{ url: "/a", caption: "" }]);
});

/** A server for uploads: the names that were sent, and those that it refuses. */
function fakeServer(refused) {
  const created = [];
  globalThis.location = /** @type {any} */ ({ href: "https://im.example/home/messages" });
  globalThis.XMLHttpRequest = /** @type {any} */ (class {
    upload = {};
    headers = {};
    open(method, address) {
      Object.assign(this, { method, address });
    }
    setRequestHeader() {}
    getResponseHeader(name) {
      return this.headers[name];
    }
    abort() {}
    send(body) {
      const name = new URL(this.address, location.href).searchParams.get("name");
      this.status = 200;
      if (this.method === "POST") {
        created.push(name);
        this.headers.Location = `/tus/${name}?name=${name}`;
        if (refused.has(name)) Object.assign(this, { status: 415, responseText: '{"code":"kind_refused","message":"no"}' });
      } else if (this.method === "PATCH") this.headers["Upload-Offset"] = String(body.size);
      else this.responseText = JSON.stringify({ url: `/u/${name}`, name, bytes: 3, width: 4, height: 3, thumbnail: null });
      setImmediate(() => {
        this.onload();
        this.onloadend();
      });
    }
  });
  return created;
}

it("the files of an album are uploaded once each, also when one fails and the album is tried again", async () => {
  const refused = new Set(["b"]);
  const created = fakeServer(refused);
  const items = ["a", "b", "c"].map((name) => ({ content: new Blob(["xyz"]), options: { name }, more: { type: "picture" }, poster: null }));
  const unsent = /** @type {any} */ ({ items, more: { caption: "hills" } });
  assert.equal(sizeOf(unsent), 9);
  const upload = uploadOf(/** @type {any} */ ({ app: "1", token: "" }), unsent);
  const shares = [];
  let saves = 0;
  const saved = () => { saves += 1; };
  await assert.rejects(upload.start((share) => shares.push(share), saved), { code: "kind_refused" });
  assert.deepEqual([saves, sizeOf(unsent), shares.at(-1)], [2, 3, 6 / 9]);
  refused.clear();
  const again = uploadOf(/** @type {any} */ ({ app: "1", token: "" }), structuredClone({ ...unsent, items: unsent.items.map((each) => ({ ...each })) })); // as after a reload
  const { items: parts, caption } = await again.start(() => {}, saved);
  assert.deepEqual(parts.map(({ url, type }) => [url, type]), ["a", "b", "c"].map((name) => [`/u/${name}`, "picture"]));
  assert.deepEqual([caption, created.sort().join(""), saves], ["hills", "abbc", 3]);
});
