import AsyncStorage from "@react-native-async-storage/async-storage";
import * as Notifications from "expo-notifications";
import * as SecureStore from "expo-secure-store";
import { Accounts, type AccountLogin } from "imserver-client/accounts";
import { useConversations } from "imserver-react";
import { expo, PhoneMessenger, useNotificationOpened, usePhoneClient, usePushNotifications } from "imserver-react-native";
import { Chat, type Place } from "imserver-react-native/chat";
import { useEffect, useState } from "react";
import { Button, SafeAreaView, Text, TextInput } from "react-native";

const SERVER = { url: "wss://im.example.com/acc", httpUrl: "https://im.example.com", app: "shop" };
const LOGIN = "login";
const source = expo(Notifications);

// While the app is open, its screen shows what is new.
Notifications.setNotificationHandler({
  handleNotification: async () => ({ shouldShowBanner: false, shouldShowList: false, shouldPlaySound: false, shouldSetBadge: false }),
});
// The buttons of notifications of messages, on iOS.
Notifications.setNotificationCategoryAsync("message", [
  { identifier: "reply", buttonTitle: "Reply", textInput: { submitButtonTitle: "Send", placeholder: "Message" }, options: { opensAppToForeground: false } },
  { identifier: "read", buttonTitle: "Mark as read", options: { opensAppToForeground: false } },
]);

export default function App() {
  const [login, setLogin] = useState<AccountLogin | null>(null);
  useEffect(() => {
    SecureStore.getItemAsync(LOGIN).then((stored) => stored && setLogin(JSON.parse(stored)));
  }, []);
  const change = async (next: AccountLogin | null) => {
    setLogin(next);
    await (next ? SecureStore.setItemAsync(LOGIN, JSON.stringify(next)) : SecureStore.deleteItemAsync(LOGIN));
  };
  return (
    <SafeAreaView style={{ flex: 1 }}>
      {login ? <Messages login={login} onLogout={() => change(null)} /> : <Login onLogin={change} />}
    </SafeAreaView>
  );
}

function Login({ onLogin }: { onLogin: (login: AccountLogin) => void }) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [problem, setProblem] = useState("");
  const accounts = new Accounts({ url: SERVER.httpUrl, app: SERVER.app });
  const submit = () => accounts.login(name, password, { device: "Phone" }).then(onLogin, (error) => setProblem(error.message));
  return (
    <>
      <TextInput value={name} onChangeText={setName} placeholder="Name" autoCapitalize="none" />
      <TextInput value={password} onChangeText={setPassword} placeholder="Password" secureTextEntry />
      <Button title="Log in" onPress={submit} />
      <Text accessibilityLiveRegion="polite">{problem}</Text>
    </>
  );
}

function Messages({ login: { user, token }, onLogout }: { login: AccountLogin; onLogout: () => void }) {
  const { client, state } = usePhoneClient(() => new PhoneMessenger({ ...SERVER, user, token, storage: AsyncStorage }), [user, token]);
  const push = usePushNotifications(client, source, { storage: AsyncStorage });
  const [place, setPlace] = useState<Place | null>(null);
  useNotificationOpened(source, SERVER.httpUrl, ({ conversation }, { draft }) => conversation && setPlace({ conversation, draft }));

  const { conversations } = useConversations(client);
  const unread = conversations.filter((each) => each.unread).length;
  useEffect(() => void Notifications.setBadgeCountAsync(unread), [unread]);

  const logOut = async () => {
    await push.disable();
    await client?.forget();
    onLogout();
  };
  return (
    <>
      <Chat messenger={client} state={state} place={place} onPlace={setPlace} />
      {!place && push.state === "off" && <Button title="Notify me on this phone" onPress={() => void push.enable()} />}
      {!place && <Button title="Log out" onPress={() => void logOut()} />}
    </>
  );
}
