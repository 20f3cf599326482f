/**
 * imserver in React Native apps: the connection in the background and foreground, an outbox, push tokens and notifications. The module
 * `imserver-react-native/chat` has a chat screen.
 */
export { followAppState } from "./app-state.js";
export { useIsActive, useNotificationOpened, useOutbox, usePhoneClient, usePushNotifications } from "./hooks.js";
export { PhoneMessenger } from "./messenger.js";
export { act, expo, firebase, noticeIn, onNotificationOpened, PushTokens } from "./push.js";
export type AppStateOptions = import("./app-state.js").AppStateOptions;
export type EntryStore = import("./messenger.js").EntryStore;
export type PhoneOptions = import("./messenger.js").PhoneOptions;
export type Outbox = import("./outbox.js").Outbox;
export type Unsent = import("./outbox.js").Unsent;
export type Where = import("./outbox.js").Where;
export type Notice = import("./push.js").Notice;
export type Opened = import("./push.js").Opened;
export type PushOptions = import("./push.js").PushOptions;
export type PushSource = import("./push.js").PushSource;
export type PushToken = import("./push.js").PushToken;
export type Response = import("./push.js").Response;
export type PhoneStorage = import("./storage.js").PhoneStorage;
/** @typedef {import("./app-state.js").AppStateOptions} AppStateOptions */
/** @typedef {import("./messenger.js").EntryStore} EntryStore */
/** @typedef {import("./messenger.js").PhoneOptions} PhoneOptions */
/** @typedef {import("./outbox.js").Outbox} Outbox */
/** @typedef {import("./outbox.js").Unsent} Unsent */
/** @typedef {import("./outbox.js").Where} Where */
/** @typedef {import("./push.js").Notice} Notice */
/** @typedef {import("./push.js").Opened} Opened */
/** @typedef {import("./push.js").PushOptions} PushOptions */
/** @typedef {import("./push.js").PushSource} PushSource */
/** @typedef {import("./push.js").PushToken} PushToken */
/** @typedef {import("./push.js").Response} Response */
/** @typedef {import("./storage.js").PhoneStorage} PhoneStorage */
