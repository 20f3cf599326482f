"""The JSON beside entries: one module has the names of its keys, and what it does
not know survives."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from imserver.messenger.log import meta as meta_module
from imserver.messenger.log.meta import (
    Ask,
    AskOption,
    GroupMeta,
    MessageMeta,
    PublicationMeta,
    ReactionTotal,
    forwarded_from,
    take_reactions,
    with_edit,
    with_keys,
    with_other_name,
    with_reactions,
    with_recall,
    without_later,
)
from tests.support import ROOT

KEYS = {
    name
    for kind in (MessageMeta, GroupMeta, PublicationMeta)
    for name in kind.__struct_fields__
}
_IN_BYTES = re.compile(rb'\{?"(\w+)"(?::|$)')
_OF_FRAMES = frozenset(("replies", "seq"))
"""Frames of dialects begin with these, too."""
_CALLED_META = frozenset(("meta", "details"))
_WORTH_PARSING = re.compile(r"""meta|details|b'\{?\"""")


def modules() -> Iterator[Path]:
    for folder in (ROOT / "imserver", *(ROOT / "plugins").glob("*/imserver_*")):
        yield from folder.rglob("*.py")


def name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def has_meta(node: ast.AST) -> bool:
    return any(name_of(part) in _CALLED_META for part in ast.walk(node))


def texts_of(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def keys_at(node: ast.AST) -> Iterator[str]:
    """The keys of ``meta`` that an expression names as a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        match = _IN_BYTES.match(node.value)
        key = match[1].decode() if match else ""
        is_frame = node.value.startswith(b"{") and key in _OF_FRAMES
        if key in MessageMeta.__struct_fields__ and not is_frame:
            yield key
    elif isinstance(node, ast.Subscript) and name_of(node.value) in _CALLED_META:
        yield from KEYS.intersection(texts_of(node.slice))
    elif isinstance(node, ast.Compare) and any(map(has_meta, node.comparators)):
        yield from KEYS.intersection(texts_of(node.left))
    elif isinstance(node, ast.Call):
        asks = isinstance(node.func, ast.Attribute) and has_meta(node.func.value)
        if asks and name_of(node.func) in ("get", "pop"):
            yield from KEYS.intersection(texts_of(node))
        reads = re.search("decode|convert", name_of(node.func))
        if reads and any(map(has_meta, node.args)):
            yield "decoded"
    elif isinstance(node, ast.keyword) and node.arg == "meta":
        yield from keys_of_objects(node.value)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and any(map(has_meta, targets)):
            yield from keys_of_objects(node.value)


def keys_of_objects(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Dict):
            for key in part.keys:
                if isinstance(key, ast.Constant) and key.value in KEYS:
                    yield str(key.value)


def test_no_other_module_names_a_key() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {key}"
        for path in modules()
        if path != Path(meta_module.__file__)
        if _WORTH_PARSING.search(source := path.read_text())
        for node in ast.walk(ast.parse(source))
        for key in keys_at(node)
    ]
    assert named == []


@pytest.mark.parametrize(
    "source",
    [
        'x = entry.meta[b"thread"] if b\'"thread":\' in entry.meta else 0',
        'x = meta["edited"]',
        'x = decode(entry.meta).get("ask")',
        'x = "restored" in meta',
        'x = Draft(meta=encode({"mentions": users}))',
        'meta = {"incomplete": True}',
        'meta |= {"bots": []}',
        "x = msgspec.json.decode(entry.meta, type=Mine)",
        "x = b'{\"notify\":%b}' % notify",
    ],
)
def test_a_key_elsewhere_is_seen(source: str) -> None:
    """The test above can fail."""
    assert [key for node in ast.walk(ast.parse(source)) for key in keys_at(node)]


def test_questions_on_bytes_are_about_keys() -> None:
    keys = {*MessageMeta.__struct_fields__, *Ask.__struct_fields__}
    constants = [
        value for name, value in vars(meta_module).items() if name.endswith("_KEY")
    ]
    assert len(constants) > 5
    for constant in constants:
        assert re.fullmatch(rb'"(\w+)":', constant)[1].decode() in keys  # type: ignore[index]


def test_what_nobody_knows_stays_in_its_place() -> None:
    stored = b'{"newer":{"a":[1,null]},"reacted":3,"other":"x"}'
    assert (
        with_keys(stored, MessageMeta(reacted=9, thread=4, also=True))
        == b'{"newer":{"a":[1,null]},"reacted":9,"other":"x","thread":4,"also":true}'
    )
    totals = [ReactionTotal("y", 1, ("7",)), ReactionTotal("n", 0, ())]
    reacted = with_reactions(stored, 9, totals)
    assert reacted == (
        b'{"newer":{"a":[1,null]},"reacted":9,"other":"x",'
        b'"reactions":[{"emoji":"y","count":1,"users":["7"]}]}'
    )
    assert take_reactions(reacted) == (
        b'{"newer":{"a":[1,null]},"reacted":9,"other":"x"}',
        (totals[0],),
    )
    assert without_later(stored, 2) == b'{"newer":{"a":[1,null]},"other":"x"}'
    assert with_other_name(stored, "7", "gone") == stored


def test_edits_and_recalls_keep_what_has_happened_to_a_message() -> None:
    message = (
        b'{"mentions":["1"],"forwarded":{"from":"3","id":2},"thread":5,'
        b'"newer":1,"reacted":8,"ask":{"options":[]},"buttons":[]}'
    )
    edit = b'{"newest":2,"mentions":["2"],"ask":{"text":true}}'
    assert with_edit(message, edit, 9) == (
        b'{"newest":2,"mentions":["2"],"edited":9,"reacted":8,'
        b'"ask":{"options":[]},"buttons":[],"thread":5}'
    )
    assert with_recall(message, b"") == b'{"thread":5}'
    assert with_recall(b"", meta_module.REMOVED) == b'{"removed":true}'
    assert forwarded_from(message, "1", 6) == b'{"forwarded":{"from":"3","id":2}}'


def test_what_makes_no_sense_is_as_if_it_were_not_there() -> None:
    stored = b'{"mentions":["1",2],"edited":"x","also":1,"thread":5,"users":7}'
    assert MessageMeta.of(stored) == MessageMeta(mentions=("1",), thread=5)
    assert GroupMeta.of(stored) == GroupMeta()
    for invalid in (b"", b"[]", b"{", b"[" * 2000):
        assert MessageMeta.of(invalid) == MessageMeta()


def test_new_keys_have_the_order_of_the_fields() -> None:
    options = (AskOption("Yes", "y"),)
    new = MessageMeta(ask=Ask(options), mentions=("1",), notify=msgspec.Raw(b"false"))
    assert new.to_bytes() == (
        b'{"mentions":["1"],"ask":{"options":[{"text":"Yes","value":"y"}]},'
        b'"notify":false}'
    )
    assert MessageMeta(restored=0).to_bytes() == b'{"restored":0}'
    changed = GroupMeta.changing("rename", {"name": "tea"})
    assert changed.to_bytes() == b'{"change":"rename","name":"tea"}'
