// @ts-check
/** The user's own profile in three parts: what others see; logins, password and devices; bots. */

import { fill, make, moments } from "../../text.js";
import { IDENTIFIERS, NAME_LENGTH, PASSWORD_LENGTH, identifierInput, loadRules } from "../parts/account-fields.js";
import { pictureButtons } from "../people/avatar-crop.js";
import { attempt, field, input, load, namedList, noteLine, redraw, section, select, show, switchBox, withModule } from "../parts/form.js";
import { asPassword, linkSection } from "../login/log-in-with.js";
import { button, confirm, openDialog, openPanel, toast } from "../parts/panel.js";
import { makeTabs } from "../parts/tabs.js";
import { memberSection } from "../login/welcome.js";

/** @typedef {import("../session/session.js").Session} Session */

/**
 * @typedef {object} Account
 * @property {string} nickname
 * @property {string} avatar
 * @property {string} phone
 * @property {string} email
 * @property {string} name
 * @property {boolean} guest
 * @property {boolean} findable
 * @property {boolean} show_presence
 * @property {string} status
 * @property {boolean} away
 * @property {number} status_until  Unix seconds; 0: it does not end
 * @property {string} title
 * @property {boolean} second_factor
 */

/** @typedef {{ device: string, name: string, since: number, current: boolean, online: boolean }} Device */

// In characters.
const STATUS_LENGTH = 80;
const TITLE_LENGTH = 64;
const HOUR_SECONDS = 3_600;
const WEEK_SECONDS = 7 * 24 * HOUR_SECONDS;

/** @param {Session} session */
export function openProfile(session) {
  const root = make("div", "profile");
  const layer = openPanel(session.words.messages_profile, root);
  new ProfileView(session, root, layer.close);
}

/** Owns the content of the panel. */
class ProfileView {
  /** @type {Account | null} */
  #account = null;
  /** @type {Device[]} */
  #devices = [];
  /** Identifiers that an account of this app may have. @type {string[]} */
  #identifiers = [];
  #passwords = true;
  /** @type {HTMLElement[]} */
  #links = [];
  /** Which is shown. @type {"profile" | "security" | "bots"} */
  #part = "profile";
  #tabs;

  /**
   * @param {Session} session
   * @param {HTMLElement} root
   * @param {() => void} close
   */
  constructor(session, root, close) {
    this.session = session;
    this.words = session.words;
    this.close = close;
    this.note = noteLine();
    this.body = make("div", "");
    const draw = (/** @type {"profile" | "security" | "bots"} */ part) => (/** @type {HTMLElement} */ place) => this.#draw(place, part);
    const parts = [
      { id: "profile-part", label: this.words.messages_profile_part, draw: draw("profile") },
      { id: "security", label: this.words.messages_security, draw: draw("security") },
    ];
    if (!session.isGuest) parts.push({ id: "bots", label: this.words.messages_bots, draw: draw("bots") });
    this.#tabs = makeTabs(this.words.messages_profile, parts);
    this.#tabs.place.className = "profile-body";
    root.append(this.note, this.body);
    this.#load();
  }

  #load() {
    const { session } = this;
    return load(this.body, this.note, session, async () => {
      const [account, { devices }, rules, links] = await Promise.all([
        session.api("GET", "accounts/show"),
        session.api("GET", "accounts/devices"),
        loadRules(session.app),
        session.isGuest ? [] : linkSection(session, () => this.#load()),
      ]);
      this.#links = links;
      this.#passwords = rules.passwords;
      this.#devices = devices;
      this.#identifiers = rules.identifiers;
      this.#show(account);
    });
  }

  /** @param {Account} account  draws it, and the page shows its new name and picture, too */
  #show(account) {
    const isFirst = !this.#account;
    this.#account = account;
    const { nickname, avatar, name, guest, status, away, status_until, title } = account;
    this.session.people.add([{ user: this.session.user, nickname, avatar, name, guest, status, away, status_until, title }]);
    if (isFirst) {
      this.body.replaceChildren(make("div", "profile-body", this.#tabs.row, this.#tabs.place));
      this.#tabs.choose(0);
    } else if (this.#part !== "bots") this.#draw(this.#tabs.place, this.#part); // the bots are drawn by themselves
  }

  /**
   * @param {HTMLElement} place
   * @param {"profile" | "security" | "bots"} part
   */
  #draw(place, part) {
    const account = /** @type {Account} */ (this.#account);
    const { session, words } = this;
    this.#part = part;
    if (part === "profile") {
      const identity = account.guest && this.#passwords ? [memberSection(session, this.#identifiers)] : [];
      redraw(place, [this.#head(account), this.#form(account), ...identity, this.#privacy(account), this.#end()]);
    } else if (part === "security" && account.guest) {
      redraw(place, [...this.#links, this.#deviceList()]);
    } else if (part === "security") {
      redraw(place, [this.#identifierList(account), ...this.#links, this.#access(), this.#deviceList()]);
    } else {
      withModule(import("../people/bots.js"), words, ({ botsView }) => {
        if (this.#part === "bots") redraw(place, [botsView(session)]); // the user may have chosen another part meanwhile
      });
    }
  }

  /** @param {Account} account */
  #head({ nickname, avatar }) {
    const { session, words } = this;
    const buttons = pictureButtons(session, avatar, this.note, (url) => this.#change({ avatar: url }));
    return make("div", "card-head", session.people.avatar(session.user, "large"), make("bdi", "card-name", nickname || words.messages_somebody), buttons);
  }

  /** @param {Account} account @returns {HTMLElement} changes the name, title and status */
  #form({ nickname, title, status, away, status_until: until }) {
    const { words } = this;
    const name = input({ value: nickname, maxLength: NAME_LENGTH, required: true });
    name.id = "profile-name";
    const job = input({ value: title, maxLength: TITLE_LENGTH });
    job.id = "profile-title";
    const text = input({ value: status, maxLength: STATUS_LENGTH });
    text.id = "profile-status";
    const box = input({ type: "checkbox", checked: away });
    box.id = "profile-away";
    box.setAttribute("role", "switch");
    const now = Math.floor(Date.now() / 1000);
    const midnight = Math.floor(new Date().setHours(24, 0, 0, 0) / 1000);
    /** Unix seconds, and the words for them. @type {[string, string][]} */
    const times = [
      ["0", words.messages_status_no_end], [String(now + HOUR_SECONDS), words.messages_status_hour], [String(midnight), words.messages_status_today],
      [String(now + WEEK_SECONDS), words.messages_status_week],
    ];
    if (until) times.unshift([String(until), moments(this.session.language).format(until * 1000)]); // the present one
    const ends = select(times, String(until));
    ends.id = "profile-status-until";
    const note = noteLine();
    const save = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_save));
    save.dataset.key = "save";
    const term = field(words.messages_status_ends, ends);
    const form = make(
      "form", "panel-form", field(words.messages_your_name, name, words.messages_name_hint), field(words.messages_job, job, words.messages_job_hint),
      field(words.messages_status_text, text, words.messages_status_hint), make("label", "switch", make("span", "", words.messages_away), box), term, note, save,
    );
    const readForm = () => {
      const status = text.value.trim();
      const hasStatus = status !== "" || box.checked;
      return { nickname: name.value.trim(), title: job.value.trim(), status, away: box.checked, status_until: hasStatus ? Number(ends.value) : 0 };
    };
    const before = JSON.stringify(readForm());
    const update = () => {
      term.hidden = !text.value.trim() && !box.checked; // nothing ends
      save.disabled = JSON.stringify(readForm()) === before;
    };
    form.addEventListener("input", update);
    update();
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!name.value.trim()) return show(note, words.messages_fault_nickname);
      if (await attempt(save, note, words, () => this.#change(readForm()))) toast(words.messages_saved);
    });
    return form;
  }

  /** @param {Account} account */
  #identifierList(account) {
    const { words } = this;
    const shown = IDENTIFIERS.filter((kind) => account[kind] || this.#identifiers.includes(kind));
    const rows = shown.map((kind) => {
      const change = button(account[kind] ? words.messages_change : words.messages_add, "quiet");
      change.dataset.key = kind;
      change.setAttribute("aria-label", `${change.textContent}: ${words[`messages_login_${kind}`]}`);
      change.addEventListener("click", () => this.#changeIdentifier(kind, account[kind]));
      const value = make("bdi", "", account[kind] || words.messages_none_given);
      const text = make("span", "person-words", make("small", "", words[`messages_login_${kind}`]), value);
      return make("li", "person-row", text, make("span", "person-actions", change));
    });
    return section(words.messages_identifiers, make("p", "muted", words.messages_identifiers_hint), namedList(words.messages_identifiers, rows));
  }

  /**
   * Opens the dialog that changes an identifier.
   *
   * @param {"phone" | "email" | "name"} kind
   * @param {string} present  the identifier as it is; empty: none
   */
  #changeIdentifier(kind, present) {
    const { session, words } = this;
    const value = identifierInput([kind]);
    value.value = present;
    const password = input({ type: "password", autocomplete: "current-password", maxLength: PASSWORD_LENGTH });
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_save));
    const title = words[`messages_login_${kind}`];
    const hint = kind === "name" ? words.messages_login_name_hint : "";
    const confirmation = this.#passwords ? [field(words.messages_password, password)] : [];
    const form = make("form", "panel-form", field(title, value, hint), ...confirmation, note, go);
    const layer = openDialog(title, form);
    value.focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(go, note, words, async () => {
        const fields = { [kind]: value.value.trim(), password: password.value };
        const account = await session.api("POST", "accounts/identifiers", fields).catch(asPassword);
        this.#show(account);
        layer.close();
      });
    });
  }

  /** @param {Account} account */
  #privacy(account) {
    const { words } = this;
    const findable = switchBox(words.messages_findable, account.findable, words, (on) => this.#save({ findable: on }));
    const presence = switchBox(words.messages_show_presence, account.show_presence, words, (on) => this.#save({ show_presence: on }));
    return section(words.messages_privacy, ...(account.guest ? [] : [findable]), presence, make("p", "muted", words.messages_show_presence_hint));
  }

  #deviceList() {
    const { session, words } = this;
    const date = moments(session.language);
    const rows = this.#devices.map(({ device, name, since, current, online }) => {
      const marks = current ? [make("span", "mark", words.messages_this_device)] : [];
      const state = online && !current ? `${words.messages_online} · ` : "";
      const title = name.replace(/ #\w+$/, "") || words.messages_unnamed_device;
      const about = state + fill(words.messages_since, { when: date.format(since * 1000) });
      const text = make("span", "person-words", make("span", "person-name", make("bdi", "", title), ...marks), make("small", "", about));
      if (current) return make("li", "person-row", text);
      const end = button(words.messages_logout, "quiet danger");
      end.dataset.key = `device:${device}`;
      end.setAttribute("aria-label", `${words.messages_logout}: ${title}`);
      end.addEventListener("click", () => attempt(end, null, words, async () => {
        await session.api("POST", "accounts/devices/logout", { device });
        await this.#load();
      }));
      return make("li", "person-row", text, make("span", "person-actions", end));
    });
    return section(words.messages_devices, namedList(words.messages_devices, rows), ...(session.isGuest ? [] : [this.#everywhere()]));
  }

  /** What one logs in with, besides identifiers. */
  #access() {
    const { session, words } = this;
    const password = button(words.messages_password_change);
    password.dataset.key = "password";
    password.addEventListener("click", () => this.#changePassword());
    const factor = button(words.messages_factor);
    factor.id = "second-factor";
    factor.addEventListener("click", () => withModule(import("./second-factor.js"), words, ({ openSecondFactor }) => {
      const account = /** @type {Account} */ (this.#account);
      return openSecondFactor(session, account, this.#passwords, () => this.#load());
    }));
    return make("p", "panel-buttons", ...(this.#passwords ? [password] : []), factor);
  }

  #end() {
    const { session, words } = this;
    const out = button(words.messages_logout, "quiet danger");
    out.id = "logout";
    out.addEventListener("click", async () => {
      if (session.isGuest && !(await confirm(words.messages_guest_out_question, { yes: words.messages_logout, danger: true }))) return;
      this.close();
      session.logOut();
    });
    return make("p", "panel-buttons panel-end", out);
  }

  #everywhere() {
    const { session, words } = this;
    const everywhere = button(words.messages_logout_all, "quiet danger");
    everywhere.dataset.key = "logout-all";
    everywhere.addEventListener("click", async () => {
      if (!(await confirm(words.messages_logout_all_question, { yes: words.messages_logout_all, danger: true }))) return;
      await attempt(everywhere, null, words, () => session.api("POST", "accounts/logout", {}));
    });
    return make("p", "panel-buttons panel-end", everywhere);
  }

  #changePassword() {
    const { session, words } = this;
    const old = input({ type: "password", autocomplete: "current-password", maxLength: PASSWORD_LENGTH });
    const next = input({ type: "password", autocomplete: "new-password", maxLength: PASSWORD_LENGTH, required: true });
    const note = noteLine();
    const go = /** @type {HTMLButtonElement} */ (make("button", "wide", words.messages_save));
    const { name, email, phone } = /** @type {Account} */ (this.#account);
    const username = input({ value: name || email || phone, autocomplete: "username", readOnly: true, hidden: true }); // for password managers
    const form = make(
      "form", "panel-form", username, field(words.messages_password_old, old, words.messages_password_if_any),
      field(words.messages_password_new, next, words.messages_password_hint),
      make("p", "muted", words.messages_password_ends), note, go,
    );
    openDialog(words.messages_password_change, form);
    old.focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const change = () => session.api("POST", "accounts/password", { old_password: old.value, password: next.value }).catch(asPassword);
      attempt(go, note, words, () => session.endBy(change, words.messages_reset_done, false));
    });
  }

  /** @param {Partial<Account>} changes  of what the panel and the page show: they are drawn again */
  async #change(changes) {
    this.#show(await this.session.api("POST", "accounts/set", changes));
  }

  /** @param {Partial<Account>} changes  of switches, which show them by themselves */
  async #save(changes) {
    this.#account = await this.session.api("POST", "accounts/set", changes);
  }
}
