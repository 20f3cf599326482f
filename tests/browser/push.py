"""Push services and service workers for the browser: it cannot subscribe
without the service of its vendor.

The page gets a subscription of the test. The server posts to it, and DevTools
hands over what it says.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.browser.chromium import Browser
from tests.integration.receiver import Receiver
from tests.notifications.devices import Device
from tests.support import Server, eventually

_SUBSCRIPTION = """
(() => {
  const made = %s;
  const known = () => {
    const key = localStorage.getItem("test:push");
    if (key === null) return null;
    const bytes = Uint8Array.from(key.split(","), Number);
    return {
      endpoint: made.endpoint,
      options: { applicationServerKey: bytes.buffer },
      toJSON: () => ({ ...made, expirationTime: null }),
      unsubscribe: async () => { localStorage.removeItem("test:push"); return true; },
    };
  };
  Object.assign(PushManager.prototype, {
    getSubscription: async () => known(),
    subscribe: async ({ applicationServerKey, userVisibleOnly }) => {
      if (!userVisibleOnly || applicationServerKey.length !== 65) throw new DOMException("bad options");
      localStorage.setItem("test:push", applicationServerKey.join());
      return known();
    },
  });
})();
"""

_DISPLAY = """
if (!self.display) {
  self.display = [];
  self.opened = [];
  const show = registration.showNotification.bind(registration);
  registration.showNotification = async (title, options) => {
    await show(title, options);
    self.display = self.display.filter(({ tag }) => tag !== options.tag);
    const shown = { title, ...options };
    shown.close = () => void (self.display = self.display.filter((each) => each !== shown));
    self.display.push(shown);
  };
  const has = (tag) => (each) => !tag || each.tag === tag;
  registration.getNotifications = async ({ tag } = {}) => self.display.filter(has(tag));
  Clients.prototype.openWindow = async (url) => void self.opened.push(url); // only a click of a person may
}
"""
"""A browser without a display may forget what it shows, so the worker remembers
it, too."""

_CLICK = """
(async (action, reply) => {
  const works = [];
  const click = { notification: display[0], action, reply, waitUntil: (work) => works.push(work) };
  self.opened = [];
  dispatchEvent(Object.assign(new Event("notificationclick"), click));
  await Promise.all(works);
  return self.opened;
})(%s, %s)
"""

_SHOWN = """
display.map(({ title, body, tag, icon, lang, actions }) =>
  ({ title, body, tag, icon, lang, actions: actions.map((each) => [each.action, each.title]) }))
"""


class DevTools:
    """Commands of the DevTools protocol to one target, and what it tells."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> Any:
        self._id += 1
        self._socket.send(
            json.dumps({"id": self._id, "method": method, "params": parameters})
        )
        while (heard := json.loads(self._socket.recv(60))).get("id") != self._id:
            self.events.append(heard)
        assert "error" not in heard, heard
        return heard["result"]

    def run(self, script: str) -> Any:
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")


class PushedBrowser(ExitStack):
    """A browser, its worker of the messages page, and the push service that the
    server posts to."""

    def __init__(
        self, browser: Browser, server: Server, service: Receiver, name: str
    ) -> None:
        super().__init__()
        self.browser = browser
        self.server = server
        self.origin = server.http_url
        self.scope = f"{self.origin}/home/messages"
        self.service = service
        self.path = f"/push/{name}"
        self.device = Device()
        known = self.device.endpoint(f"{service.url}{self.path}")
        keys = {"p256dh": known.p256dh, "auth": known.auth}
        self.script = _SUBSCRIPTION % json.dumps({"endpoint": known.url, "keys": keys})
        # What is allowed ends with the connection that has allowed it, so it is
        # not that of a tab.
        self._whole = self.enter_context(self._connected(self._json("version")))
        self._worker: DevTools | None = None

    def allow(self, answer: str = "granted") -> None:
        """What the browser says when the page asks for notifications."""
        named = {"permission": {"name": "notifications"}, "setting": answer}
        self._whole.call("Browser.setPermission", **named, origin=self.origin)

    def posts(self) -> list[bytes]:
        return [
            self.device.decrypt(post.body)
            for post in self.service.posts
            if post.path == self.path
        ]

    def pushed(self, number: int) -> bytes:
        """What the push service got as its post of this number."""
        eventually(
            lambda: len(self.posts()) > number,
            what=f"post {number} to the push service",
        )
        return self.posts()[number]

    def deliver_text(self, text: str) -> None:
        """Hand over what the push service has got about this."""
        about = text.encode()
        found = eventually(
            lambda: [each for each in self.posts() if about in each],
            what=f"a push: {text}",
        )
        self.deliver(found[0])

    def deliver(self, content: bytes) -> None:
        """Hand a push message to the worker, as the service of the browser's
        vendor does."""
        with self._tools("page") as tools:
            tools.call("ServiceWorker.enable")
            tools.call("ServiceWorker.startWorker", scopeURL=self.scope)
            self.run("1")

            def registered() -> list[str]:
                tools.run("1")  # so events are read
                updates = [
                    each
                    for each in tools.events
                    if each["method"].endswith("RegistrationUpdated")
                ]
                known = [
                    row for each in updates for row in each["params"]["registrations"]
                ]
                there = [
                    row
                    for row in known
                    if row["scopeURL"] == self.scope and not row["isDeleted"]
                ]
                return [row["registrationId"] for row in there]

            id = eventually(registered, what="the worker is registered")[-1]
            push = {"registrationId": id, "data": content.decode()}
            tools.call("ServiceWorker.deliverPushMessage", origin=self.origin, **push)

    def run(self, script: str) -> Any:
        if self._worker is None:
            self._worker = self.enter_context(self._tools("service_worker"))
            self._worker.run(_DISPLAY)
        return self._worker.run(script)

    def shown_as(self, *texts: str) -> list[dict[str, Any]]:
        """Wait until these notifications are shown, whatever the worker still
        does."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = self.run(_SHOWN)
            return [each["body"] for each in found] == list(texts)

        eventually(look, what=f"the notifications {texts}")
        return found

    def click(self, action: str = "", reply: str = "") -> list[str]:
        """Click on the notification, or on one of its buttons. Returns the
        addresses that it opened."""
        opened: list[str] = self.run(
            _CLICK % (json.dumps(action), json.dumps(reply or None))
        )
        return opened

    @contextmanager
    def _tools(self, kind: str) -> Iterator[DevTools]:
        """The page, or the worker, which may be started or ended just now."""

        def look() -> list[dict[str, Any]]:
            found = [each for each in self._json("list") if each["type"] == kind]
            return [
                each
                for each in found
                if kind == "page" or each["url"].startswith(self.origin)
            ]

        with self._connected(eventually(look, what=f"a {kind}")[0]) as tools:
            yield tools

    @contextmanager
    def _connected(self, target: dict[str, Any]) -> Iterator[DevTools]:
        address = target["webSocketDebuggerUrl"]
        with connect(address, proxy=None, origin=None, max_size=None) as socket:
            yield DevTools(socket)

    def _json(self, name: str) -> Any:
        address = self.browser.driver.capabilities["goog:chromeOptions"][
            "debuggerAddress"
        ]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{address}/json/{name}") as answer:
            return json.load(answer)
