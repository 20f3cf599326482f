"""The reference of the face is what the docstrings say, and each name has
one."""

import inspect
from pathlib import Path
from unittest.mock import Mock, call

import pytest

from imserver.plugin.errors import Problems
from imserver.plugin.identity import Relations
from tools import face


def test_the_page_is_made_of_the_docstrings() -> None:
    assert face.PAGE.read_text(encoding="utf-8") == face.page(), (
        "run python -m tools.face"
    )


def test_each_name_of_the_face_and_each_member_says_what_it_is_and_stands_in_one_module() -> (
    None
):
    names = [
        (module, name) for _, module in face.modules() for name in face.names_of(module)
    ]
    assert len(names) == len({name for _, name in names})
    for module, name in names:
        assert len(face.description(module, name).split()) >= 3, name
        value = getattr(module, name)
        texts = face.members(value) if inspect.isclass(value) else {}
        assert all(texts.values()), name
        assert len(set(texts.values())) == len(texts), name


def test_rows_of_an_earlier_version_become_those_of_today() -> None:
    with pytest.warns(DeprecationWarning, match="until 2.0"):
        from imserver.plugin import Answers, DialectParts, FeatureParts
    calls = Mock()
    look = Mock()
    dialect = DialectParts(opened=print, check=print, silent_seconds=7.0)
    ends = {
        "prepare": calls.prepare,
        "reload": calls.reload,
        "finish": calls.finish,
        "stop": calls.stop,
    }
    parts = FeatureParts(
        "service", dialects={"lines": dialect}, page=Path("page"), ended=(look,), **ends
    )
    for _ in "at the start", "at SIGHUP":
        parts.configure("settings")
    parts.stop()
    assert calls.mock_calls == [
        call.prepare(),
        call.reload("settings"),
        call.finish(),
        call.stop(),
    ]
    assert (parts.services[0], parts.services[1].page_folder) == (
        "service",
        Path("page"),
    )
    assert (parts.opened, parts.checks["lines"](look), parts.ended) == (
        {"lines": print},
        7.0,
        (look,),
    )
    relations, given = Answers(relations=calls)
    assert isinstance(relations, Relations)
    assert relations.may_reach("shop", "1", "2") is given.may_reach()


def test_names_that_went_are_there_until_2_0() -> None:
    with pytest.warns(DeprecationWarning, match="raise a ServiceRefused"):
        from imserver.plugin.http import refuse
    refusal = refuse(Problems.INVALID_REQUEST, "`room`: {}")(ValueError("full"))
    assert (refusal.problem, refusal.detail) == (
        Problems.INVALID_REQUEST,
        "`room`: full",
    )
    with pytest.warns(DeprecationWarning, match=r"\.accounts\.contract"):
        from imserver.plugin.storage import Account
    assert Account(7, "shop", "138", "Ann").user == "7"


def test_packages_of_features_have_their_old_names_until_2_0() -> None:
    from imserver.messenger.groups.groups import Groups

    with pytest.warns(DeprecationWarning, match=r"it is imserver\.messenger\.groups"):
        from imserver.features.groups import groups
    assert groups.Groups is Groups
    assert groups.__spec__.name == "imserver.messenger.groups.groups"
