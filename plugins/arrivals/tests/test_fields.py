"""Records whose fields have wrong types: what is kept, what is left out and
noted, and what is broken."""

import json
from typing import Any

import pytest
from imserver_arrivals.fields import RecordReader
from msgspec import Raw, Struct


class Inner(Struct):
    """What is in an array."""

    id: str
    count: int | None = None


class Outer(Struct):
    """A record with a field of each kind."""

    id: str
    at: float | None = None
    text: str = ""
    is_on: bool | None = False
    rows: list[Inner] | None = None
    names: dict[str, dict[str, Any] | None] | None = None
    inner: Inner | None = None
    raw: Raw = Raw()
    choice: str | list[dict[str, Any]] | None = None
    nested: "Outer | None" = None


READER = RecordReader(Outer)


@pytest.mark.parametrize(
    ("given", "kept", "noted"),
    [
        ({"id": "a", "at": "1452837318"}, {"at": 1452837318.0}, []),
        (
            {"id": 7, "text": 8, "is_on": "true"},
            {"id": "7", "text": "8", "is_on": True},
            [],
        ),
        ({"id": "a", "text": None}, {"text": ""}, []),
        (
            {"id": "a", "at": "soon", "text": []},
            {"at": None, "text": ""},
            ["at", "text"],
        ),
        ({"id": "a", "rows": "x"}, {"rows": None}, ["rows"]),
        (
            {"id": "a", "rows": [{"id": "b", "count": {}}, {"count": 1}, 3]},
            {"rows": [Inner("b")]},
            ["rows[].count", "rows[]", "rows[]"],
        ),
        ({"id": "a", "rows": {"2": {"id": "b"}}}, {"rows": [Inner("b")]}, []),
        ({"id": "a", "names": {"x": {}, "y": 3}}, {"names": {"x": {}}}, ["names.*"]),
        ({"id": "a", "names": []}, {"names": {}}, []),
        ({"id": "a", "inner": {"count": 1}}, {"inner": None}, ["inner"]),
        ({"id": "a", "choice": [{}, 3]}, {"choice": [{}]}, ["choice[]"]),
        (
            {"id": "a", "nested": {"id": "b", "at": []}},
            {"nested": Outer("b")},
            ["nested.at"],
        ),
    ],
)
def test_a_field_of_a_wrong_type_is_lost_alone(
    given: dict[str, Any], kept: dict[str, Any], noted: list[str]
) -> None:
    for read in (
        lambda note: READER.decode(json.dumps(given).encode(), note),
        lambda note: READER.convert(given, note),
    ):
        names: list[str] = []
        record = read(names.append)
        assert {name: getattr(record, name) for name in kept} == kept
        assert names == noted


def test_a_raw_field_stays_raw_beside_a_wrong_one() -> None:
    record = READER.decode(b'{"id": "a", "at": {}, "raw": {"x": 1}}', lambda _: None)
    assert json.loads(bytes(record.raw)) == {"x": 1}


def test_text_that_is_none_is_replaced() -> None:
    for raw in (b'\xef\xbb\xbf{"id": "\\ud83d"}', b'{"id": "\xff"}'):
        assert READER.decode(raw, lambda _: None).id == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"id": null}', b'{"id": {}}', b"7", b"[1]", b'{"id":', b""]
)
def test_a_record_without_what_it_needs_is_broken(raw: bytes) -> None:
    noted: list[str] = []
    with pytest.raises(ValueError, match=r"\S"):
        READER.decode(raw, noted.append)
    assert noted == []
