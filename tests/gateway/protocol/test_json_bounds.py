"""JSON that is read without making objects of it: it is refused as if they had
been made."""

import msgspec
import pytest

from imserver.gateway.protocol.forgiving import (
    SMALL_JSON_BYTES,
    check_json,
    has_nul,
    values_in,
)

LARGE = b"[" + b'"%b",' % (b"a" * SMALL_JSON_BYTES)
VALID = (
    b"1e307",
    b"-0.5E-999",
    b"1" * 300,
    b'"9e999"',
    b'"\\u4e2d\\""',
    b'"' + b"0" * 400 + b'"',
    b"{}",
    b"1E+308",
    '"中"'.encode(),
    b" [ true , null ] ",
    b'{"a":[1,{"b":"\\ud83d\\ude00"}]}',
)
INVALID = (
    b"1e309",
    b"1E0400",
    b"-1e+999",
    b"1" * 5000,
    b"1" * 220 + b"e99",
    b"01",
    b"1.",
    b"nul",
    b'"\\x"',
    b"[1,]",
    b'"\xff"',
    b'"\xc3"',
    b'"\\ud800',
    b"{1:2}",
    b'{"a" 1}',
    b"[" * 5000,
    b"1}",
)


@pytest.mark.parametrize("value", [*VALID, *INVALID], ids=range(len(VALID + INVALID)))
@pytest.mark.parametrize("before", [b"[", LARGE], ids=["small", "large"])
def test_what_is_only_looked_through_is_refused_like_what_is_decoded(
    before: bytes, value: bytes
) -> None:
    document = before + value + b"]"
    try:
        msgspec.json.decode(document)
        is_valid = True
    except (ValueError, RecursionError):
        is_valid = False
    assert is_valid == (value in VALID)
    if is_valid:
        check_json(document)
        return
    with pytest.raises((ValueError, RecursionError)):
        check_json(document)


def test_values_are_counted_before_they_are_made() -> None:
    assert [values_in(document) for document in (b"1", b'{"a":[1,{}]}', b'"a,b"')] == [
        0,
        5,
        1,
    ]


def test_a_text_with_u_0000_is_not_looked_for_among_too_many_values() -> None:
    assert not has_nul(b'{"text":"\\u0000","x":[%b1]}' % (b"1," * 50_000))
    assert has_nul(b'{"text":"\\u0000","x":[%b1]}' % (b"1," * 70_000))
