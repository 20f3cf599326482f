"""The reference of the face is what the docstrings say, and each name has one."""

import inspect

import pytest

from imserver.plugin.errors import Problems
from tools import face


def test_the_page_is_made_of_the_docstrings() -> None:
    assert face.PAGE.read_text(encoding="utf-8") == face.page(), "run python -m tools.face"


def test_each_name_of_the_face_says_what_it_is_and_stands_in_one_module() -> None:
    names = [(module, name) for _, module in face.modules() for name in module.__all__]
    assert len(names) == len({name for _, name in names})
    assert [name for module, name in names if len(face.description(module, name).split()) < 3] == []


def test_each_member_of_a_table_has_a_text_of_its_own() -> None:
    for _, module in face.modules():
        for name in module.__all__:
            value = getattr(module, name)
            texts = face.members(value) if inspect.isclass(value) else {}
            assert [member for member, text in texts.items() if not text] == [], name
            assert len(set(texts.values())) == len(texts), name


def test_fields_by_keyword_and_types_of_fields_are_shown() -> None:
    page = face.page()
    draft = page.partition("\n### Draft\n")[2].partition("\n### ")[0]
    assert "# by keyword:\nsender: str" in draft
    assert "\nEntryKind = Literal['message', " in draft
    assert "\n- `to_anybody`: " in draft
    request = page.partition("\n### SendRequest\n")[2].partition("\n### ")[0]
    assert "\ntext: " in request  # of the struct from which it inherits


def test_names_that_went_are_there_until_2_0() -> None:
    with pytest.warns(DeprecationWarning, match="raise a ServiceRefused"):
        from imserver.plugin.http import refuse
    refusal = refuse(Problems.INVALID_REQUEST, "`room`: {}")(ValueError("full"))
    assert (refusal.problem, refusal.detail) == (Problems.INVALID_REQUEST, "`room`: full")
    with pytest.warns(DeprecationWarning, match=r"features\.accounts"):
        from imserver.plugin.storage import Account
    assert Account(7, "shop", "138", "Ann").user == "7"
