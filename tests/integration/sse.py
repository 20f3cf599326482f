"""A listener of event streams on the raw client; parsed strictly (HTML
standard, section 9.2)."""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

from .raw import PATIENCE_SECONDS, Address, Raw, Response, request

PATH = "/api/v1/events"
_BLOCK = re.compile(
    rb"(?:retry: (?P<retry>\d+)\n)?(?:id: (?P<id>\d+)\n)?(?:event: (?P<name>\w+)\n)?"
    rb"data: (?P<data>[^\r\n]*)\n\n",
    re.ASCII,
)


@dataclass(frozen=True)
class Heard:
    """One event: its name (``""``: none), its data as JSON, the pause before
    coming back if it says so, and its id, if it has one."""

    name: str
    data: Any
    retry: int | None = None
    id: int | None = None


class Listener(Raw):
    """A connection that asks for a stream."""

    def __init__(self, address: Address, **options: Any) -> None:
        super().__init__(address, **options)
        self.head: Response | None = None
        self._chunks: bytearray | None = None
        self._last_chunk = False

    def listen(self, headers: Iterable[tuple[str, str]] = (), **query: Any) -> Self:
        """Ask for a stream, and check that it is one."""
        self.send(request(f"{PATH}?{urlencode(query)}", headers=headers))
        return self.begun()

    def begun(self) -> Self:
        """The head of the answer, and the event ``ready``."""
        head = self.response(to_head=True)
        self.head = head
        assert head.status == 200, head
        assert head.header("content-type") == "text/event-stream; charset=utf-8"
        assert head.header("content-length") is None
        if head.header("transfer-encoding") == "chunked":  # by a proxy
            self._chunks, self.waiting = self.waiting, bytearray()
            self._join_chunks()
        while (heard := self._heard(PATIENCE_SECONDS)).name != "ready":
            # A notice of another node, that came while it subscribed.
            assert heard.data["event"] in ("enter", "exit"), heard
        self.ready = heard
        return self

    def _more(self, deadline: float) -> bool:
        if self._chunks is None:
            return super()._more(deadline)
        if self._last_chunk:
            return False
        plain = self.waiting
        self.waiting = self._chunks
        try:
            return super()._more(deadline)
        finally:
            self._chunks = self.waiting
            self.waiting = plain
            self._join_chunks()

    def _join_chunks(self) -> None:
        """Take the chunks that are whole."""
        chunks = self._chunks
        assert chunks is not None
        while (end := chunks.find(b"\r\n")) >= 0:
            size = int(chunks[:end], 16)
            if len(chunks) < end + 4 + size:
                break
            self._last_chunk = size == 0
            self.waiting += chunks[end + 2 : end + 2 + size]
            del chunks[: end + 4 + size]

    def event(self, name: str = "", seconds: float = PATIENCE_SECONDS) -> Heard:
        """The next event, which must have this name."""
        heard = self._heard(seconds)
        assert heard.name == name, heard
        return heard

    def _heard(self, seconds: float) -> Heard:
        deadline = time.monotonic() + seconds
        while (block := self._until(b"\n\n", deadline)) == b":\n\n":
            pass  # a comment
        found = _BLOCK.fullmatch(block)
        assert found is not None, f"no event: {block!r}"
        return Heard(
            (found["name"] or b"").decode(),
            json.loads(found["data"]),
            int(found["retry"]) if found["retry"] else None,
            int(found["id"]) if found["id"] else None,
        )

    def message(self, seconds: float = PATIENCE_SECONDS) -> Any:
        """The data of the next push; who comes and goes is passed over."""
        while (heard := self.event(seconds=seconds)).data["event"] != "msg":
            pass
        return heard.data

    def stored(self, seconds: float = PATIENCE_SECONDS) -> Any:
        """The data of the next stored message, which its event has the id of;
        who comes is passed over."""
        while (heard := self.event(seconds=seconds)).data["event"] in ("enter", "exit"):
            pass
        assert heard.data["event"] == "message", heard
        assert heard.id == heard.data["id"]
        return heard.data


@contextlib.contextmanager
def listening(
    address: Address, app: str | int, user: str, **options: Any
) -> Iterator[Listener]:
    """A stream that is ready."""
    with Listener(address) as one:
        yield one.listen(app=app, user=user, **options)


def ask_for(
    address: Address, headers: Iterable[tuple[str, str]] = (), **query: Any
) -> Response:
    """The answer to a request for a stream that has to be refused; the
    connection must end behind it."""
    with Raw(address) as one:
        answer = one.ask(request(f"{PATH}?{urlencode(query)}", headers=headers))
        assert answer.status != 200, answer
        one.ended()
    return answer


def end_of(one: Listener) -> Any:
    """Everything up to the end of a stream: the data of the last event, which
    must be named ``end``."""
    *_, last = [block for block in one.rest().split(b"\n\n") if block]
    name, _, data = last.partition(b"\n")
    assert name == b"event: end", last
    return json.loads(data.removeprefix(b"data: "))
