"""The answers of a server to an attack: how many requests it accepted, and why it refused the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from bench.frames import CLOSE, scan
from bench.protobuf import CT_ACK, outputs

ACCEPTED: Final = "ok"
"""The name of an accepted request among the counts."""
_HTTP: Final = re.compile(
    rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n"
    rb'(?:[0-9a-f]+\r\n)?(?:\{"replies":\[)?(?:\{"code":(-?\d+)|\{"error":\{"code":(\d+)'
    rb'|\{"results":\[\{"status":(\d+))?'
)
_ANSWER: Final = {
    "cmd": rb'"cmd":"%b","response":\{"code":(-?\d+)',
    "action": rb'"action":"%b","response":\{"code":(-?\d+)',
    "centrifuge": rb'(?m)^\{"id":3,(?:"error":\{"code":(\d+))?',
    "publisher": rb'^(?:\{"seq":1,"(error)")?',
    "pusher": rb'^\{"event":"(?!pusher:connection_established|client-)'
    rb'(?:pusher:error".*?"code":(\d+)|[^"]*?(subscription_error)?")',
}
"""Dialect → what an answer to a command has; its groups have the code, if the command is refused."""
_FINE: Final = {"200", "0", ""}


def http_answers(data: bytes) -> Counter[str]:
    """Count HTTP answers by their result: a status under 400, and no other code in the body than 0 or 200, is
    accepted. Of a batch, its first command counts.
    """
    found: Counter[str] = Counter()
    for groups in _HTTP.findall(data):
        whole, code, error, first = (group.decode() for group in groups)
        status = first or whole
        if status >= "400":
            found[status] += 1
        elif status >= "200":
            found[f"code {error or code}" if error or code not in _FINE else ACCEPTED] += 1
    return found


def command_answers(dialect: str, name: str, data: bytes, number: int = 0) -> Counter[str]:
    """Count the answers to the command ``name`` of a dialect on a WebSocket.

    ``number``: that of the command in protobuf. A close frame counts by its code.
    """
    found: Counter[str] = Counter()
    _, _, frames = data.partition(b"\r\n\r\n")
    for opcode, start, stop in scan(frames, len(frames))[0]:
        payload = frames[start:stop]
        if opcode == CLOSE:
            found[f"close {int.from_bytes(payload[:2], 'big')}"] += 1
        else:
            codes = (
                _protobuf(payload, name, number) if dialect == "protobuf" else _texts(payload, dialect, name)
            )
            found.update(ACCEPTED if code in _FINE else f"code {code}" for code in codes)
    return found


def _texts(payload: bytes, dialect: str, name: str) -> Iterator[str]:
    pattern = _ANSWER[dialect]
    for answer in re.finditer(pattern.replace(b"%b", re.escape(name).encode()), payload):
        yield next(filter(None, answer.groups()), b"").decode()


def _protobuf(payload: bytes, name: str, number: int) -> Iterator[str]:
    for kind, code, content, _ in outputs(payload):
        is_login = content.startswith(b"\x08\x03")
        if kind == number or (kind == CT_ACK and is_login == (name == "login")):
            yield "refused" if content.startswith(b"\x08\x04") else str(code)
