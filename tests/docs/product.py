"""Follows the guide to your product: plays its commands, and uses what they
start as two users would."""

import os
import re
import signal
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import msgspec

from imserver_client import Entry, Messenger, Push
from tests import processes
from tests.docs.markdown import Block, blocks
from tests.ports import free_ports
from tests.support import ROOT, eventually

GUIDE = ROOT / "docs" / "guides" / "your-product.md"
EXAMPLE = ROOT / "examples" / "flask-product"
PORTS = ("5000", "8025", "8080", "8089")
"""The ports of the guide: product, mail server, and imserver's two."""
STEP_SECONDS = 600.0


def files_of(page: Path) -> list[Block]:
    """The blocks of a page that are files: the word behind the language is
    their name."""
    found = blocks(page, "python", "html", "sh")
    return [block for block in found if block.words and "." in block.words[0]]


def step(word: str) -> Block:
    """The commands of a step."""
    (found,) = (block for block in blocks(GUIDE, "sh") if block.words == (word,))
    return found


class Terminal:
    """A shell in which the guide is followed. Free ports take the place of
    those in PORTS."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._output = folder / "terminal.txt"
        self._steps = 0
        self._ports = {port: str(free_ports()) for port in PORTS}
        where = {
            "cwd": folder,
            "env": {**environment, "PYTHONUNBUFFERED": "1"},
            "start_new_session": True,
        }
        with self._output.open("wb") as output:
            self._shell = processes.spawn(
                ["bash"], stdin=-1, stdout=output, stderr=output, **where
            )

    @property
    def product(self) -> str:
        return f"http://127.0.0.1:{self._ports['5000']}"

    @property
    def output(self) -> str:
        """What was printed in the terminal."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def write(self, block: Block) -> None:
        """Write a file of the guide."""
        path = self.folder / block.words[0]
        path.parent.mkdir(exist_ok=True)
        path.write_text(self._with_ports(block.text), encoding="utf-8")

    def run(self, commands: str) -> None:
        """Run commands to their end. Raises AssertionError if one fails."""
        self._steps += 1
        self._type(f"set -e\n{commands}set +e\necho step {self._steps} done\n")
        eventually(self._has_ended, STEP_SECONDS, commands)
        assert f"step {self._steps} done" in self.output, f"{commands}\n{self.output}"

    def start(self, command: str) -> None:
        """Start the servers, and wait for their ports."""
        settings = self.folder / "imserver.yaml"
        settings.write_text(
            self._with_ports(settings.read_text(encoding="utf-8")), encoding="utf-8"
        )
        self._type(command)
        for port in self._ports.values():
            eventually(
                lambda port=port: listens(port) or self._has_died(), what=self.output
            )

    def stop(self) -> None:
        """Press Ctrl-C, and wait for the end of everything."""
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGINT)
            self._shell.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        processes.end(self._shell, signal.SIGHUP)
        eventually(
            lambda: not any(map(listens, self._ports.values())),
            what="the servers have ended",
        )

    def _type(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(self._with_ports(text).encode())
        self._shell.stdin.flush()

    def _has_ended(self) -> bool:
        return f"step {self._steps} done" in self.output or self._has_died()

    def _has_died(self) -> bool:
        return self._shell.poll() is not None

    def _with_ports(self, text: str) -> str:
        return re.sub(
            rf"\b({'|'.join(PORTS)})\b", lambda found: self._ports[found[0]], text
        )


def listens(port: str | int) -> bool:
    """Whether somebody listens at a port of this machine."""
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", int(port))) == 0


class Visitor:
    """A user of the product, with a browser's cookies, and the Python client in
    place of the page's."""

    def __init__(self, product: str, user: str, **headers: str) -> None:
        self._product = product
        self._headers = headers
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(CookieJar()),
        )
        self.user = user

    def login(self) -> None:
        """Log in to the product."""
        page = self.ask("/login", user=self.user).decode()
        assert f"<h1>{self.user}</h1>" in page

    def connect(self) -> Messenger:
        """Connect to imserver with the token of the product."""
        options = self.get("/session")
        return Messenger(
            options["url"],
            options["app"],
            options["user"],
            cursor=0,
            token=options["token"],
        )

    def get(self, path: str) -> Any:
        """GET a path of the product; the JSON of its answer."""
        return msgspec.json.decode(self.ask(path))

    def ask(self, path: str, **form: str) -> bytes:
        """Ask the product: POST with a form, GET without."""
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(self._product + path, data, self._headers)
        with self._opener.open(request, timeout=60) as answer:
            body: bytes = answer.read()
            return body


@contextmanager
def following(folder: Path, **environment: str) -> Iterator[Terminal]:
    """A terminal in which the guide is followed; what it has started is
    ended."""
    terminal = Terminal(folder, **environment)
    try:
        yield terminal
    finally:
        terminal.stop()


def use(terminal: Terminal) -> Iterator[str]:
    """Use the product as ann and bob; yield each feature that works."""
    ann = Visitor(terminal.product, "ann")
    bob = Visitor(terminal.product, "bob")
    for visitor in (ann, bob):
        visitor.login()
    with ann.connect() as at_ann, bob.connect() as at_bob:
        yield "token login of two users"
        ann.ask("/news", text="We are open")
        for messenger in (at_ann, at_bob):
            expect(messenger, "ann: We are open")
        yield "feed"
        at_ann.send("bob", "Are you there?")
        expect(at_bob, "Are you there?")
        with bob.connect() as another_device:
            expect(another_device, "Are you there?")
        yield "chat, stored"
        assert ann.get("/friends") == {"bob": True, "cleo": False}
        at_bob.close()
        eventually(
            lambda: ann.get("/friends") == {"bob": False, "cleo": False},
            what="bob has left",
        )
        yield "presence"
        ann.ask("/wave", to="cleo")
        expect_mail(terminal, "cleo", "ann", "ann waves at you")
        yield "e-mail to an absent user"
        at_ann.send("cleo", "Come and see")
        expect_mail(terminal, "cleo", "ann", "Come and see")
        yield "e-mail about a chat message, after 10 s"


def expect(messenger: Messenger, text: str) -> None:
    """Wait for a push or a stored message with this text."""

    def arrives() -> bool:
        event = messenger.receive(1)
        return isinstance(event, Push | Entry) and event.text == text

    eventually(arrives, what=text)


def expect_mail(terminal: Terminal, user: str, sender: str, text: str) -> None:
    """Wait for a mail in the terminal."""

    def arrives() -> bool:
        mails = terminal.output.split("END MESSAGE")
        lines = (
            f"To: {user}@example.org",
            f"Subject: News from {sender}",
            f"\n{text}\n",
        )
        return any(all(line in mail for line in lines) for mail in mails)

    eventually(arrives, what=f"a mail to {user}\n{terminal.output}")
