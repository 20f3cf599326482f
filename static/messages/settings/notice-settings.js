// @ts-check
/** What the user is notified of: the section of the profile, and the dialog of a conversation. */

import { hasNotifications } from "../../../sdk/notifications.js";
import { fill, make, moments, ROOT } from "../../text.js";
import { attempt, field, input, namedList, redraw, section, select, switchBox } from "../parts/form.js";
import { disable, enable, stateHere } from "../session/notices.js";
import { button, openDialog, toast } from "../parts/panel.js";
import { playSound } from "../session/sound.js";

/** @typedef {import("../session/session.js").Session} Session */
/** @typedef {import("../session/wishes.js").Level} Level */
/** @typedef {import("../../../sdk/notifications.js").NotificationState} NotificationState */
/** @typedef {{ id: number, host: string, device: string, enabled: boolean, created: number }} Endpoint */

/**
 * @typedef {object} Shown  what the user wishes for all conversations and devices
 * @property {boolean} preview
 * @property {"never" | "soon" | "daily"} mail
 * @property {{ begin: string, end: string, zone: string }} quiet  equal times: none
 * @property {"all" | "mentions"} groups
 * @property {string[]} keywords
 * @property {boolean} mail_possible
 * @property {boolean} mail_confirmed
 */

const HOUR_SECONDS = 3_600;
const MOST_KEYWORDS = 20;
/** In characters. */
const KEYWORD_LENGTH = 50;
/** What may stand between keywords, in any language of the page. */
const SEPARATORS = /[,;，、；،]/;
/** Muted for good, as other clients may do it: the server's `mute_until` without an end. */
const FOR_GOOD = 2 ** 40;
/** The push services of applications on phones: the first part of their host → its name. @type {Record<string, string>} */
const PHONES = { fcm: "Google (FCM)", apns: "Apple (APNs)", hms: "Huawei (HMS)" };
/** The quiet hours that are offered first. */
const QUIET = { begin: "22:00", end: "07:00" };
/** No quiet hours: equal times. */
const NOT_QUIET = { begin: "00:00", end: "00:00" };

/**
 * @param {Session} session
 * @returns {Promise<HTMLElement[]>} empty: the server or the app has no notifications
 */
export async function noticeSection(session) {
  const view = new NoticeSettings(session);
  return (await view.load().then(() => true, () => false)) ? [view.root] : [];
}

/** Owns the section of the profile. */
class NoticeSettings {
  /** @type {NotificationState} */
  #state = "unsupported";
  /** @type {Endpoint[]} */
  #endpoints = [];
  /** Id of the endpoint of this device; 0: it has none. */
  #here = 0;
  /** @type {Shown} */
  #wishes = { preview: true, mail: "never", quiet: { ...NOT_QUIET, zone: "" }, groups: "all", keywords: [], mail_possible: false, mail_confirmed: false };
  #body = make("div", "notice-settings");

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.words = session.words;
    this.root = section(this.words.messages_notify, this.#body);
  }

  async load() {
    const { session } = this;
    const [wishes, { endpoints }, state] = await Promise.all([
      session.api("GET", "notifications/wishes"),
      session.api("GET", "notifications/endpoints"),
      hasNotifications() ? stateHere(session) : /** @type {const} */ ("unsupported"),
    ]);
    this.#wishes = wishes;
    this.#endpoints = endpoints;
    this.#state = state;
    this.#here = state === "on" ? await endpointHere() : 0;
    this.#draw();
  }

  #draw() {
    redraw(this.#body, [
      ...this.#device(), ...this.#deviceList(), ...this.#sound(), ...this.#groups(), ...this.#keywords(), ...this.#preview(), ...this.#mail(), ...this.#quiet(),
    ]);
  }

  /** @returns {HTMLElement[]} the switch of this device, or why it has none */
  #device() {
    const { words, session } = this;
    if (this.#state === "unsupported") return [make("p", "muted", unsupportedText(words))];
    if (this.#state === "blocked") return [make("p", "muted", words.messages_notify_blocked)];
    const box = switchBox(words.messages_notify_here, this.#state === "on", words, async (on) => {
      if (on) {
        const state = await enable(session);
        if (state === "off") toast(words.messages_notify_unanswered);
      } else await disable(session);
      await this.load();
    });
    return [keyed(box, "notify-here")];
  }

  /** @returns {HTMLElement[]} the devices that are notified, and a button that tries it */
  #deviceList() {
    const { words, session } = this;
    if (!this.#endpoints.length) return [];
    const rows = this.#endpoints.map((endpoint) => this.#deviceRow(endpoint));
    const test = button(words.messages_notify_test);
    test.dataset.key = "notify-test";
    test.addEventListener("click", () => attempt(test, null, words, async () => {
      await session.api("POST", "notifications/test", {});
      toast(words.messages_notify_tested);
    }));
    return [namedList(words.messages_notify_devices, rows), make("p", "panel-buttons", test)];
  }

  /** @param {Endpoint} endpoint */
  #deviceRow({ id, host, device, enabled, created }) {
    const { words, session } = this;
    const phone = PHONES[host.split("/")[0]];
    const title = device || phone || host;
    const heading = make("span", "person-name", make("bdi", "", title));
    if (id === this.#here) heading.append(make("span", "mark", words.messages_this_device));
    if (!enabled) heading.append(make("span", "mark", words.messages_notify_off));
    const about = make("small", "");
    if (phone && device) about.append(make("bdi", "", phone), " · ");
    const date = new Intl.DateTimeFormat(session.language, { dateStyle: "medium" });
    about.append(fill(words.messages_since, { when: date.format(created * 1000) }));
    const remove = button(words.messages_notify_remove, "quiet danger");
    remove.dataset.key = `endpoint:${id}`;
    remove.setAttribute("aria-label", `${words.messages_notify_remove}: ${title}`);
    remove.addEventListener("click", () => attempt(remove, null, words, async () => {
      if (id === this.#here) await disable(session);
      else await session.api("POST", "notifications/endpoints/remove", { id });
      await this.load();
    }));
    return make("li", "person-row", make("span", "person-words", heading, about), make("span", "person-actions", remove));
  }

  /** @returns {HTMLElement[]} */
  #sound() {
    const { wishes } = this.session;
    const box = switchBox(this.words.messages_notify_sound, wishes.device.sound, this.words, async (sound) => {
      wishes.device = { sound };
      if (sound) await playSound(); // the user hears what it is
    });
    return [keyed(box, "notify-sound")];
  }

  /** @returns {HTMLElement[]} */
  #groups() {
    const { words } = this;
    const box = select([["all", words.messages_notify_all], ["mentions", words.messages_notify_mentions]], this.#wishes.groups);
    box.dataset.key = "notify-groups";
    box.addEventListener("change", async () => {
      const groups = /** @type {Shown["groups"]} */ (box.value);
      if (!(await attempt(box, null, words, () => this.#change({ groups })))) box.value = this.#wishes.groups;
    });
    return [field(words.messages_notify_groups, box, words.messages_notify_groups_hint)];
  }

  /** @returns {HTMLElement[]} */
  #keywords() {
    const { words } = this;
    const value = this.#wishes.keywords.join(", ");
    const box = input({ type: "text", value, placeholder: words.messages_notify_keywords_example, dir: "auto", enterKeyHint: "done" });
    box.dataset.key = "notify-keywords";
    box.addEventListener("change", () => attempt(box, null, words, async () => {
      const keywords = box.value.split(SEPARATORS).map((each) => each.trim().slice(0, KEYWORD_LENGTH)).filter(Boolean);
      await this.#change({ keywords: keywords.slice(0, MOST_KEYWORDS) });
      box.value = this.#wishes.keywords.join(", ");
    }));
    return [field(words.messages_notify_keywords, box, words.messages_notify_keywords_hint)];
  }

  /** @returns {HTMLElement[]} */
  #preview() {
    const box = switchBox(this.words.messages_notify_preview, this.#wishes.preview, this.words, (preview) => this.#change({ preview }));
    return [keyed(box, "notify-preview")];
  }

  /** @returns {HTMLElement[]} */
  #mail() {
    const { words } = this;
    if (!this.#wishes.mail_possible) return [];
    /** @type {[string, string][]} */
    const offered = [["never", words.messages_notify_mail_never], ["soon", words.messages_notify_mail_soon], ["daily", words.messages_notify_mail_daily]];
    const box = select(offered, this.#wishes.mail);
    box.dataset.key = "notify-mail";
    box.addEventListener("change", async () => {
      const mail = /** @type {Shown["mail"]} */ (box.value);
      if (!(await attempt(box, null, words, () => this.#change({ mail, language: this.session.language })))) box.value = this.#wishes.mail;
    });
    return [field(words.messages_notify_mail, box), ...this.#confirmation()];
  }

  /**
   * Mails come only to an address that its owner has confirmed.
   *
   * @returns {HTMLElement[]}
   */
  #confirmation() {
    const { words, session } = this;
    if (this.#wishes.mail === "never" || this.#wishes.mail_confirmed) return [];
    const ask = button(words.messages_notify_mail_confirm);
    ask.dataset.key = "notify-mail-confirm";
    ask.addEventListener("click", () => attempt(ask, null, words, async () => {
      const { confirmed } = await session.api("POST", "accounts/email/request", {});
      if (confirmed) return this.load();
      toast(words.messages_notify_mail_asked);
    }));
    return [make("p", "muted", words.messages_notify_mail_unconfirmed), make("p", "panel-buttons", ask)];
  }

  /** @returns {HTMLElement[]} the switch of the quiet hours, and their times in the time zone of the device */
  #quiet() {
    const { words } = this;
    const { begin, end, zone } = this.#wishes.quiet;
    const isOn = begin !== end;
    const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
    const setTimes = async (/** @type {{ begin: string, end: string }} */ times) => {
      await this.#change({ quiet: { ...times, zone: here } });
      this.#draw();
    };
    const box = switchBox(words.messages_notify_quiet, isOn, words, (on) => setTimes(on ? QUIET : NOT_QUIET));
    keyed(box, "notify-quiet");
    if (!isOn) return [box];

    const labels = /** @type {const} */ ([["begin", words.messages_notify_quiet_begin], ["end", words.messages_notify_quiet_end]]);
    const times = labels.map(([name, label]) => {
      const time = input({ type: "time", value: this.#wishes.quiet[name], required: true });
      time.dataset.key = `notify-${name}`;
      time.addEventListener("change", async () => {
        const { quiet } = this.#wishes;
        const wanted = { begin: quiet.begin, end: quiet.end, [name]: time.value };
        const isValid = time.value !== "" && wanted.begin !== wanted.end;
        if (!isValid || !(await attempt(time, null, words, () => setTimes(wanted)))) time.value = quiet[name];
      });
      return field(label, time);
    });
    return [box, make("div", "time-range", ...times), make("p", "muted", fill(words.messages_notify_zone, { zone: zone.replace(/_/g, " ") }))];
  }

  /** @param {Partial<Shown> & { language?: string }} changes */
  async #change(changes) {
    this.#wishes = await this.session.api("POST", "notifications/wishes", changes);
  }
}

/**
 * Opens the dialog of what the user is notified of in one conversation: the level, and a time without notifications.
 *
 * @param {Session} session
 * @param {number} conversation
 */
export function openNotices(session, conversation) {
  const { words, wishes, store } = session;
  const root = make("div", "notice-choices");
  const isGroup = store.conversations.get(conversation)?.group ?? false;
  const draw = () => redraw(root, [levels(), mutes()]);
  const change = (/** @type {HTMLElement} */ control, /** @type {{ level?: Level, mute_until?: number }} */ changes) =>
    attempt(control, null, words, () => wishes.change(conversation, changes)).then(draw);

  const levels = () => {
    const { level } = wishes.of(conversation);
    /** @type {[Level, string][]} */
    const offered = [["all", words.messages_notify_all]];
    if (isGroup) offered.push(["mentions", words.messages_notify_mentions]);
    offered.push(["nothing", words.messages_notify_nothing]);
    const rows = offered.map(([value, label]) => {
      const box = input({ type: "radio", name: "notify-level", value, checked: value === level });
      box.dataset.key = `level:${value}`;
      box.addEventListener("change", () => change(box, { level: value }));
      return make("label", "notice-level", box, make("span", "", label));
    });
    const group = make("div", "notice-levels", ...rows);
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", words.messages_notify);
    return group;
  };

  const mutes = () => {
    const { until } = wishes.of(conversation);
    if (until) {
      const when = moments(session.language);
      const text = until >= FOR_GOOD ? words.messages_notify_muted_for_good : fill(words.messages_notify_muted, { when: when.format(until * 1000) });
      const unmute = button(words.messages_notify_unmute);
      unmute.dataset.key = "unmute";
      unmute.addEventListener("click", () => change(unmute, { mute_until: 0 }));
      return section(words.messages_notify_mute, make("p", "muted", text), make("p", "panel-buttons", unmute));
    }
    /** Hours, and the words for them. @type {[number, string][]} */
    const offered = [[1, words.messages_notify_hour], [8, words.messages_notify_hours], [7 * 24, words.messages_notify_week]]; // for good: the level “nothing”
    const buttons = offered.map(([hours, label]) => {
      const made = button(label);
      made.dataset.key = `mute:${hours}`;
      made.addEventListener("click", () => change(made, { mute_until: Math.floor(Date.now() / 1000) + hours * HOUR_SECONDS }));
      return made;
    });
    return section(words.messages_notify_mute, make("p", "panel-buttons", ...buttons));
  };

  const layer = openDialog(words.messages_notify, root);
  let drawn = "";
  const refresh = () => {
    const version = JSON.stringify(wishes.of(conversation));
    if (version === drawn) return;
    drawn = version;
    draw();
  };
  const stopListening = session.on("changed", () => {
    if (!root.querySelector("[aria-busy=true]")) refresh(); // else the change draws it
  });
  layer.closed.then(stopListening);
  refresh();
  wishes.load();
}

/** @returns {Promise<number>} id of the endpoint of this browser; 0: it has none */
async function endpointHere() {
  const registration = await navigator.serviceWorker.getRegistration(`${ROOT}/home/messages`);
  if (!registration) return 0;
  const cache = await caches.open("imserver:notifications");
  const stored = await cache.match(registration.scope);
  return stored ? (await stored.json()).id : 0;
}

/** @param {Record<string, string>} words @returns {string} why this browser cannot notify */
function unsupportedText(words) {
  if (!isSecureContext) return words.messages_notify_needs_https;
  return isApple() ? words.messages_notify_apple : words.messages_notify_unsupported;
}

/** @returns {boolean} whether the device shows notifications only of pages on its home screen */
function isApple() {
  return /iPhone|iPad/.test(navigator.userAgent) && !matchMedia("(display-mode: standalone)").matches;
}

/**
 * @param {HTMLElement} box  of a switch
 * @param {string} key       keeps the focus when the section is drawn again
 */
function keyed(box, key) {
  const control = box.querySelector("input");
  if (control) control.dataset.key = key;
  return box;
}
