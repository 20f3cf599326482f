"""Pages of the originals, served by other servers under their host names, with config/originals.yaml."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.integration.receiver import Receiver
from tests.support import ROOT, Server, eventually

from .chromium import Browser

pytestmark = pytest.mark.full

FILE = ROOT / "config" / "originals.yaml"
KEYS = json.dumps([{"key": "the-operators-key-of-this-test", "scopes": ["admin"]}])

# Each says in its title what became of it, as the original does in bubbles.
GOWEBSOCKET = """<!doctype html><title>wait</title><script>
const socket = new WebSocket("ws://127.0.0.1:WS/acc");
socket.onopen = () => socket.send('{"seq":"1","cmd":"login","data":{"userID":"ann","appID":101}}');
socket.onmessage = (event) => send(JSON.parse(event.data).response.code);
socket.onclose = () => send("closed");
const send = async (login) => {
  const body = new URLSearchParams({appID: "101", userID: "ann", msgID: "m-1", message: "hello"});
  const answer = await fetch("http://127.0.0.1:HTTP/user/sendMessageAll", {method: "POST", body});
  document.title = `${login} ${(await answer.json()).code}`;
};
</script>"""
GUYAN = """<!doctype html><title>wait</title><script>
const socket = new WebSocket("ws://127.0.0.1:WS/ws?uid=1&to_uid=2&appname=1");
const data = {userId: "1", appId: 1, toUid: "2", groupsId: "0"};
socket.onopen = () => socket.send(JSON.stringify({seq: "1", action: "login", data}));
socket.onclose = () => { document.title = "closed"; };
socket.onmessage = (event) => {
  const {action, response} = JSON.parse(event.data);
  if (action === "login") document.title = String(response.code);
};
</script>"""


@contextmanager
def serving(page: str) -> Iterator[int]:
    """The port of a web server that answers every request with this page."""
    with Receiver() as server:
        server.reply = lambda _: (200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        yield int(server.url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("listed", "titles"),
    [(False, ["closed 1003", "closed"]), (True, ["200 200", "200"])],
    ids=["as it is", "listed"],
)
def test_pages_under_their_own_host_names(tmp_path: Path, listed: bool, titles: list[str]) -> None:
    text = FILE.read_text(encoding="utf-8")
    if listed:
        text = re.sub(r"^  # (origins:)", r"  \1", text, flags=re.M)
    server = Server(tmp_path, config=yaml.safe_load(text), environment={"IMSERVER_API_KEYS": KEYS})
    with ExitStack() as stack:
        stack.callback(server.stop)
        found = []
        for host, page in (("im.91vh.com", GOWEBSOCKET), ("ws.test", GUYAN)):
            page = page.replace("HTTP/", f"{server.http.port}/").replace(":WS/", f":{server.ws.port}/")
            port = stack.enter_context(serving(page))
            browser = Browser(tmp_path / host, f"--host-resolver-rules=MAP {host}:80 127.0.0.1:{port}")
            stack.callback(browser.quit)
            browser.driver.get(f"http://{host}/")
            eventually(lambda browser=browser: browser.driver.title != "wait", what="the page is done")
            found.append(browser.driver.title)
        assert found == titles
        for host in ("im.91vh.com", "ws.test"):
            assert (f"the page is of host {host}; to allow it, add" in server.log_text) != listed
