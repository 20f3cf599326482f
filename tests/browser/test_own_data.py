"""What people do with their own data on the messages page: they export it, and delete their account."""

from __future__ import annotations

import re
from pathlib import Path
from time import time
from zipfile import ZipFile

import pyotp
import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full("browser")

STORED = """
return [...Object.keys(localStorage), ...(await indexedDB.databases()).map(({ name }) => name)];
"""
LOG = "return document.querySelector('[role=log]').textContent"
DELETE, DONE = "Delete my account", "Your account is deleted"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server with all features."""
    return start_server(
        config={"accounts": {"registrations_per_address": 0}, "apps": {APP: {"accounts": {"guests": True}}}}
    )


def open_settings(chat: Chat, button: str) -> None:
    chat.tap(chat.word("messages_settings"))
    chat.run("arguments[0].scrollIntoView({ block: 'center' })", chat.named("button", button))


def delete(chat: Chat, **fields: str) -> None:
    """Press the button in the settings, and again in the dialog, with these fields named by words' keys."""
    chat.tap(DELETE)
    for key, text in fields.items():
        chat.named("field", chat.word(f"messages_{key}"), within="dialog.card").send_keys(text)
    chat.named("button", DELETE, within="dialog.card")
    assert bool(chat.texts("dialog.card input")) == bool(fields)
    chat.tap(DELETE, within="dialog.card")


def test_a_person_exports_what_is_theirs(pair: Pair, server: Server, tmp_path: Path) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    ann.say(bob, "the tea is ready")
    chat = Chat(pair[0], ann)
    chat.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    open_settings(chat, "Export my data")
    chat.tap("Export my data")
    chat.tap("Download")
    files = eventually(lambda: list(tmp_path.glob("*.zip")), what="the file")
    with ZipFile(files[0]) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"the tea is ready" in content


def test_a_person_deletes_the_account(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
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
    chat.named("field", chat.word("messages_password_old"), within="dialog.card").clear()
    chat.named("field", chat.word("messages_password_old"), within="dialog.card").send_keys(PASSWORD)
    chat.tap(DELETE, within="dialog.card")
    chat.has_some("body", DONE)
    chat.sees("#login-form")
    assert not chat.run("return document.querySelector('#login-note').textContent")
    eventually(
        lambda: not [each for each in chat.awaited(STORED) if ann.user in each], what="nothing is stored"
    )
    assert chat.run("return localStorage.getItem(arguments[0])", f"imserver:account:{APP}") is None
    other.has_some("[role=log]", other.word("messages_deleted_user"))
    assert not re.findall("the tea is ready|Ann", other.run(LOG))


def test_a_second_factor_is_asked_for_and_a_guest_needs_no_password(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
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
    chat = Chat(pair[0], Account(server, "Gus", {**session, "user": session["account"]["user"]}))
    open_settings(chat, DELETE)
    delete(chat)
    chat.has_some("body", DONE)
