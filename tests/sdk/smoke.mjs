// What every JavaScript engine must be able to do with the installed package against a real server, with session tokens
// in an app that has a name. tests/sdk/test_packages.py and tests/browser/test_react.py run it.
import { ImClient, ImError, Messenger, TalkClient } from "imserver-client";

/**
 * @param {{ url: string, httpUrl: string, app: string, tokens: Record<string, string>, WebSocket?: any }} server
 * @returns {Promise<string>} "all is well"
 */
export async function smoke({ url, httpUrl, app, tokens, WebSocket }) {
  const options = { url, httpUrl, app, WebSocket };
  const ann = new ImClient({ ...options, user: "ann", token: tokens.ann });
  const bob = new ImClient({ ...options, user: "bob", token: tokens.bob });
  const next = (client, kind) => new Promise((resolve) => client.on(kind, resolve));
  await ann.connect();
  const entered = next(ann, "enter");
  await bob.connect();
  equal((await entered).from, "bob");

  equal((await ann.userList()).userList.sort(), ["ann", "bob"]);
  equal([await ann.online("bob"), await ann.online("eve")], [true, false]);
  equal(Object.entries(await ann.presence(["bob", "eve"])), [["bob", true], ["eve", false]]);
  let pushed = next(bob, "msg");
  equal(await ann.sendMessage("bob", "你好 <b>&+", "smoke-1"), { sendResults: true });
  equal(await pushed, { from: "ann", text: "你好 <b>&+", id: "smoke-1" });
  pushed = next(ann, "msg");
  equal(await bob.sendMessageAll("to all"), { sendResults: true });
  equal((await pushed).text, "to all");
  equal((await ann.request("ping")).data, "pong");

  let thrown;
  try {
    ann.on("message", () => {});
  } catch (error) {
    thrown = error;
  }
  equal(thrown instanceof TypeError, true);
  ann.close();
  bob.close();

  const eve = new ImClient({ ...options, user: "eve", token: tokens.bob });
  const refused = await eve.connect().catch((error) => error);
  equal([refused instanceof ImError, refused.name, refused.code], [true, "LoginRefused", 1003]);

  const cat = new Messenger({ ...options, user: "ann", token: tokens.ann });
  const dog = new Messenger({ ...options, user: "bob", token: tokens.bob });
  await Promise.all([cat.connect(), dog.connect()]);
  const entry = next(dog, "entry");
  const sent = await cat.send("bob", "stored");
  equal([(await entry).id, (await entry).text], [sent.id, "stored"]);
  equal((await dog.history(sent.conversation)).messages.length, 1);
  const denied = await dog.recall(sent.id).catch((error) => error);
  equal([denied.name, denied.code, denied.message], ["CommandRefused", 1003, "recall refused: 1003 not authorized"]);
  cat.close();
  dog.close();

  const talk = { url: url.replace("/acc", "/ws"), app: 5, room: "7", WebSocket };
  const first = new TalkClient({ ...talk, user: "1", token: tokens[1] });
  const second = new TalkClient({ ...talk, user: "2", token: tokens[2] });
  await Promise.all([first.connect(), second.connect()]);
  const said = next(second, "said");
  await first.say("hello");
  equal([(await said).from, (await said).text], ["1", "hello"]);
  first.close();
  second.close();
  return "all is well";
}

function equal(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
}
