// @ts-check
/** Starts the modules of features of the server, and keeps their additions to the page: views of messages, entries of menus, panels. */

import { CODE } from "../../../sdk/imserver.js";
import { CommandRefused } from "../../../sdk/errors.js";
import { drawn, fill, make } from "../../text.js";
import { downloadFile, reasonOf } from "./api.js";
import { loadStyle, withModule } from "./form.js";
import { plain } from "./formatted.js";
import { button, confirm, openDialog, openPanel, toast } from "./panel.js";
import { addCard, pageCommands, pageTools, redraw, registerView } from "./summary.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/store.js").Conversation} Conversation */
/** @typedef {import("./entries.js").Entry} Entry */
/** `sign`: the lines of an icon in a square of 24, a path of SVG that begins with M. @typedef {Omit<import("./menu.js").Row, "key">} MessageAction */
/** `key`: on a row that has the focus; empty: none. @typedef {MessageAction & { key: string }} Action */
/**
 * An entry of the menu of the button "+": it makes something in a conversation, which the user chooses.
 *
 * @typedef {{ word: string, sign?: MessageAction["sign"], act: (session: Session, conversation: Conversation) => unknown }} NewEntry
 */
/** @typedef {(session: Session, conversation: Conversation) => Action | null} MakeAction  null: not for this conversation */
/** @typedef {(session: Session, user: string) => MessageAction | null} MakePersonAction  null: not for this person */
/** @typedef {(session: Session, conversation: Conversation, entry: Entry) => MessageAction[]} MakeMessageActions */
/** @typedef {() => { title: string, content: HTMLElement }} MakeSection */
/**
 * Emoji of a feature: `names` without colons, `edit` lets the user change them; null: they must not.
 *
 * @typedef {{ names: () => string[], title: string, edit: { word: string, act: (done: () => void) => unknown } | null }} OwnEmoji
 */
/** @typedef {{ draw: (text: string, session: Session) => Node | string, load: (session: Session) => Promise<OwnEmoji> }} EmojiSource */
/** @typedef {{ id: string, word: string, path: string, act: (session: Session, about: string) => unknown }} NewPlace  `path`: of an icon of 24 × 24 */
/** @typedef {{ show: (count: number | null) => void }} Place  null: it is hidden */

/**
 * What the function `start` of a module gets. It takes its words from `words`, and draws with `make`, which knows no HTML.
 *
 * @typedef {object} Additions
 * @property {Record<string, string>} words
 * @property {typeof registerView} registerView
 * @property {typeof addCard} addCard  adds what is below messages
 * @property {(message: number) => void} redraw  calls `draw` of the view of a message again
 * @property {(makeAction: MakeAction) => void} addAction  adds an entry to the menu of a conversation
 * @property {(entry: NewEntry) => void} addNew  adds an entry to the menu of the button "+"
 * @property {(makeActions: MakeMessageActions) => void} addMessageAction  adds entries to the menu of a message
 * @property {(makeAction: MakePersonAction) => void} addPersonAction  adds a button to the card of a person
 * @property {(command: import("./summary.js").PageCommand) => void} addCommand  adds a command to text boxes
 * @property {(tool: import("./summary.js").PageTool) => void} addTool  adds a button beside text boxes
 * @property {(source: EmojiSource) => void} addEmoji  says how texts without marks and reactions are drawn, and which emoji one may choose besides
 * @property {(makeSection: MakeSection) => void} addSettings  adds a section to the settings
 * @property {(place: NewPlace) => Place} addPlace  adds a button beside that of the settings, which is hidden until it is shown
 * @property {(command: string, data?: object) => Promise<any>} request  sends a command of the user; resolves to the data of its answer
 * @property {Session["api"]} api  sends a request of the user over HTTP
 * @property {(path: string, query: Record<string, string>, name: string) => Promise<void>} download  saves a file of the user
 * @property {Session["endBy"]} endLogin  does what ends the login, and then forgets what the browser has stored
 * @property {(kind: string, listener: (data: any) => void) => void} hear  hears signals of a kind; of the kind `online`, that there is a
 *   connection again; of the kind `ended`, that the login is over
 * @property {(error: unknown) => string} reason  why `request` or `api` has failed, in the language of the page
 * @property {(session: Session, options: any) => void} choosePeople  opens the dialog that chooses people; see `people/picker.js`
 * @property {(label: string, tabs: import("./tabs.js").Tab[]) => Promise<ReturnType<typeof import("./tabs.js").makeTabs>>} makeTabs
 * @property {typeof loadStyle} loadStyle  loads a style sheet that is needed later
 * @property {(module: string) => Promise<Record<string, string>>} loadWords  the words beside a module, in the language of the page
 * @property {typeof openPanel} openPanel
 * @property {typeof openDialog} openDialog
 * @property {typeof confirm} confirm
 * @property {typeof toast} toast
 * @property {typeof button} button
 * @property {typeof make} make
 * @property {typeof fill} fill
 */

/**
 * What menus, cards and settings show after the entries of the page.
 *
 * @type {{
 *   actions: MakeAction[], news: NewEntry[], messageActions: MakeMessageActions[], personActions: MakePersonAction[], sections: MakeSection[],
 *   emoji: EmojiSource | null,
 * }}
 */
export const added = { actions: [], news: [], messageActions: [], personActions: [], sections: [], emoji: null };
/** The login of the user. @type {Session} */
let session;
/** The modules start once; a later login of the page uses them, too. `true`: those of menus and settings. @type {Map<boolean, Promise<void>>} */
const started = new Map();
/** Kind of a signal → who hears it. @type {Map<string, ((data: any) => void)[]>} */
const listeners = new Map();
/** Buttons of features. @type {(Place & Pick<NewPlace, "id" | "act">)[]} */
const places = [];

/**
 * Loads and starts the modules of the features, in their order. A module that fails does not stop the others.
 *
 * @param {Session} current
 * @param {boolean} isLater  the modules that only menus and settings need, instead of the others
 */
export async function addFeatures(current, isLater) {
  if (session !== current) useSession(current);
  const starting = started.get(isLater) ?? start(session.additions.filter(({ later }) => later === isLater));
  started.set(isLater, starting);
  await starting;
}

/**
 * Gives features the events of a login. If they have started with an earlier one, they hear `online`.
 *
 * @param {Session} current
 */
function useSession(current) {
  current.on("signal", ({ kind, data }) => tell(kind, data));
  current.on("state", ({ state }) => {
    if (state === "online") tell("online", null);
  });
  current.on("ended", () => {
    places.forEach((place) => place.show(null));
    tell("ended", null);
  });
  const isFirst = !session;
  session = current;
  if (!isFirst) tell("online", null);
}

/**
 * Calls the listeners of features. One that fails does not stop the others.
 *
 * @param {string} kind
 * @param {any} data
 */
function tell(kind, data) {
  listeners.get(kind)?.forEach((listener) => drawn(() => listener(data), () => {}));
}

/**
 * Adds a hidden button beside that of the settings.
 *
 * @param {NewPlace} place
 * @returns {Place}
 */
function addPlace({ id, word, path, act }) {
  const [icon, lines] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  icon.setAttribute("class", "icon");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  lines.setAttribute("d", path);
  icon.append(lines);
  const opener = button("", "round");
  Object.assign(opener, { id, title: word, hidden: true });
  opener.setAttribute("aria-haspopup", "dialog");
  opener.append(icon);
  opener.addEventListener("click", () => act(session, ""));
  document.getElementById("settings")?.before(opener);
  const show = (/** @type {number | null} */ count) => {
    opener.hidden = count === null;
    opener.dataset.count = count ? String(count) : "";
    opener.setAttribute("aria-label", count ? `${word} · ${count}` : word);
  };
  places.push({ id, act, show });
  return { show };
}

/**
 * @param {string} id  of a place
 * @param {string} about  what is opened there
 */
export function openPlace(id, about) {
  places.find((place) => place.id === id)?.act(session, about);
}

/**
 * Loads modules and styles at once, and calls `start` of the modules one after the other.
 *
 * @param {Session["additions"]} additions
 */
async function start(additions) {
  const given = additionsFor(session.words);
  const loading = additions.map(({ module }) => (module ? import(module).catch((/** @type {unknown} */ error) => console.error(error)) : null));
  for (const { style } of additions) if (style) loadStyle(new URL(style, location.href));
  for (const module of await Promise.all(loading)) {
    try {
      await module?.start(given);
    } catch (error) {
      console.error(error);
    }
  }
}

/**
 * The argument of `start` of each module. Its functions use the login that the page has when they are called.
 *
 * @param {Record<string, string>} words
 * @returns {Additions}
 */
function additionsFor(words) {
  return {
    words, registerView, addCard, request, loadStyle, openPanel, openDialog, confirm, toast, button, make, fill,
    addAction: (makeAction) => void added.actions.push(makeAction),
    addNew: (entry) => void added.news.push(entry),
    addMessageAction: (makeActions) => void added.messageActions.push(makeActions),
    addPersonAction: (makeAction) => void added.personActions.push(makeAction),
    addPlace,
    addCommand: (command) => void pageCommands.push(command),
    addTool: (tool) => void pageTools.push(tool),
    addEmoji: (source) => {
      added.emoji = source;
      plain.draw = (text) => drawn(() => source.draw(text, session), () => text);
    },
    addSettings: (makeSection) => void added.sections.push(makeSection),
    api: (method, path, body) => session.api(method, path, body),
    download: (path, query, name) => downloadFile(session.app, session.token, path, query, name),
    choosePeople: (current, options) => current.choosePeople(options),
    makeTabs: (label, tabs) => new Promise((resolve) => {
      withModule(import("./tabs.js"), words, ({ makeTabs }) => resolve(makeTabs(label, tabs)));
    }),
    loadWords: async (module) => (await fetch(new URL(`./words.${session.language.split("-")[0]}.json`, module))).json(),
    endLogin: (act, done) => session.endBy(act, done),
    hear: (kind, listener) => void listeners.set(kind, [...(listeners.get(kind) ?? []), listener]),
    reason: (error) => reasonOf(error, words),
    redraw: (message) => {
      redraw(message);
      session.changed();
    },
  };
}

/**
 * Sends a command of the user.
 *
 * @param {string} command
 * @param {object} [data]
 * @returns {Promise<any>} rejected with CommandRefused, or with NotConnected if there is no answer
 */
async function request(command, data = {}) {
  const { code, codeMsg, data: answer } = await session.messenger.request(command, data);
  if (code !== CODE.OK) throw new CommandRefused(command, code, codeMsg, answer);
  return answer;
}
