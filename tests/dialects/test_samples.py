"""Wire samples of the foreign dialects: what their codecs read and write
(``tests/vectors/README.md``)."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw, Struct, json

from imserver.dialects.action.wire import ActionDialect
from imserver.dialects.centrifuge.wire import (
    CentrifugeDialect,
    CentrifugeProtobufDialect,
    ConnectResult,
    HistoryResult,
)
from imserver.dialects.client.wire import ClientDialect
from imserver.dialects.protobuf import chat_pb2 as pb
from imserver.dialects.protobuf.wire import (
    FullProtobufDialect,
    ProtobufDialect,
    push,
    uplink_ack,
)
from imserver.dialects.pusher import wire as pusher
from imserver.gateway.protocol.dialect import Dialect
from imserver.messenger.delivery.messaging import StoredView
from imserver.messenger.delivery.receipts import MarksAnswer, ReceiptPage
from imserver.messenger.delivery.wire import MESSAGE_COMMANDS
from tests.samples import Makers, check, is_for, json_of, samples_of


def chat(fields: dict[str, Any]) -> pb.Message:
    """A message of the protobuf dialect."""
    return pb.Message(**{**fields, "content": fields.get("content", "").encode()})


def with_publications(kind: type[Struct]) -> Callable[[dict[str, Any]], Any]:
    """What makes a result of the centrifuge dialect, whose publications have
    JSON in a string."""

    def make(fields: dict[str, Any]) -> Any:
        result: Any = json_of(fields, kind)
        for each in (result, *getattr(result, "subs", {}).values()):
            for publication in (
                each.publications or () if hasattr(each, "publications") else ()
            ):
                publication.data = Raw(publication.data.encode())
        return result

    return make


def subscribed(channel: str, members: dict[str, Any] | None = None) -> bytes:
    """The answer to a subscription of the pusher dialect."""
    whole = {user: Raw(json.encode(info)) for user, info in (members or {}).items()}
    return pusher.subscribed(channel, *([whole] if members else []))


MAKERS: Makers = {
    **{kind.__name__: kind for kind in (StoredView, ReceiptPage, MarksAnswer)},
    **{
        kind.__name__: with_publications(kind)
        for kind in (ConnectResult, HistoryResult)
    },
    "subscribed": subscribed,
    "uplink_ack": uplink_ack,
    "push": lambda fields: push(chat(fields)),
    "page": lambda messages, more: ProtobufDialect().page(
        map(chat, messages), more, False
    ),
    **{
        name: getattr(pusher, name)
        for name in ("established", "not_subscribed", "cache_miss", "error")
    },
}
FILES: list[tuple[str, Dialect]] = [
    ("action", ActionDialect()),
    ("centrifuge", CentrifugeDialect().joined(MESSAGE_COMMANDS)),
    ("centrifuge", CentrifugeProtobufDialect().joined(MESSAGE_COMMANDS)),
    ("client", ClientDialect()),
    ("protobuf", ProtobufDialect()),
    ("protobuf-full", FullProtobufDialect()),
    ("pusher", pusher.PusherDialect()),
]
ROWS = [
    pytest.param(
        dialect,
        sample,
        id=f"{file}-{'text' if dialect.text else 'binary'}: {sample['name']}",
    )
    for file, dialect in FILES
    for sample in samples_of(file)["samples"]
    if is_for(dialect, sample)
]


@pytest.mark.parametrize(("dialect", "sample"), ROWS)
def test_a_codec_reads_and_writes_its_samples(
    dialect: Dialect, sample: dict[str, Any]
) -> None:
    check(dialect, sample, MAKERS)
