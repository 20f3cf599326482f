"""Our codec of the protobuf dialect against ``google.protobuf``: time per frame, and memory of the library.

Run it in an environment that has both, with the folder of the module that protoc generates::

    python -m grpc_tools.protoc -Isdk/protobuf --python_out=/tmp/made sdk/protobuf/chat.proto
    python -m tests.protocol.codec_cost /tmp/made
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from imserver.model import Message
from imserver.protocol.protobuf import FullProtobufDialect, ProtobufDialect

FRAMES = 20_000
ROUNDS = 9
STORED = Message(
    123456, 77, 4242, "266", "267", body=b"a message of forty bytes, as people type", time_ms=1795156528123
)


def resident_kb() -> int:
    """The memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


def micros(function: Callable[[], object]) -> float:
    """Microseconds for one call: the median of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(FRAMES):
            function()
        rounds.append((perf_counter() - began) / FRAMES * 1e6)
    return median(rounds)


def main(folder: str) -> None:
    """Print a table."""
    before, began = resident_kb(), perf_counter()
    sys.path.insert(0, folder)
    import chat_pb2  # type: ignore[import-not-found]

    pb: Any = chat_pb2
    print(f"import: {(perf_counter() - began) * 1000:.0f} ms, {(resident_kb() - before) / 1024:.1f} MB")
    ours, full = ProtobufDialect(), FullProtobufDialect()
    message = pb.Message(
        session_type=1,
        receiver_id=267,
        sender_id=266,
        message_type=1,
        content=STORED.body,
        send_time=STORED.time_ms,
    )
    frame = pb.Input(type=3, data=pb.UpMsg(msg=message, clientId=17).SerializeToString()).SerializeToString()

    def decode() -> tuple[Any, ...]:
        given = pb.Input.FromString(frame)
        up = pb.UpMsg.FromString(given.data)
        m = up.msg
        return (
            *(
                up.clientId,
                m.session_type,
                m.receiver_id,
                m.sender_id,
                m.message_type,
                m.content,
                m.send_time,
            ),
            *(up.client_msg_id, m.kind, m.about, m.meta),
        )

    def fill(m: Any) -> None:
        m.session_type, m.receiver_id, m.sender_id, m.message_type = 1, 267, 266, 1
        m.content, m.seq, m.send_time = STORED.body, STORED.id, STORED.time_ms

    def push(further: bool) -> bytes:
        pushed = pb.PushMsg()
        fill(pushed.msg)
        if further:
            pushed.msg.conversation, pushed.msg.conversation_seq = STORED.conversation, STORED.seq
        output = pb.Output(type=3, code=200, CodeMsg="Success", data=pushed.SerializeToString())
        return bytes(pb.OutputBatch(outputs=[output.SerializeToString()]).SerializeToString())

    assert push(False) == ours.encode_message(STORED)
    assert push(True) == full.encode_message(STORED)
    rows: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("decode Input with UpMsg", lambda: ours.decode(frame), decode),
        ("encode OutputBatch with PushMsg", lambda: ours.encode_message(STORED), lambda: push(False)),
        ("the same with all fields", lambda: full.encode_message(STORED), lambda: push(True)),
    ]
    for name, own, library in rows:
        print(f"{name}: ours {micros(own):.2f} µs, google.protobuf {micros(library):.2f} µs")


if __name__ == "__main__":
    main(sys.argv[1])
