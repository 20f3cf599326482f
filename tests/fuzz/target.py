"""What is fuzzed, and what counts as a finding."""

import random
from ast import literal_eval
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import thread_time
from typing import Any, Final, NamedTuple

SECONDS: Final = 0.05
"""The most CPU time of one input of what is read on the loop."""


def lists_of(file: Path) -> dict[str, list[Any]]:
    """The lists of a file: a name in brackets, then a literal in each line."""
    lists: dict[str, list[Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            rows = lists.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            rows.append(literal_eval(line))
    return lists


class Target(NamedTuple):
    """A parser. ``check`` gives it one input, and raises for a finding: an
    exception that the parser does not document, or an input that is read in two
    ways. ``seeds`` are valid inputs beside those of ``seeds.txt``.

    ``longest``: of inputs that are made, in bytes. ``seconds``: the most CPU
    time of one input.
    """

    name: str
    check: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]] = tuple
    longest: int = 4096
    seconds: float = SECONDS


class TooSlow(AssertionError):
    """An input took more than its :attr:`Target.seconds`."""


def run(target: Target, data: bytes, slower: float = 1.0) -> None:
    """Give a parser one input. Raises whatever :attr:`Target.check` raises, and
    TooSlow. ``slower``: how many times longer it may take, in code that is
    instrumented.

    Time is that of the processor. An input that took too long is tried again:
    modules are loaded, memory is collected and caches are filled at the first
    time.
    """
    took = []
    for _ in range(3):
        begin = thread_time()
        target.check(data)
        took.append(thread_time() - begin)
        if took[-1] <= target.seconds * slower:
            return
    raise TooSlow(f"{min(took) * 1000:.0f} ms for {len(data)} bytes")


SPICES: Final = (
    b"\x00",
    b"\xff",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b": ",
    b"\x80",
    b"\x7f",
    b"{",
    b'"',
    b"%",
    b"\x88\x80\0\0\0\0",
    b"null",
    b"-1",
    b"9" * 25,
    b"\\ud800",
    b"\\u0000",
    b"[" * 50,
)


PATTERNS: Final = (
    b"[",
    b"{",
    b'{"a":',
    b"(",
    b" ",
    b"\t",
    b"a",
    b"=",
    b"&",
    b"%41",
    b"%",
    b",",
    b";",
    b"; ",
    b':a="b"',
    b"\xff",
    b"\0",
    b'"',
    b"\\",
    b"-",
    b".",
    b"<",
    b"<@",
    b"~a",
    b"`",
    b"\n",
    b"\r\n",
    b"=?a?q?",
    b"9",
    b"'",
    b"\\u0000",
    b"null,",
    b"#",
    b"/",
    b"\x80",
    b"\x91",
    b"\x81\xa1a",
    b"\x10\x01",
    b"0\r\n",
    b"\xe2\x80\x8d",
)


def grown(chance: random.Random, data: bytes, size: int) -> bytes:
    """The bytes with a part of them, or a pattern, repeated up to ``size``
    bytes: it takes long if the time grows faster than the size."""
    at = chance.randrange(len(data) + 1)
    part = (
        data[at : at + chance.choice((1, 2, 4, 8, 16, 32, 64))]
        if chance.randrange(2)
        else b""
    )
    part = part or chance.choice(PATTERNS)
    return data[:at] + part * (max(size - len(data), 0) // len(part)) + data[at:]


def mutated(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The bytes with a few things wrong. ``others`` give their beginnings."""
    stream = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(stream) + 1)
        to = min(len(stream), at + chance.choice((1, 2, 4, 16, 64)))
        match chance.randrange(8):
            case 0 if at < len(stream):
                stream[at] ^= 1 << chance.randrange(8)
            case 1:
                del stream[at:to]
            case 2:
                stream[at:at] = stream[at:to]
            case 3:
                stream[at:at] = chance.choice(SPICES)
            case 4:
                stream[at:to] = chance.randbytes(to - at)
            case 5:
                del stream[at:]
            case 6:
                stream += chance.choice(others)[: chance.randrange(200)]
            case _:
                stream[at:at] = chance.randbytes(chance.randrange(1, 40))
    return bytes(stream)
