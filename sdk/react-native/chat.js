// @ts-check
/**
 * A small chat screen: the conversations, the messages of one, and a composer. If you need more, copy it: it uses nothing but the
 * hooks.
 *
 * @module chat
 */

import { useConversation, useConversations } from "imserver-react";
import { createElement as h, useEffect, useState } from "react";
import { FlatList, KeyboardAvoidingView, Platform, Pressable, StyleSheet, Text, TextInput, View } from "react-native";

import { useIsActive, useOutbox } from "./hooks.js";

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
export const WORDS = {
  en: {
    conversations: "Conversations", none: "No conversations yet", back: "Back", message: "Message", send: "Send",
    offline: "Waiting for the network…", typing: "{name} is typing…", recalled: "Message deleted", waiting: "Waiting",
    failed: "Not sent: {reason}", retry: "Try again", remove: "Remove", other: "Attachment",
    you: "You", cancelled: "Cancelled", expired: "Nobody answered in time",
  },
  zh: {
    conversations: "会话", none: "还没有会话", back: "返回", message: "消息", send: "发送",
    offline: "正在等待网络…", typing: "{name} 正在输入…", recalled: "消息已删除", waiting: "等待发送",
    failed: "未发送：{reason}", retry: "重试", remove: "删除", other: "附件",
    you: "你", cancelled: "已取消", expired: "无人按时回答",
  },
};

/**
 * The conversations, or the one that is open.
 *
 * @param {{ messenger: PhoneMessenger | null, state: StateChange, place: Place | null, onPlace: (place: Place | null) => void } & Look} props
 *   `place`: the open conversation; null: the list of conversations
 * @returns {ReactElement}
 */
export function Chat({ messenger, state, place, onPlace, ...look }) {
  const { words = WORDS.en } = look;
  const view = place
    ? h(ConversationView, { key: JSON.stringify(place), messenger, state, place, onBack: () => onPlace(null), ...look })
    : h(ConversationList, { messenger, onOpen: onPlace, ...look });
  const isOffline = state.state !== "online" && state.state !== "idle";
  const bar = isOffline && h(Text, { style: styles.bar, accessibilityLiveRegion: "polite" }, words.offline);
  return h(View, { style: styles.screen }, bar, view);
}

/**
 * The user's conversations.
 *
 * @param {{ messenger: PhoneMessenger | null, onOpen: (where: Where) => void } & Look} props
 * @returns {ReactElement}
 */
export function ConversationList({ messenger, onOpen, nameOf = idOf, words = WORDS.en }) {
  const { conversations, hasMore, loadMore } = useConversations(messenger);
  const renderItem = (/** @type {any} */ { item }) => {
    const { id, name, peer = "", unread, last } = /** @type {Conversation} */ (item);
    const lastText = last ? textOf(last, words) : "";
    return h(Pressable, { style: styles.row, accessibilityRole: "button", onPress: () => onOpen({ conversation: id }) },
      h(View, { style: styles.grow },
        h(Text, { style: styles.name }, name || nameOf(peer)),
        h(Text, { style: styles.small, numberOfLines: 1 }, lastText)),
      unread > 0 && h(Text, { style: styles.unread }, String(unread)));
  };
  return h(FlatList, {
    data: conversations, keyExtractor, renderItem, onEndReached: hasMore ? loadMore : undefined,
    ListHeaderComponent: h(Text, { style: styles.title, accessibilityRole: "header" }, words.conversations),
    ListEmptyComponent: h(Text, { style: styles.small }, words.none),
  });
}

/**
 * The messages of a conversation, and a composer.
 *
 * @param {{ messenger: PhoneMessenger | null, state: StateChange, place: Place, onBack: () => void } & Look} props
 * @returns {ReactElement}
 */
export function ConversationView({ messenger, state, place, onBack, nameOf = idOf, words = WORDS.en }) {
  const { answer, entries, hasMore, loadEarlier, markRead, typing, typingUser } = useConversation(messenger, place);
  const isHere = (/** @type {Unsent} */ { to, more }) => ("to" in place ? to === place.to : more.conversation === place.conversation);
  const unsent = useOutbox(messenger).filter(isHere);
  const [text, setText] = useState(place.draft ?? "");

  const isSeen = useIsActive() && state.state === "online";
  const newest = entries[entries.length - 1]?.id;
  useEffect(() => {
    if (isSeen && newest) markRead().catch(() => {}); // the next message, or the next connection, tries it again
  }, [isSeen, newest, markRead]);

  const user = messenger?.user ?? "";
  const shown = entries.filter(({ kind }) => kind === "message" || kind === "recall");
  const renderItem = (/** @type {any} */ { item }) => {
    if ("failed" in item) return h(UnsentMessage, { item, messenger, words });
    return h(View, { style: [styles.message, item.from === user && styles.own] },
      item.from !== user && h(Text, { style: styles.small }, nameOf(item.from)),
      h(Text, { style: styles.text }, textOf(item, words)),
      item.meta?.ask && h(Question, { item, user, answer, nameOf, words }));
  };
  const send = () => {
    if (!messenger || !text.trim()) return;
    const where = "to" in place ? { to: place.to } : { conversation: place.conversation };
    messenger.outbox.send(where, text).catch(() => setText(text)); // the phone cannot store it
    setText("");
  };
  const changeText = (/** @type {string} */ value) => {
    setText(value);
    typing();
  };

  const typingNotice = typingUser ? filled(words.typing, { name: nameOf(typingUser) }) : "";
  return h(
    KeyboardAvoidingView, { style: styles.screen, behavior: Platform.OS === "ios" ? "padding" : undefined },
    h(View, { style: styles.row },
      h(Pressable, { accessibilityRole: "button", onPress: onBack }, h(Text, { style: styles.link }, words.back)),
      h(Text, { style: [styles.small, styles.grow] }, typingNotice)),
    h(FlatList, {
      style: styles.grow, inverted: true, data: [...shown, ...unsent].reverse(),
      keyExtractor, renderItem, onEndReached: hasMore ? loadEarlier : undefined,
    }),
    h(View, { style: styles.row },
      h(TextInput, {
        style: [styles.input, styles.grow], value: text, placeholder: words.message, accessibilityLabel: words.message, multiline: true,
        onChangeText: changeText,
      }),
      h(Pressable, { accessibilityRole: "button", onPress: send }, h(Text, { style: styles.link }, words.send))),
  );
}

/**
 * The options of a question, and who has answered what.
 *
 * @param {{ item: Entry, user: string, answer: (id: number, given: { value: string }) => Promise<void>, nameOf: (user: string) => string, words: Words }} props
 */
function Question({ item: { id, from, meta }, user, answer, nameOf, words }) {
  const [pendingValue, setPendingValue] = useState("");
  const { options = [], of, state, answers = [] } = meta?.ask ?? {};
  const isAsked = of ? of.includes(user) : from !== user;
  const hasAnswered = answers.some((given) => given.user === user);
  const isOff = Boolean(state) || !isAsked || hasAnswered || pendingValue !== "";
  const press = (/** @type {string} */ value) => {
    setPendingValue(value);
    answer(id, { value }).catch(() => {}).then(() => setPendingValue("")); // if others were faster, their answer is shown
  };
  const optionButton = (/** @type {{ text: string, value: string }} */ { text, value }) => h(
    Pressable, {
      key: value, style: [styles.option, isOff && styles.off], accessibilityRole: "button",
      accessibilityState: { disabled: isOff, busy: pendingValue === value }, disabled: isOff, onPress: () => press(value),
    },
    h(Text, { style: isOff ? styles.small : styles.link }, text));
  const answerLine = (/** @type {{ user: string, value?: string, text?: string }} */ given) => {
    const name = given.user === user ? words.you : nameOf(given.user);
    const option = options.find(({ value }) => value === given.value);
    const text = option?.text ?? given.text ?? given.value ?? "";
    return h(Text, { key: given.user, style: styles.small }, `${name}: ${text}`);
  };
  return h(View, { style: styles.question, accessibilityLiveRegion: "polite" },
    !state && options.map(optionButton),
    answers.map(answerLine),
    state && state !== "answered" && h(Text, { style: styles.small }, words[state]));
}

/**
 * A message that the server has not stored yet. If it has failed, the user can send or remove it.
 *
 * @param {{ item: Unsent, messenger: PhoneMessenger | null, words: Words }} props
 */
function UnsentMessage({ item: { id, text, failed, reason }, messenger, words }) {
  const button = (/** @type {string} */ word, /** @type {(id: string) => unknown} */ action) =>
    h(Pressable, { accessibilityRole: "button", onPress: () => action(id) }, h(Text, { style: styles.link }, word));
  const status = failed ? filled(words.failed, { reason }) : words.waiting;
  return h(View, { style: [styles.message, styles.own] },
    h(Text, { style: styles.text }, text ?? words.other),
    h(Text, { style: styles.small }, status),
    failed && messenger && button(words.retry, messenger.outbox.retry),
    failed && messenger && button(words.remove, messenger.outbox.discard));
}

/** @param {any} item  a conversation, an entry or a message that waits */
const keyExtractor = ({ id }) => String(id);

/**
 * @param {Entry} entry
 * @param {Words} words
 * @returns {string} the text that a list shows for the entry
 */
function textOf({ kind, id, about, text }, words) {
  if (kind === "recall" || (kind === "message" && about === id)) return words.recalled;
  return text ?? (kind === "message" ? words.other : "");
}

/**
 * @param {string} text  with placeholders, such as `{name}`
 * @param {Record<string, string>} values
 */
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** The name of a user in an app that passes no `nameOf`. @param {string} user */
const idOf = (user) => user;

const styles = StyleSheet.create({
  screen: { flex: 1 },
  grow: { flex: 1 },
  bar: { padding: 8, textAlign: "center", backgroundColor: "#fff3cd", color: "#5c4400" },
  title: { padding: 12, fontSize: 22, fontWeight: "600" },
  row: { flexDirection: "row", alignItems: "center", gap: 8, padding: 12 },
  name: { fontSize: 16, fontWeight: "600" },
  text: { fontSize: 16, color: "#111" },
  small: { fontSize: 13, color: "#555" },
  link: { fontSize: 16, color: "#0b5cad", padding: 4 },
  unread: { minWidth: 24, borderRadius: 12, padding: 4, textAlign: "center", backgroundColor: "#0b5cad", color: "#fff" },
  message: { alignSelf: "flex-start", maxWidth: "85%", margin: 4, padding: 8, borderRadius: 12, backgroundColor: "#eee" },
  question: { gap: 6, paddingTop: 6 },
  option: { minHeight: 44, justifyContent: "center", alignItems: "center", borderRadius: 10, backgroundColor: "#fff" },
  off: { backgroundColor: "transparent" },
  own: { alignSelf: "flex-end", backgroundColor: "#d6ebff" },
  input: { minHeight: 40, maxHeight: 120, padding: 8, borderWidth: 1, borderColor: "#767676", borderRadius: 8, fontSize: 16 },
});
