"""What answers publish of rows (``rows.txt``), and which structs are declared
twice."""

from pkgutil import resolve_name

from tests.support import ROOT
from tools import shapes

TWINS = {
    "ChannelMember SubscriberShown": "nodes exchange `info` as text, answers have it as JSON or leave it out",
    "Denial RefusalRow": "nodes exchange rows as arrays, in which the counts stand among these fields",
    "ConnectionInfo ListedConnection": "a list of a thousand sessions has the number of their channels",
    "AllowedPublication _Message": "a request has an `idempotency_key`, which back ends do not answer",
    "AskHistory _History": "a command of all dialects, and the JSON of Centrifugo, which names the position",
    "Outbound StoredEvent": "what is sent has its prefix in the id and its head in the body",
    "ConversationShown ConversationView": "clients were promised other names and orders than `/api/v1`",
    "Pin Removal": "formats list a pin in its group; a removal is a record of its own",
    "Wishes WishesShown": "quiet hours are minutes in rows and times of day in answers",
}
"""Structs with nearly the same fields → why there are two."""


def test_each_field_of_a_row_is_published_or_private() -> None:
    lines = (ROOT / "tests/docs/rows.txt").read_text().splitlines()[3:]
    listed = [[part.split() for part in f"{line} | | ".split("|")] for line in lines]
    for (name, *published), private, *_ in listed:
        assert sorted(resolve_name(name[:-1]).__struct_fields__) == sorted(
            published + private
        ), name
    assert shapes.rows().keys() <= {name[:-1] for (name, *_), *_ in listed}
    views = {view: private for _, private, views, *_ in listed for view in views}
    answers = shapes.answers()
    assert views.keys() == shapes.views()
    assert [
        view
        for view in views
        if not set(views[view]).isdisjoint(answers[view].__struct_fields__)
    ] == []


def test_structs_with_nearly_the_same_fields_have_a_reason() -> None:
    assert shapes.twins() == set(TWINS)
    assert len(TWINS) <= 9
