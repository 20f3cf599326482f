// @ts-check
/** What entries mean: which change others, and how. */

/** @typedef {{ emoji: string, count: number, users: string[], mine: boolean }} Reaction */
/**
 * `line`: what one row says of several people, `named`.
 *
 * @typedef {import("../../../sdk/messenger.js").Entry & { reactions?: Reaction[], meta?: any, line?: string, named?: string[] }} Entry
 */

/** Kinds of entries about another entry that are not shown themselves. */
const REVISIONS = new Set(["edit", "recall", "reaction", "press"]);
/** Of people whom a notice is about, so many have to be known: it names no more. */
const MOST_USERS = 5;
/** Kinds of entries that are neither unread nor the last of their conversation. */
const SILENT = new Set([...REVISIONS, "pin"]);

/**
 * Whether a message mentions a user, who has not written it.
 *
 * @param {Entry} entry
 * @param {string} user
 */
export function mentions({ meta, from }, user) {
  return from !== user && Boolean(meta?.mentions?.includes(user) || meta?.mentions?.includes("all"));
}

/**
 * @param {{ meta?: any }} entry
 * @returns {boolean} whether only its thread shows it, not the conversation
 */
export function isBeside({ meta }) {
  return Boolean(meta?.thread && !meta.also);
}

/**
 * @param {Entry} entry  of a group
 * @param {string} user
 * @returns {boolean} whether it is about this member
 */
export function isAbout({ meta, from }, user) {
  return (meta?.users ?? [from]).includes(user);
}

/** Fields of `meta` about threads and questions: they stay when the message changes. */
const LASTING = ["thread", "also", "replies", "ask"];

/** @param {Entry} entry */
function lastingOf({ meta }) {
  const present = LASTING.filter((key) => meta?.[key]);
  return Object.fromEntries(present.map((key) => [key, meta[key]]));
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether its author may edit it, which they may not if it is forwarded, or if somebody has answered its question
 */
export function isEditable({ kind, text, meta }) {
  if (kind !== "message" || text === undefined || meta?.forwarded) return false;
  const ask = meta?.ask;
  return !(ask?.fixed || ask?.answers?.length || ask?.poll?.voters);
}

/**
 * @param {Entry} entry
 * @returns {string[]} users whose names are needed to show it, besides its sender
 */
export function usersIn({ meta, reactions }) {
  const mentioned = (meta?.mentions ?? []).filter((/** @type {string} */ user) => user !== "all");
  const reacting = reactions?.flatMap(({ users }) => users) ?? [];
  return [...(meta?.users ?? []).slice(0, MOST_USERS), ...mentioned, meta?.forwarded?.from ?? "", ...(meta?.replies?.users ?? []), ...reacting];
}

/**
 * Inserts an entry at its position, once.
 *
 * @param {Entry[]} entries  in order
 * @param {Entry} entry
 */
export function insert(entries, entry) {
  const before = entries.findLastIndex(({ id }) => id <= entry.id);
  if (entries[before]?.id !== entry.id) entries.splice(before + 1, 0, entry);
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether it changes another entry, and is not shown itself
 */
export function isRevision({ kind, about, id, type }) {
  // In the history, a recalled message refers to itself.
  return (REVISIONS.has(kind) && about !== id) || (kind === "pin" && type === "remove");
}

/**
 * @param {Entry} entry
 * @param {Entry} revision
 * @param {string} self  our user
 * @returns {Entry} the entry after the revision
 */
export function revised(entry, revision, self) {
  const { kind, from, about, id, text, data, type, meta } = revision;
  if (about !== entry.id) return entry;
  if (kind === "edit" && !from && meta && "restored" in meta) return restored(entry, revision);
  if (entry.kind !== "message") return entry;
  if (kind === "recall") return recalled(entry, revision);
  if (kind === "reaction") return { ...entry, reactions: reacted(entry, revision, self), meta: { ...entry.meta, reacted: id } };
  if (kind === "press") return { ...entry, meta: { ...entry.meta, ask: { ...entry.meta?.ask, ...meta?.ask } } };
  if (kind !== "edit") return entry;
  const last = entry.meta?.reacted;
  return { ...entry, text, data, type, meta: { ...meta, ...lastingOf(entry), edited: id, ...(last && { reacted: last }) } };
}

/**
 * A message that was recalled. If its author was erased with the account, it has another sender.
 *
 * @param {Entry} entry
 * @param {Entry} revision
 * @returns {Entry}
 */
function recalled(entry, { from, meta }) {
  const author = meta?.erased ? from : entry.from;
  const gone = { text: undefined, data: undefined, reactions: undefined };
  return { ...entry, ...gone, from: author, kind: "recall", about: entry.id, meta: { ...meta, ...lastingOf(entry) } };
}

/**
 * A message that moderators had removed, and have brought back.
 *
 * @param {Entry} entry
 * @param {Entry} revision
 * @returns {Entry}
 */
function restored(entry, { text, data, type, meta }) {
  const { restored: about, ...rest } = meta ?? {};
  return { ...entry, kind: "message", about: Number(about) || undefined, text, data, type, meta: rest };
}

/**
 * @param {Entry} entry
 * @param {Entry} change  adds or removes the reaction of a user, and says how many have this reaction then
 * @param {string} self
 * @returns {Reaction[]} the reactions after the change, unless they have it already
 */
function reacted({ reactions = [], meta }, { id, from, type, text: emoji = "", meta: { count = 0 } = {} }, self) {
  if ((meta?.reacted ?? 0) >= id) return reactions;
  const before = reactions.find((each) => each.emoji === emoji) ?? { emoji, count: 0, users: [], mine: false };
  if (!count) return reactions.filter((each) => each !== before);
  const others = before.users.filter((user) => user !== from);
  const isAdded = type === "add";
  const after = { emoji, count, users: isAdded ? [...others, from] : others, mine: from === self ? isAdded : before.mine };
  return before.count ? reactions.map((each) => (each === before ? after : each)) : [...reactions, after];
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether it is neither unread nor the last entry of its conversation
 */
export function isSilent({ kind }) {
  return SILENT.has(kind);
}
