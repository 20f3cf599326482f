"""Which events of questions a back end gets."""

from msgspec import json

from imserver.backends.webhooks.event_json import of_entry
from imserver.plugin.messages import MessageLog
from tests.messenger.ask.test_ask import ann, ask, bob, node
from tests.messenger.node import Messenger
from tests.users import User

__all__ = ["ann", "bob", "node"]


def test_what_closes_a_question_is_an_event_of_its_own(
    node: Messenger, ann: User, bob: User
) -> None:
    cal = node.person()
    id = ask(ann, conversation=int(ann.group(bob, cal)), need=2)["id"]
    for user in (bob, cal):
        user.post("asks/answer", id=id, value="yes")
    expired = ask(ann, to=bob.user, seconds=1)["id"]
    ann.post("asks/get", id=expired, wait=30)
    entries = node.node.core.store.part(MessageLog).entries.read(bob.app, id - 1, 100)
    wanted = frozenset({"message", "ask_closed"})
    events = [
        json.decode(event.body)
        for each in entries
        if (event := of_entry(bob.app, each, "n", wanted))
    ]
    assert [each["event"] for each in events] == [
        "message",
        "message",
        "ask_closed",
        "message",
        "ask_closed",
    ]
    assert [each.get("about") for each in events] == [None, id, None, None, None]
    closed, late = (each for each in events if each["event"] == "ask_closed")
    assert (closed["ask"], closed["state"], closed["user"]) == (
        id,
        "answered",
        cal.user,
    )
    assert [each["user"] for each in closed["answers"]] == [bob.user, cal.user]
    assert (late["ask"], late["state"], late["user"]) == (expired, "expired", "")
    plain = [of_entry(bob.app, each, "n", frozenset({"message"})) for each in entries]
    assert sum(each is not None for each in plain) == 4, "the server sends no message"
