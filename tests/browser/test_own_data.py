"""What people do with their own data on the messages page, and previews of
links below messages."""

import re
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any
from zipfile import ZipFile

import pyotp
import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat
from tests.conftest import StartServer
from tests.media.previews.site import Site, html, picture
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full("browser")


STORED = """
return [...Object.keys(localStorage), ...(await indexedDB.databases()).map(({ name }) => name)];
"""
LOG = "return document.querySelector('[role=log]').textContent"
DELETE = "Delete my account"
DONE = "Your account is deleted"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    apps = {APP: {"accounts": {"guests": True}, "previews": True}}
    limits = {"registrations_per_address": 0}
    return start_server(
        config={"accounts": limits, "apps": apps, "previews": {"allow_loopback": True}}
    )


def open_settings(chat: Chat, button: str) -> None:
    chat.tap(chat.word("messages_settings"))
    chat.run(
        "arguments[0].scrollIntoView({ block: 'center' })", chat.named("button", button)
    )


def delete(chat: Chat, **fields: str) -> None:
    """Press the button in the settings, and again in the dialog, with these
    fields named by words' keys."""
    chat.tap(DELETE)
    for key, text in fields.items():
        chat.named(
            "field", chat.word(f"messages_{key}"), within="dialog.card"
        ).send_keys(text)
    chat.named("button", DELETE, within="dialog.card")
    assert bool(chat.texts("dialog.card input")) == bool(fields)
    chat.tap(DELETE, within="dialog.card")


def test_a_person_exports_what_is_theirs(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.say(bob, "the tea is ready")
    chat = Chat(pair[0], ann)
    chat.command(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path)
    )
    open_settings(chat, "Export my data")
    chat.tap("Export my data")
    chat.tap("Download")
    files = eventually(lambda: list(tmp_path.glob("*.zip")), what="the file")
    with ZipFile(files[0]) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"the tea is ready" in content


def test_a_person_deletes_the_account(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = bob.create_group("tea", ann)
    ann.say(group, "the tea is ready")
    pair.expects("403")
    other = Chat(pair[1], bob)
    other.open(group, "the tea is ready")
    chat = Chat(pair[0], ann)
    open_settings(chat, DELETE)
    delete(chat, password_old="wrong")
    chat.has_some("body", "The password or code is wrong")
    chat.fits()
    chat.named(
        "field", chat.word("messages_password_old"), within="dialog.card"
    ).clear()
    chat.named(
        "field", chat.word("messages_password_old"), within="dialog.card"
    ).send_keys(PASSWORD)
    chat.tap(DELETE, within="dialog.card")
    chat.has_some("body", DONE)
    chat.sees("#login-form")
    assert not chat.run("return document.querySelector('#login-note').textContent")
    eventually(
        lambda: not [each for each in chat.awaited(STORED) if ann.user in each],
        what="nothing is stored",
    )
    assert (
        chat.run("return localStorage.getItem(arguments[0])", f"imserver:account:{APP}")
        is None
    )
    other.has_some("[role=log]", other.word("messages_deleted_user"))
    assert not re.findall("the tea is ready|Ann", other.run(LOG))


def test_a_second_factor_is_asked_for_and_a_guest_needs_no_password(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    secret = ann.post("accounts/factor/begin", password=PASSWORD)["secret"]
    code = pyotp.TOTP(secret).generate_otp(int(time()) // 30)
    codes = ann.post("accounts/factor/confirm", code=code)["codes"]
    chat = Chat(pair[0], ann)
    open_settings(chat, DELETE)
    delete(chat, password_old=PASSWORD, factor_code=codes[0])
    chat.has_some("body", DONE)
    group = bob.create_group("tea")
    code = bob.post("invitations/create", group=str(group), guests=True)["code"]
    session = bob.post("invitations/join", code=code, nickname="Gus")["session"]
    chat = Chat(
        pair[0], Account(server, "Gus", {**session, "user": session["account"]["user"]})
    )
    open_settings(chat, DELETE)
    delete(chat)
    chat.has_some("body", DONE)


CARDS = """
return [...document.querySelectorAll("[role=log] .previews-card")].map((card) => ({
  href: card.href,
  name: card.textContent,
  lines: [...card.querySelectorAll(".previews-lines > *")].map((line) => line.textContent),
  wide: card.classList.contains("previews-wide"),
  drawn: card.querySelector("img")?.naturalWidth,
  hosts: [...card.querySelectorAll("img")].map((each) => new URL(each.src).host === location.host),
  fits: card.scrollWidth <= card.clientWidth && card.getBoundingClientRect().right <= innerWidth,
}))
"""
LONG = "Wide " * 60 + "x" * 300


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as one:
        meta = '<meta property="og:{}" content="{}">'.format
        arabic = "مقهى الشاي في المدينة القديمة"
        tea = "<title>Tea &lt;script&gt;&lt;b&gt;</title>"
        one.pages = {
            "/wide": html(
                f"<title>{LONG}</title>"
                + meta("description", LONG)
                + meta("image", "/wide.png")
            ),
            "/small": html(
                tea + meta("site_name", "Tea") + meta("image", "/small.png")
            ),
            "/arabic": html(
                f"<title>{arabic}</title>" + meta("description", f"{arabic}، " * 3)
            ),
            "/none": html("<p>nothing"),
            "/wide.png": picture(1200, 630),
            "/small.png": picture(200, 200, "JPEG"),
        }
        yield one


def test_cards_stand_below_messages(pair: Pair, server: Server, site: Site) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(
        ann, *(f"see {site.url}/{path}" for path in ("small", "arabic", "none", "wide"))
    )
    ann.say(bob, f"mine: {site.url}/small")
    chat = Chat(pair[0], ann)
    chat.open(ann.newest)
    cards: list[Any] = []

    def has_all() -> bool:
        cards[:] = chat.run(CARDS)
        # those above are loaded when they are seen
        return len(cards) == 4 and bool(cards[-1]["drawn"])

    eventually(has_all)
    small = cards[0]
    assert small["lines"][0] == "Tea <script><b>"
    assert small["name"] == "Preview:Tea <script><b>Tea · 127.0.0.1"
    assert [card["wide"] for card in cards] == [False, False, True, False]
    assert all(all(card["hosts"]) and card["fits"] for card in cards)
    chat.menu(f"mine: {site.url}/small", "Remove the preview")
    eventually(lambda: len(chat.run(CARDS)) == 3)
