// @ts-check
/**
 * A chat in any page: a button with the number of unread messages, which opens a conversation.
 *
 *     <script src="https://chat.example.org/static/embed.js" data-app="default" data-to="support" data-session="/session" defer></script>
 *
 * `data-session`: an address of the page's own server, which answers with the JSON `{"user": …, "token": …}`, a session token. It is asked
 * again when the token has expired. `data-to`: the user to whom the messages go; `data-conversation`: the id of a conversation; without
 * both, all conversations. `data-app`: the app. `data-label`: the name of the button. `data-lang`: the language; else that of the page.
 * `data-badge="no"`: the chat is loaded when somebody opens it, and the button has no number. Else it is loaded when the page has been, and has
 * nothing to do.
 *
 * `imserverChat.open()`, `imserverChat.close()`: the page itself may open and close the chat. The event `imserver-unread` of the window has the
 * number of unread messages as `detail`.
 *
 * This is no module: it reads its own element. It writes no inline styles and no inline scripts, so the Content-Security-Policy of the page
 * only needs the chat's origin in `script-src` and `frame-src`.
 */
{
  const script = document.currentScript;
  if (!(script instanceof HTMLScriptElement)) throw new Error("embed.js is no module: use <script src=…>");
  const { app = "", to = "", conversation = "", session = "", label = "Chat", badge: badgeWish = "" } = script.dataset;
  const { lang = document.documentElement.lang.split("-")[0] } = script.dataset;
  const server = new URL("..", script.src);

  const RETRY_MS = 5_000;
  /** The chat is loaded within this time after the page, also while the page is busy. */
  const IDLE_MS = 5_000;
  /** A frame that has not spoken in this time after it was loaded is refused by a policy. */
  const SILENT_MS = 10_000;
  const MOST_SHOWN = 99;
  const BUBBLE = "M4 5h16v11H9l-5 4z";
  const CROSS = "M6 6l12 12M18 6L6 18";
  /** The server puts the colour of the chat in its place. */
  const COLOUR = "#1d6b57";
  const STYLES = `
    :host { all: initial; position: fixed; z-index: 2147483000; inset: auto 1rem 1rem auto; font: 16px/1.4 system-ui, sans-serif; color-scheme: light dark; }
    :host([dir=rtl]) { inset: auto auto 1rem 1rem; }
    button { position: relative; float: inline-end; width: 3.5rem; height: 3.5rem; border: 0; border-radius: 50%; background: ${COLOUR}; color: #fff; cursor: pointer; box-shadow: 0 .25rem 1rem #0004; }
    button:focus-visible { outline: 3px solid ${COLOUR}; outline-offset: 3px; }
    svg { width: 1.6rem; height: 1.6rem; fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; vertical-align: middle; }
    b { position: absolute; inset: -.25rem -.25rem auto auto; min-width: 1.3rem; padding: 0 .3rem; box-sizing: border-box; border-radius: 1rem; background: #b5382a; color: #fff; font-size: .8rem; line-height: 1.3rem; }
    b:empty { display: none; }
    iframe { display: block; width: min(24rem, calc(100vw - 2rem)); height: min(38rem, calc(100vh - 6.5rem)); margin-bottom: .75rem; border: 0; border-radius: .75rem; box-shadow: 0 .5rem 2rem #0005; }
    iframe.closed { position: absolute; visibility: hidden; pointer-events: none; }
    @media (width < 30rem) { iframe { position: fixed; inset: 0 0 5rem; width: 100vw; height: calc(100dvh - 5rem); margin: 0; border-radius: 0; } }`;

  const host = document.createElement("imserver-chat");
  host.dir = getComputedStyle(document.documentElement).direction;
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLES);
  root.adoptedStyleSheets = [sheet];

  const frame = document.createElement("iframe");
  frame.className = "closed";
  frame.title = label;
  frame.allow = "clipboard-write; microphone; fullscreen";
  const query = new URLSearchParams({ ...(app && { appID: app }), ...(lang && { lang }) });
  const load = () => {
    if (frame.src) return;
    frame.src = `${server}home/embed?${query}`;
    frame.addEventListener("load", () => setTimeout(warnIfSilent, SILENT_MS), { once: true });
  };
  const warnIfSilent = () => {
    if (isLoaded) return;
    const origins = `List ${location.origin} in the origins of the app`;
    const policy = `${server.origin} in frame-src of this page's Content-Security-Policy`;
    console.warn(`imserver: the chat does not answer. ${origins}, and ${policy}.`);
  };

  const badge = document.createElement("b");
  const button = document.createElement("button");
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.setAttribute("aria-expanded", "false");
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", BUBBLE);
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  icon.append(path);
  button.append(icon, badge);
  root.append(frame, button);

  let isOpen = false;
  let isLoaded = false;

  /** @param {object} message */
  const tell = (message) => {
    if (isLoaded) frame.contentWindow?.postMessage(message, server.origin);
  };

  /** @param {boolean} open */
  const show = (open) => {
    if (open === isOpen) return;
    isOpen = open;
    load();
    frame.classList.toggle("closed", !open);
    button.setAttribute("aria-expanded", String(open));
    path.setAttribute("d", open ? CROSS : BUBBLE);
    tell({ kind: open ? "open" : "hide" });
    if (open) frame.focus();
    else button.focus();
  };

  /** @param {number} count */
  const badgeText = (count) => {
    if (count > MOST_SHOWN) return `${MOST_SHOWN}+`;
    return count ? String(count) : "";
  };

  /** Asks the page's own server for a session token, until it answers, and hands that to the frame. */
  const logIn = async () => {
    try {
      const answer = await fetch(session, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(`${session} answered ${answer.status}`);
      const { user, token } = await answer.json();
      tell({ kind: "login", user, token, to, conversation });
    } catch (error) {
      console.warn("imserver:", error);
      setTimeout(logIn, RETRY_MS);
    }
  };

  addEventListener("message", ({ source, origin, data }) => {
    if (source !== frame.contentWindow || origin !== server.origin || !data?.imserver) return;
    const { kind, count = 0, label: unread = "" } = data.imserver;
    if (kind === "login") {
      isLoaded = true;
      logIn();
      if (isOpen) tell({ kind: "open" });
    } else if (kind === "close") show(false);
    else if (kind === "unread") {
      badge.textContent = badgeText(count);
      button.setAttribute("aria-label", unread ? `${label}, ${unread}` : label);
      dispatchEvent(new CustomEvent("imserver-unread", { detail: count }));
    }
  });
  button.addEventListener("click", () => show(!isOpen));

  Object.assign(window, { imserverChat: { open: () => show(true), close: () => show(false) } });
  if (document.body) document.body.append(host);
  else addEventListener("DOMContentLoaded", () => document.body.append(host));
  if (badgeWish !== "no") {
    const loadSoon = () => {
      if ("requestIdleCallback" in window) requestIdleCallback(load, { timeout: IDLE_MS });
      else setTimeout(load); // Safari
    };
    if (document.readyState === "complete") loadSoon();
    else addEventListener("load", loadSoon);
  }
}
