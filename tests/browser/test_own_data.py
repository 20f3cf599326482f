"""What people do with their own data on the messages page: they export it, and delete their account."""

from __future__ import annotations

import os
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

SIZES = {"phone": (390, 844), "desktop": (1280, 800)}
STORED = """
const done = arguments[0];
indexedDB.databases().then((all) => done([...Object.keys(localStorage), ...all.map(({ name }) => name)]));
"""
LOG = "return document.querySelector('[role=log]').textContent"
EXPORT, DELETE = (
    {"en": "Export my data", "zh": "导出我的数据"},
    {"en": "Delete my account", "zh": "删除我的账号"},
)
DONE = {"en": "Your account is deleted", "zh": "你的账号已删除"}
WRONG = {"en": "The password or code is wrong", "zh": "密码或验证码不正确"}


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server with all features."""
    return start_server(
        config={"accounts": {"registrations_per_address": 0}, "apps": {APP: {"accounts": {"guests": True}}}}
    )


def shows(page: Page, text: str) -> None:
    eventually(lambda: text in page.run("return document.body.textContent"), 30, what=f"{text!r} is shown")


def picture(chat: Chat, name: str) -> None:
    """A picture for people, if they want one."""
    if folder := os.environ.get("PICTURES"):
        chat.browser.driver.save_screenshot(str(Path(folder, f"{name}.png")))


def open_settings(chat: Chat, button: str) -> None:
    chat.click(chat.word("messages_settings"))
    element = chat.named("button", button)
    chat.page.run("arguments[0].scrollIntoView({ block: 'center' })", element)


@pytest.mark.parametrize(("language", "size", "dark"), [("en", "desktop", False), ("zh", "phone", True)])
def test_a_person_exports_what_is_theirs(
    pair: Pair, server: Server, tmp_path: Path, language: str, size: str, dark: bool
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    ann.say(bob, "the tea is ready")
    chat = Chat(pair[0], ann, language=language, size=SIZES[size], dark=dark)
    chat.page.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    open_settings(chat, EXPORT[language])
    chat.click(EXPORT[language])
    chat.click({"en": "Download", "zh": "下载"}[language])
    files = eventually(lambda: list(tmp_path.glob("*.zip")), what="the file")
    picture(chat, f"export-{language}-{size}")
    with ZipFile(files[0]) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"the tea is ready" in content


@pytest.mark.parametrize(("language", "size", "dark"), [("en", "phone", False), ("zh", "desktop", True)])
def test_a_person_deletes_the_account(
    pair: Pair, server: Server, language: str, size: str, dark: bool
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("tea", ann)
    ann.say(group, "the tea is ready")
    pair.expects("403")
    other = Chat(pair[1], bob, language=language)
    other.open(group)
    shows(other.page, "the tea is ready")
    chat = Chat(pair[0], ann, language=language, size=SIZES[size], dark=dark)
    open_settings(chat, DELETE[language])
    picture(chat, f"settings-{language}-{size}")
    chat.click(DELETE[language])
    password = chat.named("field", chat.word("messages_password_old"), within="dialog.card")
    picture(chat, f"delete-{language}-{size}")
    password.send_keys("wrong")
    chat.click(DELETE[language], within="dialog.card")
    shows(chat.page, WRONG[language])
    picture(chat, f"wrong-{language}-{size}")
    chat.page.fits()
    password.clear()
    password.send_keys(PASSWORD)
    chat.click(DELETE[language], within="dialog.card")
    shows(chat.page, DONE[language])
    picture(chat, f"done-{language}-{size}")
    eventually(lambda: chat.page.shown("#login-form"), what="the form")
    assert not chat.page.run("return document.querySelector('#login-note').textContent")
    eventually(
        lambda: not [each for each in chat.page.driver.execute_async_script(STORED) if ann.user in each],
        what="nothing of the account is stored",
    )
    assert chat.page.run("return localStorage.getItem(arguments[0])", f"imserver:account:{APP}") is None
    eventually(lambda: other.word("messages_deleted_user") in other.page.run(LOG), 30, what="a deleted user")
    picture(other, f"other-{language}-{size}")
    assert not re.findall("the tea is ready|Ann", other.page.run(LOG))


def test_an_account_with_a_second_factor_is_deleted_by_password_and_code(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    secret = ann.post("accounts/factor/begin", app=APP, password=PASSWORD)["secret"]
    code = pyotp.TOTP(secret).generate_otp(int(time()) // 30)
    codes = ann.post("accounts/factor/confirm", app=APP, code=code)["codes"]
    chat = Chat(pair[0], ann)
    open_settings(chat, DELETE["en"])
    chat.click(DELETE["en"])
    field = chat.named("field", chat.word("messages_factor_code"), within="dialog.card")
    picture(chat, "delete-factor")
    chat.named("field", chat.word("messages_password_old"), within="dialog.card").send_keys(PASSWORD)
    field.send_keys(codes[0])
    chat.click(DELETE["en"], within="dialog.card")
    shows(chat.page, DONE["en"])


def test_a_guest_needs_no_password(pair: Pair, server: Server) -> None:
    bob = Account(server, "Bob")
    group = bob.create_group("tea")
    code = bob.post("invitations/create", group=str(group), guests=True)["code"]
    session = bob.post("invitations/join", code=code, nickname="Gus")["session"]
    login = {"token": session["token"], "user": session["account"]["user"]}
    chat = Chat(pair[0], Account(server, "Gus", login))
    open_settings(chat, DELETE["en"])
    chat.click(DELETE["en"])
    chat.named("button", DELETE["en"], within="dialog.card")
    assert not chat.page.texts("dialog.card input")
    picture(chat, "delete-guest")
    chat.click(DELETE["en"], within="dialog.card")
    shows(chat.page, DONE["en"])
