"""Clients of the protobuf dialect that log in with a cursor: on both HTTP servers, and on two nodes."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from imserver.plugin.testing import HostAndPort

from .clusters import nodes_of
from .gochat import register
from .protobuf import (
    CONVERSATIONS,
    HIDE,
    HISTORY,
    MARKS,
    MESSAGE,
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
    refused,
    resuming,
)
from .setting import Launch

Addresses = tuple[HostAndPort, HostAndPort]


@pytest.fixture(scope="module", params=["front", "wsgi", "cluster"])
def addresses(
    request: pytest.FixtureRequest, launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HostAndPort, Addresses]]:
    """Where accounts are made, and where two clients connect: to one node, or to two."""
    if request.param == "cluster":
        with nodes_of(tmp_path_factory.mktemp("cluster"), 2, apps={"gochat": {}}) as nodes:
            yield nodes.http[0], (nodes.ws[0], nodes.ws[1])
    else:
        server = launch(request.param, apps={"gochat": {}}, websocket={"close_seconds": 1})
        yield server.http, (server.ws, server.http)


@pytest.fixture
def two(addresses: tuple[HostAndPort, Addresses]) -> Iterator[tuple[ProtobufClient, ProtobufClient]]:
    """Two who have logged in with a cursor."""
    http, (here, there) = addresses
    with ExitStack() as stack:
        yield (
            stack.enter_context(resuming(here, register(http))),
            stack.enter_context(resuming(there, register(http))),
        )


def entry(protobuf_client: ProtobufClient) -> bytes:
    """The message of the next push."""
    output = protobuf_client.output()
    assert output.kind == MESSAGE
    row = one(output.data)
    assert isinstance(row[1], bytes)
    return row[1]


def signalled(protobuf_client: ProtobufClient) -> dict[int, object]:
    """The fields of the next signal."""
    output = protobuf_client.output()
    assert output.kind == SIGNAL
    return one(output.data)


@pytest.mark.full
def test_what_was_missed_comes_by_itself_in_order_and_the_rest_behind_it(
    addresses: tuple[HostAndPort, Addresses],
) -> None:
    http, (here, there) = addresses
    ann, bob = register(http), register(http)
    with resuming(here, ann) as one_:
        for number in range(1, 121):
            one_.single(number, int(bob[0]), f"t{number}")
        seqs = [acked(one_.output())[1] for _ in range(120)]
        with resuming(there, bob, seqs[19]) as two_:
            assert [pushed(two_.output()).seq for _ in range(100)] == seqs[20:]
            one_.single(121, two_.id, "new")
            assert pushed(two_.output()).text == "new"
            two_.quiet()


@pytest.mark.full
def test_edits_and_recalls_are_delivered_and_others_messages_are_refused(
    two: tuple[ProtobufClient, ProtobufClient],
) -> None:
    ann, bob = two
    ann.single(1, bob.id, "hallo")
    position = acked(ann.output())[1]
    assert further(entry(bob))["kind"] == "message"
    ann.send_payload(message(2, SentMessage(sender=ann.id, type=1, content=b"hello"), kind=2, about=position))
    ann.send_payload(message(3, SentMessage(sender=ann.id), kind=1, about=position))
    assert [acked(ann.output())[0] for _ in range(2)] == [2, 3]
    edit, recall = entry(bob), entry(bob)
    assert (further(edit)["kind"], further(edit)["about"], message_in(edit).text) == (
        "edit",
        position,
        "hello",
    )
    assert (further(recall)["kind"], further(recall)["about"]) == ("recall", position)
    assert [further(each)["conversation_seq"] for each in (edit, recall)] == [2, 3]
    bob.send_payload(message(1, SentMessage(sender=bob.id), kind=1, about=position))
    assert refused(bob.output()) == (1003, MESSAGE, 1)


def test_who_reads_receives_and_types_is_reported_to_the_other(
    two: tuple[ProtobufClient, ProtobufClient],
) -> None:
    ann, bob = two
    ann.single(1, bob.id, "hi")
    position = acked(ann.output())[1]
    conversation = further(entry(bob))["conversation"]
    where = field(1, conversation) + field(2, position)
    assert bob.answers_to(RECEIVED, where) == []
    assert signalled(ann) == {1: 2, 2: bob.id, 4: conversation, 6: position}
    assert bob.answers_to(READ, where) == []
    assert signalled(ann) == {1: 2, 2: bob.id, 4: conversation, 5: position}
    assert bob.answers_to(TYPING, field(1, ann.id)) == []
    assert signalled(ann) == {1: 1, 2: bob.id, 3: ann.id}
    assert ann.answers_to(RECEIPTS, field(1, conversation)) == [
        (1, field(1, bob.id) + field(2, position) + field(3, position))
    ]
    (version, *marks) = ann.answers_to(MARKS)
    assert version[0] == 1
    assert (4, field(1, bob.id) + field(2, position) + field(3, position) + field(4, conversation)) in marks


def test_conversations_and_their_history_are_listed_searched_and_hidden(
    two: tuple[ProtobufClient, ProtobufClient],
) -> None:
    ann, bob = two
    for number, text in enumerate(("red apples", "green pears", "red plums"), 1):
        ann.single(number, bob.id, text)
        acked(ann.output())
        pushed(bob.output())
    ((position, listed),) = bob.answers_to(CONVERSATIONS)
    row = one(listed)
    assert (position, row[2], row[3], row[6], message_in(row[8]).text) == (1, 1, 3, ann.id, "red plums")
    found = bob.answers_to(HISTORY, field(1, row[1]) + field(3, 2))
    assert [message_in(data).text for number, data in found if number == 1] == ["green pears", "red plums"]
    assert found[-1] == (2, 1), "there is more"
    red = bob.answers_to(SEARCH, field(1, b"red"))
    assert {message_in(data).text for number, data in red if number == 1} == {"red apples", "red plums"}
    last = message_in(row[8]).seq
    assert bob.answers_to(HIDE, field(1, field(1, last)[1:])) == []
    found = bob.answers_to(HISTORY, field(1, row[1]))
    assert [message_in(data).text for number, data in found] == ["red apples", "green pears"]
    ((_, listed),) = bob.answers_to(CONVERSATIONS)
    row = one(listed)
    assert (message_in(row[8]).text, row[10]) == ("green pears", last), "it is paged on by what is hidden"
    assert bob.answers_to(CONVERSATIONS, field(1, last)) == []
