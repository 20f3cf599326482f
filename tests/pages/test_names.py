"""Names for newcomers."""

from imserver.pages.visitors import FIGURES, Names


def nobody(_app: str, _user: str) -> bool:
    return False


def test_every_name_is_a_valid_user_id() -> None:
    assert len(FIGURES) == len(set(FIGURES)) > 300
    assert all(len(f"{name}-abcdef".encode()) < 20 for name in FIGURES)


def test_a_name_is_a_figure_with_an_ending_and_never_given_twice() -> None:
    names = Names(lambda: 0.0)
    given = [names.pick("101", nobody) for _ in range(1000)]
    assert len(set(given)) == len(given)
    assert all(name.partition("-")[0] in FIGURES and len(name.partition("-")[2]) == 6 for name in given)


def test_reserved_names_expire_and_are_bounded() -> None:
    now = [0.0]
    names = Names(lambda: now[0])
    for _ in range(3000):
        names.pick("101", nobody)
    assert len(names._reserved) <= 2000
    now[0] = 31.0
    names.pick("101", nobody)
    assert len(names._reserved) == 1
