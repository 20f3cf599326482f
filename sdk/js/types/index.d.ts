/**
 * The clients of this package: live and stored messages, and logins to accounts. Pages without a build step import the module
 * that they need instead.
 */
export * from "./accounts.js";
export * from "./imserver.js";
export * from "./messenger.js";
