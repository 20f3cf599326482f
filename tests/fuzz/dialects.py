"""Frames of clients in each dialect. The dialects client and sse read none."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from imserver.dialects.action.wire import ActionDialect
from imserver.dialects.centrifuge.wire import (
    CentrifugeDialect,
    CentrifugeProtobufDialect,
    read_emulation,
)
from imserver.dialects.centrifuge.wire import read_login as read_uni_login
from imserver.dialects.protobuf.wire import FullProtobufDialect, ProtobufDialect
from imserver.dialects.pusher.wire import PusherDialect
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.dialects.sse.api import SseDialect
from imserver.gateway.errors import ReplyCode
from imserver.gateway.model import BadFrame, Command, Reply, Request
from imserver.gateway.protocol.dialect import Dialect
from imserver.messenger.log.model import Message
from imserver.notifications.content import notify_in, text_in
from imserver.plugin.wire import Refused
from imserver_client.protocol import CmdCodec
from tests.rows import READERS

from .target import Target

VECTORS = Path(__file__).parents[1] / "vectors"
CODES = (ReplyCode.OK, ReplyCode.BAD_PARAMETER, ReplyCode.NO_ROUTE)


def check(dialect: Dialect, data: bytes) -> None:
    """A frame is refused with BadFrame, or it is requests that can be answered
    in the same dialect."""
    try:
        requests = dialect.split(data)
    except BadFrame:
        return
    for each in requests:
        try:
            request = dialect.decode(each)
        except BadFrame:
            continue
        assert isinstance(request, Request)
        assert request.command is None or isinstance(request.command, Command)
        if request.command is None:
            answers = [dialect.encode_reply(request, Reply(request.code))]
        else:
            answers = [
                dialect.encode_reply(request, Reply(code)) for code in CODES if code
            ]
            repr(request.command)
        for answer in answers:
            if answer and dialect.text:
                json.loads(answer)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else ()
    ):
        yield from _texts(each)


def _vectors(name: str) -> list[bytes]:
    """Whatever could be a frame among the samples of a dialect."""
    found = []
    for text in _texts(
        json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    ):
        if text.startswith("{"):
            found.append(text.encode())
        elif len(text) > 3:
            try:
                found.append(bytes.fromhex(text))
            except ValueError:
                continue
    return found


_FIELDS = '{"id":1,"conversation":2,"to":"bob","text":"hi","type":"text","limit":5,"users":["bob"]}'
"""Those that commands have."""


def _row(dialect: Dialect, name: str, form: str = "", vectors: str = "") -> Target:
    readers = READERS.get(dialect.name)
    whole = dialect.joined(readers) if readers else dialect

    def seeds() -> Iterable[bytes]:
        yield from _vectors(vectors or dialect.name)
        if form and readers:
            yield from ((form % (name, _FIELDS)).encode() for name in readers)

    return Target(name, partial(check, whole), seeds, 32768)


def check_uni(data: bytes) -> None:
    """What clients of Centrifugo send in requests."""
    for read, errors in (
        (read_uni_login, (ValueError, RecursionError, Refused)),
        (read_emulation, ValueError),
    ):
        try:
            read(data)
        except errors:  # type: ignore[misc]
            continue


def check_client(data: bytes) -> None:
    """A frame of a server never breaks the Python client."""
    codec = CmdCodec()
    codec.read(data)
    codec.read(data.decode("utf-8", "replace"))


_TYPES = ("text", "picture", "album", "custom", "video")
_KINDS = ("message", "edit", "press", "reaction")


def check_stored(data: bytes) -> None:
    """Whatever is stored as a message, every dialect can send it on, and
    notifications can show it.

    Before the content: a byte for the type, and one for the kind.
    """
    body = data[2:]
    form = data[:1] or b"\0"
    kind = data[1:2] or b"\0"
    message = Message(
        7,
        3,
        2,
        "ann",
        ("ann", "bob"),
        _KINDS[kind[0] % len(_KINDS)],
        _TYPES[form[0] % len(_TYPES)],
        body,
        time_ms=1_800_000_000_000,
    )
    for dialect in (SseDialect("shop"), CmdDialect(), *PERSONAL):
        payload = dialect.encode_message(message)
        if callable(payload):
            payload = payload("bob", None)
        halves = dialect.encode_message_for(message)
        for each in (payload, None if halves is None else b'%b"bob"%b' % halves):
            if each and dialect.text and dialect.name != "sse":
                json.loads(each)
    assert (
        message.view().message().body == body or not body or message.kind == "reaction"
    )
    assert "\n" not in text_in(message, "en")
    stored = replace(message, meta=body)
    stored.message_meta()
    stored.group_meta()
    stored.publication_meta()
    notify_in(replace(message, meta=b'{"notify":%b}' % body))


PERSONAL = (
    ActionDialect(),
    CentrifugeDialect(),
    CentrifugeProtobufDialect(),
    FullProtobufDialect(),
)


TARGETS: tuple[Target, ...] = (
    _row(CmdDialect(), "cmd", '{"seq":"1","cmd":"%s","data":%s}'),
    _row(ActionDialect(), "action"),
    _row(PusherDialect(), "pusher"),
    _row(
        CentrifugeDialect(),
        "centrifuge_json",
        '{"id":1,"rpc":{"method":"imserver:%s","data":%s}}',
    ),
    _row(CentrifugeProtobufDialect(), "centrifuge_protobuf"),
    _row(ProtobufDialect(), "protobuf"),
    _row(FullProtobufDialect(), "protobuf_full", vectors="protobuf-full"),
    Target("centrifuge_requests", check_uni, lambda: _vectors("centrifuge")),
    Target("stored", check_stored, longest=32768),
    Target("client", check_client, lambda: _vectors("cmd")[:100]),
)
