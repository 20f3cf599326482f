// @ts-check
/** What entries mean: which change others, and how. */

/** @typedef {{ emoji: string, count: number, users: string[], mine: boolean }} Reaction */
/** `line`: what one row says of several people, `named`. @typedef {import("../../../sdk/messenger.js").Entry & { reactions?: Reaction[], meta?: any, line?: string, named?: string[] }} Entry */

/** Kinds of entries about another entry that are not shown themselves. */
const REVISIONS = new Set(["edit", "recall", "reaction", "press"]);
/** Kinds of entries that are neither unread nor the last of their conversation. */
const SILENT = new Set([...REVISIONS, "pin"]);

/**
 * Whether a message mentions a user, who has not written it.
 *
 * @param {Entry} entry
 * @param {string} user
 */
export function mentions({ meta, from }, user) {
  return from !== user && Boolean(meta?.mentions?.some((/** @type {string} */ each) => each === user || each === "all"));
}

/**
 * @param {{ meta?: any }} entry
 * @returns {boolean} whether only its thread shows it, not the conversation
 */
export function isBeside({ meta }) {
  return Boolean(meta?.thread && !meta.also);
}

/** What `meta` says of threads and questions: it stays when the message changes. */
const LASTING = ["thread", "also", "replies", "ask"];

/** @param {Entry} entry */
function lastingOf({ meta }) {
  return Object.fromEntries(LASTING.filter((key) => meta?.[key]).map((key) => [key, meta[key]]));
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether its author may edit it: the content of others stays, and so does what somebody has answered
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
  return [...(meta?.users ?? []).slice(0, 5), ...mentioned, meta?.forwarded?.from ?? "", ...(meta?.replies?.users ?? []), ...(reactions ?? []).flatMap(({ users }) => users)];
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
 * @returns {boolean} whether it changes another entry; in the history, a recalled message refers to itself
 */
export function isRevision({ kind, about, id, type }) {
  return (REVISIONS.has(kind) && about !== id) || (kind === "pin" && type === "remove");
}

/**
 * @param {Entry} entry
 * @param {Entry} revision
 * @param {string} self  our user
 * @returns {Entry} the entry after the revision
 */
export function revised(entry, revision, self) {
  if (revision.about !== entry.id) return entry;
  if (revision.kind === "edit" && !revision.from && revision.meta && "restored" in revision.meta) return restored(entry, revision);
  if (entry.kind !== "message") return entry;
  if (revision.kind === "recall") return { ...entry, ...(revision.meta?.erased && { from: revision.from }), kind: "recall", about: entry.id, text: undefined, data: undefined, reactions: undefined, meta: { ...revision.meta, ...lastingOf(entry) } };
  if (revision.kind === "reaction") return { ...entry, reactions: reacted(entry, revision, self), meta: { ...entry.meta, reacted: revision.id } };
  if (revision.kind === "press") return { ...entry, meta: { ...entry.meta, ask: { ...entry.meta?.ask, ...revision.meta?.ask } } };
  if (revision.kind !== "edit") return entry;
  const { text, data, type, meta } = revision;
  return { ...entry, text, data, type, meta: { ...meta, ...lastingOf(entry), edited: revision.id, ...(entry.meta?.reacted && { reacted: entry.meta.reacted }) } };
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
 * @param {Entry} change
 * @param {string} self
 * @returns {Reaction[]}
 */
function reacted({ reactions = [], meta }, { id, from, type, text = "", meta: { count = 0 } = {} }, self) {
  if ((meta?.reacted ?? 0) >= id) return reactions; // they have it already
  const before = reactions.find((each) => each.emoji === text) ?? { emoji: text, count: 0, users: [], mine: false };
  const others = before.users.filter((user) => user !== from);
  const isAdded = type === "add";
  const after = { emoji: text, count, users: isAdded ? [...others, from] : others, mine: from === self ? isAdded : before.mine };
  if (!count) return reactions.filter((each) => each !== before);
  return before.count ? reactions.map((each) => (each === before ? after : each)) : [...reactions, after];
}

/**
 * @param {Entry} entry
 * @returns {boolean} whether it is neither unread nor the last entry of its conversation
 */
export function isSilent({ kind }) {
  return SILENT.has(kind);
}
