"""The reference of the face is what the docstrings say, and each name has one."""

from tools import face


def test_the_page_is_made_of_the_docstrings() -> None:
    assert face.PAGE.read_text(encoding="utf-8") == face.page(), "run python -m tools.face"


def test_each_name_of_the_face_says_what_it_is_and_stands_in_one_module() -> None:
    names = [(module, name) for _, module in face.modules() for name in module.__all__]
    assert len(names) == len({name for _, name in names})
    assert [name for module, name in names if len(face.description(module, name).split()) < 3] == []
