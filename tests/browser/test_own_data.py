"""What people do with their own data on the messages page: they export it, and delete their account."""

from __future__ import annotations

import re
from pathlib import Path
from time import time
from zipfile import ZipFile

import pyotp
import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full

STORED = """
const done = arguments[0];
indexedDB.databases().then((all) => done([...Object.keys(localStorage), ...all.map(({ name }) => name)]));
"""
LOG = "return document.querySelector('[role=log]').textContent"
DELETE, DONE = "Delete my account", "Your account is deleted"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server with all features."""
    return start_server(
        config={"accounts": {"registrations_per_address": 0}, "apps": {APP: {"accounts": {"guests": True}}}}
    )


def shows(page: Page, text: str) -> None:
    eventually(lambda: text in page.run("return document.body.textContent"), 30, what=f"{text!r} is shown")


def open_settings(chat: Chat, button: str) -> None:
    chat.click(chat.word("messages_settings"))
    element = chat.named("button", button)
    chat.page.run("arguments[0].scrollIntoView({ block: 'center' })", element)


def test_a_person_exports_what_is_theirs(pair: Pair, server: Server, tmp_path: Path) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    ann.say(bob, "the tea is ready")
    chat = Chat(pair[0], ann)
    chat.page.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    open_settings(chat, "Export my data")
    chat.click("Export my data")
    chat.click("Download")
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
    other.open(group)
    shows(other.page, "the tea is ready")
    chat = Chat(pair[0], ann)
    open_settings(chat, DELETE)
    chat.click(DELETE)
    password = chat.named("field", chat.word("messages_password_old"), within="dialog.card")
    password.send_keys("wrong")
    chat.click(DELETE, within="dialog.card")
    shows(chat.page, "The password or code is wrong")
    chat.page.fits()
    password.clear()
    password.send_keys(PASSWORD)
    chat.click(DELETE, within="dialog.card")
    shows(chat.page, DONE)
    eventually(lambda: chat.page.shown("#login-form"), what="the form")
    assert not chat.page.run("return document.querySelector('#login-note').textContent")
    eventually(
        lambda: not [each for each in chat.page.driver.execute_async_script(STORED) if ann.user in each],
        what="nothing of the account is stored",
    )
    assert chat.page.run("return localStorage.getItem(arguments[0])", f"imserver:account:{APP}") is None
    eventually(lambda: other.word("messages_deleted_user") in other.page.run(LOG), 30, what="a deleted user")
    assert not re.findall("the tea is ready|Ann", other.page.run(LOG))


def test_an_account_with_a_second_factor_is_deleted_by_password_and_code(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    secret = ann.post("accounts/factor/begin", app=APP, password=PASSWORD)["secret"]
    code = pyotp.TOTP(secret).generate_otp(int(time()) // 30)
    codes = ann.post("accounts/factor/confirm", app=APP, code=code)["codes"]
    chat = Chat(pair[0], ann)
    open_settings(chat, DELETE)
    chat.click(DELETE)
    field = chat.named("field", chat.word("messages_factor_code"), within="dialog.card")
    chat.named("field", chat.word("messages_password_old"), within="dialog.card").send_keys(PASSWORD)
    field.send_keys(codes[0])
    chat.click(DELETE, within="dialog.card")
    shows(chat.page, DONE)


def test_a_guest_needs_no_password(pair: Pair, server: Server) -> None:
    bob = Account(server, "Bob")
    group = bob.create_group("tea")
    code = bob.post("invitations/create", group=str(group), guests=True)["code"]
    session = bob.post("invitations/join", code=code, nickname="Gus")["session"]
    login = {"token": session["token"], "user": session["account"]["user"]}
    chat = Chat(pair[0], Account(server, "Gus", login))
    open_settings(chat, DELETE)
    chat.click(DELETE)
    chat.named("button", DELETE, within="dialog.card")
    assert not chat.page.texts("dialog.card input")
    chat.click(DELETE, within="dialog.card")
    shows(chat.page, DONE)
