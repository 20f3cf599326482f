/**
 * A small chat screen: the conversations, the messages of one, and a composer. If you need more, copy it: it uses nothing but the
 * hooks.
 *
 * @module chat
 */
export type StateChange = import("imserver-client").StateChange;
export type Conversation = import("imserver-client/messenger").Conversation;
export type Entry = import("imserver-client/messenger").Entry;
export type PhoneMessenger = import("./messenger.js").PhoneMessenger;
export type Unsent = import("./outbox.js").Unsent;
export type Where = import("./outbox.js").Where;
export type ReactElement = import("react").ReactElement;
export type Words = typeof WORDS.en;
export type Place = Where & {
    draft?: string;
};
export type Look = {
    /**
     * the name of a user; default: their id
     */
    nameOf?: (user: string) => string;
    /**
     * default: English
     */
    words?: Words;
};
/** @typedef {import("imserver-client").StateChange} StateChange */
/** @typedef {import("imserver-client/messenger").Conversation} Conversation */
/** @typedef {import("imserver-client/messenger").Entry} Entry */
/** @typedef {import("./messenger.js").PhoneMessenger} PhoneMessenger */
/** @typedef {import("./outbox.js").Unsent} Unsent */
/** @typedef {import("./outbox.js").Where} Where */
/** @typedef {import("react").ReactElement} ReactElement */
/** @typedef {typeof WORDS.en} Words */
/** @typedef {Where & { draft?: string }} Place  `draft`: a text for the composer */
/**
 * @typedef {object} Look
 * @property {(user: string) => string} [nameOf]  the name of a user; default: their id
 * @property {Words} [words]  default: English
 */
/** The words of the screen. */
export declare const WORDS: {
    en: {
        conversations: string;
        none: string;
        back: string;
        message: string;
        send: string;
        offline: string;
        typing: string;
        recalled: string;
        waiting: string;
        failed: string;
        retry: string;
        remove: string;
        other: string;
        you: string;
        cancelled: string;
        expired: string;
    };
    zh: {
        conversations: string;
        none: string;
        back: string;
        message: string;
        send: string;
        offline: string;
        typing: string;
        recalled: string;
        waiting: string;
        failed: string;
        retry: string;
        remove: string;
        other: string;
        you: string;
        cancelled: string;
        expired: string;
    };
};
/**
 * The conversations, or the one that is open.
 *
 * @param {{ messenger: PhoneMessenger | null, state: StateChange, place: Place | null, onPlace: (place: Place | null) => void } & Look} props
 *   `place`: the open conversation; null: the list of conversations
 * @returns {ReactElement}
 */
export declare function Chat({ messenger, state, place, onPlace, ...look }: {
    messenger: PhoneMessenger | null;
    state: StateChange;
    place: Place | null;
    onPlace: (place: Place | null) => void;
} & Look): ReactElement;
/**
 * The user's conversations.
 *
 * @param {{ messenger: PhoneMessenger | null, onOpen: (where: Where) => void } & Look} props
 * @returns {ReactElement}
 */
export declare function ConversationList({ messenger, onOpen, nameOf, words }: {
    messenger: PhoneMessenger | null;
    onOpen: (where: Where) => void;
} & Look): ReactElement;
/**
 * The messages of a conversation, and a composer.
 *
 * @param {{ messenger: PhoneMessenger | null, state: StateChange, place: Place, onBack: () => void } & Look} props
 * @returns {ReactElement}
 */
export declare function ConversationView({ messenger, state, place, onBack, nameOf, words }: {
    messenger: PhoneMessenger | null;
    state: StateChange;
    place: Place;
    onBack: () => void;
} & Look): ReactElement;
