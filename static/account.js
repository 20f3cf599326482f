// @ts-check
/** Whoever logged in: what the page asks of the HTTP interface in their name. */

const TIMEOUT_MS = 15_000;

/** A request that failed; `code` is that of the problem, or `no_answer`. */
export class Fault extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * @typedef {object} Pass
 * @property {string} token
 * @property {string} user
 * @property {string} nickname
 */

export class Account {
  /** @type {Map<string, Promise<string>>} */
  #asked = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();

  /**
   * @param {string} app
   * @param {Storage | null} storage  where the pass is kept, so that a page that is loaded again needs no password
   */
  constructor(app, storage) {
    this.app = app;
    this.storage = storage;
    this.key = `imserver:account:${app}`;
    /** @type {Pass | null} */
    this.pass = this.#restored();
  }

  /** @returns {string} */
  get user() {
    return this.pass?.user ?? "";
  }

  /**
   * @param {string} phone
   * @param {string} password
   */
  async login(phone, password) {
    this.#take(await this.#call("accounts/login", { phone, password }));
  }

  /**
   * @param {string} phone
   * @param {string} password
   * @param {string} nickname
   */
  async register(phone, password, nickname) {
    this.#take(await this.#call("accounts/register", { phone, password, nickname }));
  }

  /** Forgets the pass; the server is asked to do so, too, and need not answer. */
  async leave() {
    const { token } = this.pass ?? { token: "" };
    this.forget();
    try {
      const { devices } = await this.#call("accounts/devices", null, token);
      const here = devices.find((/** @type {any} */ each) => each.current);
      if (here) await this.#call("accounts/devices/logout", { device: here.device }, token);
    } catch {
      // It ends by itself.
    }
  }

  forget() {
    this.pass = null;
    try {
      this.storage?.removeItem(this.key);
    } catch {
      // There is no storage: then nothing was kept.
    }
  }

  /**
   * What somebody calls themselves, as far as it is known; see {@link meet}.
   *
   * @param {string} user
   */
  nameOf(user) {
    return this.#names.get(user) || user;
  }

  /**
   * Learns the names of users.
   *
   * @param {Iterable<string>} users
   */
  async meet(users) {
    await Promise.all([...new Set(users)].filter(Boolean).map((user) => this.#meet(user).catch(() => "")));
  }

  /**
   * The name of a user. Rejected with {@link Fault} if there is none.
   *
   * @param {string} user
   * @returns {Promise<string>}
   */
  #meet(user) {
    const asked = this.#asked.get(user);
    if (asked) return asked;
    const asking = this.#call(`accounts/show?app=${encodeURIComponent(this.app)}&of=${encodeURIComponent(user)}`)
      .then(({ nickname }) => {
        this.#names.set(user, nickname);
        return nickname;
      });
    this.#asked.set(user, asking);
    asking.catch((fault) => fault.code !== "unknown_account" && this.#asked.delete(user));
    return asking;
  }

  /**
   * Makes sure that these are users. Rejected with {@link Fault} if one is none.
   *
   * @param {string[]} users
   */
  async check(users) {
    await Promise.all(users.map((user) => this.#meet(user)));
  }

  /**
   * @param {string} name
   * @param {string[]} members  besides ourselves
   * @returns {Promise<number>} its conversation
   */
  async createGroup(name, members) {
    const { group } = await this.#call("groups/create", { name });
    await this.#call("groups/invite", { group, members });
    return Number(group);
  }

  /** @param {{ token: string, account: { user: string, nickname: string } }} answer */
  #take({ token, account: { user, nickname } }) {
    this.pass = { token, user, nickname };
    this.#names.set(user, nickname);
    try {
      this.storage?.setItem(this.key, JSON.stringify(this.pass));
    } catch {
      // Then it is good for this page only.
    }
  }

  /** @returns {Pass | null} */
  #restored() {
    try {
      const pass = JSON.parse(this.storage?.getItem(this.key) ?? "null");
      if (typeof pass?.token !== "string" || typeof pass.user !== "string") return null;
      this.#names.set(pass.user, String(pass.nickname ?? ""));
      return pass;
    } catch {
      return null;
    }
  }

  /**
   * @param {string} path  below /api/v1
   * @param {object | null} [body]  null: a GET
   * @param {string} [token]
   * @returns {Promise<any>}
   */
  async #call(path, body = null, token = this.pass?.token ?? "") {
    /** @type {Response} */
    let response;
    let answer;
    try {
      response = await fetch(`/api/v1/${path}`, {
        method: body ? "POST" : "GET",
        body: body ? JSON.stringify({ app: this.app, ...body }) : undefined,
        headers: { ...(body && { "Content-Type": "application/json" }), ...(token && { Authorization: `Bearer ${token}` }) },
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      answer = await response.json();
    } catch (error) {
      throw new Fault("no_answer", String(error));
    }
    if (!response.ok) throw new Fault(String(answer.code), String(answer.message));
    return answer;
  }
}
