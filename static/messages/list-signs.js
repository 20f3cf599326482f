// @ts-check
/** Who is online and who is typing, in the list of conversations. */

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./store.js").Conversation} Conversation */

/** A typing notice is shown so long. */
const TYPING_MS = 6_000;
/** So many of the first conversations keep the presence of their people fresh. */
const WATCHED = 50;

/** Knows it for one session. */
export class Signs {
  /** Id of a group, or the other user → user → when the notice ends. @type {Map<string | number, Map<string, number>>} */
  #typists = new Map();

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    const peers = () => session.store.lists.listed.slice(0, WATCHED).map(({ peer }) => peer).filter(Boolean);
    session.people.watch(peers);
    session.people.refresh(peers());
    session.on("typing", ({ from, conversation }) => this.#note(conversation || from, from));
    session.on("entry", ({ conversation, from }) => void (this.#typists.get(conversation)?.delete(from), this.#typists.get(from)?.delete(from)));
  }

  /**
   * @param {string | number} where
   * @param {string} from
   */
  #note(where, from) {
    const { session } = this;
    session.people.load([from]);
    this.#typists.set(where, (this.#typists.get(where) ?? new Map()).set(from, Date.now() + TYPING_MS));
    session.changed();
    setTimeout(() => session.changed(), TYPING_MS + 50);
  }

  /**
   * @param {Conversation} conversation
   * @returns {{ isOnline: boolean, typing: string }}
   */
  of({ id, group, peer }) {
    const { people, words } = this.session;
    const [user] = [...(this.#typists.get(group ? id : peer) ?? [])].find(([, until]) => until > Date.now()) ?? [];
    return { isOnline: !group && people.card(peer)?.presence === "online", typing: user ? (group ? `${people.nameOf(user)} ${words.messages_is_typing}` : words.messages_is_typing) : "" };
  }
}
