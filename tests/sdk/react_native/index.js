// Stands in for React Native under Node: components that a test renderer shows by their names, and a state of the app that tests set.
import { createElement } from "../../../sdk/node_modules/react/index.js";

export const View = "View";
export const Text = "Text";
export const TextInput = "TextInput";
export const Pressable = "Pressable";
export const KeyboardAvoidingView = "KeyboardAvoidingView";
export const Platform = { OS: "android", constants: { Model: "Pixel 9" } };
export const StyleSheet = { create: (styles) => styles };

/** Renders all items, and its props as those of a host component. */
export function FlatList(props) {
  const { data, renderItem, keyExtractor, ListHeaderComponent, ListEmptyComponent } = props;
  const items = data.map((item, index) => createElement("Item", { key: keyExtractor(item, index) }, renderItem({ item, index })));
  return createElement("FlatList", props, ListHeaderComponent, items.length ? items : ListEmptyComponent);
}

const listeners = new Set();

export const AppState = {
  currentState: "active",
  addEventListener(kind, listener) {
    listeners.add(listener);
    return { remove: () => void listeners.delete(listener) };
  },
  /** Only here: the phone moves the app to the background, or back. */
  move(state) {
    AppState.currentState = state;
    for (const listener of [...listeners]) listener(state);
  },
};
