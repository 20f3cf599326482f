"""What workers of a mailbox ask over HTTP and MCP, and what people see of
it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, KEY, Site

from imserver.plugin.testing import eventually
from imserver_client import Api, RequestRefused
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.support import ROOT, Server
from tests.users import User


def texts(claim: dict[str, Any]) -> list[str]:
    return [each["text"] for each in claim["messages"]]


def claim(worker: User, **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = worker.post("mailbox/claim", **fields)
    return result


def test_a_conversation_is_claimed_by_one_worker_in_its_order(site: Site) -> None:
    worker = site.worker()
    bot = site.bot.user
    assert claim(worker)["token"] == ""
    for text in ("one", "two", "three"):
        site.ann.post("messages/send", to=bot, text=text)
    site.bob.post("messages/send", to=bot, text="hello")
    first = claim(site.bot)
    other = claim(worker)
    assert (texts(first), texts(other), claim(worker)["token"]) == (
        ["one"],
        ["hello"],
        "",
    )
    assert worker.post("mailbox/ack", token=first["token"]) == {"repeated": False}
    following = claim(worker, limit=20)
    assert texts(following) == ["two", "three"]
    assert worker.post("mailbox/ack", token=following["token"]) == {"repeated": False}
    assert worker.post("mailbox/ack", token=following["token"]) == {"repeated": True}
    assert worker.refused("mailbox/renew", token=following["token"]) == (
        409,
        "claim_ended",
    )
    assert worker.post("mailbox/ack", token=other["token"]) == {"repeated": False}
    assert claim(worker)["token"] == ""


def test_who_wrote_sees_what_was_handled(site: Site) -> None:
    worker = site.worker()
    bot = site.bot.user
    sent = site.ann.post("messages/send", to=bot, text="one")
    mine = {"conversation": sent["conversation"]}
    token = claim(worker)["token"]
    assert [
        each["read"] for each in site.ann.get("messages/receipts", **mine)["receipts"]
    ] in ([], [0])
    worker.post("mailbox/ack", token=token)
    (receipt,) = site.ann.get("messages/receipts", **mine)["receipts"]
    assert (receipt["user"], receipt["read"]) == (bot, sent["id"])


def test_a_mailbox_begins_with_what_the_bot_has_not_read(site: Site) -> None:
    worker = site.worker()
    bot = site.bot.user
    old = site.ann.post("messages/send", to=bot, text="old")
    site.bot.post("messages/read", conversation=old["conversation"], id=old["id"])
    site.ann.post("messages/send", to=bot, text="new")
    site.bot.post("messages/send", to=site.bob.user, text="of the bot")
    assert texts(claim(worker, limit=20)) == ["new"]
    assert claim(worker)["token"] == ""


def test_what_was_recalled_is_not_claimed(site: Site) -> None:
    worker = site.worker()
    bot = site.bot.user
    sent = [
        site.ann.post("messages/send", to=bot, text=text)
        for text in ("one", "two", "three")
    ]
    assert texts(claim(site.bot, seconds=1)) == ["one"]
    for each in (sent[0], sent[2]):
        site.ann.post("messages/recall", id=each["id"])
    again = eventually(
        lambda: next(iter([each] if (each := claim(worker))["token"] else []), None)
    )
    assert texts(again) == ["two"]
    worker.post("mailbox/ack", token=again["token"])
    assert claim(worker)["token"] == ""


def test_a_bot_of_a_group_gets_what_it_may_read(site: Site) -> None:
    worker = site.worker()
    bot = site.bot.user
    group = site.ann.post("groups/create", name="team", members=[bot])["group"]
    site.ann.post("messages/send", conversation=int(group), text="for people")
    site.ann.post(
        "messages/send", conversation=int(group), text="for the bot", mentions=[bot]
    )
    got = claim(worker, limit=20)
    assert texts(got) == ["for the bot"]
    worker.post("mailbox/ack", token=got["token"])


def test_what_is_given_back_is_due_later(site: Site) -> None:
    worker = site.worker()
    site.ann.post("messages/send", to=site.bot.user, text="one")
    token = claim(worker)["token"]
    worker.post("mailbox/nack", token=token, seconds=60)
    assert claim(worker)["token"] == ""
    late = worker.refused("mailbox/ack", token=token)
    assert late == worker.refused("mailbox/nack", token=token) == (409, "claim_ended")


def test_a_message_that_fails_is_a_dead_letter_and_may_be_put_back(site: Site) -> None:
    worker = site.worker()
    bot = site.bot.user
    sent = [
        site.ann.post("messages/send", to=bot, text=text)["id"]
        for text in ("bad", "good")
    ]
    for tries in (1, 2):
        given = claim(worker, tries=2, limit=20)
        assert (texts(given), given["tries"]) == (
            ["bad", "good"] if tries == 1 else ["bad"],
            tries,
        )
        worker.post("mailbox/nack", token=given["token"], reason=f"no {tries}")
    assert texts(claim(worker, tries=2, limit=20)) == ["good"]
    (letter,) = worker.get("mailbox/dead")["letters"]
    assert (letter["message"], letter["tries"], letter["reason"]) == (
        sent[0],
        2,
        "no 2",
    )
    assert worker.refused("mailbox/retry", message=sent[1]) == (
        404,
        "unknown_dead_letter",
    )
    worker.post("mailbox/retry", message=sent[0])
    assert worker.get("mailbox/dead")["letters"] == []
    again = claim(worker)
    assert (texts(again), again["tries"]) == (["bad"], 1)
    worker.post("mailbox/nack", token=again["token"])
    assert claim(worker, tries=1)["token"] == ""
    worker.post("mailbox/drop", message=sent[0])
    assert worker.refused("mailbox/drop", message=sent[0]) == (
        404,
        "unknown_dead_letter",
    )
    assert worker.get("mailbox/dead")["letters"] == []
    back_end = User(site.servers[0], KEY)
    acts = back_end.get("audit", app="gochat", limit=20)["acts"]
    assert {"mailbox.retry", "mailbox.drop"} <= {each["name"] for each in acts}


def test_a_claim_waits_until_somebody_writes(site: Site) -> None:
    worker = site.worker()
    got = []
    waiting = threading.Thread(target=lambda: got.append(claim(worker, wait=50)))
    waiting.start()
    site.ann.post("messages/send", to=site.bot.user, text="wake up")
    waiting.join(30)
    assert texts(got[0]) == ["wake up"]


def test_the_python_client_and_agents_work_together(site: Site) -> None:
    for text in ("one", "two"):
        site.ann.post("messages/send", to=site.bot.user, text=text)
    url = site.servers[-1].http_url
    with Api(url, site.bot.token) as worker, Api(url, KEY) as back_end:
        first = worker.claim("gochat", limit=20)
        assert [each["text"] for each in first.messages] == ["one", "two"]
        assert worker.renew("gochat", first.token, 600) > first.until
        back_end.nack("gochat", first.token, reason="no", user=site.bot.user)
        second = back_end.claim("gochat", user=site.bot.user)
        assert (second.messages[0]["text"], second.tries) == ("one", 2)
        worker.ack("gochat", second.token)
        worker.ack("gochat", second.token)
        with pytest.raises(RequestRefused, match="claim_ended"):
            worker.ack("gochat", first.token)
    third = tool(site, "claim", seconds=60)
    assert third["messages"][0]["text"] == "two"
    assert third["names"] == {site.ann.user: "Ann"}
    assert tool(site, "ack", token=third["token"]) == {"repeated": False}
    assert tool(site, "claim") == {
        "token": "",
        "messages": [],
        "tries": 0,
        "until": 0,
        "names": {},
    }


def tool(site: Site, name: str, **arguments: Any) -> Any:
    """What a tool of MCP answers."""
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments},
    }
    answer = site.servers[0].post("/mcp", call, key=site.bot.token).json
    return answer["result"]["structuredContent"]


def test_only_bots_have_mailboxes(site: Site) -> None:
    back_end = User(site.servers[0], KEY)
    assert site.ann.refused("mailbox/claim")[0] == 403
    assert back_end.refused("mailbox/claim", app="gochat", user=site.ann.user) == (
        404,
        "unknown_account",
    )
    site.ann.post("messages/send", to=site.bot.user, text="hello")
    assert texts(claim(back_end, app="gochat", user=site.bot.user)) == ["hello"]
    for token in ("", "1.2.3", "a.b.c.d", f"1.0.1.{10**30}"):
        assert site.bot.refused("mailbox/ack", token=token) == (400, "invalid_request")
    assert site.bot.refused("mailbox/ack", token="1.0.1.1") == (409, "claim_ended")


def test_the_guide_does_what_it_says(installed: dict[str, str], tmp_path: Path) -> None:
    guide = blocks(ROOT / "docs" / "guides" / "agents.md", "console")
    making = next(block for block in guide if block.words == ("agents",))
    sharing = next(block for block in guide if block.words == ("mailbox",))
    with Server(
        tmp_path / "node", config={**CONFIG, "api": {}}, environment=installed
    ) as server:
        play_session(replace(making, text=making.text + sharing.text), tmp_path, server)
