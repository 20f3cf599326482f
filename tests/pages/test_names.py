"""Names for newcomers."""

import pytest

from imserver.pages.text import LANGUAGES
from imserver.pages.visitors import FIGURES, Names


def nobody(_app: str, _user: str) -> bool:
    return False


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_is_a_valid_user_id(language: str) -> None:
    figures = FIGURES[language]
    assert len(figures) == len(set(figures)) > 150
    assert all(len(f"{name}-abcdef".encode()) < 20 for name in figures)
    assert all(name.isascii() for name in FIGURES["en"]), "an English keyboard has these letters"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_is_a_figure_with_an_ending_and_never_given_twice(language: str) -> None:
    names = Names(lambda: 0.0)
    given = [names.pick("101", nobody, language) for _ in range(1000)]
    assert len(set(given)) == len(given)
    assert all(
        name.partition("-")[0] in FIGURES[language] and len(name.partition("-")[2]) == 6 for name in given
    )


def test_reserved_names_expire_and_are_bounded() -> None:
    now = [0.0]
    names = Names(lambda: now[0])
    for _ in range(3000):
        names.pick("101", nobody)
    assert len(names._reserved) <= 2000
    now[0] = 31.0
    names.pick("101", nobody)
    assert len(names._reserved) == 1
