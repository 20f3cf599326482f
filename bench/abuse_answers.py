"""The answers of a server to an attack: how many requests it accepted, and why it refused the others. The row
of an attack in the report.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from bench.frames import CLOSE, scan
from bench.loop import Json
from bench.protobuf import CT_ACK, outputs

MOST_HOLD_MS: Final = 50
ACCEPTED: Final = "ok"
"""The name of an accepted request among the counts."""
_HTTP: Final = re.compile(
    rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n"
    rb'(?:[0-9a-f]+\r\n)?(?:\{"replies":\[)?(?:\{"code":(-?\d+)|\{"error":\{"code":(\d+)'
    rb'|\{"results":\[\{"status":(\d+))?'
)
_CMD: Final = b'"%b":"%b","response":{"code":'
_NUMBER: Final = re.compile(rb"-?\d+")
_REFUSAL: Final = re.compile(rb'\{"id":3,"error":\{"code":(\d+)')
_FINE: Final = {b"200", b"0"}


def http_answers(data: bytes) -> Counter[str]:
    """Count HTTP answers by their result: a status under 400, and no other code in the body than 0 or 200, is
    accepted. Of a batch, its first command counts.
    """
    found: Counter[str] = Counter()
    for whole, code, error, first in _HTTP.findall(data):
        status = first or whole
        if status >= b"400":
            found[status.decode()] += 1
        elif error or (code and code not in _FINE):
            found[f"code {(error or code).decode()}"] += 1
        elif status >= b"200":
            found[ACCEPTED] += 1
    return found


def command_answers(dialect: str, name: str, data: bytes, number: int = 0) -> Counter[str]:
    """Count the answers to the command ``name`` of a dialect on a WebSocket.

    ``number``: that of the command in protobuf. A close frame counts by its code.
    """
    found: Counter[str] = Counter()
    _, _, frames = data.partition(b"\r\n\r\n")
    payloads = scan(frames, len(frames))[0]
    for opcode, start, stop in payloads:
        payload = frames[start:stop]
        if opcode == CLOSE:
            found[f"close {int.from_bytes(payload[:2], 'big')}"] += 1
        elif dialect == "protobuf":
            for kind, code, content, _ in outputs(payload):
                is_login = content.startswith(b"\x08\x03")
                if kind == number or (kind == CT_ACK and is_login == (name == "login")):
                    refused = code != 200 or content.startswith(b"\x08\x04")
                    found[f"code {code}" if refused else ACCEPTED] += 1
        elif dialect == "publisher":
            found["error" if payload.startswith(b'{"seq":1,"error"') else ACCEPTED] += 1
        elif dialect == "pusher":
            _count_pusher(found, payload)
        elif dialect == "centrifuge":
            for line in payload.split(b"\n"):
                if line.startswith(b'{"id":3,'):
                    refusal = _REFUSAL.match(line)
                    found[f"code {refusal[1].decode()}" if refusal else ACCEPTED] += 1
        else:
            key = b"cmd" if dialect == "cmd" else b"action"
            _, begin, rest = payload[:200].partition(_CMD % (key, name.encode()))
            answer = _NUMBER.match(rest)
            if begin and answer:
                found[ACCEPTED if answer[0] in _FINE else f"code {answer[0].decode()}"] += 1
    return found


def _count_pusher(found: Counter[str], payload: bytes) -> None:
    if b"subscription_error" in payload[:60]:
        found["subscription_error"] += 1
    elif payload.startswith(b'{"event":"pusher:error"'):
        code = re.search(rb'"code":(\d+)', payload)
        found[f"code {code[1].decode()}" if code else "error"] += 1
    elif not payload.startswith((b'{"event":"pusher:connection_established"', b'{"event":"client-')):
        found[ACCEPTED] += 1


def row_of(name: str, answer: str, shares: Iterable[float], **measured: Any) -> Json:
    """The row of one try of an attack. ``shares``: how much of each of its bars it used. The bar of the loop
    is that of all."""
    nothing: Json = {
        "of": "",
        "counts": {},
        "closed": False,
        "growth_mb": 0.0,
        "residue_mb": 0.0,
        "dropped": 0,
    }
    share = max(measured["hold_ms"] / MOST_HOLD_MS, *shares)
    return {"name": name, **nothing, **measured, "answer": answer, "share": share}


def best_of(tries: int, attack: Callable[[], Json]) -> Json:
    """Attack until no bar is missed, at most so many times. Returns the row of the best try, which counts
    what all of them dropped and were answered."""
    rows: list[Json] = []
    begin = time.monotonic()
    while len(rows) < tries and (not rows or rows[-1]["share"] > 1):
        rows.append(attack())
    best = min(rows, key=lambda row: row["share"])
    dropped = sum(row["dropped"] for row in rows)
    return {
        **best,
        "counts": sum((Counter(row["counts"]) for row in rows), Counter[str]()),
        "dropped": dropped,
        "over": best["share"] > 1 or dropped > 0,
        "tries": len(rows),
        "seconds": time.monotonic() - begin,
    }
