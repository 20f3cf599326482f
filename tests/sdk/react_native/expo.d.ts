// Types of the packages of Expo that examples/react-native uses, as far as it uses them.

declare module "@react-native-async-storage/async-storage" {
  const AsyncStorage: { getItem(key: string): Promise<string | null>; setItem(key: string, value: string): Promise<void>; removeItem(key: string): Promise<void> };
  export default AsyncStorage;
}

declare module "expo-secure-store" {
  export function getItemAsync(key: string): Promise<string | null>;
  export function setItemAsync(key: string, value: string): Promise<void>;
  export function deleteItemAsync(key: string): Promise<void>;
}

declare module "expo-notifications" {
  interface Subscription { remove(): void }
  type Token = { type: "ios" | "android"; data: string } | { type: "web"; data: { endpoint: string } };
  interface Response { actionIdentifier: string; userText?: string; notification: { request: { identifier: string; content: { data: Record<string, unknown> } } } }
  interface Behavior { shouldShowBanner: boolean; shouldShowList: boolean; shouldPlaySound: boolean; shouldSetBadge: boolean }
  interface Action {
    identifier: string; buttonTitle: string;
    textInput?: { submitButtonTitle: string; placeholder: string };
    options?: { opensAppToForeground?: boolean; isDestructive?: boolean };
  }
  export const DEFAULT_ACTION_IDENTIFIER: string;
  export function requestPermissionsAsync(): Promise<{ granted: boolean }>;
  export function getDevicePushTokenAsync(): Promise<Token>;
  export function addPushTokenListener(listener: (token: Token) => void): Subscription;
  export function unregisterForNotificationsAsync(): Promise<void>;
  export function getLastNotificationResponseAsync(): Promise<Response | null>;
  export function clearLastNotificationResponseAsync(): Promise<void>;
  export function addNotificationResponseReceivedListener(listener: (response: Response) => void): Subscription;
  export function setNotificationHandler(handler: { handleNotification: () => Promise<Behavior> } | null): void;
  export function setNotificationCategoryAsync(identifier: string, actions: Action[]): Promise<unknown>;
  export function setBadgeCountAsync(count: number): Promise<boolean>;
}
