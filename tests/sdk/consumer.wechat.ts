// What a mini-program in TypeScript may write, with WeChat's own types of `wx`. It is checked, not run.
import { Messenger, wechat } from "imserver-client/wechat";

export function connect(user: string, token: string): Messenger {
  const messenger = new Messenger({ ...wechat(wx), url: "wss://im.example.com/acc", httpUrl: "https://im.example.com", app: "default", user, token });
  messenger.on("entry", ({ text }) => console.log(text));
  wx.onAppShow(() => messenger.retryNow());
  return messenger;
}
