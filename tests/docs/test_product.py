"""The guide to a product of one's own is the example, and what it says works,
with three web frameworks."""

import os
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imserver_client import Signal
from tests.browser.chromium import CHROMIUM, DRIVER, Browser
from tests.docs.markdown import blocks
from tests.docs.product import (
    EXAMPLE,
    GUIDE,
    Terminal,
    Visitor,
    expect,
    expect_mail,
    files_of,
    following,
    step,
    use,
)
from tests.integration.receiver import Receiver
from tests.notifications.devices import Device
from tests.support import ROOT, clean_environment, eventually
from tests.tools import require

FILES = files_of(GUIDE)
FLASK = "flask run --port 5000 &\n"

pytestmark = pytest.mark.needs("openssl")


def test_the_files_of_the_guide_are_those_of_the_example() -> None:
    found = {
        path.relative_to(EXAMPLE).as_posix(): path
        for path in EXAMPLE.rglob("*.*")
        if path.is_file()
    }
    wanted = {
        name: path
        for name, path in found.items()
        if name.endswith((".py", ".sh", ".html"))
    }
    assert {block.words[0]: block.text for block in FILES} == {
        name: path.read_text(encoding="utf-8")
        for name, path in wanted.items()
        if ".venv" not in name
    }


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal whose commands are those of this tree."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("python", "imserver", "flask", "uvicorn"):
        module = "" if name == "python" else f"-m {name}"
        (commands / name).write_text(
            f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n', encoding="utf-8"
        )
        (commands / name).chmod(0o755)
    path = f"{commands}:{os.environ['PATH']}"
    product = tmp_path / "product"
    product.mkdir()
    with following(
        product, **clean_environment(PATH=path, PYTHONPATH=str(ROOT))
    ) as terminal:
        yield terminal


def set_up(terminal: Terminal) -> None:
    """Follow the guide, but for the packages that are here already."""
    for block in FILES:
        terminal.write(block)
    terminal.run(step("setup").text)


@pytest.mark.full("browser")
def test_two_users_use_the_product(terminal: Terminal) -> None:
    set_up(terminal)
    terminal.start(step("start").text)
    assert len(list(use(terminal))) == 6
    assert "Traceback" not in terminal.output


@pytest.mark.full("programs")
@pytest.mark.parametrize("framework", ["fastapi", "django"])
def test_another_framework_replaces_flask(terminal: Terminal, framework: str) -> None:
    set_up(terminal)
    command = step(framework).text.splitlines()[-1] + "\n"
    script = next(block for block in FILES if block.words == ("start.sh",))
    assert FLASK in script.text
    terminal.write(replace(script, text=script.text.replace(FLASK, command)))
    terminal.start(step("start").text)
    ann, bob = (
        Visitor(terminal.product, user, **{"X-User": user}) for user in ("ann", "bob")
    )
    with ann.connect() as at_ann, bob.connect() as at_bob:
        at_ann.send("bob", "hello")
        expect(at_bob, "hello")
    push = 'import im; im.api.push(im.APP, "Come back", user="cleo", sender="ann")'
    subprocess.run(
        [sys.executable, "-c", push],
        cwd=terminal.folder,
        env=clean_environment(),
        timeout=100,
        check=True,
    )
    expect_mail(terminal, "cleo", "ann", "Come back")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ann.ask("/im/events", events="[]")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    require(*CHROMIUM)
    require(DRIVER)
    browser = Browser(tmp_path / "chromium")
    yield browser
    browser.quit()


SUBSCRIPTION = """
// A browser without the push service of its vendor.
const endpoint = "{endpoint}", keys = {{ p256dh: "{p256dh}", auth: "{auth}" }};
PushManager.prototype.subscribe = async () => ({{ endpoint, toJSON: () => ({{ endpoint, keys }}) }});
PushManager.prototype.getSubscription = async () => null;
"""


def add_notifications(terminal: Terminal) -> None:
    """Add the lines of the guide that notify users, and let push services be on
    this machine."""
    route, script = (
        block
        for block in blocks(GUIDE, "python", "js")
        if block.words == ("notifications",)
    )
    assert len(f"{route.text}{script.text}".splitlines()) <= 15
    module, page = (
        terminal.folder / name for name in ("app.py", "templates/index.html")
    )
    module.write_text(
        f"{module.read_text(encoding='utf-8')}\n\n{route.text}", encoding="utf-8"
    )
    before, last, after = page.read_text(encoding="utf-8").partition(
        "  messenger.connect()"
    )
    page.write_text(f"{before}{script.text}{last}{after}", encoding="utf-8")
    with (terminal.folder / "imserver.yaml").open("a", encoding="utf-8") as settings:
        settings.write("notifications:\n  allow_loopback: true\n")


@pytest.mark.full("browser")
def test_the_page_shows_what_happens_and_notifies_while_it_is_closed(
    terminal: Terminal, browser: Browser
) -> None:
    """And not of what a page shows."""
    set_up(terminal)
    add_notifications(terminal)
    terminal.start(step("start").text)
    device = Device()
    bob = Visitor(terminal.product, "bob")
    bob.login()
    with Receiver() as service:
        service.reply = lambda _: (201, b"")
        known = device.endpoint(f"{service.url}/ann")
        keys = SUBSCRIPTION.format(
            endpoint=known.url, p256dh=known.p256dh, auth=known.auth
        )
        page = browser.open(terminal.product, script=keys)
        page.command(
            "Browser.grantPermissions",
            permissions=["notifications"],
            origin=terminal.product,
        )
        page.click("button[value=ann]")
        page.has("#friends li", "bob: offline Wave", "cleo: offline Wave")
        button = "body > button:not([hidden])"
        page.has(button, "Notify me")
        page.find(button).click()
        page.has(button)  # ann is subscribed
        with bob.connect() as at_bob:
            page.has("#friends li", "bob: online Wave", "cleo: offline Wave")
            page.write("#publish input", "We are open\n")
            page.has("#news li", "ann: We are open")
            page.write("#write input", "Are you there?\n")
            expect(at_bob, "Are you there?")
            at_bob.send("ann", "Yes")
            chat = ["ann to bob: Are you there?", "bob to ann: Yes"]
            page.has("#chat li", *chat)
            eventually(
                lambda: isinstance(at_bob.receive(1), Signal), what="ann has read it"
            )
            page = browser.open(terminal.product)
            page.has("#chat li", *chat)
            assert page.texts("#news li") == ["ann: We are open"]
            browser.open("about:blank")
            at_bob.send("ann", "And this?")
        eventually(lambda: service.posts, what="a notification")
        shown = device.shown(service.posts[0].body)
        assert (shown.title, shown.body, shown.count) == ("bob", "And this?", 1)


@pytest.mark.full("browser")
def test_the_page_asks_for_a_new_token_when_the_old_one_expires(
    terminal: Terminal, browser: Browser
) -> None:
    set_up(terminal)
    module = terminal.folder / "im.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(
        text.replace("TOKEN_SECONDS = 3600", "TOKEN_SECONDS = 3"), encoding="utf-8"
    )
    terminal.start(step("start").text)
    page = browser.open(terminal.product)
    page.click("button[value=ann]")
    eventually(
        lambda: terminal.output.count("GET /session") >= 4,
        what="two tokens have expired",
    )
    bob = Visitor(terminal.product, "bob")
    bob.login()

    def wave() -> bool:
        bob.ask("/wave", to="ann")
        return "bob waves at you" in page.texts("#news li")

    eventually(wave, what="the page is connected again")
