"""An imported channel on the messages page, in a real browser. ``SLACK_PICTURES``: where its picture goes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import APP, Site
from test_slack_import import ANN, BOB, CAT, small
from workspace import BEGIN, PNG, Workspace, ts

from tests.browser.chromium import CHROMIUM, DRIVER, Browser, unexpected
from tests.browser.messenger import Account, Chat
from tests.support import Server, eventually
from tests.tools import require


@pytest.mark.full
def test_a_channel_of_slack_on_the_messages_page(
    site: Site, write: Callable[[Workspace, str], Path], tmp_path: Path
) -> None:
    require(*CHROMIUM)
    require(DRIVER)
    files = tmp_path / "files"
    files.mkdir()
    (files / "F000001.png").write_bytes(PNG)
    export = small(
        {"text": "Tea at *five*? :tea: <https://example.org|The list>", "user": BOB},
        {"text": f"Yes, <@{ANN}>! ~No milk~", "user": CAT, "thread_ts": ts(BEGIN + 60)},
        {"text": "&lt;b&gt; is no bold", "reactions": [{"name": "+1", "users": [BOB, CAT]}]},
        {"text": "Look", "files": [{"id": "F000001", "name": "tea.png"}], "user": BOB},
        {"subtype": "channel_topic", "topic": "Green", "text": "set", "user": BOB},
        {"text": "Done", "edited": {"user": ANN, "ts": ts(BEGIN + 99)}},
    )
    links = tmp_path / "links.csv"
    site.run(write(export, "export"), "--files", str(files), "--links", str(links))
    code = links.read_text(encoding="utf-8").splitlines()[1].partition("#reset=")[2]
    with Server(tmp_path / "node", config=site.settings) as node:
        claim = {"app": APP, "code": code, "password": "a long password"}
        assert node.post("/api/v1/accounts/reset/finish", claim).status == 200
        answer = node.post(
            "/api/v1/accounts/login", {"app": APP, "login": "ann", "password": "a long password"}
        )
        login = {"token": answer.json["token"], "user": answer.json["account"]["user"]}
        browser = Browser(tmp_path / "browser")
        try:
            chat = Chat(browser, Account(node, "Ann", login))
            page = chat.page
            eventually(lambda: page.shown("[data-conversation='1']"), what="the list")
            page.click("[data-conversation='1']")
            eventually(lambda: "Done" in " ".join(page.texts("[role=log] article")), what="the messages")
            eventually(lambda: "Bob" in " ".join(page.texts("[role=log] article")), what="the names")
            said = " ".join(page.texts("[role=log] article"))
            for text in (
                "Tea at five? 🍵 The list (https://example.org)",
                "Yes, @Ann! No milk",
                "<b> is no bold",
            ):
                assert text in said
            assert page.shown("[role=log] .media-picture")
            assert "👍" in said
            if folder := os.environ.get("SLACK_PICTURES"):
                browser.driver.save_screenshot(str(Path(folder, "slack.png")))
            assert not unexpected(browser.complaints())
        finally:
            browser.quit()
    assert json.loads(answer.body)["account"]["nickname"] == "Ann"
