"""Streams of requests that two servers may read in two ways, and how we and h11 read them."""

from __future__ import annotations

import re
from ast import literal_eval
from pathlib import Path
from typing import Final, NamedTuple

import h11

from imserver.gateway.transport.http1 import BadHead, Body, KnownHeads, end_of_head

LIMIT: Final = 16384
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
"""What follows each stream. Who serves it has found the end of what was before."""
INNER: Final = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
"""What is smuggled: a body for one server, a request for the other."""


class Reading(NamedTuple):
    """The targets of the requests that a server serves, and whether it then refuses one."""

    targets: list[str]
    refused: bool


def _post(*lines: bytes, body: bytes = b"", first: bytes = b"POST /outer HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"Host: x", *lines, b"", body))


_INNER_LENGTH: Final = b"Content-Length: %d" % len(INNER)
_IN_CHUNK: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)
_CODED: Final = b"Transfer-Encoding: chunked"
_LAST: Final = b"0\r\n\r\n"


def _parts() -> dict[str, list[bytes]]:
    """The lists of ``smuggling.txt``."""
    lists: dict[str, list[bytes]] = {}
    for line in Path(__file__).with_name("smuggling.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            rows = lists.setdefault(line[1:-1], [])
        elif line.startswith("b"):
            rows.append(literal_eval(line))
    return lists


PARTS: Final = _parts()


def _streams() -> dict[str, bytes]:
    rows: dict[str, bytes] = {
        "a length": _post(_INNER_LENGTH, body=INNER),
        "chunks": _post(_CODED, body=_IN_CHUNK),
        "CL.TE": _post(b"Content-Length: 5", _CODED, body=b"0\r\n\r\n" + INNER),
        "CL.TE, all in the length": _post(
            b"Content-Length: %d" % (5 + len(INNER)), _CODED, body=b"0\r\n\r\n" + INNER
        ),
        "TE.CL": _post(_CODED, b"Content-Length: 4", body=_IN_CHUNK),
        "TE.TE": _post(_CODED, b"Transfer-Encoding: cow", body=_IN_CHUNK),
        "TE.TE, the other first": _post(b"Transfer-Encoding: cow", _CODED, body=_IN_CHUNK),
        "TE.TE twice": _post(_CODED, _CODED, body=_IN_CHUNK),
        "TE of HTTP/1.0": _post(_CODED, body=_IN_CHUNK, first=b"POST /outer HTTP/1.0"),
        "TE of HTTP/1.0 that keeps alive": _post(
            _CODED, b"Connection: keep-alive", body=_IN_CHUNK, first=b"POST /outer HTTP/1.0"
        ),
        "TE and CL of HTTP/1.0": _post(
            *(b"Content-Length: 5", _CODED, b"Connection: keep-alive"),
            body=b"0\r\n\r\n" + INNER,
            first=b"POST /outer HTTP/1.0",
        ),
        "two lengths": _post(b"Content-Length: 0", _INNER_LENGTH, body=INNER),
        "two lengths, the greater first": _post(_INNER_LENGTH, b"Content-Length: 0", body=INNER),
        "the same length twice": _post(_INNER_LENGTH, _INNER_LENGTH, body=INNER),
        "a length of GET": _post(_INNER_LENGTH, body=INNER, first=b"GET /outer HTTP/1.1"),
        "a length of HEAD": _post(_INNER_LENGTH, body=INNER, first=b"HEAD /outer HTTP/1.1"),
        "a length of DELETE": _post(_INNER_LENGTH, body=INNER, first=b"DELETE /outer HTTP/1.1"),
        "chunks of GET": _post(_CODED, body=_IN_CHUNK, first=b"GET /outer HTTP/1.1"),
        "a length named by Connection": _post(_INNER_LENGTH, b"Connection: Content-Length", body=INNER),
        "an encoding named by Connection": _post(_CODED, b"Connection: Transfer-Encoding", body=_IN_CHUNK),
        "a length with an underscore": _post(b"Content_Length: %d" % len(INNER), body=INNER),
        "a length after a space": _post(b"Content-Length : %d" % len(INNER), body=INNER),
        "a length after a folded line": _post(b"X: y", b" z", _INNER_LENGTH, body=INNER),
        "a folded length": _post(b"Content-Length:", b" %d" % len(INNER), body=INNER),
        "a folded encoding": _post(b"Transfer-Encoding:", b" chunked", body=_IN_CHUNK),
        "an encoding folded in two": _post(b"Transfer-Encoding: x,", b"\tchunked", body=_IN_CHUNK),
        "a first line that is folded": b"POST /outer HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n",
        "bare line feeds": b"POST /outer HTTP/1.1\nHost: x\n\n",
        "the last line feed is bare": b"POST /outer HTTP/1.1\r\nHost: x\r\n\n",
        "a bare line feed in a value": _post(b"X: y\nContent-Length: 0"),
        "a bare line feed ends the head": b"POST /outer HTTP/1.1\r\nHost: x\n\n" + INNER,
        "a bare return": _post(b"X: y\rContent-Length: %d" % len(INNER), body=INNER),
        "a bare return ends a line": _post(b"X: y\r", _INNER_LENGTH, body=INNER),
        "a bare return ends the head": b"POST /outer HTTP/1.1\r\nHost: x\r\n\r" + INNER,
        "NUL in a value": _post(b"X: a\0b"),
        "NUL in a name": _post(b"X\0: a"),
        "DEL in a value": _post(b"X: a\x7fb"),
        "a control in a value": _post(b"X: a\x01b"),
        "a vertical tab in a value": _post(b"X: a\x0bb"),
        "a tab in a value": _post(b"X: a\tb"),
        "high bytes in a value": _post(b"X: \xff\xe9"),
        "no colon": _post(b"X"),
        "no name": _post(b": y"),
        "an empty value": _post(b"X:"),
        "a space in a name": _post(b"X Y: z"),
        "no Host": b"POST /outer HTTP/1.1\r\n\r\n",
        "two Hosts": _post(b"Host: x"),
        "two other Hosts": _post(b"Host: y"),
        "an empty Host": b"POST /outer HTTP/1.1\r\nHost:\r\n\r\n",
        "a Host with blanks": b"POST /outer HTTP/1.1\r\nHost: x y\r\n\r\n",
        "a Host with a path": b"POST /outer HTTP/1.1\r\nHost: x/y\r\n\r\n",
        "Connection: close": _post(b"Connection: close"),
        "Connection: close among others": _post(b"Connection: x, close"),
        "HTTP/1.0": b"GET /outer HTTP/1.0\r\n\r\n",
        "HTTP/1.0 that keeps alive": b"GET /outer HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "an upgrade to h2c": _post(
            b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"
        ),
        "an upgrade with a length": _post(b"Connection: Upgrade", b"Upgrade: h2c", _INNER_LENGTH, body=INNER),
        "three in a row": _post() + _post(_INNER_LENGTH, body=INNER) + _post(_CODED, body=_IN_CHUNK),
        "an empty line between": _post() + b"\r\n" + INNER,
        "a bare line feed between": _post() + b"\n" + INNER,
        "a return between": _post() + b"\r" + INNER,
    }
    rows |= {f"the length {each!r}": _post(b"Content-Length: " + each) for each in PARTS["lengths"]}
    for blank, words in ((b" ", ""), (b"", " without a blank")):
        head = b"Transfer-Encoding:" + blank
        rows |= {
            f"the encoding {each!r}{words}": _post(head + each, body=_LAST) for each in PARTS["encodings"]
        }
    rows |= {f"the name {each!r}": _post(each + b": chunked", body=_LAST) for each in PARTS["names"]}
    rows |= {f"the first line {each!r}": _post(first=each) for each in PARTS["first lines"]}
    rows |= {f"the chunks {each!r}": _post(_CODED, body=each) for each in PARTS["chunks"]}
    return rows


STREAMS: Final = _streams()


def by_us(stream: bytes) -> Reading:
    """How this server reads a stream."""
    heads, targets, data = KnownHeads(), list[str](), stream
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
    """How h11 reads it."""
    peer, targets = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT), list[str]()
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
