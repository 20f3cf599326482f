"""Reading forms and JSON: in agreement with urllib, forgiving where the
original is."""

from itertools import count
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imserver.gateway.http.form import (
    MAX_FIELDS,
    BadBody,
    parse_form,
    parse_json,
    parse_pairs,
    read_multipart,
)

encoded_text = st.text(
    alphabet=st.one_of(
        st.sampled_from("&=+%;abAB019eE马é\ufffd "),
        st.characters(codec="utf-8", exclude_characters="\0"),
    ),
    max_size=40,
).filter(lambda text: "%00" not in text)
encoded_bytes = st.lists(
    st.sampled_from(b"& = + % %E4 %bd %A0 %41 %4 %zz a K \xe4 \xff".split()),
    max_size=20,
).map(b"".join)


_numbers = count()


def multipart(
    *fields: tuple[str, str], files: tuple[tuple[str, bytes], ...] = ()
) -> tuple[bytes, str]:
    boundary = f"boundary{next(_numbers)}"
    head = 'Content-Disposition: form-data; name="{0}"{1}\r\n\r\n'
    parts = [head.format(name, "").encode() + value.encode() for name, value in fields]
    parts += [
        head.format(name, f'; filename="{name}.bin"').encode() + content
        for name, content in files
    ]
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    return (
        body + b"--%b--\r\n" % boundary.encode(),
        f"multipart/form-data; boundary={boundary}",
    )


def pairs_by_urllib(encoded: bytes) -> list[tuple[str, str]]:
    return parse_qsl(encoded.decode("utf-8", "replace"), keep_blank_values=True)


@settings(deadline=None)
@given(encoded_text.map(str.encode) | encoded_bytes)
@example(b"a=%E9%A9%AC%E8%BF%9C&b=1+2&c=%2B")
@example(b"%E4%BDx=%E4%BD&=&a&&b=")
def test_pairs_are_those_that_urllib_reads(encoded: bytes) -> None:
    assert parse_pairs(encoded) == pairs_by_urllib(encoded)


@settings(deadline=None)
@given(encoded_text.map(str.encode) | encoded_bytes)
def test_parameters_are_the_first_of_each_folded_name(encoded: bytes) -> None:
    expected: dict[str, str] = {}
    for name, value in pairs_by_urllib(encoded):
        expected.setdefault(name.lower(), value)
    found = parse_form(encoded)
    for params in (found, expected):
        # nobody asks for it, and an empty field counts as one with this name
        params.pop("", None)
    assert found == expected


def test_forms_have_limits_and_multipart_fields_are_read_without_files() -> None:
    assert len(parse_pairs(b"a=1&" * (MAX_FIELDS - 1))) == MAX_FIELDS - 1
    with pytest.raises(BadBody):
        parse_form(b"&" * MAX_FIELDS)
    body, kind = multipart(
        ("appID", "101"), ("message", "a&b=马\n远"), files=(("picture", b"\x00\xff"),)
    )
    assert read_multipart(body, kind) == [("appID", "101"), ("message", "a&b=马\n远")]
    fields = [(f"field{number}", "a;b" * 9) for number in range(990)]
    assert read_multipart(*multipart(*fields)) == fields


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"no form at all", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n", "multipart/form-data"),
        (
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
            "multipart/form-data; boundary=x",
        ),
        (b"--x\r\nno header\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    ],
)
def test_a_broken_multipart_form_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(BadBody):
        read_multipart(body, kind)


@pytest.mark.parametrize("option", [b";", b"; a=b", b'; a="b"', b"; a*0=b"])
def test_a_multipart_form_with_many_options_is_refused(option: bytes) -> None:
    """With all that 128 KiB can have, a tenth of a second would pass."""
    head = b"--x\r\nContent-Disposition: form-data; name=a" + option * (
        60_000 // len(option)
    )
    with pytest.raises(BadBody):
        read_multipart(
            head + b"\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x"
        )


def test_json_is_read_forgivingly() -> None:
    assert parse_json(b'{"userID":"a","APPid":101,"msgID":null,"x":{"Y":null}}') == {
        "userid": "a",
        "appid": 101,
        "x": {"Y": None},
    }
    assert parse_json(
        rb'{"m":"a\ud800b","l":["\udc00",{"\ud801":"\ud83d\ude00"}]}'
    ) == {
        "m": "a\ufffdb",
        "l": ["\ufffd", {"\ufffd": "😀"}],
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'"a"',
        b"{",
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b"[" * 100_000,
    ],
)
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        parse_json(body)
