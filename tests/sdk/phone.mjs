// A phone made of paper, for the tests of imserver-react-native: its storage, its push service, and what its screen shows.
import { createElement } from "../../sdk/node_modules/react/index.js";
import renderer from "../../sdk/node_modules/react-test-renderer/index.js";

globalThis.IS_REACT_NATIVE_TEST_ENVIRONMENT = true; // otherwise the renderer warns of pages

/** As AsyncStorage. `copy()`: what is left when the phone ends the app now. */
export class PaperStorage {
  values;
  failure = null;

  constructor(values = new Map()) {
    this.values = values;
  }

  copy() {
    return new PaperStorage(new Map(this.values));
  }

  async getItem(key) {
    return this.values.get(key) ?? null;
  }

  async setItem(key, value) {
    await null;
    if (this.failure) throw this.failure;
    this.values.set(key, value);
  }

  async removeItem(key) {
    this.values.delete(key);
  }
}

/** A source of tokens and notifications: a `PushSource`. */
export class PaperPushSource {
  allows = true;
  current = { service: "fcm", token: "token-1" };
  started = null;
  removed = 0;
  tokenListeners = new Set();
  responseListeners = new Set();

  permit = async () => this.allows;
  token = async () => this.current;
  onToken = (listener) => {
    this.tokenListeners.add(listener);
    return () => this.tokenListeners.delete(listener);
  };
  remove = async () => void this.removed++;
  first = async () => this.started;
  onResponse = (listener) => {
    this.responseListeners.add(listener);
    return () => this.responseListeners.delete(listener);
  };

  refresh(token) {
    this.current = { ...this.current, token };
    for (const listener of this.tokenListeners) listener(this.current);
  }

  respond(notice, action = "", text = "", id = "n1") {
    for (const listener of this.responseListeners) listener(response(notice, action, text, id));
  }
}

export const response = (notice, action = "", text = "", id = "n1") => ({ payload: { data: { imserver: JSON.stringify(notice) } }, id, action, text });

/** Waits until `check` returns something true; returns that. */
export async function eventually(check, what = String(check)) {
  const end = Date.now() + 60_000;
  for (;;) {
    const result = await check();
    if (result) return result;
    if (Date.now() > end) throw new Error(`it has not come: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Everything else, such as what comes from the network, React shows when it likes. */
function atOnce(change) {
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  renderer.act(change);
  globalThis.IS_REACT_ACT_ENVIRONMENT = false;
}

/** What a screen shows, rendered by React. */
export class Screen {
  constructor(component, props = {}) {
    atOnce(() => { this.tree = renderer.create(createElement(component, props)); });
  }

  /** All texts, from top to bottom. */
  get texts() {
    return this.tree.root.findAllByType("Text").map(({ children }) => children.join(""));
  }

  shows(...texts) {
    return eventually(() => texts.every((text) => this.texts.includes(text)), `${texts} in ${this.texts}`);
  }

  hides(text) {
    return eventually(() => !this.texts.includes(text), `no ${text} in ${this.texts}`);
  }

  /** Presses the button that has this text. */
  press(text) {
    const has = (node) => node.findAllByType("Text").some(({ children }) => children.join("") === text);
    const [button] = this.tree.root.findAllByType("Pressable").filter(has);
    if (!button) throw new Error(`no button ${text} in ${this.texts}`);
    return button.props.onPress();
  }

  get input() {
    return this.tree.root.findByType("TextInput").props;
  }

  async write(text) {
    this.input.onChangeText(text);
    await eventually(() => this.input.value === text);
  }

  close() {
    atOnce(() => this.tree.unmount());
  }
}
