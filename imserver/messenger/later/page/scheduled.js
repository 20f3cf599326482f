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

/** Several events at once lead to one request. */
const GATHER_MS = 100;

/**
 * @typedef {object} ScheduledList
 * @property {Scheduled[]} all
 * @property {(conversation: any) => Scheduled[]} of
 * @property {() => Promise<void>} load
 * @property {Set<() => void>} watchers  called when the list was loaded
 */

/** There is one for the page. @type {ScheduledList | null} */
let current = null;

/**
 * @param {any} page
 * @returns {ScheduledList}
 */
export function scheduledOf(page) {
  if (current) return current;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {ScheduledList} */
  const made = {
    all: [],
    watchers: new Set(),
    of: (conversation) => made.all.filter((each) => isIn(each, conversation)),
    load: async () => {
      made.all = (await page.api("GET", "scheduled")).scheduled;
      page.redraw(0);
      made.watchers.forEach((each) => each());
    },
  };
  const loadSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(() => made.load().catch(() => {}), GATHER_MS);
  };
  page.hear("scheduled", loadSoon);
  page.hear("online", loadSoon);
  loadSoon();
  current = made;
  return made;
}

/**
 * @param {Scheduled} row
 * @param {any} place  a conversation
 */
function isIn({ to, conversation }, { id, group, peer }) {
  if (to) return !group && to === peer;
  return conversation ? conversation === id : true; // a message to somebody who was erased names neither: it is shown everywhere
}
