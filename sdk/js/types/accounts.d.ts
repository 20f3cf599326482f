/**
 * Logging in to an account with a password or a provider, its second factor, and forgotten passwords. For any engine with `fetch`.
 *
 *     const accounts = new Accounts({ url: "http://127.0.0.1:8080", app: "gochat" });
 *     const { token, user } = await accounts.oauthLogin("github", { show: ({ url, shown }) => console.log(url, shown) });
 *
 * @module accounts
 */
export type LoginProvider = {
    provider: string;
    kind: "oidc" | "github" | "wechat" | "wechat_official";
    title: string;
    register: boolean;
};
export type StartedLogin = {
    url: string;
    /**
     * its secret handle
     */
    login: string;
    /**
     * the browser asks whether the device shows it, too
     */
    shown: string;
    /**
     * seconds between two requests to finish it
     */
    interval: number;
    /**
     * seconds after which it is forgotten
     */
    expires: number;
};
export type AccountLogin = {
    token: string;
    expiresAt: number;
    user: string;
    nickname: string;
};
export type ProviderLink = {
    provider: string;
    title: string;
    since: number;
};
export type OAuthOptions = {
    /**
     * name of the device, for the list of logins
     */
    device?: string;
    /**
     * link the account of the token, instead of logging in
     */
    link?: boolean;
    /**
     * to link: the current password, if the account has one
     */
    password?: string;
    /**
     * for pages of the server: the path to which the browser comes back
     */
    returnTo?: string;
};
export type ShownOptions = OAuthOptions & {
    show: (started: StartedLogin) => unknown;
};
/** @typedef {{ provider: string, kind: "oidc" | "github" | "wechat" | "wechat_official", title: string, register: boolean }} LoginProvider */
/**
 * A login that was started: open `url` in a browser, and show the code `shown` to the user.
 *
 * @typedef {object} StartedLogin
 * @property {string} url
 * @property {string} login     its secret handle
 * @property {string} shown     the browser asks whether the device shows it, too
 * @property {number} interval  seconds between two requests to finish it
 * @property {number} expires   seconds after which it is forgotten
 */
/** @typedef {{ token: string, expiresAt: number, user: string, nickname: string }} AccountLogin */
/** @typedef {{ provider: string, title: string, since: number }} ProviderLink */
/**
 * @typedef {object} OAuthOptions
 * @property {string} [device]    name of the device, for the list of logins
 * @property {boolean} [link]     link the account of the token, instead of logging in
 * @property {string} [password]  to link: the current password, if the account has one
 * @property {string} [returnTo]  for pages of the server: the path to which the browser comes back
 */
/** @typedef {OAuthOptions & { show: (started: StartedLogin) => unknown }} ShownOptions  `show`: opens or shows the address of the login */
/** Logs in to accounts of one app, and changes how an account logs in. */
export declare class Accounts {
    #private;
    url: string;
    app: string;
    token: string;
    timeoutMs: number;
    /**
     * @param {object} [options]
     * @param {string} [options.url]    the HTTP address of the server; in a page of the server it may be empty
     * @param {string} [options.app]
     * @param {string} [options.token]  of the account, to change how it logs in
     * @param {number} [options.timeoutMs]  of one request
     */
    constructor({ url, app, token, timeoutMs }?: {
        url?: string;
        app?: string;
        token?: string;
        timeoutMs?: number;
    });
    /**
     * Logs in with an identifier of an account and its password. Without a `code` an account with a second factor refuses with
     * `second_factor_required`.
     *
     * @param {string} login
     * @param {string} password
     * @param {{ code?: string, device?: string }} [options]
     * @returns {Promise<AccountLogin>}
     */
    login(login: string, password: string, { code, device }?: {
        code?: string;
        device?: string;
    }): Promise<AccountLogin>;
    /**
     * Begins to turn on the second factor of the account of the token.
     *
     * @param {string} password
     * @returns {Promise<{ secret: string, address: string }>} for an authenticator app
     */
    beginFactor(password: string): Promise<{
        secret: string;
        address: string;
    }>;
    /**
     * Turns the second factor on, with a code of the authenticator app.
     *
     * @param {string} code
     * @returns {Promise<string[]>} recovery codes; each stands for a code once
     */
    confirmFactor(code: string): Promise<string[]>;
    /**
     * @param {string} code
     * @returns {Promise<string[]>} new recovery codes in place of all earlier ones
     */
    renewCodes(code: string): Promise<string[]>;
    /**
     * @param {string} password
     * @param {string} code
     */
    removeFactor(password: string, code: string): Promise<void>;
    /** @returns {Promise<LoginProvider[]>} the providers of the app */
    oauthProviders(): Promise<LoginProvider[]>;
    /**
     * Starts a login with a provider.
     *
     * @param {string} provider
     * @param {OAuthOptions} [options]
     * @returns {Promise<StartedLogin>}
     */
    oauthStart(provider: string, { device, link, password, returnTo }?: OAuthOptions): Promise<StartedLogin>;
    /**
     * Finishes a login, or the linking of an account, once the user has agreed.
     *
     * @param {StartedLogin} started
     * @param {string} [code]  from the fragment of the address, if the login has a `returnTo`
     * @param {string} [factor]  a code of the second factor, after `second_factor_required`
     * @returns {Promise<AccountLogin | { linked: string } | null>} null: the user has not agreed yet
     */
    oauthFinish({ login }: StartedLogin, code?: string, factor?: string): Promise<AccountLogin | {
        linked: string;
    } | null>;
    /**
     * Logs in: `show` opens the address, or shows it with the code. Resolved when the user has agreed.
     *
     * @param {string} provider
     * @param {ShownOptions} options
     * @returns {Promise<AccountLogin>}
     */
    oauthLogin(provider: string, { show, device }: ShownOptions): Promise<AccountLogin>;
    /**
     * Links the account of the token with a provider. Resolved when the user has agreed.
     *
     * @param {string} provider
     * @param {ShownOptions} options
     */
    oauthLink(provider: string, { show, password }: ShownOptions): Promise<void>;
    /** @returns {Promise<ProviderLink[]>} the providers with which the account of the token logs in */
    links(): Promise<ProviderLink[]>;
    /** @param {string} provider */
    unlink(provider: string): Promise<void>;
    /**
     * Asks for a mail to the account with this identifier. Nobody learns whether it exists.
     *
     * @param {string} login
     */
    requestReset(login: string): Promise<void>;
    /**
     * Sets a new password with the code of a mail. All sessions of the account end.
     *
     * @param {string} code
     * @param {string} password
     */
    finishReset(code: string, password: string): Promise<void>;
}
