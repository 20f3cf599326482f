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

/** @returns {HTMLElement} */
function panel() {
  const { api, words, make, button } = page;
  const state = make("p", "muted");
  state.setAttribute("role", "status");
  const begin = button(words.exports_start);
  begin.dataset.key = "export";
  const fetchIt = button(words.exports_download);
  fetchIt.hidden = true;
  const body = make("div", "", make("p", "muted", words.exports_what), state, make("p", "panel-buttons", begin, fetchIt));
  /** @type {any} */
  let latest = null;

  /** @param {any} shown  an export, or that there is none */
  function draw(shown) {
    latest = shown;
    begin.disabled = shown.state === "under way";
    fetchIt.hidden = shown.state !== "done";
    if (shown.state === "none") return;
    if (shown.state === "failed") state.textContent = words.exports_failed;
    else if (shown.state === "done") state.textContent = page.fill(words.exports_done, { size: sizeOf(shown.bytes), until: new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" }).format(shown.ends * 1000) });
    else state.textContent = page.fill(words.exports_under_way, { records: shown.records });
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
  fetchIt.addEventListener("click", async () => {
    fetchIt.disabled = true;
    try {
      await page.download("exports/file/self", { id: latest.id }, "export.zip");
    } catch (error) {
      page.toast(page.reason(error));
    } finally {
      fetchIt.disabled = false;
    }
  });
  api("GET", "exports/show/self", {}).then(draw, () => {}); // what fails here is said when an export is started
  return body;
}

/**
 * @param {number} bytes
 * @returns {string}
 */
function sizeOf(bytes) {
  return bytes < 1_000_000 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}
