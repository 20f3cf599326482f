// @ts-check
/**
 * A small chat screen: the conversations, the messages of one, and a composer. Copy it when it is too small for you: it uses nothing
 * but the hooks.
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
    conversations: "Conversations", none: "No conversations yet", back: "Back", message: "Message", send: "Send", offline: "Waiting for the network…",
    typing: "{name} is typing…", recalled: "Message deleted", waiting: "Waiting", failed: "Not sent: {reason}", retry: "Try again", remove: "Remove", other: "Attachment",
    you: "You", cancelled: "Cancelled", expired: "Nobody answered in time",
  },
  zh: {
    conversations: "会话", none: "还没有会话", back: "返回", message: "消息", send: "发送", offline: "正在等待网络…",
    typing: "{name} 正在输入…", recalled: "消息已删除", waiting: "等待发送", failed: "未发送：{reason}", retry: "重试", remove: "删除", other: "附件",
    you: "你", cancelled: "已取消", expired: "无人按时回答",
  },
};

/**
 * The conversations, or the one that is open.
 *
 * @param {{ messenger: PhoneMessenger | null, state: StateChange, place: Place | null, onPlace: (place: Place | null) => void } & Look} props
 *   `place`: the open conversation; null: the list of them
 * @returns {ReactElement}
 */
export function Chat({ messenger, state, place, onPlace, ...look }) {
  const { words = WORDS.en } = look;
  const view = place
    ? h(ConversationView, { key: JSON.stringify(place), messenger, state, place, onBack: () => onPlace(null), ...look })
    : h(ConversationList, { messenger, onOpen: onPlace, ...look });
  const isOffline = state.state !== "online" && state.state !== "idle";
  return h(View, { style: styles.screen }, isOffline && h(Text, { style: styles.bar, accessibilityLiveRegion: "polite" }, words.offline), view);
}

/**
 * The user's conversations.
 *
 * @param {{ messenger: PhoneMessenger | null, onOpen: (where: Where) => void } & Look} props
 * @returns {ReactElement}
 */
export function ConversationList({ messenger, onOpen, nameOf = itself, words = WORDS.en }) {
  const { conversations, hasMore, loadMore } = useConversations(messenger);
  return h(FlatList, {
    data: conversations, keyExtractor: (/** @type {any} */ { id }) => String(id), onEndReached: hasMore ? loadMore : undefined,
    ListHeaderComponent: h(Text, { style: styles.title, accessibilityRole: "header" }, words.conversations),
    ListEmptyComponent: h(Text, { style: styles.small }, words.none),
    renderItem: (/** @type {any} */ { item }) => {
      const { id, name, peer = "", unread, last } = /** @type {Conversation} */ (item);
      return h(Pressable, { style: styles.row, accessibilityRole: "button", onPress: () => onOpen({ conversation: id }) },
        h(View, { style: styles.grow }, h(Text, { style: styles.name }, name || nameOf(peer)), h(Text, { style: styles.small, numberOfLines: 1 }, last ? textOf(last, words) : "")),
        unread > 0 && h(Text, { style: styles.unread }, String(unread)));
    },
  });
}

/**
 * The messages of a conversation, and a composer.
 *
 * @param {{ messenger: PhoneMessenger | null, state: StateChange, place: Place, onBack: () => void } & Look} props
 * @returns {ReactElement}
 */
export function ConversationView({ messenger, state, place, onBack, nameOf = itself, words = WORDS.en }) {
  const { answer, entries, hasMore, loadEarlier, markRead, typing, typingUser } = useConversation(messenger, place);
  const waiting = useOutbox(messenger).filter(({ to, more }) => ("to" in place ? to === place.to : more.conversation === place.conversation));
  const [text, setText] = useState(place.draft ?? "");
  const isSeen = useIsActive() && state.state === "online";
  const newest = entries[entries.length - 1]?.id;
  useEffect(() => {
    if (isSeen && newest) markRead().catch(() => {}); // with the next message, or connection
  }, [isSeen, newest, markRead]);
  const user = messenger?.user ?? "";
  const shown = entries.filter(({ kind }) => kind === "message" || kind === "recall");
  const send = () => {
    if (!messenger || !text.trim()) return;
    messenger.outbox.send("to" in place ? { to: place.to } : { conversation: place.conversation }, text).catch(() => setText(text));
    setText("");
  };
  return h(
    KeyboardAvoidingView, { style: styles.screen, behavior: Platform.OS === "ios" ? "padding" : undefined },
    h(View, { style: styles.row },
      h(Pressable, { accessibilityRole: "button", onPress: onBack }, h(Text, { style: styles.link }, words.back)),
      h(Text, { style: [styles.small, styles.grow] }, typingUser ? filled(words.typing, { name: nameOf(typingUser) }) : "")),
    h(FlatList, {
      style: styles.grow, inverted: true, data: [...shown, ...waiting].reverse(),
      keyExtractor: (/** @type {any} */ { id }) => String(id), onEndReached: hasMore ? loadEarlier : undefined,
      renderItem: (/** @type {any} */ { item }) => ("failed" in item ? h(UnsentMessage, { item, messenger, words }) : h(
        View, { style: [styles.message, item.from === user && styles.own] },
        item.from !== user && h(Text, { style: styles.small }, nameOf(item.from)),
        h(Text, { style: styles.text }, textOf(item, words)),
        item.meta?.ask && h(Question, { item, user, answer, nameOf, words }))),
    }),
    h(View, { style: styles.row },
      h(TextInput, {
        style: [styles.input, styles.grow], value: text, placeholder: words.message, accessibilityLabel: words.message, multiline: true,
        onChangeText: (/** @type {string} */ value) => {
          setText(value);
          typing();
        },
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
  const [pending, setPending] = useState("");
  const { options = [], of, state, answers = [] } = meta?.ask ?? {};
  const textOfAnswer = (/** @type {{ value?: string, text?: string }} */ { value, text }) => options.find((each) => each.value === value)?.text ?? text ?? value ?? "";
  const mayAnswer = !state && (of ? of.includes(user) : from !== user) && !answers.some((each) => each.user === user);
  const press = (/** @type {string} */ value) => {
    setPending(value);
    answer(id, { value }).catch(() => {}).then(() => setPending("")); // if others were faster, their answer is shown
  };
  const isOff = !mayAnswer || pending !== "";
  return h(View, { style: styles.question, accessibilityLiveRegion: "polite" },
    !state && options.map(({ text, value }) => h(
      Pressable, { key: value, style: [styles.option, isOff && styles.off], accessibilityRole: "button", accessibilityState: { disabled: isOff, busy: pending === value }, disabled: isOff, onPress: () => press(value) },
      h(Text, { style: isOff ? styles.small : styles.link }, text))),
    answers.map((each) => h(Text, { key: each.user, style: styles.small }, `${each.user === user ? words.you : nameOf(each.user)}: ${textOfAnswer(each)}`)),
    state && state !== "answered" && h(Text, { style: styles.small }, words[state]));
}

/** @param {{ item: Unsent, messenger: PhoneMessenger | null, words: Words }} props */
function UnsentMessage({ item: { id, text, failed, reason }, messenger, words }) {
  const press = (/** @type {string} */ word, /** @type {(id: string) => unknown} */ action) =>
    h(Pressable, { accessibilityRole: "button", onPress: () => action(id) }, h(Text, { style: styles.link }, word));
  return h(View, { style: [styles.message, styles.own] },
    h(Text, { style: styles.text }, text ?? words.other),
    h(Text, { style: styles.small }, failed ? filled(words.failed, { reason }) : words.waiting),
    failed && messenger && press(words.retry, messenger.outbox.retry),
    failed && messenger && press(words.remove, messenger.outbox.discard));
}

/**
 * @param {Entry} entry
 * @param {Words} words
 */
function textOf({ kind, id, about, text }, words) {
  if (kind === "recall" || (kind === "message" && about === id)) return words.recalled;
  return text ?? (kind === "message" ? words.other : "");
}

/**
 * @param {string} text
 * @param {Record<string, string>} values
 */
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** @param {string} user */
const itself = (user) => user;

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
