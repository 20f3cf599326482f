// @ts-check
/** Exports of the user's own data, in the settings of the messages page. */

const LOOK_MS = 1_000;

/** @type {any} */
let page;

/** @param {any} additions */
export function start(additions) {
  page = additions;
  page.addSettings(() => ({ title: page.words.exports_title, content: panel() }));
}

/** @returns {HTMLElement} how far the last export is, with buttons that start one and download it */
function panel() {
  const { api, words, make, button } = page;
  const state = make("p", "muted");
  state.setAttribute("role", "status");
  const begin = button(words.exports_start);
  begin.dataset.key = "export";
  const download = button(words.exports_download);
  download.hidden = true;
  const body = make("div", "", make("p", "muted", words.exports_what), state, make("p", "panel-buttons", begin, download));
  /** @type {any} */
  let latest = null;

  /** @param {any} shown  an export, or that there is none */
  function draw(shown) {
    latest = shown;
    begin.disabled = shown.state === "under way";
    download.hidden = shown.state !== "done";
    if (shown.state === "none") return;
    state.textContent = textFor(shown);
    if (shown.state === "under way") setTimeout(look, LOOK_MS, shown.id);
  }

  /** @param {string} id */
  async function look(id) {
    if (!body.isConnected) return; // it looks again when the settings are opened
    try {
      draw(await api("GET", "exports/show/self", { id }));
    } catch (error) {
      state.textContent = page.reason(error);
      begin.disabled = false;
    }
  }

  begin.addEventListener("click", async () => {
    begin.disabled = true;
    try {
      draw(await api("POST", "exports/start/self", {}));
    } catch (error) {
      begin.disabled = false;
      page.toast(page.reason(error));
    }
  });
  download.addEventListener("click", async () => {
    download.disabled = true;
    try {
      await page.download("exports/file/self", { id: latest.id }, "export.zip");
    } catch (error) {
      page.toast(page.reason(error));
    } finally {
      download.disabled = false;
    }
  });
  api("GET", "exports/show/self", {}).then(draw, () => {}); // what fails here is said when an export is started
  return body;
}

/** @param {any} shown  an export @returns {string} how far it is */
function textFor({ state, bytes, ends, records }) {
  const { fill, words } = page;
  if (state === "failed") return words.exports_failed;
  if (state !== "done") return fill(words.exports_under_way, { records });
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
  return fill(words.exports_done, { size: sizeOf(bytes), until: format.format(ends * 1000) });
}

/**
 * @param {number} bytes
 * @returns {string}
 */
function sizeOf(bytes) {
  return bytes < 1_000_000 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}
