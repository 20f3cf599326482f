// @ts-check
/** How people are mentioned in a text. */

/** What a mention of all is called in a text, in each language of the page: who reads it may use another one. */
export const ALL_NAMES = ["all", "所有人", "alle", "الكل"];

/**
 * Who may be meant by what is typed after an `@`: those whose names contain it; all of a group at the end.
 *
 * @param {string[]} members
 * @param {string} typed
 * @param {(user: string) => string} nameOf
 * @param {number} most
 * @returns {string[]}
 */
export function mentionable(members, typed, nameOf, most) {
  const wanted = typed.toLowerCase();
  const fits = (/** @type {string} */ user) => nameOf(user).toLowerCase().includes(wanted);
  const all = fits("all") ? ["all"] : [];
  return [...members.filter(fits).slice(0, most - all.length), ...all];
}
