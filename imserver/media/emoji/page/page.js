// @ts-check
/** Own emoji of the app in texts, in reactions, and where one chooses. What knows them is loaded with the first name. */

/** Not within a time, as 10:30:45. */
const NAMES = /(?<!\d):([a-z\d][a-z\d_-]{1,29}):(?!\d)/;

/** @param {any} page */
export function start(page) {
  /** @type {any} */
  let session = null;
  /** @type {any} */
  let own = null;
  /** @type {Promise<any> | null} */
  let loading = null;
  /** Loads the emoji once for each login. */
  const load = (/** @type {any} */ current) => {
    if (session !== current) {
      session = current;
      own = null;
      loading = null;
    }
    loading ??= open(current).catch((error) => {
      loading = null; // the next name tries again
      throw error;
    });
    return loading;
  };
  const open = async (/** @type {any} */ current) => {
    const { openOwn } = await import("./own/own.js");
    own = await openOwn(page, current);
    return own;
  };
  page.addEmoji({
    draw: (/** @type {string} */ text, /** @type {any} */ current) => {
      const parts = text.split(NAMES);
      if (parts.length === 1) return text;
      const drawn = document.createDocumentFragment();
      drawn.append(...parts.map((part, index) => {
        if (index % 2 === 0) return part;
        const sign = page.make("span", "own-emoji", `:${part}:`);
        sign.dataset.ownEmoji = part;
        if (own && session === current) own.fill(sign);
        else load(current).then((opened) => opened.fill(sign), () => {}); // it stays a text
        return sign;
      }));
      return drawn;
    },
    load,
  });
  page.hear("ended", () => localStorage.removeItem("imserver:own-emoji"));
}
