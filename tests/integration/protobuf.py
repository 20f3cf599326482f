"""A client of the protobuf dialect, with a codec of its own: what it reads it
takes apart byte by byte."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from imserver.plugin.testing import HostAndPort

from .raw import BINARY, PATIENCE_SECONDS, Raw, frame

LOGIN = 1
HEARTBEAT = 2
MESSAGE = 3
ACK = 4
SYNC = 5
READ = 6
UP = 1
PUSH = 2
LOGGED_IN = 3
REFUSED = 4
SINGLE = 1
GROUP = 2


class SentMessage(NamedTuple):
    """One message: whom it is for and from whom, what it is, its place and
    time."""

    session: int = 0
    receiver: int = 0
    sender: int = 0
    type: int = 0
    content: bytes = b""
    seq: int = 0
    time: int = 0

    @property
    def text(self) -> str:
        return self.content.decode()


FURTHER = (
    "kind",
    "about",
    "conversation",
    "conversation_seq",
    "client_msg_id",
    "meta",
    "sender_name",
    "to",
)
"""Fields of a message that clients with a cursor know, from the eighth on."""
KINDS = (
    "message",
    "recall",
    "edit",
    "group",
    "join",
    "leave",
    "reaction",
    "pin",
    "press",
)


class Output(NamedTuple):
    """One output of a batch."""

    kind: int
    code: int
    text: str
    data: bytes


def varint(number: int) -> bytes:
    found = b""
    number %= 2**64
    while number > 127:
        found += bytes([number % 128 + 128])
        number //= 128
    return found + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    """A field; none where it has its default."""
    if not value:
        return b""
    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    return varint(number * 8 + 2) + varint(len(value)) + value


def fields(data: bytes) -> list[tuple[int, Any]]:
    """Numbers and values in their order."""
    found: list[tuple[int, Any]] = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value += (byte % 128) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        assert tag % 8 in (0, 2), f"wire type {tag % 8}"
        value = number()
        if tag % 8 == 0:
            found.append((tag // 8, value))
        else:
            assert at + value <= len(data), "a field beyond the end"
            found.append((tag // 8, data[at : at + value]))
            at += value
    return found


def one(data: bytes) -> dict[int, Any]:
    """Fields of which none comes twice."""
    found = fields(data)
    assert len({number for number, _ in found}) == len(found), "a field comes twice"
    return dict(found)


def sent(kind: int, data: bytes = b"") -> bytes:
    """The payload of a client's frame."""
    return field(1, kind) + field(2, data)


def login(
    token: str, device: str = "", cursor: int | None = None, acks: bool = False
) -> bytes:
    """``cursor``: the client takes part in all that is stored, and has
    everything up to this."""
    where = b"" if cursor is None else b"\x18" + varint(cursor)
    return sent(
        LOGIN,
        field(1, token.encode())
        + field(2, device.encode())
        + where
        + field(4, int(acks)),
    )


def message(
    number: int, fields: SentMessage, client_msg_id: str = "", **more: int | str
) -> bytes:
    """``more``: fields of :data:`FURTHER`."""
    values: tuple[Any, ...] = fields
    data = b"".join(field(number, value) for number, value in enumerate(values, 1))
    for name, value in more.items():
        data += field(
            FURTHER.index(name) + 8, value.encode() if isinstance(value, str) else value
        )
    up = field(1, data) + field(2, number) + field(3, client_msg_id.encode())
    return sent(MESSAGE, up)


def sync(after: int) -> bytes:
    return sent(SYNC, field(1, after))


def outputs(payload: bytes) -> list[Output]:
    """What a frame of the server holds."""
    found = []
    for number, data in fields(payload):
        assert number == 1
        row = one(data)
        assert set(row) <= {1, 2, 3, 4}
        found.append(Output(row[1], row[2], row[3].decode(), row.get(4, b"")))
    return found


def message_in(data: bytes) -> SentMessage:
    row = one(data)
    return SentMessage(
        *(row.get(number, default) for number, default in enumerate(SentMessage(), 1))
    )


def further(data: bytes) -> dict[str, Any]:
    """What a message has beyond the fields of the original; its kind by
    name."""
    row = one(data)
    found = {
        name: row[number] for number, name in enumerate(FURTHER, 8) if number in row
    }
    return {**found, "kind": KINDS[found.get("kind", 0)]}


def pushed(output: Output) -> SentMessage:
    """The message of a push."""
    assert (output.kind, output.code, output.text) == (MESSAGE, 200, "Success")
    row = one(output.data)
    assert set(row) == {1}
    return message_in(row[1])


def acked(output: Output) -> tuple[int, int]:
    """The number and the place of an uplink ack."""
    assert (output.kind, output.code, output.text) == (ACK, 200, "Success")
    row = one(output.data)
    assert row[1] == UP
    return row[2], row.get(3, 0)


def refused(output: Output) -> tuple[int, int, int]:
    """Code, kind of what is refused, and its number."""
    assert output.kind == ACK
    row = one(output.data)
    assert row[1] == REFUSED
    return output.code, row[6], row.get(2, 0)


def recovered(output: Output) -> tuple[bool, bool]:
    """What a login with a cursor is answered: whether all comes, and whether to
    begin anew."""
    assert (output.kind, output.code) == (ACK, 200)
    row = one(output.data)
    assert row[1] == LOGGED_IN
    return row.get(4) == 1, row.get(5) == 1


def synced(output: Output) -> tuple[list[SentMessage], bool]:
    """The messages of an answer to a sync, and whether there are more."""
    assert (output.kind, output.code, output.text) == (SYNC, 200, "Success")
    rows = fields(output.data)
    assert all(number == 1 for number, _ in rows[:-1])
    more = bool(rows) and rows[-1] == (2, 1)
    return [message_in(data) for number, data in rows if number == 1], more


# --- over the wire ------------------------------------------------------------


class ProtobufClient(Raw):
    """A connection of a client. Outputs are handed out one by one."""

    answers_pings = True
    id = 0
    missed: list[SentMessage]
    """What it was told when it caught up."""

    def begin(self, path: str = "/ws") -> "ProtobufClient":
        self.unread: deque[Output] = deque()
        self.upgrade(path)
        return self

    def send_payload(self, payload: bytes) -> None:
        self.send(frame(BINARY, payload))

    def output(self, seconds: float = PATIENCE_SECONDS) -> Output:
        """The next output; its frame is binary."""
        while not self.unread:
            found = self.frame(seconds)
            assert found.opcode == BINARY, found
            self.unread += outputs(found.payload)
        return self.unread.popleft()

    def login(self, token: str, device: str = "") -> None:
        """Log in, and read the ack."""
        self.send_payload(login(token, device))
        assert self.output() == Output(ACK, 200, "Success", b"\x08\x03")

    def catch_up(self, after: int = 0) -> list[SentMessage]:
        """All messages behind a place; from then on pushes come at once."""
        found: list[SentMessage] = []
        more = True
        while more:
            self.send_payload(sync(found[-1].seq if found else after))
            messages, more = synced(self.output())
            assert not more or len(messages) == 50 or len(messages[0].content) > 10_000
            found += messages
        return found

    def single(self, number: int, to: int, text: str, **more: str) -> None:
        self.send_payload(
            message(
                number,
                SentMessage(SINGLE, to, self.id, 1, text.encode(), time=7),
                **more,
            )
        )

    def group(self, number: int, to: int, text: str) -> None:
        self.send_payload(
            message(number, SentMessage(GROUP, to, self.id, 1, text.encode(), time=7))
        )

    def quiet(self) -> None:
        super().quiet()
        assert not self.unread, self.unread


@contextmanager
def visiting(address: HostAndPort, path: str = "/ws") -> Iterator[ProtobufClient]:
    """A client that has not logged in."""
    with ProtobufClient(address) as one:
        yield one.begin(path)


@contextmanager
def chatting(
    address: HostAndPort, account: tuple[str, str], device: str = "", after: int = 0
) -> Iterator[ProtobufClient]:
    """A client that has logged in as an account (its id and its token) and has
    caught up behind a place."""
    with visiting(address) as one:
        one.id = int(account[0])
        one.login(account[1], device)
        one.missed = one.catch_up(after)
        yield one
