"""The protobuf dialect of clients, with the messages of the server's codec."""

from __future__ import annotations

import time

from google.protobuf.message import DecodeError

from bench.frames import client_frame
from imserver.dialects.protobuf import chat_pb2 as pb

BINARY = 0x2
CT_LOGIN, _CT_HEARTBEAT, CT_MESSAGE, CT_ACK, CT_SYNC = range(1, 6)


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def field(tag: int, data: bytes) -> bytes:
    return b"%c%b%b" % (tag, varint(len(data)), data)


def input_frame(kind: int, data: bytes) -> bytes:
    return client_frame(pb.Input(type=kind, data=data).SerializeToString(), BINARY)


def login_frame(token: str, cursor: int | None = None, acks: bool = False) -> bytes:
    login = pb.LoginMsg(token=token.encode(), cursor=cursor, acks=acks or None)
    return input_frame(CT_LOGIN, login.SerializeToString())


def message_frame(
    number: int,
    sender: int,
    receiver: int,
    content: bytes,
    *,
    group: bool,
    name: str = "",
) -> bytes:
    """The message ``number`` of a connection; ``name`` is its
    ``client_msg_id``."""
    message = pb.Message(
        session_type=2 if group else 1,
        receiver_id=receiver,
        sender_id=sender,
        message_type=1,
        content=content,
        send_time=int(time.time() * 1000),
    )
    up = pb.UpMsg(msg=message, clientId=number, client_msg_id=name.encode() or None)
    return input_frame(CT_MESSAGE, up.SerializeToString())


def outputs(payload: bytes) -> list[tuple[int, int, bytes]]:
    """Return kind, code and data of each output of a batch; raises
    ValueError."""
    try:
        found = map(pb.Output.FromString, pb.OutputBatch.FromString(payload).outputs)
        return [(each.type, each.code, each.data) for each in found]
    except DecodeError:
        raise ValueError(payload[:100]) from None
