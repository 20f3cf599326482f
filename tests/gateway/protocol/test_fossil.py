"""Fossil deltas. A decoder of the tests applies what is made here;
centrifuge-js does in tests/foreign."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.gateway.protocol.publications import MAX_BYTES, make_delta

DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def number(digits: bytes) -> int:
    return sum(
        DIGITS.index(digit) * 64**power for power, digit in enumerate(reversed(digits))
    )


def apply(before: bytes, delta: bytes) -> bytes:
    """The text that a delta makes, by the description of the format."""
    size, _, rest = delta.partition(b"\n")
    output = b""
    while True:
        digits, operator, rest = re.fullmatch(
            rb"([\w~]*)([@:;])(.*)", rest, re.DOTALL
        ).groups()
        count = number(digits)
        if operator == b"@":
            origin, _, rest = rest.partition(b",")
            assert number(origin) + count <= len(before)
            output += before[number(origin) : number(origin) + count]
        elif operator == b":":
            output = output + rest[:count]
            rest = rest[count:]
        else:
            words = output + bytes(-len(output) % 4)
            total = sum(
                int.from_bytes(words[at : at + 4], "big")
                for at in range(0, len(words), 4)
            )
            assert (rest, count, len(output)) == (b"", total % 2**32, number(size))
            return output


LETTERS = st.text(alphabet="ab你é😀{\n", max_size=300)


@given(start=LETTERS, before=LETTERS, after=LETTERS, middle=LETTERS, end=LETTERS)
def test_a_delta_makes_the_text_in_less(
    start: str, before: str, after: str, middle: str, end: str
) -> None:
    one = (start + before + middle + end).encode()
    other = (start + middle + after + middle + end).encode()
    delta = make_delta(one, other)
    if delta is not None:
        assert len(delta) < len(other)
        assert delta.decode()
        assert apply(one, delta) == other


def test_small_changes_and_parts_that_have_moved_take_few_bytes() -> None:
    document = {
        "items": [
            {"id": number, "name": f"名字 {number}", "price": 10}
            for number in range(50)
        ]
    }
    before = json.dumps(document, ensure_ascii=False).encode()
    document["items"][25]["price"] = 11
    after = json.dumps(document, ensure_ascii=False).encode()
    delta = make_delta(before, after)
    assert len(delta) < 40
    assert apply(before, delta) == after
    parts = [
        json.dumps({"name": f"part {number}", "text": "x" * number}).encode()
        for number in range(20, 60)
    ]
    before = b"".join(parts)
    after = b"".join(parts[::-1])
    delta = make_delta(before, after)
    assert len(delta) < len(after) / 2
    assert apply(before, delta) == after
    text = "价格是 10 元，今天" * 10
    # 是 and 昰 differ in one byte
    before = text.encode()
    after = text.replace("是", "昰", 1).encode()
    delta = make_delta(before, after)
    assert delta.decode()
    assert apply(before, delta) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"", b"new"),
        (b"old", b""),
        (b"abc", b"xyz"),
        (b"a" * (MAX_BYTES + 1), b"a" * MAX_BYTES),
    ],
)
def test_texts_without_a_shorter_delta_get_none(before: bytes, after: bytes) -> None:
    assert make_delta(before, after) is None
