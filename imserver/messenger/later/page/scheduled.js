// @ts-check
/** The scheduled messages and reminders of the user, as the server has them. */

/**
 * @typedef {object} Scheduled
 * @property {string} id
 * @property {number} due           milliseconds since 1970
 * @property {boolean} [awaits]     it is sent when the receiver comes online
 * @property {string} [reason]      why it was refused; missing: it waits
 * @property {string} [to]
 * @property {number} [conversation]
 * @property {number} [reminds]     the message of which it reminds
 * @property {string} type
 * @property {string} [text]
 * @property {string[]} [mentions]
 */

const AFTER_MS = 100;

/** There is one for the page. @type {{ all: Scheduled[], of: (conversation: any) => Scheduled[], load: () => Promise<void>, watchers: Set<() => void> } | null} */
let current = null;

/**
 * @param {any} page
 * @returns {NonNullable<typeof current>}
 */
export function scheduledOf(page) {
  if (current) return current;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let waiting;
  const made = {
    all: /** @type {Scheduled[]} */ ([]),
    watchers: /** @type {Set<() => void>} */ (new Set()), // called when they are loaded
    // Of somebody who was erased, nothing tells the conversation.
    of: (/** @type {any} */ { id, group, peer }) => made.all.filter(({ to, conversation }) => (to ? !group && to === peer : conversation ? conversation === id : true)),
    load: async () => {
      made.all = (await page.api("GET", "scheduled")).scheduled;
      page.redraw(0);
      made.watchers.forEach((each) => each());
    },
  };
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => made.load().catch(() => {}), AFTER_MS);
  };
  page.hear("scheduled", soon);
  page.hear("online", soon);
  soon();
  current = made;
  return made;
}
