"""Streams of requests that two servers may read in two ways, and how we and h11
read them."""

import re
from pathlib import Path
from typing import Final, NamedTuple

import h11

from imserver.gateway.transport.http1 import BadHead, Body, KnownHeads, end_of_head

from .target import lists_of

LIMIT: Final = 16384
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
"""What follows each stream. Who serves it has found the end of what was
before."""
INNER: Final = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
"""What is smuggled: a body for one server, a request for the other."""


class Reading(NamedTuple):
    """The targets of the requests that a server serves, and whether it then
    refuses one."""

    targets: list[str]
    refused: bool


def _post(
    *lines: bytes, body: bytes = b"", first: bytes = b"POST /outer HTTP/1.1"
) -> bytes:
    return b"\r\n".join((first, b"Host: x", *lines, b"", body))


_CODED: Final = b"Transfer-Encoding: chunked"
_LAST: Final = b"0\r\n\r\n"


PARTS: Final = lists_of(Path(__file__).with_name("smuggling.txt"))


def _streams() -> dict[str, bytes]:
    rows: dict[str, bytes] = dict(PARTS["streams"])
    rows |= {
        f"the length {each!r}": _post(b"Content-Length: " + each)
        for each in PARTS["lengths"]
    }
    for blank, words in ((b" ", ""), (b"", " without a blank")):
        head = b"Transfer-Encoding:" + blank
        rows |= {
            f"the encoding {each!r}{words}": _post(head + each, body=_LAST)
            for each in PARTS["encodings"]
        }
    rows |= {
        f"the name {each!r}": _post(each + b": chunked", body=_LAST)
        for each in PARTS["names"]
    }
    rows |= {
        f"the first line {each!r}": _post(first=each) for each in PARTS["first lines"]
    }
    rows |= {
        f"the chunks {each!r}": _post(_CODED, body=each) for each in PARTS["chunks"]
    }
    return rows


STREAMS: Final = _streams()


def by_us(stream: bytes) -> Reading:
    heads = KnownHeads()
    targets = list[str]()
    data = stream
    try:
        while (data := data.lstrip(b"\r\n")) and (end := end_of_head(data, LIMIT)):
            head = heads.read(data[:end])
            body = Body(head, LIMIT)
            rest = body.feed(data[end:])
            if rest is None or body.too_large:
                return Reading(targets, body.too_large)
            targets.append(head.url.decode())
            if not head.keep_alive:
                break
            data = rest
    except BadHead:
        return Reading(targets, True)
    return Reading(targets, False)


def by_h11(stream: bytes) -> Reading:
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT)
    targets = list[str]()
    peer.receive_data(stream)
    try:
        while isinstance(request := peer.next_event(), h11.Request):
            while isinstance(event := peer.next_event(), h11.Data):
                pass
            if not isinstance(event, h11.EndOfMessage):
                break
            targets.append(re.sub("^http://[^/]*", "", request.target.decode()))
            peer.send(h11.Response(status_code=404, headers=[]))
            peer.send(h11.EndOfMessage())
            if peer.our_state is not h11.DONE or peer.their_state is not h11.DONE:
                break
            peer.start_next_cycle()
    except h11.RemoteProtocolError:
        return Reading(targets, True)
    return Reading(targets, False)
