// Types of React Native 0.88, as far as imserver-react-native uses it. With strict props, so that a misspelt one is found.
import type { ComponentType, ReactElement, ReactNode } from "../../../sdk/node_modules/@types/react/index.js";

type Style = Record<string, string | number> | false | null | undefined;
type Styles = Style | readonly Style[];
interface Accessible {
  accessibilityRole?: "button" | "header";
  accessibilityLabel?: string;
  accessibilityLiveRegion?: "none" | "polite" | "assertive";
}
interface ViewProps extends Accessible {
  style?: Styles;
  children?: ReactNode;
}

export const View: ComponentType<ViewProps>;
export const SafeAreaView: ComponentType<ViewProps>;
export const Text: ComponentType<ViewProps & { numberOfLines?: number }>;
export const Pressable: ComponentType<ViewProps & { onPress?: null | (() => void); disabled?: boolean; accessibilityState?: { disabled?: boolean; busy?: boolean } }>;
export const KeyboardAvoidingView: ComponentType<ViewProps & { behavior?: "height" | "position" | "padding" }>;
export const TextInput: ComponentType<Accessible & {
  style?: Styles; value?: string; placeholder?: string; multiline?: boolean; onChangeText?: (text: string) => void; autoCapitalize?: "none"; secureTextEntry?: boolean;
}>;
export const Button: ComponentType<{ title: string; onPress: () => void; disabled?: boolean }>;
export const FlatList: ComponentType<{
  style?: Styles; inverted?: boolean; data: readonly unknown[]; keyExtractor?: (item: unknown, index: number) => string; onEndReached?: () => void;
  renderItem: (info: { item: unknown; index: number }) => ReactElement | null; ListHeaderComponent?: ReactElement; ListEmptyComponent?: ReactElement;
}>;
export const StyleSheet: { create<T extends Record<string, Record<string, string | number>>>(styles: T): T };
export const Platform: { OS: "ios" | "android" | "windows" | "macos" | "web"; constants: object };
type State = "active" | "background" | "inactive" | "unknown" | "extension";
export const AppState: {
  currentState: State | null | undefined;
  addEventListener(kind: "change", listener: (state: State) => void): { remove(): void };
};
