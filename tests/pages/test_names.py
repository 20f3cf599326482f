"""Names for newcomers."""

import pytest

from imserver.pages.visitors import FIGURES, pick_name


@pytest.mark.parametrize("language", FIGURES)
def test_every_name_is_a_valid_user_id(language: str) -> None:
    figures = FIGURES[language]
    assert len(figures) == len(set(figures)) > 150
    assert all(len(f"{name}-abcdef".encode()) < 20 for name in figures)
    assert all(name.isascii() for name in FIGURES["en"]), "an English keyboard has these letters"
    given = [pick_name(language) for _ in range(1000)]
    assert len(set(given)) == len(given)
    assert all(
        name.partition("-")[0] in FIGURES[language] and len(name.partition("-")[2]) == 6 for name in given
    )
