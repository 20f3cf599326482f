"""Measures stored entries that a node is told of: ``python -m
tests.messenger.messages.measure_entries``."""

import msgspec

from imserver.gateway.cluster.nodes import NodeMessage, encode
from imserver.messenger.log.contract import Commit, Entry
from tools.measure_scale import cpu_seconds


def read_entries(batch: int, times: int) -> None:
    """What a node does with stored entries of which none is for its users,
    without the RPC."""
    more = {"client_msg_id": "m-1234567", "time_ms": 1_700_000_000_000}
    entry = Entry(1, 1, 1, "alice", ("alice", "bob"), body=b"x" * 100, **more)
    data = encode(Commit("101", 1, batch, [entry] * batch))
    decode = msgspec.msgpack.Decoder(NodeMessage | Commit).decode
    began = cpu_seconds()
    for _ in range(times):
        decode(data)
    each = (cpu_seconds() - began) / times / batch * 1e6
    print(
        f"an entry read, {batch} together: {each:.2f} µs, {len(data) / batch:.0f} bytes"
    )


if __name__ == "__main__":
    read_entries(1, 100_000)
    read_entries(10, 20_000)
