/**
 * The part of a service worker that shows notifications. A worker includes it with one line:
 *
 *     importScripts("https://im.example.com/sdk/notifications-worker.js");
 *
 * or, as a module of a bundle, `import "imserver-client/notifications-worker";`. It hears `push`, `notificationclick` and
 * `pushsubscriptionchange`. Actions work while no page is open. A click goes to an open page, whose `onNotification` answers, or
 * opens one.
 *
 * @module notifications-worker
 */
export {};
