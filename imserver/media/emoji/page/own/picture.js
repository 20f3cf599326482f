// @ts-check
/** An own emoji as a picture. */

/** @typedef {{ name: string, url: string, width: number, height: number }} Emoji */

/** The path below which a proxy serves this server; empty: none. */
const ROOT = new URL(import.meta.url).pathname.replace(/\/(release\/\w+\/)?features\/.*$/, "");

/**
 * @param {any} page
 * @param {Emoji} emoji
 * @param {() => void} onError
 * @returns {HTMLElement}
 */
export function picture(page, { name, url, width, height }, onError) {
  const shown = page.make("img", "");
  Object.assign(shown, { alt: `:${name}:`, title: `:${name}:`, width, height, decoding: "async", loading: "lazy", draggable: false });
  shown.addEventListener("error", onError);
  shown.src = ROOT + url;
  return shown;
}
