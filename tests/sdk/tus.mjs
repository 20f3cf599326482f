/** Uploads files with tus-js-client, one after another; prints what the server says about each. */

import { createHash } from "node:crypto";
import { createRequire } from "node:module";

const { Upload } = createRequire(new URL("../../sdk/package.json", import.meta.url))("tus-js-client");

const { url, sizes, piece } = JSON.parse(process.env.TUS);

for (const size of sizes) {
  const content = Buffer.alloc(size, `${size} bytes of a file. `);
  const file = await upload(content);
  const sha256 = createHash("sha256").update(content).digest("hex");
  console.log(JSON.stringify({ sent: sha256, file }));
}

/** @param {Buffer} content */
function upload(content) {
  return new Promise((resolve, reject) => {
    const begun = new Upload(content, {
      endpoint: url,
      chunkSize: piece,
      metadata: { filename: `${content.length}.bin` },
      retryDelays: Array.from({ length: 400 }, () => 100),
      onError: reject,
      onSuccess: () => resolve(described(begun.url)),
    });
    begun.start();
  });
}

/** @param {string} address  of the upload */
async function described(address) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const answer = await fetch(address);
      return await answer.json();
    } catch (error) {
      if (attempt > 100) throw error;
    }
  }
}
