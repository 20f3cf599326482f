// @ts-check
/** The page of messages that are kept: puts the parts together. */

import { ImError } from "../sdk/imserver.js";
import { Messenger } from "../sdk/messenger.js";
import { Account, Fault } from "./account.js";
import { websocketUrl } from "./address.js";
import { Composer } from "./composer.js";
import { ConnectionView } from "./connection.js";
import { Correspondence } from "./correspondence.js";
import { ChatLog } from "./log.js";
import { mediaOf } from "./media.js";
import { avatar, cut, element, fill, make, pageData } from "./text.js";

/**
 * @typedef {object} Page  what the server put into the page
 * @property {string} app
 * @property {string} websocketUrl
 * @property {string} seenHost
 * @property {string} language
 * @property {Record<string, string>} text
 */

/** @typedef {import("../sdk/messenger.js").Entry} Entry */
/** @typedef {import("./correspondence.js").Talk} Talk */
/** @typedef {import("./sitting.js").Entry & { stored?: Entry }} Line */

const TYPING_EACH_MS = 3_000;
const TYPING_SHOWN_MS = 5_000;
const PREVIEW = 80;
const MAX_LINES = 5_000;
const PASS_TROUBLE = new Set([1003, 4502, 4504]); // 4502: whoever logs out everywhere ends this session, too
/** The kinds of what is no text: what shows it. */
const MEDIA = new Map([["picture", "image"], ["video", "video"], ["voice", "voice"]]);

const page = /** @type {Page} */ (pageData());
const words = page.text;
const title = document.title;
const account = new Account(page.app, localTab());
const parts = {
  list: element("talks", HTMLElement),
  none: element("talks-note", HTMLElement),
  older: element("talks-more", HTMLButtonElement),
  name: element("talk-name", HTMLElement),
  typing: element("typing", HTMLElement),
  quiet: element("quiet-room", HTMLElement),
  composer: element("composer", HTMLElement),
  field: element("message", HTMLTextAreaElement),
};
const seen = make("p", "seen");
seen.setAttribute("role", "status");
parts.composer.before(seen);
const earlier = make("button", "quiet earlier", words.messages_earlier);
earlier.setAttribute("type", "button");

/** @type {Messenger | null} */
let messenger = null;
let correspondence = new Correspondence(/** @type {any} */ (null));
/** @type {Talk | null} */
let open = null;
/** Which entries of the open conversation the log shows. */
let drawn = new Set();
/** The conversations could not be read. */
let unlisted = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let typingTimer;
let typedAt = 0;

const log = new ChatLog(
  element("log", HTMLElement), element("latest", HTMLButtonElement), element("latest-text", HTMLElement), words, page.language,
  {
    nameOf: ({ from }) => account.nameOf(from),
    faceOf: ({ from }) => account.nameOf(from),
    contentOf: ({ type = "text", text }) => mediaOf(type, text, words),
    actionOf: (line) => recallButton(/** @type {Line} */ (line)),
    maxLines: MAX_LINES,
  },
);
const view = new ConnectionView(words, { retry: () => messenger?.retryNow(), enterAgain: () => location.reload() });
const composer = new Composer(
  send, () => messenger?.state.state === "online" && open !== null, words, () => (open?.group ? String(open.id) : `@${open?.peer}`),
);

// --- the door -------------------------------------------------------------------------------------------------

const door = {
  form: element("door-form", HTMLFormElement),
  phone: element("phone", HTMLInputElement),
  password: element("password", HTMLInputElement),
  nickname: element("nickname", HTMLInputElement),
  go: element("door-go", HTMLButtonElement),
  other: element("door-switch", HTMLButtonElement),
};

/** @param {boolean} registering */
function offer(registering) {
  door.form.dataset.mode = registering ? "register" : "login";
  const what = registering ? words.messages_register : words.messages_login;
  element("door-title", HTMLElement).textContent = what;
  door.go.textContent = what;
  door.other.textContent = registering ? words.messages_to_login : words.messages_to_register;
  element("nickname-label", HTMLElement).hidden = !registering;
  element("password-hint", HTMLElement).hidden = !registering;
  door.password.autocomplete = registering ? "new-password" : "current-password";
  note("door-note", "");
}

door.other.addEventListener("click", () => offer(door.form.dataset.mode === "login"));
door.form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const [phone, password, nickname] = [door.phone.value.trim(), door.password.value, door.nickname.value.trim()];
  note("door-note", "");
  door.go.disabled = true;
  try {
    if (door.form.dataset.mode === "register") await account.register(phone, password, nickname);
    else await account.login(phone, password);
    door.password.value = "";
    enter();
  } catch (error) {
    note("door-note", reasonOf(error));
    door.password.focus();
  }
  door.go.disabled = false;
});

/** @param {string} why */
function leave(why) {
  messenger?.close();
  messenger = null;
  correspondence = new Correspondence(/** @type {any} */ (null));
  open = null;
  document.title = title;
  go("door");
  note("door-note", why);
  door.phone.focus();
}

element("leave", HTMLButtonElement).addEventListener("click", () => {
  account.leave();
  leave("");
});

// --- being inside ---------------------------------------------------------------------------------------------

function enter() {
  if (!account.pass) return leave("");
  const here = new Messenger({
    url: websocketUrl(page, "/acc"),
    app: page.app,
    user: account.user,
    token: account.pass.token,
    device: `web-${Math.random().toString(36).slice(2, 10)}`, // each tab is a device of its own
    cursor: null, // the past is read as it is looked at
  });
  messenger = here;
  correspondence = new Correspondence(here);
  here.on("state", (change) => here === messenger && follow(change));
  here.on("entry", (entry) => here === messenger && take(entry));
  here.on("anew", () => here === messenger && begin());
  here.on("typing", (signal) => here === messenger && showTyping(signal));
  here.on("receipt", (receipt) => here === messenger && takeReceipt(receipt));
  element("me-name", HTMLElement).textContent = account.pass.nickname || account.user;
  element("me-number", HTMLElement).textContent = account.user;
  const face = avatar(account.pass.nickname || account.user);
  face.id = "me-avatar";
  element("me-avatar", HTMLElement).replaceWith(face);
  go("list");
  show(null);
  here.connect().catch(() => {}); // follow() shows why
  begin();
}

/** @param {import("../sdk/imserver.js").StateChange} change */
function follow(change) {
  if (change.state === "refused" && PASS_TROUBLE.has(change.code)) {
    account.forget();
    return leave(words.messages_expired);
  }
  view.show(change);
  composer.refresh();
  if (change.state === "online" && unlisted) begin();
}

/** Reads the conversations, at the beginning or when what is known is void. */
async function begin() {
  const here = messenger;
  unlisted = false;
  correspondence.talks.clear();
  try {
    await correspondence.load();
    await meetAll();
    draw();
    parts.none.textContent = words.messages_none;
    const again = open?.id ? correspondence.talks.get(open.id) : null;
    if (again) show(again);
  } catch (error) {
    if (here !== messenger || !here) return;
    unlisted = true;
    parts.none.textContent = reasonOf(error);
  }
}

parts.older.addEventListener("click", async () => {
  await correspondence.load(true).catch(() => {});
  await meetAll();
  draw();
});

async function meetAll() {
  await account.meet(correspondence.listed.map(({ peer }) => peer));
}

/** @param {Entry} entry */
async function take(entry) {
  const known = correspondence.talks.has(entry.conversation);
  const talk = correspondence.take(entry);
  if (open && !open.id && !talk.group && open.peer === talk.peer) return show(talk); // it has begun
  await account.meet([talk.peer, ...usersIn([entry, ...(talk === open ? undrawn(talk) : [])])]);
  if ((!known && talk.group) || entry.kind === "group") await correspondence.load().catch(() => {});
  if (talk === open) {
    parts.typing.textContent = "";
    drawNew(talk, entry.kind === "edit" || entry.kind === "recall");
    parts.quiet.hidden = true;
    read();
  } else if (entry.kind === "message" && entry.from !== account.user) {
    messenger?.received(entry.conversation, entry.id).catch(() => {});
  }
  draw();
}

/** We see the end of the open conversation. */
function read() {
  if (!open?.id || document.hidden || !open.unread) return;
  open.unread = 0;
  messenger?.read(open.id, open.place).catch(() => {});
}

/** @param {{ from: string, conversation: number, read?: number, received?: number }} receipt */
function takeReceipt({ from, conversation, read = 0, received = 0 }) {
  const talk = correspondence.talks.get(conversation);
  if (!talk || talk.peer !== from) {
    if (talk && from === account.user && read >= talk.place) talk.unread = 0; // on another device of ours
    return draw();
  }
  talk.read = Math.max(talk.read, read);
  talk.received = Math.max(talk.received, read, received);
  drawSeen();
}

/** @param {{ from: string, conversation?: number }} signal */
function showTyping({ from, conversation }) {
  if (!open || (conversation ? conversation !== open.id : from !== open.peer)) return;
  parts.typing.textContent = fill(words.messages_typing, { name: account.nameOf(from) });
  clearTimeout(typingTimer);
  typingTimer = setTimeout(() => void (parts.typing.textContent = ""), TYPING_SHOWN_MS);
}

// --- a conversation -------------------------------------------------------------------------------------------

/** @param {Talk | null} talk */
async function show(talk) {
  open = talk;
  parts.composer.hidden = !talk;
  parts.typing.textContent = "";
  parts.name.textContent = talk ? nameOf(talk) : words.messages_title;
  log.show([]);
  drawn.clear();
  element("quiet-title", HTMLElement).textContent = talk ? words.messages_empty : words.messages_choose;
  element("quiet-hint", HTMLElement).textContent = words.messages_choose_hint;
  parts.quiet.hidden = Boolean(talk?.last);
  if (talk) {
    go("talk");
    try {
      await correspondence.open(talk);
      await account.meet(usersIn(talk.entries ?? []));
    } catch (error) {
      if (talk === open) note("note", reasonOf(error));
    }
    if (talk !== open) return;
    drawAll(talk);
    read();
    if (matchMedia("(hover: hover)").matches) composer.focus(); // on a phone this would open the keyboard
  }
  composer.refresh();
  draw();
}

/**
 * @param {Talk} talk
 * @param {boolean} [stay]  what is seen stays where it is
 */
function drawAll(talk, stay = false) {
  log.show(lines(talk), stay);
  drawn = new Set(talk.entries?.map(({ id }) => id));
  if (talk.more) log.root.prepend(earlier);
}

/**
 * Shows what is not shown yet: behind what is, or among it if it came late.
 *
 * @param {Talk} talk
 * @param {boolean} changed  what is shown says something else now
 */
function drawNew(talk, changed) {
  const fresh = undrawn(talk);
  if (!talk.entries || (!fresh.length && !changed)) return;
  if (changed || fresh[0] !== talk.entries.at(-fresh.length)) return drawAll(talk, true);
  lines(talk, fresh).forEach((line) => log.add(line));
  fresh.forEach(({ id }) => drawn.add(id));
}

/** @param {Talk} talk */
function undrawn(talk) {
  return (talk.entries ?? []).filter(({ id }) => !drawn.has(id));
}

/** @param {Entry[]} entries */
function usersIn(entries) {
  return entries.flatMap(({ from, meta }) => [from, ...(meta?.users ?? [])]);
}

earlier.addEventListener("click", async () => {
  const talk = open;
  if (!talk) return;
  try {
    await correspondence.earlier(talk);
    await account.meet(usersIn(talk.entries ?? []));
  } catch {
    return; // the button is still there
  }
  if (talk === open) drawAll(talk, true);
});

/**
 * @param {string} text
 * @param {string} id
 */
async function send(text, id) {
  const talk = open;
  if (!talk || !messenger) return;
  const sent = talk.id
    ? await messenger.send("", text, { conversation: talk.id, clientMsgID: id })
    : await messenger.send(talk.peer, text, { clientMsgID: id });
  typedAt = 0;
  const to = talk.group ? undefined : talk.peer;
  await take({ ...sent, kind: "message", from: account.user, to, type: "text", text, time: Date.now() });
}

parts.field.addEventListener("input", () => {
  if (!open || !messenger || !parts.field.value || Date.now() - typedAt < TYPING_EACH_MS) return;
  typedAt = Date.now();
  if (open.group) messenger.typing({ conversation: open.id });
  else messenger.typing({ to: open.peer });
});

/**
 * What was said, as lines of the log; each day begins with its date.
 *
 * @param {Talk} talk
 * @param {Entry[]} [entries]  those that come behind what is shown; default: all
 * @returns {Line[]}
 */
function lines(talk, entries) {
  const all = talk.entries ?? [];
  const first = entries ? all.length - entries.length : 0;
  let day = first > 0 ? dayOf(all[first - 1].time) : "";
  /** @type {Line[]} */
  const made = [];
  for (const entry of entries ?? all) {
    const today = dayOf(entry.time);
    if (today !== day) made.push({ kind: "note", from: "", text: today, at: entry.time });
    day = today;
    made.push(lineOf(entry));
  }
  return made;
}

/**
 * @param {Entry} entry
 * @returns {Line}
 */
function lineOf(entry) {
  const own = entry.from === account.user;
  if (entry.kind !== "message") return { kind: "note", from: "", text: happened(entry), at: entry.time };
  const media = MEDIA.get(entry.type ?? "");
  const url = media && entry.data?.url;
  const line = { kind: /** @type {"own" | "msg"} */ (own ? "own" : "msg"), from: entry.from, at: entry.time, id: String(entry.id), stored: entry };
  if (media && typeof url === "string") return { ...line, text: url, type: media };
  return { ...line, text: textOf(entry) };
}

/** @param {Entry} entry */
function textOf(entry) {
  const text = entry.text ?? words[`messages_${entry.type}`] ?? words.messages_custom;
  return /** @type {any} */ (entry.meta)?.edited ? fill(words.messages_edited, { text }) : text;
}

/** @param {Entry} entry */
function happened(entry) {
  const names = (entry.meta?.users ?? [entry.from]).map((user) => account.nameOf(user)).join(", ");
  if (entry.kind === "recall") {
    return entry.from === account.user ? words.messages_recalled_own : fill(words.messages_recalled, { name: account.nameOf(entry.from) });
  }
  if (entry.kind === "join") return fill(words.messages_joined, { names });
  if (entry.kind === "leave") return fill(words.messages_left, { names });
  return words.messages_group_changed;
}

/**
 * @param {Line} line
 * @returns {HTMLElement | null}
 */
function recallButton({ kind, stored }) {
  if (kind !== "own" || !stored) return null;
  const button = make("button", "recall", words.messages_recall);
  button.setAttribute("type", "button");
  button.addEventListener("click", async () => {
    button.setAttribute("disabled", "");
    try {
      const sent = await /** @type {Messenger} */ (messenger).recall(stored.id);
      await take({ ...sent, kind: "recall", from: account.user, to: stored.to, about: stored.id, time: Date.now() });
    } catch (error) {
      button.removeAttribute("disabled");
      note("note", reasonOf(error));
    }
  });
  return button;
}

// --- the list -------------------------------------------------------------------------------------------------

function draw() {
  const talks = correspondence.listed;
  parts.list.replaceChildren(...talks.map(row));
  parts.none.hidden = talks.length > 0;
  parts.older.hidden = !correspondence.more;
  if (open) parts.name.textContent = nameOf(open);
  const { unread } = correspondence;
  document.title = unread ? `(${unread}) ${title}` : title;
  drawSeen();
}

/** @param {Talk} talk */
function row(talk) {
  const name = nameOf(talk);
  const heading = make("span", "talk-line", make("b", "", make("bdi", "", name)), make("time", "", talk.last ? whenOf(talk.last.time) : ""));
  const below = make("span", "talk-line", make("span", "preview", talk.last ? preview(talk) : ""));
  if (talk.unread) {
    const count = make("span", "count", String(talk.unread));
    count.setAttribute("aria-label", fill(words.messages_unread, { count: talk.unread }));
    below.append(count);
  }
  const button = make("button", "talk", avatar(name), make("span", "talk-words", heading, below));
  button.setAttribute("type", "button");
  button.dataset.conversation = String(talk.id);
  if (talk === open) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => show(talk));
  return make("li", "", button);
}

/** @param {Talk} talk */
function preview({ last, group }) {
  if (!last) return "";
  if (last.kind !== "message") return happened(last);
  const text = cut(textOf(last).replace(/\s+/g, " "), PREVIEW);
  return group && last.from !== account.user ? `${account.nameOf(last.from)}: ${text}` : text;
}

/** @param {Talk} talk */
function nameOf(talk) {
  return talk.group ? talk.name || fill(words.messages_group, { number: talk.id }) : account.nameOf(talk.peer);
}

/** How far what we said last has come. */
function drawSeen() {
  const last = open?.entries?.at(-1);
  const ours = open && !open.group && last?.kind === "message" && last.from === account.user ? last.id : Infinity;
  const text = open && open.read >= ours ? words.messages_read : open && open.received >= ours ? words.messages_received : "";
  if (seen.textContent !== text) seen.textContent = text;
}

// --- a new conversation ---------------------------------------------------------------------------------------

const dialog = element("begin-dialog", HTMLDialogElement);
const numbers = element("begin-numbers", HTMLInputElement);
const groupName = element("begin-name", HTMLInputElement);

element("begin", HTMLButtonElement).addEventListener("click", () => {
  numbers.value = groupName.value = "";
  note("begin-note", "");
  dialog.showModal();
});
element("begin-close", HTMLButtonElement).addEventListener("click", () => dialog.close());
element("begin-form", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const users = [...new Set(numbers.value.split(/[\s,，、;；]+/).filter(Boolean))];
  const name = groupName.value.trim();
  note("begin-note", "");
  const go = element("begin-go", HTMLButtonElement);
  go.disabled = true;
  try {
    const found = await beginWith(users, name);
    if (found) {
      dialog.close();
      await show(found);
    }
  } catch (error) {
    note("begin-note", reasonOf(error));
  }
  go.disabled = false;
});

/**
 * @param {string[]} users
 * @param {string} name
 * @returns {Promise<Talk | null>}
 */
async function beginWith(users, name) {
  if (!users.length) return numbers.focus(), null;
  if (users.includes(account.user)) throw new Fault("self", "");
  if (users.length > 1 && !name) throw new Fault("group_name", "");
  await account.check(users);
  if (!name) return correspondence.with(users[0]);
  const conversation = await account.createGroup(name, users);
  await correspondence.load();
  return correspondence.talks.get(conversation) ?? null;
}

// --- small things ---------------------------------------------------------------------------------------------

/** @param {"door" | "list" | "talk"} place */
function go(place) {
  document.body.dataset.place = place;
  element("door", HTMLElement).hidden = place !== "door";
  element("mail", HTMLElement).hidden = place === "door";
}

/**
 * @param {string} id
 * @param {string} text
 */
function note(id, text) {
  const where = element(id, HTMLElement);
  where.textContent = text;
  where.hidden = !text;
}

/** @param {unknown} error */
function reasonOf(error) {
  if (error instanceof Fault && error.code === "no_answer") return words.no_answer;
  if (error instanceof Fault) return words[`messages_fault_${error.code}`] ?? `${error.message} (${error.code})`;
  if (error instanceof ImError) return error.code ? `${error.message} (${fill(words.code, { code: error.code })})` : words.no_answer;
  return String(error);
}

/** @param {number} time */
function dayOf(time) {
  return new Intl.DateTimeFormat(page.language, { dateStyle: "long" }).format(time);
}

/** @param {number} time */
function whenOf(time) {
  const today = dayOf(time) === dayOf(Date.now());
  const how = today ? { hour: "2-digit", minute: "2-digit", hour12: false } : { month: "numeric", day: "numeric" };
  return new Intl.DateTimeFormat(page.language, /** @type {Intl.DateTimeFormatOptions} */ (how)).format(time);
}

/** @returns {Storage | null} */
function localTab() {
  try {
    return localStorage;
  } catch {
    return null; // forbidden here: whoever loads the page again has to log in again
  }
}

element("back", HTMLButtonElement).addEventListener("click", () => {
  go("list");
  show(null);
});
addEventListener("online", () => messenger?.retryNow());
addEventListener("offline", () => messenger && view.show(messenger.state));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  messenger?.retryNow(); // timers of hidden pages are slow
  read();
  draw();
});
addEventListener("pagehide", () => messenger?.close());
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // back from the browser's cache, where it left
});

offer(false);
if (account.pass) enter();
else go("door");
