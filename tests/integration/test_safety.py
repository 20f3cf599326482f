"""Reports and acts of moderators over ``/api/v1``: what others see at once, and
what nobody sees."""

import re
from time import time
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support import Server, eventually, run_cli, with_constants
from tests.users import PASSWORD, User

from .cmd import CmdClient, logged_in

KEY = "admin-key-of-the-tests"


def signal(client: CmdClient, kind: str) -> dict[str, Any]:
    """The data of the next signal of a kind."""
    while True:
        frame = client.pushed.pop(0) if client.pushed else client.message()
        if frame.json["cmd"] == kind:
            data: dict[str, Any] = frame.json["response"]["data"]
            return data


@pytest.fixture
def moderator(locked: Server) -> User:
    """A back end with an admin key."""
    return User(locked, KEY)


def texts(page: Any) -> list[str]:
    return [each["text"] for each in page["messages"] if each["kind"] == "message"]


def entries(client: CmdClient, count: int) -> list[dict[str, Any]]:
    """The next so many entries that a client receives."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        frame = client.pushed.pop(0) if client.pushed else client.message()
        if frame.json["cmd"] == "message":
            found.append(frame.json["response"]["data"])
    return found


def test_the_messages_of_a_spammer_go_everywhere_at_once_and_come_back_within_a_minute(
    locked: Server, moderator: User, ann: User, bob: User, cid: User
) -> None:
    group = ann.group(bob, cid)
    cursor = ann.post("messages/send", conversation=int(group), text="welcome")["id"]
    as_bob: dict[str, Any] = {"serviceToken": bob.token, "cursor": cursor}
    with (
        logged_in(locked.ws, bob.user, "gochat", **as_bob) as phone,
        logged_in(locked.ws, bob.user, "gochat", **as_bob, device="laptop") as laptop,
    ):
        spam = [f"spam {i}" for i in range(20)]
        sent = [
            cid.post("messages/send", conversation=int(group), text=text)["id"]
            for text in spam
        ]
        private = cid.post("messages/send", to=ann.user, text="spam in private")["id"]
        since = int(time()) - 3600
        count = moderator.get("moderation/count", user=cid.user, since=since)
        assert (count["count"], count["conversations"][0]["messages"]) == (21, 20)
        assert (
            moderator.get("moderation/count", user=cid.user, until=since)["count"] == 0
        )
        act = moderator.post(
            "moderation/clear", user=cid.user, since=since, reason="No advertising."
        )
        assert (act["messages"], act["done"]) == (21, True)
        for client in (phone, laptop):
            assert [each["text"] for each in entries(client, 20)] == spam
            recalls = entries(client, 20)
            assert [(each["kind"], each["about"]) for each in recalls] == [
                ("recall", id) for id in sent
            ]
            assert recalls[0]["meta"] == {"removed": True}
        assert texts(bob.get("messages", conversation=int(group))) == ["welcome"]
        for one in (ann, bob):
            assert one.get("messages/search", text="spam")["messages"] == []
        lasts = [each["last"] for each in cid.get("conversations")["conversations"]]
        (notice,) = [each for each in lasts if each["kind"] == "message"]
        assert (notice["from"], notice["text"]) == ("", "No advertising.")
        assert notice["meta"] == {"moderation": {"act": "clear"}}
        assert moderator.post("moderation/undo", act=act["act"])["done"] is True
        for client in (phone, laptop):
            back = entries(client, 20)
            assert [(each["kind"], each["about"]) for each in back] == [
                ("edit", id) for id in sent
            ]
            assert back[3]["text"] == "spam 3"
        assert (
            texts(ann.get("messages", conversation=int(group), limit=100))[1:] == spam
        )
        assert [
            each["id"]
            for each in ann.get("messages/search", text="private")["messages"]
        ] == [private]
    assert moderator.refused("moderation/undo", act=act["act"]) == (404, "unknown_act")


def test_who_counts_messages_pays_for_all_that_are_looked_at(
    start_server: StartServer,
) -> None:
    few = with_constants({"imserver.operate.safety.moderation.LOOKS": 5})
    config: dict[str, Any] = {"api": {"keys": [{"key": KEY, "scopes": ["admin"]}]}}
    server = start_server(
        config={**config, "accounts": {"registration": True}}, command=few
    )
    moderator = User(server, KEY)
    ann = User.register(server)
    bob = User.register(server)
    for number in range(7):
        ann.post("messages/send", to=bob.user, text=f"hello {number}")
    assert moderator.get("moderation/count", user=bob.user)["count"] == 0
    assert moderator.refused("moderation/clear", user=bob.user) == (
        429,
        "too_many_requests",
    )


def test_who_is_muted_sends_nothing_and_learns_why(
    locked: Server, moderator: User, ann: User, bob: User
) -> None:
    message = ann.post("messages/send", to=bob.user, text="hello")
    until = moderator.post(
        "moderation/mute", user=ann.user, seconds=3600, reason="Calm down."
    )["until"]
    assert ann.refused("messages/send", to=bob.user, text="but") == (403, "muted")
    assert ann.refused("messages/edit", id=message["id"], text="but") == (403, "muted")
    assert ann.refused("messages/react", id=message["id"], emoji="+1") == (403, "muted")
    assert ann.refused("messages/pin", id=message["id"]) == (403, "muted")
    ann.post("messages/react", id=message["id"], emoji="+1", remove=True)
    with logged_in(
        locked.ws, ann.user, "gochat", serviceToken=ann.token, cursor=message["id"]
    ) as client:
        (notice,) = entries(client, 1)
        assert notice["meta"]["moderation"] == {"act": "mute", "until": until}
        assert notice["text"].endswith("UTC: Calm down.")
        code, _, data = client.ask_cmd("send", {"to": bob.user, "text": "but"})
        assert (code, data["refused"], data["until"]) == (1003, "muted", until)
        assert data["reason"].endswith("Calm down.")
        code, _, data = client.ask_cmd("react", {"id": message["id"], "emoji": "+1"})
        assert (code, data["refused"], data["until"]) == (1003, "muted", until)
        assert client.ask_cmd("recall", {"id": message["id"]})[0] == 200, (
            "who is muted may still take back"
        )
    moderator.post("moderation/unmute", user=ann.user)
    ann.post("messages/send", to=bob.user, text="sorry")


def test_who_is_banned_for_good_sees_the_reason(
    locked: Server, moderator: User, ann: User
) -> None:
    with logged_in(locked.ws, ann.user, "gochat", serviceToken=ann.token) as client:
        answer = moderator.post(
            "moderation/ban", user=ann.user, seconds=0, reason="Spam."
        )
        assert answer == {"user": ann.user, "until": None, "closed": 1}
        frame = client.frame()
        assert (frame.close_code, frame.close_reason) == (
            4503,
            "banned for good: Spam.",
        )
    status, problem = ann.ask("GET", "groups", {})
    assert (status, problem["code"], problem["message"]) == (
        403,
        "banned",
        "banned for good: Spam.",
    )
    (row,) = [
        each
        for each in moderator.get("bans", app="gochat")["bans"]
        if each["user"] == ann.user
    ]
    assert row == {"user": ann.user, "until": None, "reason": "Spam."}
    moderator.post("moderation/unban", user=ann.user)
    ann.get("groups")


def test_who_was_removed_does_not_come_back_by_the_same_link_or_by_members(
    moderator: User, ann: User, bob: User, cid: User
) -> None:
    group = ann.group(cid)
    link = ann.post("invitations/create", group=group)["code"]
    bob.post("invitations/accept", code=link)
    moderator.post("moderation/remove", user=bob.user, group=group, reason="Not here.")
    assert bob.user not in ann.roles(group)
    assert cid.refused("groups/invite", group=group, members=[bob.user]) == (
        403,
        "role_too_low",
    )
    for code in (link, ann.post("invitations/create", group=group)["code"]):
        assert bob.refused("invitations/accept", code=code) == (
            404,
            "unknown_invitation",
        )
    ann.post("groups/open", group=group, open=True)
    assert bob.refused("groups/join", group=group)[0] == 404
    ann.post("groups/invite", group=group, members=[bob.user])
    assert ann.roles(group)[bob.user] == "member"
    bob.post("groups/leave", group=group)
    bob.post("invitations/accept", code=link)


def test_moderators_see_a_private_conversation_only_around_a_reported_message(
    moderator: User, ann: User, bob: User, cid: User
) -> None:
    sent = [ann.post("messages/send", to=bob.user, text=f"text {i}") for i in range(20)]
    other = ann.post("messages/send", to=cid.user, text="another conversation")
    bad = sent[9]["id"]
    first = bob.post(
        "reports/send", message=bad, reason="harassment", text="He goes on."
    )
    assert bob.post("reports/send", message=bad, reason="spam") == first
    assert cid.refused("reports/send", message=bad, reason="spam") == (
        404,
        "unknown_message",
    )
    assert ann.refused("reports/send", message=bad, reason="spam") == (
        404,
        "unknown_message",
    )
    assert bob.refused("reports/send", message=bad, reason="boring")[0] == 400
    assert (
        bob.refused("reports/send", message=bad, person=ann.user, reason="spam")[0]
        == 400
    )

    (row,) = [
        each for each in moderator.get("reports")["reports"] if each["message"] == bad
    ]
    assert (row["user"], row["reporters"], row["reasons"]) == (
        ann.user,
        1,
        {"harassment": 1},
    )
    shown = moderator.get("reports/show", id=row["id"])
    assert [each["text"] for each in shown["messages"]] == [
        f"text {i}" for i in range(4, 15)
    ]
    assert shown["people"][0]["user"] == bob.user
    assert shown["people"][0]["text"] == "He goes on."
    assert str(other["id"]) not in [str(each["id"]) for each in shown["messages"]]

    moderator.post("moderation/hide", messages=[bad, sent[10]["id"]])
    shown = moderator.get("reports/show", id=row["id"])
    hidden = [each["text"] for each in shown["messages"] if each.get("removed")]
    assert hidden == ["text 9", "text 10"]
    moderator.post(
        "reports/close", id=row["id"], outcome="hidden", note="Once more and out."
    )
    assert moderator.refused("reports/close", id=row["id"], outcome="other") == (
        404,
        "unknown_report",
    )
    assert row["id"] in [
        each["id"] for each in moderator.get("reports", state="closed")["reports"]
    ]
    assert row["id"] not in [each["id"] for each in moderator.get("reports")["reports"]]
    assert bob.refused_get("reports")[0] in (401, 403)


def test_who_was_reported_takes_no_evidence_back(
    moderator: User, ann: User, bob: User
) -> None:
    sent = ann.post("messages/send", to=bob.user, text="you will see")["id"]
    report = bob.post("reports/send", message=sent, reason="violence")["report"]
    ann.post("messages/recall", id=sent)
    shown = moderator.get("reports/show", id=report)
    assert [each.get("text") for each in shown["messages"] if each["id"] == sent] == [
        None
    ]
    assert (shown["evidence"], shown["appeal"]) == ("you will see", False)


def test_moderators_hear_at_once_how_many_reports_are_open(
    locked: Server, moderator: User, ann: User, bob: User, cid: User
) -> None:
    moderator.post("accounts/role", app="gochat", user=ann.user, role="moderator")
    before = ann.get("reports/reasons")["open"]
    assert cid.get("reports/reasons")["open"] == 0
    with (
        logged_in(
            locked.ws, ann.user, "gochat", serviceToken=ann.token, cursor=0
        ) as desk,
        logged_in(
            locked.ws, cid.user, "gochat", serviceToken=cid.token, cursor=0
        ) as other,
    ):
        report = cid.post("reports/send", person=bob.user, reason="spam")["report"]
        assert signal(desk, "safety.reports") == {"open": before + 1}
        ann.post("reports/close", id=report, outcome="dismissed")
        assert signal(desk, "safety.reports") == {"open": before}
        bob.post("messages/send", to=cid.user, text="after it")
        assert entries(other, 1)[0]["text"] == "after it"
        assert not [
            each for each in other.pushed if each.json["cmd"] == "safety.reports"
        ]


def test_who_is_banned_sees_why_and_appeals_once_at_a_time(
    locked: Server, moderator: User, ann: User, bob: User
) -> None:
    assert ann.refused("reports/appeal", text="Why?") == (409, "not_banned")
    moderator.post("moderation/ban", user=ann.user, seconds=3600, reason="Spam.")
    report = ann.post("reports/appeal", text="It was my brother.")["report"]
    assert ann.refused("reports/appeal", text="Hello?") == (409, "appeal_open")
    shown = moderator.get("reports/show", id=report)
    assert (
        shown["appeal"],
        shown["evidence"],
        shown["user"],
        shown["people"][0]["text"],
    ) == (
        True,
        "It was my brother.",
        ann.user,
        "It was my brother.",
    )
    assert shown["ban"].startswith("banned until ")
    assert shown["ban"].endswith(": Spam.")
    assert bob.refused("reports/send", person=ann.user, reason="appeal")[0] == 400
    moderator.post("accounts/lock", app="gochat", user=bob.user)
    assert bob.post("reports/appeal", text="I am locked out.")["report"], (
        "with the token that is refused elsewhere"
    )
    moderator.post("reports/close", id=report, outcome="dismissed")
    stranger = User(locked, "")
    proof = {"login": ann.phone, "text": "Please."}
    assert stranger.refused("reports/appeal", **proof, password="wrong")[0] == 401
    again = stranger.post("reports/appeal", **proof, password=PASSWORD)["report"]
    moderator.post("moderation/unban", user=ann.user)
    moderator.post("reports/close", id=again, outcome="unbanned")
    assert stranger.refused("reports/appeal", **proof, password=PASSWORD) == (
        409,
        "not_banned",
    )
    for _ in range(2):
        moderator.post("moderation/ban", user=ann.user, seconds=3600)
        status, answer = ann.ask("POST", "reports/appeal", {"text": "Once more."})
        if status == 201:
            moderator.post("reports/close", id=answer["report"], outcome="dismissed")
    assert (status, answer["code"]) == (429, "too_many_requests")


def test_owners_write_house_rules_that_everybody_may_read(
    locked: Server, moderator: User, ann: User
) -> None:
    assert ann.refused("moderation/rules", text="Obey.") == (403, "not_allowed")
    moderator.post("accounts/role", app="gochat", user=ann.user, role="owner")
    for text in ("Be kind.\nNo advertising.", ""):
        assert ann.post("moderation/rules", text=f" {text}\n") == {"text": text}
        assert User(locked, "").get("moderation/rules") == {"text": text}
    assert ann.refused("moderation/rules", text="x" * 4001)[0] == 400


def test_a_moderator_acts_on_members_only_and_reads_nothing_that_nobody_reported(
    moderator: User, ann: User, bob: User, cid: User
) -> None:
    moderator.post("accounts/role", app="gochat", user=ann.user, role="moderator")
    moderator.post("accounts/role", app="gochat", user=bob.user, role="owner")
    sent = bob.post("messages/send", to=cid.user, text="between us")
    answer = cid.post("messages/send", to=bob.user, text="of course")
    assert ann.get("reports/reasons")["moderates"] is True
    assert cid.get("reports/reasons")["moderates"] is False

    assert ann.refused("moderation/mute", user=bob.user, seconds=60) == (
        403,
        "role_too_low",
    )
    assert ann.refused("moderation/ban", user=ann.user, seconds=0) == (
        403,
        "role_too_low",
    )
    assert ann.refused("moderation/delete", messages=[sent["id"]]) == (
        403,
        "role_too_low",
    )
    assert ann.refused("moderation/clear", user=bob.user) == (403, "role_too_low")
    assert bob.post("moderation/mute", user=ann.user, seconds=60)["user"] == ann.user
    bob.post("moderation/unmute", user=ann.user)
    own = ann.post("messages/send", to=cid.user, text="mine")
    removed = [own["id"], cid.post("messages/send", to=ann.user, text="yours")["id"]]
    for act in (
        bob.post("moderation/hide", messages=removed),
        bob.post("moderation/clear", user=ann.user),
    ):
        assert ann.refused("moderation/undo", act=act["act"]) == (403, "role_too_low")

    pages = [
        ann.get("moderation/count", user=cid.user),
        ann.get("reports"),
        ann.post("moderation/hide", messages=[answer["id"]]),
        ann.post("moderation/clear", user=cid.user),
    ]
    assert not any(text in str(pages) for text in ("between us", "of course"))
    assert ann.get("messages", conversation=sent["conversation"])["messages"] == []
    assert ann.refused("reports/send", message=answer["id"], reason="spam") == (
        404,
        "unknown_message",
    )
    assert cid.refused("moderation/warn", user=ann.user, reason="no") == (
        403,
        "not_allowed",
    )


def test_each_act_is_a_command(locked: Server, ann: User, bob: User, cid: User) -> None:
    group = ann.group(bob, cid)
    sent = [
        cid.post("messages/send", conversation=int(group), text=f"spam {i}")["id"]
        for i in range(3)
    ]
    report = ann.post("reports/send", message=sent[0], reason="spam")["report"]

    def moderate(command: str, *arguments: object) -> str:
        words = (
            "moderate",
            "--url",
            locked.http_url,
            *command.split(),
            *map(str, arguments),
        )
        done = run_cli(*words, IMSERVER_KEY=KEY)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = [moderate("reports gochat"), moderate("report gochat", report)]
    assert re.search(
        rf"{report}  message {sent[0]} +{cid.user} +spam +1 user +0 min +spam 0\n",
        listed[0],
    )
    assert "the message said:\n  spam 0\n" in listed[1]
    login = cid.get("accounts/show")["phone"]
    who = f"{login} ({cid.user})"
    assert moderate("clear --count", f"gochat/{login}") == f"messages of {who}: 3\n"
    removed = moderate("delete gochat", *sent)
    assert removed.startswith("removed messages: 3; the id for undo until ")
    assert texts(bob.get("messages", conversation=group)) == []
    assert moderate("undo gochat", removed.split()[-1]).startswith("the messages ")
    eventually(lambda: len(texts(bob.get("messages", conversation=group))) == 3)
    assert f"removed messages of {who}: 3" in moderate("clear", f"gochat/{login}")
    data = str(locked.folder / "data")
    by_message = ("audit", "list", "--message", str(sent[0]), "--data-dir", data)
    eventually(
        lambda: "moderation.clear" in run_cli(*by_message).stdout,
        what="who has removed it",
    )
    assert (
        "moderation.clear"
        not in run_cli(*by_message[:3], str(sent[0] - 1), *by_message[4:]).stdout
    )
    assert moderate("warn --reason Calm", f"gochat/{cid.user}") == f"{who} is warned\n"
    assert f"{who} is muted until 20" in moderate("mute", f"gochat/{cid.user}")
    assert re.search(
        rf"\n{cid.user} +mute +20\S+ \S+ UTC +key:\S+\n", moderate("holds gochat")
    )
    assert moderate("unmute", f"gochat/{cid.user}") == f"{who} may send\n"
    moderate("remove", f"gochat/{cid.user}", group)
    assert f"{who} is banned for good" in moderate("ban", f"gochat/{login}")
    assert moderate("unban", f"gochat/{cid.user}") == f"{who} may log in\n"
    moderate("close --outcome deleted gochat", report)
    assert moderate("reports gochat").find(report) == -1
    for words in ("ban", "mute", "warn --reason Calm", "clear", "unban"):
        command = ("moderate", "--url", locked.http_url, *words.split())
        done = run_cli(*command, "gochat/typo", IMSERVER_KEY=KEY)
        assert (done.returncode, done.stdout) == (1, "")
        assert "app gochat has no account typo, so nothing was done" in done.stderr
        done = run_cli(*command, "gochat", "", IMSERVER_KEY=KEY)
        assert (done.returncode, done.stdout) == (2, ""), (
            "a variable of a script that is empty"
        )
        old = run_cli(*command, "gochat", "typo", IMSERVER_KEY=KEY)
        assert "APP USER is deprecated until 2.0: use APP/USER" in old.stderr
    moderator = User(locked, KEY)
    assert moderator.refused("moderation/ban", user="999999", seconds=0) == (
        404,
        "unknown_account",
    )
