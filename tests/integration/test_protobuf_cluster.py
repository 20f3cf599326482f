"""The protobuf dialect across nodes: whoever is connected where, each is told once, and in order."""

from collections.abc import Iterator

import pytest

from tests.support import with_constants

from .clusters import Nodes, nodes_of
from .gochat import register
from .protobuf import (
    CONVERSATIONS,
    HIDE,
    HISTORY,
    MARKS,
    READ,
    RECEIPTS,
    RECEIVED,
    SEARCH,
    SIGNAL,
    TYPING,
    ProtobufClient,
    SentMessage,
    acked,
    field,
    further,
    message,
    message_in,
    one,
    pushed,
    resuming,
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, one per HTTP server; one folder of data. A connection has time to show that it lives."""
    patient = with_constants({"imserver.gateway.sessions.sessions.ALIVE_SECONDS": 30})
    with nodes_of(tmp_path_factory.mktemp("cluster"), 0, apps={"gochat": {}}) as two:
        two.start_many(2, command=patient)
        yield two


def signalled(client: ProtobufClient) -> dict[int, object]:
    """The fields of the next signal."""
    output = client.output()
    assert output.kind == SIGNAL
    return one(output.data)


def entry(client: ProtobufClient) -> bytes:
    """The message of the next push."""
    data = one(client.output().data)[1]
    assert isinstance(data, bytes)
    return data


def test_clients_with_a_cursor_read_mark_search_and_hide(nodes: Nodes) -> None:
    with (
        resuming(nodes.ws[0], register(nodes.http[0])) as ann,
        resuming(nodes.ws[1], register(nodes.http[0])) as bob,
    ):
        ann.single(1, bob.id, "hallo")
        position = acked(ann.output())[1]
        conversation = further(entry(bob))["conversation"]
        edited = SentMessage(sender=ann.id, type=1, content=b"red apples")
        ann.send_payload(message(2, edited, kind=2, about=position))
        assert acked(ann.output())[0] == 2
        edit = entry(bob)
        assert (further(edit)["kind"], further(edit)["about"]) == ("edit", position)
        assert message_in(edit).text == "red apples"
        where = field(1, conversation) + field(2, position)
        assert bob.answers_to(RECEIVED, where) == []
        assert signalled(ann) == {1: 2, 2: bob.id, 4: conversation, 6: position}
        assert bob.answers_to(READ, where) == []
        assert signalled(ann) == {1: 2, 2: bob.id, 4: conversation, 5: position}
        assert bob.answers_to(TYPING, field(1, ann.id)) == []
        assert signalled(ann) == {1: 1, 2: bob.id, 3: ann.id}
        at = field(1, bob.id) + field(2, position) + field(3, position)
        assert ann.answers_to(RECEIPTS, field(1, conversation)) == [(1, at)]
        (version, *marks) = ann.answers_to(MARKS)
        assert version[0] == 1
        assert (4, at + field(4, conversation)) in marks
        for number, text in enumerate(("green pears", "red plums"), 3):
            ann.single(number, bob.id, text)
            acked(ann.output())
            last = pushed(bob.output()).seq
        ((_, listed),) = bob.answers_to(CONVERSATIONS)
        row = one(listed)
        assert (row[2], row[6], message_in(row[8]).text) == (1, ann.id, "red plums")
        found = bob.answers_to(HISTORY, field(1, row[1]) + field(3, 2))
        texts = [message_in(data).text for number, data in found if number == 1]
        assert (texts[-1], found[-1]) == ("red plums", (2, 1)), "there is more"
        red = bob.answers_to(SEARCH, field(1, b"red"))
        assert {message_in(data).text for number, data in red if number == 1} == {"red apples", "red plums"}
        assert bob.answers_to(HIDE, field(1, field(1, last)[1:])) == []
        ((_, listed),) = bob.answers_to(CONVERSATIONS)
        row = one(listed)
        assert (message_in(row[8]).text, row[10]) == ("green pears", last), "it is paged on by what is hidden"
